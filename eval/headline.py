"""The README's one table: what some defenses are worth, from the records of several studies."""

import dataclasses
import pathlib

from rainjax.evaluation import Record
from rainjax.report import BlindAgainstAdaptive, Cell, Results, Table
from rainjax.report.bounds import at_most
from rainjax.report.marks import doubt_note, had_zero_gradient, marked, zero_gradient_notes
from rainjax.report.results import clean
from rainjax.report.tables import ABSENT
from rainjax.report.text import interval, percent, radius_text


@dataclasses.dataclass(frozen=True)
class Row:
    """A subject of a study, under the attacks of one tag within an L-inf radius."""

    title: str
    study: str
    subject: str
    radius: float
    tag: str = "table"


ROWS = (
    Row("no defense, CIFAR-10", "cifar10", "no defense", 8 / 255),
    Row("RAIN, CIFAR-10", "cifar10", "RAIN, fine-tuned", 8 / 255),
    Row("RAIN, photographs of 96 pixels", "imagenette96", "RAIN, fine-tuned", 8 / 255),
    Row(
        "Feature Distillation, CIFAR-10",
        "cifar10_transformations",
        "Feature Distillation, 25/30",
        2 / 255,
        "comparison",
    ),
    Row(
        "Feature Distillation, two passes, CIFAR-10",
        "cifar10_two_pass",
        "Feature Distillation, 25/30",
        2 / 255,
        "comparison",
    ),
    Row("NCIS, CIFAR-10", "cifar10_ncis", "NCIS", 2 / 255, "comparison"),
)


def headline(folder: pathlib.Path | str, rows: tuple[Row, ...] = ROWS) -> Table:
    """Returns a row for each of `rows`, the strongest attack last, from a folder of studies.

    Raises:
        ValueError: a study's folder is damaged, or a row's subject was never measured in it.
        FileNotFoundError: there is no folder of a study.
    """
    found = {row.study: Results.read(pathlib.Path(folder) / row.study) for row in rows}
    made = [_row(found[row.study], row) for row in rows]
    notes = [
        "Accuracy; in brackets its 95 % interval for the choice of images; the attack that left "
        "so little; the number of images. Of a random defense it is the mean over draws that no "
        "attacker saw.",
        "**blind**: the strongest attack by somebody who does not know the defense. **strongest "
        "attack**: the strongest of all.",
    ]
    if any("≤" in str(cells[-1]) for cells, _ in made):
        notes.append(
            "**≤**: an upper bound. Not every way to attack was strengthened until that changed "
            "nothing (`rainjax.evaluation.ladders`)."
        )
    notes += dict.fromkeys(note for _, own in made for note in own)
    header = ("", "L∞ radius", "clean", "blind", "strongest attack")
    return Table(
        "What is left of a classifier's accuracy",
        tuple(map(Cell, header)),
        tuple(cells for cells, _ in made),
        tuple(notes),
        judged_by_last=True,
    )


def _row(results: Results, row: Row) -> tuple[tuple[Cell, ...], list[str]]:
    """Returns a row's cells, and what is to be said of the marks in them."""
    shown, ball = results.scored(row.tag), ("linf", row.radius)
    contrast = BlindAgainstAdaptive(tag=row.tag)
    unattacked = clean(shown, row.subject)
    best = contrast.adaptive(shown, row.subject, row.radius)
    if unattacked is None or best is None:
        raise ValueError(
            f"{results.folder} has no {'clean' if unattacked is None else 'attacked'} images of "
            f"{row.subject!r} with the tag {row.tag!r}: measure it, or change the row."
        )
    bare = results.is_bare(row.subject)
    blind = None if bare else contrast.blind(shown, row.subject, row.radius)
    cells = (
        Cell(row.title),
        Cell(radius_text(*ball)),
        _cell(results, unattacked),
        ABSENT if bare else _cell(results, blind),
        _cell(results, best, at_most(results, best, ball)),
    )
    used = [record for record in (blind, best) if record is not None]
    failed = [name for r in used for name in results.doubts.get((r.subject, r.threat), [])]
    return cells, [*doubt_note(failed), *zero_gradient_notes(used)]


def _cell(results: Results, record: Record | None, bound: str = "") -> Cell:
    """Returns a score with its interval, attack and n, and with the marks that it bears."""
    if record is None:
        return ABSENT
    score = record.score()
    attack = f"{record.threat}, " if record.attack is not None else ""
    detail = f"{interval(score)} {attack}n = {record.num_examples}"
    return marked(
        Cell(bound + percent(score.accuracy), detail),
        doubted=(record.subject, record.threat) in results.doubts,
        zero_gradient=had_zero_gradient(record),
    )
