"""Turns records into tables: one for each attack budget, in Markdown, HTML or plain text."""

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Iterable

from eval import records as rec


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value with the small print that belongs under it."""

    value: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.detail}".strip()


@dataclasses.dataclass(frozen=True)
class Table:
    """A titled grid; the first cell of each row names it, `notes` stand below."""

    title: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


ABSENT = Cell("—")


Doubts = dict[tuple[str, str], list[str]]


def results_table(records: list[dict], style: str = "plain", doubts: Doubts | None = None) -> str:
    """Returns accuracies by row and threat model, one table per attack budget.

    Args:
        records: What `load_records` returned; those with the role "table" are shown.
        style: "plain" for a terminal, "markdown" for a README.
        doubts: The sanity checks that failed, by the keys of the row and the column they doubt.
    """
    renderers = {"plain": as_plain, "markdown": as_markdown}
    if style not in renderers:
        raise ValueError(f"{style=} is unknown; choose one of {', '.join(renderers)}.")
    return "\n\n".join(renderers[style](table) for table in robustness_tables(records, doubts))


def robustness_tables(records: list[dict], doubts: Doubts | None = None) -> list[Table]:
    """Returns the main tables: mean accuracy over draws, the strongest attack last.

    An accuracy that a failed sanity check puts in doubt bears a dagger, and the strongest
    attack of its row as well.
    """
    shown = rec.with_role(records, "table")
    if not shown:
        raise ValueError("No record has the role 'table', so there is no table to make.")
    doubts = doubts or {}
    return [_robustness_table(shown, budget, doubts) for budget in budgets(records) or [None]]


def draws_tables(records: list[dict]) -> list[Table]:
    """Returns, for each budget, accuracy by how the defense's random draws are counted."""
    return [_draws_table(records, budget) for budget in budgets(records)]


def strongest(records: list[dict], row: str, budget: tuple[str, float]) -> dict | None:
    """Returns the `lowest` record of a row's attacks; the known key does not compete."""
    return lowest(
        record
        for record in rec.with_role(records, "table")
        if record["row"]["key"] == row
        and rec.ball(record) == budget
        and record["column"]["key"] != "known_key"
    )


def lowest(candidates: Iterable[dict]) -> dict | None:
    """Returns the record of the attack that left least, None of none.

    Attacks on the same images are a group, of which the lowest is taken. Which group, where there
    are more, is decided by the lowest that any of each leaves on the images that all have.
    """
    candidates = list(candidates)
    if not candidates:
        return None
    # Where two are level, the one who knows more is named.
    own = lambda r: (r["result"]["mean"]["accuracy"], -rec.RANK[r["column"]["key"]])
    groups: dict[frozenset, list[dict]] = {}
    for record in candidates:
        groups.setdefault(frozenset(record["data"]["indices"]), []).append(record)
    common = sorted(frozenset.intersection(*groups))
    if not common:
        return min(candidates, key=own)
    shared = lambda r: (rec.score_on(r, common)["accuracy"], *own(r))
    return min(min(groups.values(), key=lambda group: min(map(shared, group))), key=own)


def budgets(records: list[dict]) -> list[tuple[str, float]]:
    """Returns the norms and radii that have a table of their own."""
    return sorted({b for b in map(rec.ball, rec.with_role(records, "table")) if b is not None})


def percent(share: float) -> str:
    """Returns a share as it is quoted everywhere: `53.1 %`."""
    return f"{100 * share:.1f} %"


def interval(score: dict) -> str:
    """Returns the ends of a score's interval, in per cent: `[48.7, 57.5]`."""
    return f"[{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def attack_text(record: dict) -> str:
    """Returns an attack's numbers: radius, steps and gradient samples."""
    attack = record["column"]["attack"]
    if attack is None:
        return "no attack"
    steps = f"{attack['num_steps']} steps"
    if "step_size" in attack:
        steps += f" of {rec.radius_text(attack['norm'], attack['step_size'])}"
    budget = rec.ball(record)
    assert budget is not None
    radius = rec.radius_text(*budget)
    if attack.get("num_restarts", 1) > 1:
        steps += f", {attack['num_restarts']} starts"
    draws = rec.eot(record).get("draws", "independent")
    samples = f", K = {rec.num_draws(record)}" if rec.eot(record) else ""
    samples += "" if draws == "independent" else f" ({draws})"
    return f"{rec.norm_text(attack['norm'])} radius {radius}, {steps}{samples}"


def as_markdown(table: Table) -> str:
    """Returns a pipe table with its notes as a list."""
    lines = [f"**{table.title}**", ""]
    heads = [
        f"{cell.value} ({cell.detail})" if cell.detail else cell.value for cell in table.header
    ]
    grid = [heads, *([str(cell) for cell in row] for row in table.rows)]
    grid = [[text.replace("|", "\\|") for text in row] for row in grid]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    for row in [grid[0], rule, *grid[1:]]:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)])


def as_plain(table: Table) -> str:
    """Returns a table for a terminal: the small print of each cell on a line of its own."""
    body = [[_folded(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(line) for row in body for line in row[i]) for i in range(len(table.header))]
    lines = [table.title, ""]
    for number, row in enumerate(body):
        for texts in itertools.zip_longest(*row, fillvalue=""):
            padded = [t.rjust(w) for t, w in zip(texts[1:], widths[1:], strict=True)]
            lines.append("  ".join([texts[0].ljust(widths[0]), *padded]).rstrip())
        if number == 0:
            lines.append("  ".join("-" * w for w in widths))
    fold = lambda note: textwrap.fill(note, 99, initial_indent="  ", subsequent_indent="    ")
    plain = [note.replace("**", "").replace("`", "") for note in table.notes]
    return "\n".join([*lines, "", *map(fold, plain)])


def _folded(cell: Cell) -> list[str]:
    """Returns a cell's lines, none too wide for a terminal that shows several of them."""
    return [*(textwrap.wrap(cell.value, 36) or [""]), *textwrap.wrap(cell.detail, 36)]


def _robustness_table(
    shown: list[dict], budget: tuple[str, float] | None, doubts: Doubts
) -> Table:
    shown = [record for record in shown if rec.ball(record) in (None, budget)]
    columns = _columns(shown)
    header = [Cell(""), *_column_heads(columns)]
    body = []
    for key, title in rec.rows(shown).items():
        cells = [Cell(title)]
        for group in columns.values():
            record = group.get(key)
            if record is not None:
                cell = _score_cell(record, "mean", own_num=_is_mixed(group))
                cells.append(_doubted(cell, (key, _column_key(group)) in doubts))
            elif _equals_white_box(key, group):
                cells.append(Cell("= white box"))
            else:
                cells.append(ABSENT)
        if budget is not None:
            best = strongest(shown, key, budget)
            title = "" if best is None else best["column"]["title"]
            cell = ABSENT if best is None else _score_cell(best, "mean")
            cell = cell if best is None else Cell(cell.value, f"{cell.detail} {title}")
            cells.append(_doubted(cell, any(row == key for row, _ in doubts)))
        body.append(tuple(cells))
    if budget is not None:
        header.append(Cell("strongest attack"))
    title = "Clean images only" if budget is None else f"Attacks {_budget_text(budget)}"
    notes = _robustness_notes(shown, columns)
    if any(row in rec.rows(shown) for row, _ in doubts):
        names = dict.fromkeys(name for found in doubts.values() for name in found)
        notes += (f"**†**: put in doubt by a sanity check that failed ({'; '.join(names)}).",)
    return Table(title, tuple(header), tuple(body), notes)


def _doubted(cell: Cell, doubted: bool) -> Cell:
    return Cell(f"{cell.value} †", cell.detail) if doubted and cell != ABSENT else cell


def _robustness_notes(shown: list[dict], columns: dict) -> tuple[str, ...]:
    draws = sorted({record["num_score_draws"] for record in shown})
    random = [str(num) for num in draws if num > 1] or ["1"]
    once = " (one where nothing is random)" if draws[0] == 1 < draws[-1] else ""
    data = shown[0]["data"]
    notes = [
        f"Accuracy on {data['name']} ({data['split']} split), mean over {' or '.join(random)} "
        f"random draws that the attacker never saw{once}; in brackets the 95 % Wilson interval "
        "for the choice of images."
    ]
    for group in columns.values():
        title = _column_title(group, columns)
        threats = dict.fromkeys(record["column"]["threat_model"] for record in group.values())
        settings = attack_text(next(iter(group.values())))
        num = _num_text(group.values())
        text = f"**{title}**: {' / '.join(threats)}; {settings}; {num}."
        told = [
            f"{record['row']['title']} {percent(record['result']['rounded']['accuracy'])}"
            for record in group.values()
            if "rounded" in record["result"]
        ]
        text += f" Rounded to 8 bits: {', '.join(told)}." if told else ""
        notes.append(text.replace("; no attack", "") if settings == "no attack" else text)
    if any(_equals_white_box("undefended", group) for group in columns.values()):
        notes.append("**= white box**: without a defense there is nothing to be blind to.")
    if any(record["column"]["attack"] for record in shown):
        leave = " The known key, a diagnosis, does not compete." if _has_known(shown) else ""
        rivals = [r for r in shown if r["column"]["key"] not in ("clean", "known_key")]
        uneven = len({r["result"]["num_examples"] for r in rivals}) > 1
        where = "; those with another n are compared on the images they share" if uneven else ""
        notes.append(f"**strongest attack**: the lowest of the attacked columns{where}.{leave}")
    return tuple(notes)


def _draws_table(records: list[dict], budget: tuple[str, float]) -> Table:
    shown = [r for r in rec.with_role(records, "table") if rec.ball(r) in (None, budget)]
    body = []
    for key, title in rec.rows(shown).items():
        clean = [r for r in shown if r["row"]["key"] == key and r["column"]["key"] == "clean"]
        best = strongest(shown, key, budget)
        for record in [*clean, *([best] if best else [])]:
            scores = (_score_cell(record, name) for name in ("mean", "vote", "worst"))
            num = Cell(str(record["result"]["num_examples"]))
            draws = Cell(str(record["num_score_draws"]))
            body.append((Cell(title), Cell(record["column"]["title"]), *scores, num, draws))
    names = ("", "images", "mean over draws", "majority vote", "every draw right", "n", "draws")
    return Table(
        f"Clean images and the strongest attack {_budget_text(budget)}",
        tuple(map(Cell, names)),
        tuple(body),
        (
            "**majority vote**: the class that most draws name; the user runs the defense as "
            "often as there are draws.",
            "**every draw right**: an image counts only if no draw is wrong; this is what is "
            "left when the attacker may try again.",
        ),
    )


def _budget_text(budget: tuple[str, float]) -> str:
    if budget[1] == math.inf:
        return f"that look for the nearest success in {rec.norm_text(budget[0])}"
    return f"within {rec.norm_text(budget[0])} radius {rec.radius_text(*budget)}"


def _columns(shown: list[dict]) -> dict[tuple, dict[str, dict]]:
    """Groups records into columns: the same threat model with the same attack."""
    columns = {}
    for record in shown:
        attack = record["column"]["attack"] or {}
        key = record["column"]["key"]
        # The chunk size is how an attack is computed, not which attack it is.
        eot = {k: v for k, v in rec.eot(record).items() if k != "chunk_size"}
        named = {k: v for k, v in attack.items() if k not in ("eot", "num_eot", "eot_chunk")}
        settings = tuple(sorted((k, repr(v)) for k, v in (named | eot).items()))
        place = (list(rec.RANK).index(key), rec.eot(record).get("num_samples", 0), settings, key)
        group = columns.setdefault(place, {})
        other = group.setdefault(record["row"]["key"], record)
        if other is not record:
            raise ValueError(
                f"The records {other['id']!r} and {record['id']!r} claim the same table cell."
            )
    return dict(sorted(columns.items()))


def _equals_white_box(row: str, group: dict[str, dict]) -> bool:
    return row == "undefended" and row not in group and _column_key(group) == "blind"


def _column_heads(columns: dict) -> list[Cell]:
    """The columns' titles, with the numbers of images where these are not the same in all."""
    numbers = [_num_text(group.values()) for group in columns.values()]
    same = len(set(numbers)) == 1
    titles = [_column_title(group, columns) for group in columns.values()]
    return [Cell(title, "" if same else num) for title, num in zip(titles, numbers, strict=True)]


def _num_text(shown: Iterable[dict]) -> str:
    counts = sorted({record["result"]["num_examples"] for record in shown})
    return f"n = {' or '.join(map(str, counts))}"


def _column_title(group: dict[str, dict], columns: dict) -> str:
    """The column's title, with what sets it apart where two columns would share one."""
    defended = [record for row, record in group.items() if row != "undefended"]
    record = (defended or list(group.values()))[0]
    title = record["column"]["title"]
    twins = [other for other in columns.values() if _column_key(other) == _column_key(group)]
    return title if len(twins) == 1 else f"{title}, {attack_text(record).split(', ', 1)[1]}"


def _column_key(group: dict[str, dict]) -> str:
    return next(iter(group.values()))["column"]["key"]


def _is_mixed(group: dict[str, dict]) -> bool:
    """Whether a column's cells were measured on different numbers of images."""
    return len({record["result"]["num_examples"] for record in group.values()}) > 1


def _score_cell(record: dict, name: str, *, own_num: bool = False) -> Cell:
    score = record["result"][name]
    num = f" n={record['result']['num_examples']}" if own_num else ""
    return Cell(percent(score["accuracy"]), interval(score) + num)


def _has_known(shown: list[dict]) -> bool:
    return any(record["column"]["key"] == "known_key" for record in shown)
