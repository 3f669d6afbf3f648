"""A display of what each step of an iterative defense makes of an attacked image."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from rainjax._files import read_arrays
from rainjax.report._display import Display, Drawing
from rainjax.report.pictures import as_shown, say, to_be_seen, wrap
from rainjax.report.results import Results
from rainjax.report.style import new_figure, png_bytes, styled
from rainjax.report.text import attack_text

_MOST = 8  # steps in a row; of more, as many are shown, the first and the last among them


@dataclasses.dataclass(frozen=True)
class Iterates(Display):
    """A few images as they were, as attacks left them, and after each step of the defense.

    The attacks are those that `Panels` shows, as far as `evaluation.extras.Iterates` kept steps.
    """

    files: ClassVar[tuple[str, ...]] = ("iterates-*.png",)

    tag: str | None = "table"

    @property
    def heading(self) -> str:
        return "What each step of the defense makes of attacked images"

    @property
    def absent(self) -> str:
        return "No steps of a defense were kept, so there are none to show."

    def drawings(self, results: Results) -> list[Drawing]:
        if results.folder is None:
            return []
        folder = results.folder / "iterates"
        paths = [(r, folder / f"{r.id}.npz") for r in to_be_seen(results, self.tag)]
        return [
            iterates(path, f"{record.subject} against {record.threat}, {attack_text(record)}")
            for record, path in paths
            if path.exists()
        ]


def iterates(path: pathlib.Path, title: str) -> Drawing:
    """Returns one row for each image of a file: original, attacked, and the defense's steps.

    Raises:
        ValueError: the file is damaged or incomplete; says which.
    """
    arrays = _read(path)
    images, predicted = arrays["images"].astype(np.float32), arrays["predicted"]
    names = [str(name) for name in arrays["class_names"]]
    last = images.shape[1] - 2
    chosen = np.unique(np.linspace(0, last, min(last, _MOST) + 1).round().astype(int))
    columns = {"original": 0, "attacked": 1}
    columns |= {f"step {t}": t + 1 for t in chosen[1:].tolist()}
    num, across = len(images), images.shape[3] / images.shape[2]
    width = 1.45 * (across if images.shape[-1] == 3 else across * images.shape[-1])
    with styled({"axes.grid": False}):
        figure = new_figure(0.4 + width * len(columns), 2.05 * num)
        grid = figure.subplots(num, len(columns), squeeze=False)
        for r, label in enumerate(arrays["labels"].tolist()):
            grid[r, 0].set_ylabel(wrap(names[label]), fontsize=10)
            for c, (name, place) in enumerate(columns.items()):
                axes, seen = grid[r, c], int(predicted[r, place])
                shown = as_shown(np.clip(images[r, place], 0, 1))
                axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                say(axes, names[seen], seen == label)
                if r == 0:
                    axes.set_title(name, loc="center", fontsize=10)
        png = png_bytes(figure)
    right = (predicted == arrays["labels"][:, None]).sum(0)
    told = ", ".join(f"{right[place]} {name}" for name, place in columns.items())
    return Drawing(
        name=f"iterates-{path.stem}",
        title=title,
        caption="To the left the true class; below each image what the classifier says to it. "
        "The attack is the record's; the defense starts from the attacked image.",
        alt=f"{num} images in rows: {', '.join(columns)}. Recognised of {num}: {told}.",
        png=png,
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    needed = ("images", "predicted", "labels", "class_names")
    arrays = read_arrays(path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the array {missing[0]!r}; it holds {sorted(arrays)}.")
    images, predicted = arrays["images"].shape, arrays["predicted"].shape
    if len(images) != 5 or images[1] < 2 or images[:2] != predicted:
        raise ValueError(
            f"{path} must hold images `m t h w c` with two steps or more and a class for each, "
            f"not {images} and {predicted}."
        )
    return arrays
