"""Says in plain words what the records show, and which of them should make a reader doubt."""

import dataclasses
import itertools

from eval import records as rec
from eval.tables import attack_text, budgets, interval, percent, strongest


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence or two. A `flag` is a reason to distrust a number; `chance` may explain it."""

    text: str
    flag: bool = False
    chance: bool = False


def verdict(records: list[dict]) -> list[Finding]:
    """Returns the findings, then the flags; both follow from the records alone."""
    findings = []
    # Of many rows side by side a table says it better.
    for budget in [] if rec.with_role(records, "comparison") else budgets(records):
        findings += [_row_finding(records, row, budget) for row in rec.rows(records)]
    flags = [
        *_ball_flags(records),
        *_order_flags(records),
        *_sample_flags(records),
        *_radius_flags(records),
    ]
    if not flags:
        flags = [
            Finding(
                "No flag was raised: no attack left its ball, no weaker threat model did better "
                "than a stronger one, and where sweeps were run neither more gradient samples "
                "nor a larger radius helped the defense."
            )
        ]
    return [finding for finding in findings if finding is not None] + flags


def _row_finding(records: list[dict], row: str, budget: tuple[str, float]) -> Finding | None:
    best = strongest(records, row, budget)
    if best is None:
        return None
    shown = [r for r in rec.with_role(records, "table") if r["row"]["key"] == row]
    cells = {r["column"]["key"]: r for r in shown if rec.ball(r) in (None, budget)}
    score = best["result"]["mean"]
    text = f"**{best['row']['title']}**: "
    if "clean" in cells:
        text += f"{percent(cells['clean']['result']['mean']['accuracy'])} right on clean images, "
    text += (
        f"{percent(score['accuracy'])} {interval(score)} under the strongest attack measured, "
        f"{best['column']['title']} ({attack_text(best)})."
    )
    blind = cells.get("blind")
    if best is blind:
        text += " No adaptive attack did better than the purifier-blind one."
    elif blind is not None:
        low, high, where = _on_common_images(best, blind)
        gap = 100 * (high["accuracy"] - low["accuracy"])
        if gap > 0:
            text += (
                f" That is {gap:.1f} points below the {percent(high['accuracy'])} "
                f"{interval(high)} that the purifier-blind attack leaves{where}."
            )
    worst = best["result"]["worst"]
    if best["num_score_draws"] > 1 and row != "undefended":
        text += (
            f" Right under every one of {best['num_score_draws']} draws: "
            f"{percent(worst['accuracy'])} {interval(worst)}."
        )
    return Finding(text)


def _order_flags(records: list[dict]) -> list[Finding]:
    """Compares each attack with those that know less; the clean images know nothing."""
    flags = []
    shown = rec.with_role(records, "table")
    for weaker, stronger in itertools.permutations(shown, 2):
        if weaker["row"]["key"] != stronger["row"]["key"]:
            continue
        if rec.ball(weaker) not in (None, rec.ball(stronger)):
            continue
        if rec.RANK[weaker["column"]["key"]] >= rec.RANK[stronger["column"]["key"]]:
            continue
        if not _below(weaker, stronger):
            continue
        if weaker["column"]["key"] == "clean":
            pair = f"clean images score lower than {stronger['column']['title']}"
        else:
            pair = (
                f"the weaker threat model {weaker['column']['title']} did better than "
                f"{stronger['column']['title']}"
            )
        flags.append(_comparison(pair, weaker, stronger, "gradient masking or a weak setting"))
    return flags


def _sample_flags(records: list[dict]) -> list[Finding]:
    flags = []
    shown = rec.with_role(records, "eot")
    for row in rec.rows(shown):
        runs = [
            r
            for r in shown
            if r["row"]["key"] == row and r["column"]["key"] in ("white_box", "eot")
        ]
        runs.sort(key=rec.num_draws)
        flags += _rises(
            runs,
            lambda r: f"K = {rec.num_draws(r)}",
            "noise in the attack, or too few steps",
        )
    return flags


def _radius_flags(records: list[dict]) -> list[Finding]:
    flags = []
    shown = [r for r in rec.with_role(records, "radius") if r["column"]["attack"]]
    place = lambda r: (r["row"]["key"], r["column"]["key"], r["column"]["attack"]["norm"])
    for each in sorted({place(r) for r in shown}):
        runs = [r for r in shown if place(r) == each]
        runs.sort(key=lambda r: r["column"]["attack"]["radius"])
        flags += _rises(
            runs,
            lambda r: f"{r['column']['title']} at {_radius(r)}",
            "an attack that has not converged",
        )
    return flags


def _radius(record: dict) -> str:
    attack = record["column"]["attack"]
    return f"radius {rec.radius_text(attack['norm'], attack['radius'])}"


def _rises(runs: list[dict], name, cause: str) -> list[Finding]:
    """Flags a run that leaves more than the best run before it, which had less to work with."""
    flags = []
    for number, run in enumerate(runs[1:], start=1):
        best = min(runs[:number], key=lambda r: r["result"]["mean"]["accuracy"])
        if _below(best, run):
            flags.append(
                _comparison(f"{name(best)} did better than {name(run)}", best, run, cause)
            )
    return flags


def _ball_flags(records: list[dict]) -> list[Finding]:
    flags = []
    for record in records:
        budget, reach = rec.ball(record), record["result"]["linf_max"]
        # An attacked image is stored in float32; half an ulp at 1 is 6e-8.
        if budget is not None and budget[0] == "linf" and reach > budget[1] + 1e-6:
            flags.append(
                Finding(
                    f"{record['row']['title']}: {record['column']['title']} moved a pixel by "
                    f"{reach:.6f}, further than its radius of {budget[1]:.6f}; its number "
                    "measures another attack.",
                    flag=True,
                )
            )
    return flags


def _comparison(pair: str, lower: dict, higher: dict, cause: str) -> Finding:
    low, high, where = _on_common_images(lower, higher)
    text = (
        f"{lower['row']['title']}: {pair}, leaving {percent(low['accuracy'])} {interval(low)} "
        f"against {percent(high['accuracy'])} {interval(high)}{where}."
    )
    chance = low["high"] >= high["low"]
    if chance:
        text += " The intervals overlap, so chance may explain it."
    else:
        text += f" The intervals are apart, so this is more than chance: suspect {cause}."
    return Finding(text, flag=True, chance=chance)


def _below(first: dict, second: dict) -> bool:
    first_score, second_score, _ = _on_common_images(first, second)
    return first_score["accuracy"] < second_score["accuracy"]


def _on_common_images(first: dict, second: dict) -> tuple[dict, dict, str]:
    """Returns both mean scores on the images that both runs saw, and words where some differ."""
    seen = set(second["data"]["indices"])
    common = [index for index in first["data"]["indices"] if index in seen]
    if not common or len(common) == len(seen) == len(first["data"]["indices"]):
        return first["result"]["mean"], second["result"]["mean"], ""
    where = f" on the {len(common)} images that both were run on"
    return rec.score_on(first, common), rec.score_on(second, common), where
