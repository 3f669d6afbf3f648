"""Prints what the zoo holds: `python -m rainjax.zoo`, or with `--folder` what a folder does."""

import pathlib
from typing import Annotated

import tyro

from rainjax.nets import num_params
from rainjax.zoo import _card, _store

_HEADER = ("name", "network", "parameters", "size", "data", "metrics")


def table(folder: pathlib.Path) -> str:
    """Returns one line per entry in `folder`, columns aligned; parameters are not read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    rows, unreadable = [], []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            card = _card.read_card(path.with_suffix(".json"))
            network = _card.build(card, where=f"The card of {path}")
        except (OSError, ValueError) as error:
            unreadable.append(f"{path.stem}: unreadable: {error}")
            continue
        data = card["data"].get("name", "")
        metrics = [f"{k} {_short(v)}" for k, v in card["metrics"].items() if _is_short(v)]
        kept = card["metrics"].get("validation")  # what the training programs chose the epoch by
        if isinstance(kept, dict):
            metrics = [f"validation {kept.get('metric')} {_short(kept.get('value'))}"]
        rows.append(
            (
                card["name"],
                card["architecture"]["class"],
                f"{num_params(network.shapes()):,}",
                f"{path.stat().st_size / 1e6:.1f} MB",
                str(data),
                ", ".join(metrics),
            )
        )
    if not rows:
        return "\n".join(unreadable) or f"There are no parameters in {folder}."
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    numeric = (2, 3)
    lines = []
    for row in (_HEADER, tuple("-" * width for width in widths), *rows):
        cells = (
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *unreadable])


def main(folder: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="PATH")] = None) -> None:
    """Lists pretrained parameters: name, network, parameters, size, data, metrics.

    Args:
        folder: where to look; the parameters that ship with the package if left out.
    """
    try:
        print(table(_store.WEIGHTS if folder is None else folder))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


def _is_short(value) -> bool:
    return isinstance(value, (int, float, str))


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    tyro.cli(main)
