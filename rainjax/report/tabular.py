"""Tables of accuracies: by subject and threat model, by how draws are counted, by rank."""

import dataclasses
from collections.abc import Iterable, Sequence

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.report._display import Display
from rainjax.report.bounds import bound_notes, bounded, falling
from rainjax.report.brackets import bracket_notes, bracketed
from rainjax.report.marks import had_zero_gradient, marked, zero_gradient_notes
from rainjax.report.published import mark, protocol_notes
from rainjax.report.results import Ball, Results, balls, clean, strongest, subjects_of
from rainjax.report.table_notes import Column, equals_white_box, table_notes
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import (
    ball_texts,
    counted,
    interval,
    num_text,
    percent,
)


@dataclasses.dataclass(frozen=True)
class ResultsTable(Display):
    """Mean accuracy by subject and threat model, the strongest attack last; a table for each ball.

    Of another measure than `Robustness` a cell shows what the measure says. A number that a failed
    sanity check puts in doubt bears a dagger, and the strongest attack of its row as well. Shown
    are the records with the tag, all of them for None.
    """

    tag: str | None = "table"

    def tables(self, results: Results) -> list[Table]:
        """Returns the tables.

        Raises:
            ValueError: no record has the tag, or two records claim one cell.
        """
        shown = results.tagged(self.tag)
        if not shown:
            raise ValueError(f"No record has the tag {self.tag!r}, so there is no table to make.")
        texts, word = ball_texts(balls(shown)), _shot_word(shown)
        titles = {ball: f"Attacks {words}{word}" for ball, words in texts.items()}
        return [
            _ball_table(results, shown, ball, title)
            for ball, title in (titles or {None: f"Clean images only{word}"}).items()
        ]


@dataclasses.dataclass(frozen=True)
class DrawsTable(Display):
    """Accuracy on clean images and under the strongest attack, by how random draws are counted."""

    tag: str | None = "table"

    def tables(self, results: Results) -> list[Table]:
        shown = results.scored(self.tag)
        return [
            _draws_table(results, shown, ball, f"Clean images and the strongest attack {words}")
            for ball, words in ball_texts(balls(shown)).items()
        ]


@dataclasses.dataclass(frozen=True)
class Leaderboard(Display):
    """Subjects by what the strongest attack within a ball leaves of them, the best first."""

    tag: str | None = "table"

    def tables(self, results: Results) -> list[Table]:
        shown = results.scored(self.tag)
        word = _shot_word(shown)
        return [
            _ranking(results, shown, ball, f"By the strongest attack {words}{word}")
            for ball, words in ball_texts(balls(shown)).items()
        ]


def score_cell(record: Record, name: str = "mean", *, own_num: bool = False) -> Cell:
    """Returns a record's score with its interval, and with its n where the column has several.

    Of a measure without scores it is what the measure says. It is marked where the attack had no
    gradient to follow for some images.
    """
    num = f" n={record.num_examples}" if own_num else ""
    if not record.scored:
        (_, main), *others = list(record.shown.items()) or [("", str(ABSENT))]
        details = ", ".join(f"{title} {text}" for title, text in others) + num
        cell = Cell(main, details.strip(), (record.id,))
    else:
        score = record.score(name)
        value = percent(score.accuracy) + mark(record)
        cell = Cell(value, interval(score) + num, (record.id,))
    return marked(cell, zero_gradient=had_zero_gradient(record))


def _shot_word(shown: list[Record]) -> str:
    """Returns how a table's accuracies count draws, where any of them is of a random pipeline."""
    words = {record.shot() for record in shown if record.scored and record.num_score_draws > 1}
    return ", one-shot" if words else ""


def _ball_table(results: Results, every: list[Record], ball: Ball | None, title: str) -> Table:
    shown = [record for record in every if record.ball in (None, ball)]
    columns = _columns(results, shown)
    ranked = ball is not None and any(record.scored for record in shown)
    header = [Cell(""), *_column_heads(columns)]
    body = []
    for subject in subjects_of(results, shown):
        cells = [Cell(subject)]
        for _, column in columns:
            record = column.get(subject)
            if record is not None:
                cell = score_cell(record, own_num=_is_mixed(column))
                cell = falling(cell, record)
                cells.append(marked(cell, doubted=(subject, record.threat) in results.doubts))
            elif equals_white_box(results, subject, column):
                cells.append(Cell("= white box"))
            else:
                cells.append(ABSENT)
        if ball is not None and ranked:
            cells.append(_strongest_cell(results, shown, subject, ball))
        body.append(tuple(cells))
    if ranked:
        header.append(Cell("strongest attack"))
    notes = table_notes(results, shown, columns, ball)
    return Table(title, tuple(header), tuple(body), notes, judged_by_last=ranked)


def _strongest_cell(results: Results, shown: list[Record], subject: str, ball: Ball) -> Cell:
    best = strongest([record for record in shown if record.scored], subject, ball)
    if best is None:
        return ABSENT
    cell = bounded(results, score_cell(best), best, ball=ball)
    cell = bracketed(results, cell, best, ball=ball)
    cell = cell.replaced(cell.value, f"{cell.detail} {best.threat}")
    return marked(cell, doubted=_is_doubted(results, subject))


def _is_doubted(results: Results, subject: str) -> bool:
    return any(name == subject for name, _ in results.doubts)


def _columns(results: Results, shown: list[Record]) -> list[tuple[str, Column]]:
    """Returns the titles of columns and the record of each subject in them.

    A threat model is one column. Where a subject has several records under it, it is one column
    for each of their settings, or numbers of images, and says what sets it apart.
    """
    columns = []
    for threat in results.threats:
        own = [record for record in shown if record.threat == threat]
        subjects = [record.subject for record in own]
        if len(set(subjects)) == len(subjects):
            columns += [(threat, {record.subject: record for record in own})] if own else []
            continue
        groups: dict[tuple, list[Record]] = {}
        for record in sorted(own, key=lambda record: (record.num_draws, record.num_steps)):
            groups.setdefault(tuple(sorted(_settings(record).items())), []).append(record)
        split = [part for group in groups.values() for part in _by_num(group)]
        columns += [(_apart(threat, part, split), part) for part in split]
    return columns


def _by_num(group: list[Record]) -> list[Column]:
    """Returns records of one attack as a column, or as one for each number of images."""
    subjects = [record.subject for record in group]
    if len(set(subjects)) == len(subjects):
        return [{record.subject: record for record in group}]
    columns: dict[int, Column] = {}
    for record in sorted(group, key=lambda record: -record.num_examples):
        column = columns.setdefault(record.num_examples, {})
        other = column.setdefault(record.subject, record)
        if other is not record:
            raise ValueError(
                f"The records {other.id!r} and {record.id!r} claim the same table cell."
            )
    return list(columns.values())


def _settings(record: Record) -> dict[str, str]:
    """Returns all options of a record's attack, those of its parts too, as names and texts."""
    found: dict[str, str] = {}

    def add(options: dict, prefix: str) -> None:
        for name, value in options.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = repr(value) if not isinstance(value, str) else value

    add(record.attack or {}, "")
    return found


def _apart(threat: str, column: Column, columns: Iterable[Column]) -> str:
    """Returns a threat model's name with the options that its other columns have otherwise."""
    first, firsts = next(iter(column.values())), [next(iter(c.values())) for c in columns]
    own, others = _settings(first), list(map(_settings, firsts))
    kind = lambda settings: settings.get("class", "no attack")
    alike = [other for other in others if kind(other) == kind(own)]
    words = [] if len(alike) == len(others) else [kind(own)]
    words += [
        _option_text(name, value)
        for name, value in own.items()
        if any(other.get(name) != value for other in alike)
    ]
    if any(_settings(other) == own and other is not first for other in firsts):
        words.append(num_text([first]))
    return ", ".join([threat, *words])


def _option_text(name: str, value: str) -> str:
    if name == "eot.num_samples":
        return f"K = {value}"
    if name == "num_steps":
        return counted(int(value), "steps")
    return f"{name.replace('_', ' ')} {value}"


def _column_heads(columns: Sequence[tuple[str, Column]]) -> list[Cell]:
    """The columns' titles, with the numbers of images where these are not the same in all."""
    numbers = [num_text(column.values()) for _, column in columns]
    same = len(set(numbers)) == 1
    heads = []
    for (title, column), num in zip(columns, numbers, strict=True):
        keys = any(record.knowledge is Knowledge.KEYS for record in column.values())
        details = ["known key"] if keys and "known key" not in title.lower() else []
        details += [] if same or title.endswith(num) else [num]
        heads.append(Cell(title, ", ".join(details)))
    return heads


def _is_mixed(column: Column) -> bool:
    """Whether a column's cells were measured on different numbers of images."""
    return len({record.num_examples for record in column.values()}) > 1


def _draws_table(results: Results, every: list[Record], ball: Ball, title: str) -> Table:
    shown = [record for record in every if record.ball in (None, ball)]
    body, used, claims = [], [], []
    for subject in subjects_of(results, shown):
        best = strongest(shown, subject, ball)
        claims += [(best, ball)] if best is not None else []
        for record in (clean(shown, subject), best):
            if record is not None:
                used.append(record)
                names = ("mean", "vote", "worst")
                scores = (
                    bounded(results, score_cell(record, name), record, ball=ball)
                    if record is best
                    else score_cell(record, name)
                    for name in names
                )
                num = Cell(str(record.num_examples))
                draws = Cell(str(record.num_score_draws))
                body.append((Cell(subject), Cell(record.threat), *scores, num, draws))
    header = (
        Cell(""),
        Cell("images"),
        Cell("one-shot", "mean over draws"),
        Cell("vote", "majority vote"),
        Cell("N-shot", "every draw right"),
        Cell("n"),
        Cell("draws"),
    )
    return Table(
        title,
        header,
        tuple(body),
        (
            "**majority vote**: the class that most draws name; the user runs the defense as "
            "often as there are draws.",
            "**every draw right**: an image counts only if no draw is wrong; this is what is "
            "left when the attacker may try again, N times with N draws.",
            *bound_notes(results, claims),
            *zero_gradient_notes(used),
            *protocol_notes(used),
        ),
    )


def _ranking(results: Results, every: list[Record], ball: Ball, title: str) -> Table:
    best = {
        subject: record
        for subject in subjects_of(results, every)
        if (record := strongest(every, subject, ball)) is not None
    }
    ranked = sorted(best.items(), key=lambda item: -item[1].score().accuracy)
    body = []
    for subject, record in ranked:
        unattacked = clean(every, subject)
        body.append(
            (
                Cell(subject),
                ABSENT if unattacked is None else score_cell(unattacked),
                Cell(record.threat),
                Cell(str(record.num_examples)),
                marked(
                    bracketed(
                        results,
                        bounded(results, score_cell(record), record, ball=ball),
                        record,
                        ball=ball,
                    ),
                    doubted=_is_doubted(results, subject),
                ),
            )
        )
    names = ("", "clean", "strongest attack", "n", "what it leaves")
    return Table(
        title,
        tuple(map(Cell, names)),
        tuple(body),
        (
            "Each number is an upper bound: a better attack can only lower it. Of two whose "
            "intervals overlap neither is known to be the better.",
            *bound_notes(results, [(record, ball) for record in best.values()]),
            *bracket_notes(results, [(record, ball) for record in best.values()]),
            *zero_gradient_notes(best.values()),
            *protocol_notes(best.values()),
        ),
        judged_by_last=True,
    )
