"""Hit rates of examples that transfer: which source's examples fool which target."""

import dataclasses
import json
from typing import Any, ClassVar

import numpy as np

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record, Score, slug
from rainjax.metrics import wilson_interval
from rainjax.report._display import Display, Drawing
from rainjax.report.results import Ball, Results, clean, subjects_of
from rainjax.report.style import INK, new_figure, png_bytes, styled
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import attack_text, ball_texts, counted, interval, percent, unique


@dataclasses.dataclass(frozen=True)
class HitRate:
    """The share of the images that a target got right which it gets wrong when attacked.

    `score` holds it with the ends of its 95 % Wilson interval for the choice of `num` images.
    """

    score: Score
    num: int


@dataclasses.dataclass(frozen=True)
class TransferMatrix(Display):
    """Hit rates of attacks that transfer: a row for each source, a column for each subject.

    A hit rate is the share of wrong answers on attacked images among those images that the target
    gets right unattacked, under every draw where it is random; so whoever errs often already is
    no better a target for it. Shown are the records with the tag, all for None, of attackers with
    classifiers of their own; a matrix, as a table and as a figure, for each ball and attack.

    Raises:
        ValueError: two records claim one place; says which.
    """

    files: ClassVar[tuple[str, ...]] = ("transfer-*.png",)

    tag: str | None = "transfer"

    @property
    def heading(self) -> str:
        return "What fools a source, tried on every target"

    @property
    def absent(self) -> str:
        return "No attacker with a classifier of his own was measured, so there is no such figure."

    def sources(self, results: Results) -> list[str]:
        """Returns the names of the sources, in the order of their threat models."""
        return unique(source_of(record) for record in self._shown(results))

    def tables(self, results: Results) -> list[Table]:
        """Returns the matrices as tables, with intervals and numbers of images."""
        return [self._table(results, title, group) for title, group in self._groups(results)]

    def drawings(self, results: Results) -> list[Drawing]:
        """Returns the matrices as figures."""
        groups = self._groups(results)
        names = [_file_name(group[0]) for _, group in groups]
        return [
            self._drawing(results, title, group, name if names.count(name) == 1 else f"{name}-{i}")
            for i, ((title, group), name) in enumerate(zip(groups, names, strict=True), 1)
        ]

    def _shown(self, results: Results) -> list[Record]:
        found = [
            record
            for record in results.scored(self.tag)
            if record.knowledge is Knowledge.TRANSFER and source_of(record)
        ]
        return sorted(found, key=lambda record: results.threats.index(record.threat))

    def _groups(self, results: Results) -> list[tuple[str, list[Record]]]:
        """Returns the records of every matrix under its title."""
        groups: dict[tuple[Ball | None, str], list[Record]] = {}
        for record in self._shown(results):
            groups.setdefault((record.ball, json.dumps(_options(record))), []).append(record)
        texts = ball_texts({ball for ball, _ in groups if ball is not None})
        found = []
        for (ball, _), group in groups.items():
            others = [other[0] for (b, _), other in groups.items() if b == ball]
            within = texts[ball] if ball is not None else ""
            title = f"Hit rates of {_attack_words(group[0], others)} that transfer, {within}"
            found.append((title, group))
        return found

    def _table(self, results: Results, title: str, group: list[Record]) -> Table:
        rates, sources, targets = hit_rates(results, group)
        rows = []
        for source in sources:
            cells = [Cell(source)]
            for target in targets:
                rate, record = rates[source, target]
                if rate is None or record is None:
                    cells.append(ABSENT)
                    continue
                own = {"": "", "itself": " itself", "among": " a member"}[_relation(record)]
                detail = f"{interval(rate.score)} n={rate.num}{own}"
                cells.append(Cell(percent(rate.score.accuracy), detail, (record.id,)))
            rows.append(tuple(cells))
        return Table(
            title,
            (Cell("source"), *map(Cell, targets)),
            tuple(rows),
            notes=(_meaning(group), *_member_notes(group)),
        )

    def _drawing(self, results: Results, title: str, group: list[Record], name: str) -> Drawing:
        rates, sources, targets = hit_rates(results, group)
        grid = np.full((len(sources), len(targets)), np.nan)
        for (source, target), (rate, _) in rates.items():
            if rate is not None:
                grid[sources.index(source), targets.index(target)] = rate.score.accuracy
        with styled({"axes.grid": False}):
            letters = max(map(len, sources))
            wide = 0.6 + 0.085 * letters + 1.25 * len(targets)
            figure = new_figure(max(wide, 4.0), 1.3 + 0.72 * len(sources))
            axes = figure.subplots()
            axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_xticks(range(len(targets)), [_folded(target) for target in targets])
            axes.set_yticks(range(len(sources)), sources)
            axes.xaxis.tick_top()
            axes.xaxis.set_label_position("top")
            axes.set_xlabel("target", labelpad=8)
            axes.set_ylabel("source")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            for (source, target), (rate, record) in rates.items():
                place = targets.index(target), sources.index(source)
                _draw_cell(axes, place, rate, "" if record is None else _relation(record))
            png = png_bytes(figure)
        relations = {_relation(record) for record in group}
        frames = [words for relation, words in _FRAMES.items() if relation in relations]
        return Drawing(
            name,
            title,
            " ".join([_meaning(group), *frames, *_member_notes(group)]),
            f"A heat map of {counted(len(sources), 'sources')} by "
            f"{counted(len(targets), 'targets')}. {_story(rates, sources, targets)}",
            png,
        )


_FRAMES = {
    "itself": "Framed: the target is the source itself, a white box.",
    "among": "Framed by dashes: the target is one of the source's members.",
}
_MEANS = {
    "logits": "of their logits",
    "probabilities": "of their probabilities",
    "loss": "of their losses",
    "gradient": "of their unit gradients",
}
Rates = dict[tuple[str, str], tuple[HitRate | None, Record | None]]


def hit_rates(results: Results, group: list[Record]) -> tuple[Rates, list[str], list[str]]:
    """Returns the hit rate and the record of every source and target, and both lists of names.

    There is no rate where a target was not measured unattacked on all of these images, or got
    none of them right.

    Raises:
        ValueError: two records claim one place; says which, and how to mend it.
    """
    sources = unique(source_of(record) for record in group)
    targets = subjects_of(results, group)
    rates: Rates = {(source, target): (None, None) for source in sources for target in targets}
    for record in group:
        place = source_of(record) or "", record.subject
        other = rates[place][1]
        if other is not None:
            raise ValueError(
                f"The records {other.id!r} and {record.id!r} are both of {place[0]!r} against "
                f"{place[1]!r}: give the sources names of their own, or the threat models tags."
            )
        rates[place] = hit_rate(record, clean(results.records, record.subject)), record
    return rates, sources, targets


def hit_rate(attacked: Record, unattacked: Record | None) -> HitRate | None:
    """Returns the share of wrong answers on the images that every draw got right unattacked."""
    if unattacked is None:
        return None
    draws = unattacked.num_score_draws
    before = dict(zip(unattacked.indices.tolist(), unattacked.correct_draws.tolist(), strict=True))
    indices = attacked.indices.tolist()
    if not set(indices) <= before.keys():
        return None
    right = [index for index in indices if before[index] == draws]
    if not right:
        return None
    after = dict(zip(indices, attacked.correct_draws.tolist(), strict=True))
    num = len(right)
    wrong = num - sum(after[index] for index in right) / attacked.num_score_draws
    return HitRate(Score(wrong / num, *wilson_interval(wrong, num)), num)


def source_of(record: Record) -> str | None:
    """Returns the name of what a transfer's examples were made on; None of any other record."""
    source = _source(record)
    return None if source is None else source["name"]


def _source(record: Record) -> dict[str, Any] | None:
    surrogate = record.content["threat"]["surrogate"]
    while surrogate and surrogate.get("class") == "When":
        surrogate = surrogate["surrogate"]
    return surrogate["source"] if surrogate and surrogate.get("class") == "Transfer" else None


def _members(record: Record) -> list[str]:
    """Returns the names of the members of a source that is an ensemble, and none of another's."""
    source = _source(record)
    if source is None or source["pipeline"]["class"] != "Ensemble":
        return []
    return list(source["sources"])


def _relation(record: Record) -> str:
    """Returns whether a target is the source "itself", "among" its members, or neither."""
    if source_of(record) == record.subject:
        return "itself"
    return "among" if record.subject in _members(record) else ""


def _options(record: Record) -> dict[str, Any]:
    """Returns an attack without how it draws, which fits an ensemble's number of members."""
    return {name: value for name, value in (record.attack or {}).items() if name != "eot"}


def _attack_words(record: Record, others: list[Record]) -> str:
    """Returns an attack's class, with the options that set it apart from others of its class."""
    own = _options(record)
    alike = [o for o in map(_options, others) if o["class"] == own["class"]]
    differ = [n for n in own if any(other.get(n) != own[n] for other in alike)]
    words = [f"{name.replace('_', ' ')} {own[name]}" for name in differ]
    return ", ".join([own["class"], *words])


def _meaning(group: list[Record]) -> str:
    texts = unique(attack_text(record).partition(", K =")[0] for record in group)
    draws = max(record.num_score_draws for record in group)
    under = f" (under all of {draws} draws, where it is random)" if draws > 1 else ""
    return (
        f"The share of wrong answers among the n images that a target gets right unattacked{under}"
        f"; in brackets 95 % Wilson intervals for the choice of images. {'; '.join(texts)}."
    )


def _member_notes(group: list[Record]) -> list[str]:
    """Returns of whom each ensemble consists, and what it takes the mean of."""
    found = {}
    for record in group:
        members, source = _members(record), _source(record)
        if members and source is not None:
            mean = source["pipeline"]["combine"]
            found[source["name"]] = (
                f"{source['name']}: {', '.join(members)}, by the mean {_MEANS[mean]}."
            )
    return list(found.values())


def _story(rates: Rates, sources: list[str], targets: list[str]) -> str:
    texts = []
    for source in sources:
        shown = [(target, rates[source, target][0]) for target in targets]
        own = [f"{target} {percent(r.score.accuracy)}" for target, r in shown if r is not None]
        texts.append(f"{source}: {', '.join(own) or 'nothing'}.")
    return " ".join(texts)


def _file_name(record: Record) -> str:
    norm, radius = record.ball or ("", 0.0)
    size = f"{radius * 255:.4g}" if norm == "linf" else f"{radius:.4g}"
    return slug(f"transfer-{norm}-{size}-{_options(record)['class']}")


def _folded(name: str) -> str:
    """Returns a name on lines of some fourteen letters, broken at spaces."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= 14 else [*lines, word]
    return "\n".join(line for line in lines if line)


def _draw_cell(axes: Any, place: tuple[int, int], rate: HitRate | None, relation: str) -> None:
    x, y = place
    if rate is None:
        axes.text(x, y, "–", ha="center", va="center", color=INK)
        return
    value = rate.score
    colour = "white" if value.accuracy > 0.55 else INK
    style = {"ha": "center", "color": colour}
    axes.text(x, y - 0.02, f"{100 * value.accuracy:.0f} %", va="bottom", fontsize=11, **style)
    low, high = round(100 * value.low), round(100 * value.high)
    axes.text(x, y + 0.06, f"[{low}, {high}] n={rate.num}", va="top", fontsize=7.5, **style)
    if relation:
        dashes = "solid" if relation == "itself" else (0, (4, 2))
        left, right, top, bottom = x - 0.46, x + 0.46, y - 0.45, y + 0.45
        axes.plot(
            [left, right, right, left, left],
            [top, top, bottom, bottom, top],
            color=INK if value.accuracy <= 0.55 else "white",
            lw=1.4,
            ls=dashes,
        )
