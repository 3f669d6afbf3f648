"""What an evaluation by blind attackers alone would hide: their best beside everybody's best."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.report._display import Display, Drawing
from rainjax.report.bounds import bound_notes, bounded
from rainjax.report.brackets import bracket_notes, bracketed
from rainjax.report.marks import doubt_note, had_zero_gradient, marked, zero_gradient_notes
from rainjax.report.published import mark, protocol_notes
from rainjax.report.results import (
    Results,
    clean,
    is_blind,
    is_informed,
    lowest,
    radii,
    subjects_of,
)
from rainjax.report.style import BLUE, FAINT, GREY, RUST, new_figure, png_bytes, styled
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import (
    counted,
    interval,
    norm_text,
    percent,
    radius_text,
    radius_texts,
    steps_text,
    unique,
)


@dataclasses.dataclass(frozen=True)
class BlindAgainstAdaptive(Display):
    """The strongest attack that is blind to each defense, beside the strongest of any.

    A table at the `radii`, or, where none of them was measured, at the smallest and the largest
    that was; and a figure at all of them. An adaptive attacker can do what a blind one can, and
    within a radius he can do what he can within a smaller one. The known key does not compete.
    Shown are the records with the tag, all of them for None.
    """

    files: ClassVar[tuple[str, ...]] = ("comparison.png", "comparison-*.png")

    radii: tuple[float, ...] = (2 / 255, 8 / 255)
    tag: str | None = "comparison"
    norm: str = "linf"

    @property
    def heading(self) -> str:
        return "Every defense against attackers who know of it, and who do not"

    @property
    def absent(self) -> str:
        return "No attack within a radius was recorded, so there is no such figure."

    def tables(self, results: Results) -> list[Table]:
        shown = results.scored(self.tag)
        return [_table(self, results, shown)] if shown else []

    def drawings(self, results: Results) -> list[Drawing]:
        shown = results.scored(self.tag)
        return [_drawing(self, results, shown)] if radii(shown, self.norm) else []

    def blind(self, shown: Iterable[Record], subject: str, radius: float) -> Record | None:
        """Returns the strongest attack within a radius by somebody who is blind to the defense."""
        own = (r for r in shown if r.subject == subject and r.ball == (self.norm, radius))
        return lowest(filter(is_blind, own))

    def adaptive(self, shown: Iterable[Record], subject: str, radius: float) -> Record | None:
        """Returns the strongest of all attacks within a radius, if one was made for the subject.

        Of two as strong the one that uses the whole radius.
        """
        own = [
            record
            for record in shown
            if record.subject == subject
            and record.norm == self.norm
            and (record.radius or 0.0) <= radius
            and record.knowledge is not Knowledge.KEYS
        ]
        own.sort(key=lambda record: -(record.radius or 0.0))
        made = any(map(is_informed, own))
        return lowest(own) if made else None


def score_text(record: Record | None, *, at: bool = False) -> str:
    """Returns a score with its attack and its n in brackets, `at` its radius where wanted."""
    if record is None:
        return str(ABSENT)
    radius = f" at {radius_text(*record.ball)}" if at and record.ball else ""
    return str(_cell(record, None)) + radius


def _table(display: BlindAgainstAdaptive, results: Results, shown: list[Record]) -> Table:
    quoted = _quoted(display, shown)
    num = max(record.num_examples for record in shown)
    header = [Cell(""), Cell("clean")]
    texts = radius_texts(display.norm, quoted)
    for text in texts.values():
        header += [Cell(f"{text}, blind"), Cell(f"{text}, adaptive")]
    body, used, claims = [], [], []
    for subject in subjects_of(results, shown):
        cells = [Cell(subject), _cell(clean(shown, subject), num)]
        for radius in quoted:
            blind = display.blind(shown, subject, radius)
            best = display.adaptive(shown, subject, radius)
            used += [blind, best]
            cells += [_marked(results, _cell(blind, num), blind)]
            ball = display.norm, radius
            cell = bounded(results, _cell(best, num, radius), best, ball=ball)
            cell = bracketed(results, cell, best, ball=ball)
            cells += [_marked(results, cell, best)]
            claims += [(best, ball)] if best is not None else []
        body.append(tuple(cells))
    data = shown[0].content["data"]
    within = " and ".join(texts.values())
    draws = max(record.num_score_draws for record in shown)
    seen = f"; where a row is random, one-shot, the mean over {draws} draws that no attacker saw"
    seen = seen if draws > 1 else ""
    attacked = f", attacked within {norm_text(display.norm)} radius {within}"
    return Table(
        f"Defenses on {data['name']}{attacked if quoted else ', not attacked'}",
        tuple(header),
        tuple(body),
        (
            f"Accuracy on the first {num} images of {data['name']} ({data['split']} split), or on "
            "the first n where n is named, in brackets the 95 % Wilson interval for the choice "
            f"of images, and the attack that left so little{seen}.",
            *_attack_notes(display, results, shown),
            *_source_notes(results, shown),
            *bound_notes(results, claims),
            *bracket_notes(results, claims),
            *_doubt_notes(results, shown),
            *zero_gradient_notes(record for record in used if record is not None),
            *protocol_notes(shown),
        ),
    )


def _quoted(display: BlindAgainstAdaptive, shown: list[Record]) -> list[float]:
    every = radii(shown, display.norm)
    near = 0.03 / 255  # records hold 0.0313 for 8/255 at times
    quoted = [r for r in every if any(abs(r - wanted) < near for wanted in display.radii)]
    return quoted or sorted({*every[:1], *every[-1:]})


def _marked(results: Results, cell: Cell, record: Record | None) -> Cell:
    if record is None:
        return cell
    doubted = (record.subject, record.threat) in results.doubts
    return marked(cell, doubted=doubted, zero_gradient=had_zero_gradient(record))


def _doubt_notes(results: Results, shown: list[Record]) -> list[str]:
    there = {(record.subject, record.threat) for record in shown}
    found = [name for cell, names in results.doubts.items() if cell in there for name in names]
    return doubt_note(found)


def _source_notes(results: Results, shown: list[Record]) -> list[str]:
    """Returns what the rows that need more than their name were made of."""
    parts = {record.subject: record.content["subject"]["params"] for record in shown}
    digests = [{(name, s["sha256"]) for name, s in own.items() if s} for own in parts.values()]
    shared = set.intersection(*digests)
    told = []
    for subject in subjects_of(results, shown):
        names = [
            source["name"]
            for part, source in parts[subject].items()
            if source and source.get("name") and (part, source["sha256"]) not in shared
        ]
        told += [f"{subject}: {', '.join(names)}"] if names else []
    return [f"Made of: {'; '.join(told)}."] if told else []


def _attack_notes(
    display: BlindAgainstAdaptive, results: Results, shown: list[Record]
) -> list[str]:
    """Returns what blind and adaptive attacks are, of the ones that were run."""
    within = [r for r in shown if r.norm == display.norm and r.ball and r.ball[1] < float("inf")]
    blind = [record for record in within if is_blind(record)]
    adaptive = list(filter(is_informed, within))
    notes = []
    if blind:
        alone = all(record.knowledge is Knowledge.CLASSIFIER for record in blind)
        whence = "found on the classifier alone" if alone else "which do not know the defense"
        notes.append(
            f"**blind**: the strongest of {', '.join(_named(results, blind))}, {whence}, "
            "which is what many papers measure."
        )
    if adaptive:
        asks = any(record.knowledge is not Knowledge.DEFENSE for record in adaptive)
        how = " which know the defense or ask the whole pipeline," * asks
        notes.append(
            f"**adaptive**: the strongest of {', '.join(_named(results, adaptive))},{how} and of "
            "the blind ones, which who knows more has as well, within this radius or, where it is "
            "named, a smaller one; those with another n are compared on the images they share. "
            "An attack of more steps, draws or starts may leave less."
        )
        for threat in results.threats:
            told = unique(r.description for r in adaptive if r.threat == threat and r.description)
            notes += [f"**{threat}**: {' / '.join(told)}."] if told else []
    return notes


def _named(results: Results, attacks: list[Record]) -> list[str]:
    """Returns the names of threat models, with what their attacks are."""
    found = []
    for threat in results.threats:
        own = [record for record in attacks if record.threat == threat]
        if own:
            # Rows without randomness may have a rule of their own.
            rules = " or ".join(sorted({r.attack["class"] for r in own if r.attack}))
            draws = max(record.num_draws for record in own)
            averaged = f", {counted(draws, 'draws')} a step" if draws > 1 else ""
            found.append(f"{threat} ({rules}, {steps_text(own[0])}{averaged})")
    return found


def _cell(record: Record | None, usual: int | None, radius: float | None = None) -> Cell:
    """Returns a score with its attack, and with its n and radius unless they are the usual."""
    if record is None:
        return ABSENT
    score, num = record.score(), record.num_examples
    attack = [record.threat] if record.attack is not None else []
    if attack and record.ball and radius not in (None, record.ball[1]):
        attack[0] += f" at {radius_text(*record.ball)}"
    names = ", ".join([*attack, *([] if num == usual else [f"n = {num}"])])
    brackets = f" ({names})" if names and usual is None else f" {names}"
    value = percent(score.accuracy) + mark(record)
    return Cell(value, (interval(score) + brackets).strip(), (record.id,))


def _drawing(display: BlindAgainstAdaptive, results: Results, shown: list[Record]) -> Drawing:
    every, subjects = radii(shown, display.norm), subjects_of(results, shown)
    height = (1.1 if len(every) > 2 else 1.6) + 0.27 * len(subjects)
    with styled({"axes.grid.axis": "x"}):
        figure = new_figure(2.6 + 2.1 * len(every), height)
        grid = figure.subplots(1, len(every), sharey=True, squeeze=False)[0]
        texts = radius_texts(display.norm, every)
        for axes, radius in zip(grid, every, strict=True):
            for place, subject in enumerate(subjects):
                _draw_row(display, axes, place, shown, subject, radius)
            axes.set_title(texts[radius])
            axes.set_xlim(-3, 103)
            axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
            axes.set_ylim(len(subjects) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
        grid[0].set_yticks(range(len(subjects)), subjects)
        handles = [
            grid[0].plot([], [], "|", color=GREY, markersize=9, label="clean")[0],
            grid[0].plot([], [], "o", color=BLUE, fillstyle="none", label="strongest blind")[0],
            grid[0].plot([], [], "o", color=RUST, label="strongest adaptive, 95 % interval")[0],
        ]
        across = 3 if len(every) > 2 else 1  # as wide as the panels are
        figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False)
        png = png_bytes(figure)
    suffix = "" if display.tag == "comparison" else f"-{display.tag or 'all'}"
    return Drawing(
        f"comparison{suffix}",
        "Blind attacks and adaptive ones",
        "Accuracy on clean images, under the strongest attack that does not know the "
        "defense, and under the strongest that does; one panel per "
        f"{norm_text(display.norm)} radius. The length "
        "of a line is what an evaluation with blind attacks alone would have hidden.",
        _alt(display, shown, subjects, every),
        png,
    )


def _draw_row(
    display: BlindAgainstAdaptive,
    axes: Any,
    place: int,
    shown: list[Record],
    subject: str,
    radius: float,
) -> None:
    share = lambda record: 100 * record.score().accuracy
    unattacked = clean(shown, subject)
    blind = display.blind(shown, subject, radius)
    best = display.adaptive(shown, subject, radius)
    if unattacked is not None:
        axes.plot(share(unattacked), place, "|", color=GREY, markersize=9)
    if blind is not None and best is not None:
        axes.plot([share(blind), share(best)], [place, place], color=FAINT, zorder=1)
    if blind is not None:
        axes.plot(share(blind), place, "o", color=BLUE, fillstyle="none")
    if best is not None:
        score = best.score()
        axes.plot([100 * score.low, 100 * score.high], [place] * 2, color=RUST, linewidth=1.2)
        axes.plot(share(best), place, "o", color=RUST)


def _alt(
    display: BlindAgainstAdaptive, shown: list[Record], subjects: list[str], every: list[float]
) -> str:
    parts = []
    for subject in subjects:
        for radius in every:
            blind = display.blind(shown, subject, radius)
            best = display.adaptive(shown, subject, radius)
            if blind is not None and best is not None:
                shares = (percent(record.score().accuracy) for record in (blind, best))
                words = " blind, ".join(shares)
                where = radius_text(display.norm, radius)
                parts.append(f"{subject} at {where}: {words} adaptive")
    return "; ".join(parts)
