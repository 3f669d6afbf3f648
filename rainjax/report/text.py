"""The words and numbers that every display shares."""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

from rainjax.evaluation.records import Record, Score


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence or two. A `flag` is a reason to distrust a number; `chance` may explain it."""

    text: str
    flag: bool = False
    chance: bool = False


def percent(share: float) -> str:
    """Returns a share as it is quoted everywhere: `53.1 %`."""
    return f"{100 * share:.1f} %"


def interval(score: Score) -> str:
    """Returns the ends of a score's interval, in per cent: `[48.7, 57.5]`."""
    return f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"


def radius_text(norm: str, radius: float) -> str:
    """Returns a radius as it is quoted: in 255ths for `linf`, as a plain number otherwise."""
    if radius == math.inf:
        return "unbounded"
    if norm != "linf":
        return f"{radius:g}"
    # Radii such as 0.0313 come from rounding 8/255; no reader wants 7.98/255.
    steps = radius * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 0.03 else f"{steps:.3g}/255"


def radius_texts(norm: str, radii: Iterable[float]) -> dict[float, str]:
    """Returns `radius_text` of radii of one norm; those that read alike also in plain digits."""
    radii = sorted(set(radii))
    plain = {radius: radius_text(norm, radius) for radius in radii}
    for radius, text in plain.items():
        alike = [other for other in radii if radius_text(norm, other) == text]
        for digits in range(3, 18):
            numbers = {f"{other:.{digits}g}" for other in alike}
            if len(numbers) == len(alike):
                break
        if len(alike) > 1:
            plain[radius] = f"{text} ({radius:.{digits}g})"
    return plain


def norm_text(norm: str) -> str:
    """Returns a norm as papers print it."""
    return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}.get(norm, norm)


def ball_texts(balls: Iterable[tuple[str, float]]) -> dict[tuple[str, float], str]:
    """Returns the words for attacks within balls, or for those that look for the nearest one.

    No two balls have the same words.
    """
    balls, found = list(balls), {}
    for norm, radius in balls:
        texts = radius_texts(norm, (size for other, size in balls if other == norm))
        found[norm, radius] = f"within {norm_text(norm)} radius {texts[radius]}"
        if radius == math.inf:
            found[norm, radius] = f"that look for the nearest success in {norm_text(norm)}"
    return found


def draws_of(record: Record) -> str:
    """Returns how a record's attack takes the draws that it averages: "independent" mostly."""
    return (_first(record).get("eot") or {}).get("draws", "independent")


def steps_text(record: Record) -> str:
    """Returns how long an attack goes on: in steps, in queries, or in whatever it counts."""
    for name in ("num_steps", "num_queries"):
        if isinstance(_first(record).get(name), int):
            return counted(_first(record)[name], name.removeprefix("num_"))
    return counted(record.num_steps, "calls")


def attack_text(record: Record) -> str:
    """Returns an attack's numbers: radius, steps and gradient samples."""
    attack = record.attack
    if attack is None or record.ball is None:
        return "no attack"
    norm, radius = record.ball
    if record.is_proof:
        return f"{norm_text(norm)} radius {radius_text(norm, radius)}, a proof"
    if record.ladder is not None:
        return f"{norm_text(norm)} radius {radius_text(norm, radius)}, {_ladder_text(record)}"
    steps = steps_text(record)
    if isinstance(attack.get("step_size"), int | float):
        what = " of" if "num_steps" in attack else ", steps of"
        steps += f"{what} {radius_text(norm, attack['step_size'])}"
    if isinstance(attack.get("num_restarts"), int) and attack["num_restarts"] > 1:
        steps += f", {attack['num_restarts']} starts"
    samples = f", K = {record.num_draws}" if attack.get("eot") else ""
    samples += "" if draws_of(record) == "independent" else f" ({draws_of(record)})"
    return f"{norm_text(norm)} radius {radius_text(norm, radius)}, {steps}{samples}"


def _first(record: Record) -> dict[str, Any]:
    """Returns a record's attack, or the one that its ladder begins with."""
    attack = record.attack or {}
    return attack["attack"] if record.ladder is not None else attack


def _ladder_text(record: Record) -> str:
    """Returns from where to where a ladder went."""
    assert record.ladder is not None
    rungs, attack = record.ladder["rungs"], _first(record)
    what = "queries" if "num_queries" in attack else "steps"
    span = lambda name: "-".join(unique(rung[name] for rung in (rungs[0], rungs[-1])))
    parts = [counted(len(rungs), "rungs"), f"{span('steps')} {what}"]
    parts += [f"K = {span('draws')}"] if rungs[-1]["draws"] > 1 else []
    parts += [f"{span('restarts')} starts"] if rungs[-1]["restarts"] > 1 else []
    return f"a ladder of {', '.join(parts)} of {attack['class']}"


def num_text(shown: Iterable[Record]) -> str:
    """Returns the numbers of images of some records: `n = 64 or 256`."""
    counts = sorted({record.num_examples for record in shown})
    return f"n = {' or '.join(map(str, counts))}"


def counted(number: int, things: str) -> str:
    """Returns a number with what it counts, in the singular where there is one."""
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def unique(values: Iterable[object]) -> list[str]:
    """Returns distinct values as text, in the order of their first appearance."""
    return list(dict.fromkeys(str(value) for value in values))


def without_markup(text: str) -> str:
    """Returns a line of Markdown as plain text: bold and code lose their marks."""
    return re.sub(r"`(.+?)`", r"\1", re.sub(r"\*\*(.+?)\*\*", r"\1", text))
