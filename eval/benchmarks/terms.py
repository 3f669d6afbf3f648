"""What each term of the student's loss is worth: `python -m eval terms RUN ...`."""

import dataclasses
import pathlib
from typing import Annotated, Any

import tyro

from rainjax._files import read_json, write_json
from rainjax.evaluation.provenance import provenance
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table

_WEIGHTS = "weights."
_MEASURES = {
    "auroc": "AUROC of errors",
    "auroc_held_out_distortions": "on held-out distortions",
    "auroc_held_out_attacks": "on held-out attacks",
    "auroc_of_quality": "of the quality alone",
    "quality_error": "mean error of quality",
    "agreement": "same class as the teacher",
}


@dataclasses.dataclass(frozen=True)
class Terms:
    """Sets runs of `python -m train.iqa` that leave out one term of the loss beside a whole one.

    Train each with another --name and one weight at 0, as in `--weights.quality 0`, and all else
    alike. Their cards hold what was measured on validation images, which decided nothing else.
    Writes OUT/terms.json.
    """

    runs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional]
    """The runs' folders, or their cards."""
    out: pathlib.Path = pathlib.Path("results/terms")
    """The record is written to OUT/terms.json."""


def run(command: Terms) -> pathlib.Path:
    """Reads the cards, prints the table, and returns the record's path.

    Raises:
        ValueError: a card is missing, is of another program, or differs in more than weights.
    """
    cards = [_card(path) for path in command.runs]
    others = [{k: v for k, v in card["options"].items() if _matters(k)} for card in cards]
    for card, other in zip(cards, others, strict=True):
        wrong = [key for key in other if other[key] != others[0].get(key)]
        if wrong or other.keys() != others[0].keys():
            raise ValueError(
                f"{card['name']!r} and {cards[0]['name']!r} differ in more than their weights, "
                f"first in {(wrong or ['what they have'])[0]!r}: train them alike."
            )
    record = {
        "schema": 1,
        "kind": "terms",
        "options": others[0],
        "data": cards[0]["data"],
        "runs": [
            {
                "name": card["name"],
                "weights": {
                    key.removeprefix(_WEIGHTS): value
                    for key, value in card["options"].items()
                    if key.startswith(_WEIGHTS)
                },
                "measures": {name: _last(card)[name] for name in _MEASURES},
                "seconds": card["seconds"],
                "command": card["command"],
                "revision": card["revision"],
            }
            for card in cards
        ],
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = command.out / "terms.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    return path


def table(record: dict[str, Any]) -> Table:
    """Returns a row for each run, called after what it leaves out."""
    rows = []
    for entry in record["runs"]:
        out = [name for name, weight in entry["weights"].items() if weight == 0]
        found = [Cell(f"{entry['measures'][name]:.3f}") for name in _MEASURES]
        rows.append((Cell(", ".join(out) or "nothing"), *found))
    options, data = record["options"], record["data"]
    return Table(
        "What is left out of the student's loss",
        (Cell(""), *map(Cell, _MEASURES.values())),
        tuple(rows),
        notes=(
            f"After {options['num_epochs']} epochs, from one seed, on the views of "
            f"{data['num_validation']} validation images of {data['name']}: differences of a few "
            "hundredths may be chance. **AUROC of errors**: between views that the classifier "
            "gets wrong and those that it gets right, by the risk.",
        ),
    )


def _matters(option: str) -> bool:
    return not option.startswith(_WEIGHTS)


def _last(card: dict[str, Any]) -> dict[str, float]:
    return card["metrics"]["validation_last_epoch"]


def _card(path: pathlib.Path) -> dict[str, Any]:
    path = path / f"{path.name}.json" if path.is_dir() else path
    card = read_json(path)
    try:
        whole = {*_MEASURES} <= _last(card).keys() and f"{_WEIGHTS}risk" in card["options"]
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is no card of a student: name folders that `python -m train.iqa` wrote."
        )
    return card


RECORD = SingleFileRecord(
    "terms",
    "python -m eval terms",
    lambda record: (table(record),),
    lambda record: "" if record["runs"] else "it has no runs",
)
