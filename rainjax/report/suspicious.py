"""A display of the images that a detector finds most suspicious, and of those it finds least."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from rainjax._files import read_arrays
from rainjax.report._detections import detections
from rainjax.report._display import Display, Drawing
from rainjax.report.pictures import as_shown, say, wrap
from rainjax.report.results import Results
from rainjax.report.style import new_figure, png_bytes, styled
from rainjax.report.text import attack_text, counted


@dataclasses.dataclass(frozen=True)
class MostSuspicious(Display):
    """The most and the least suspicious images of every threat model with the tag, all for None.

    As far as `evaluation.extras.MostSuspicious` kept them.
    """

    files: ClassVar[tuple[str, ...]] = ("suspicious-*.png",)

    tag: str | None = "table"

    @property
    def heading(self) -> str:
        return "The most and the least suspicious images"

    @property
    def absent(self) -> str:
        return "No images were kept by their scores, so there are none to show."

    def drawings(self, results: Results) -> list[Drawing]:
        if results.folder is None:
            return []
        folder = results.folder / "suspicious"
        return [
            suspicious(path, f"{record.subject}, {record.threat}, {attack_text(record)}")
            for record in detections(results, self.tag)
            if (path := folder / f"{record.id}.npz").exists()
        ]


def suspicious(path: pathlib.Path, title: str) -> Drawing:
    """Returns the images of a file: a row of the most suspicious, and one of the least.

    Raises:
        ValueError: the file is damaged or incomplete; says which.
    """
    arrays = _read(path)
    images, scores = arrays["images"], arrays["scores"].tolist()
    labels, predicted = arrays["labels"].tolist(), arrays["predicted"].tolist()
    names = [str(name) for name in arrays["class_names"]]
    num = len(images) // 2
    with styled({"axes.grid": False}):
        figure = new_figure(0.5 + 1.6 * num, 5.7)
        grid = figure.subplots(2, num, squeeze=False)
        for i, axes in enumerate(grid.ravel()):
            axes.imshow(as_shown(images[i]), cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            text = f"{wrap(names[labels[i]])}\n{scores[i]:+.2f}"
            axes.set_title(text, loc="center", fontsize=10)
            say(axes, names[predicted[i]], predicted[i] == labels[i])
        grid[0, 0].set_ylabel("most suspicious", fontsize=10.5)
        grid[1, 0].set_ylabel("least suspicious", fontsize=10.5)
        png = png_bytes(figure)
    wrong = np.not_equal(labels, predicted)
    return Drawing(
        name=f"suspicious-{path.stem}",
        title=title,
        caption="Bold: the true class, and the score; above 0 an image is rejected. Below each "
        "image what the classifier says to it, rejected or not.",
        alt=f"{counted(num, 'images')} of the highest scores ({scores[0]:.3g} to "
        f"{scores[num - 1]:.3g}), of which {wrong[:num].sum()} classified wrong, and as many of "
        f"the lowest ({scores[num]:.3g} to {scores[-1]:.3g}), of which {wrong[num:].sum()}.",
        png=png,
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    needed = ("images", "scores", "labels", "predicted", "class_names")
    arrays = read_arrays(path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the array {missing[0]!r}; it holds {sorted(arrays)}.")
    lengths = [len(arrays[name]) for name in needed[:-1]]
    if len(set(lengths)) > 1 or lengths[0] % 2 or not lengths[0] or arrays["images"].ndim != 4:
        raise ValueError(
            f"{path} must hold as many suspicious images `m h w c` as others, and a score, a "
            f"label and a class of each, not {lengths}."
        )
    return arrays
