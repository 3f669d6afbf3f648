"""What a reader sees of a comparison of transformations: a short table, claims, a figure."""

import math
import pathlib
import textwrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from eval import records as rec
from eval import speed_report, tables
from eval.style import BLUE, FAINT, GREY, INK, RUST, STYLE, Drawing, png_bytes
from eval.tables import ABSENT, Cell, Table, interval, percent
from eval.two_pass import is_compressed
from rainjax._files import read_array

_BLIND = ("fgsm", "bim", "pgd")
_ADAPTIVE = ("bpda", "own", "eot")
# The radii that papers quote most; records hold 0.0313 for 8/255 at times.
_QUOTED = (2 / 255, 8 / 255)
_NEAR = 0.03 / 255


def is_comparison(records: list[dict]) -> bool:
    """Returns whether the records are of transformations side by side."""
    return any("comparison" in record["roles"] for record in records)


def summaries(folder: pathlib.Path | None, records: list[dict]) -> list[Table]:
    """Returns the short table and, where Feature Distillation is in it, that of its claims.

    Claims of time are held against the record of `python -m eval speed` that lies beside the
    folder, if one does: `speed.json`, or `speed/speed.json`.
    """
    names = ("speed.json", "speed/speed.json")
    places = [folder.parent / name for name in names] if folder else []
    speed = [path for path in places if path.exists()]
    claims = claims_table(records, speed_report.RECORD.load(speed[0]) if speed else None)
    return [short_table(records), *([claims] if claims is not None else [])]


def short_table(records: list[dict]) -> Table:
    """Returns clean accuracy and, for each radius, the strongest blind and informed attacks.

    The radii are 2/255 and 8/255 or, if neither was measured, the smallest and the largest.
    """
    shown = rec.with_role(records, "comparison")
    every = _radii(shown)
    quoted = [r for r in every if any(abs(r - w) < _NEAR for w in _QUOTED)]
    radii = quoted or sorted({*every[:1], *every[-1:]})
    num = max(r["result"]["num_examples"] for r in shown)
    header = [Cell(""), Cell("clean")]
    for radius in radii:
        text = rec.radius_text("linf", radius)
        header += [Cell(f"{text}, blind"), Cell(f"{text}, informed")]
    body = []
    for key, title in rec.rows(shown).items():
        cells = [Cell(title), _score(_clean(shown, key), num)]
        for radius in radii:
            cells.append(_score(_blind(shown, key, radius), num))
            cells.append(_score(_informed(shown, key, radius), num, radius))
        body.append(tuple(cells))
    data = shown[0]["data"]
    within = " and ".join(rec.radius_text("linf", r) for r in radii)
    draws = max(record["num_score_draws"] for record in shown)
    seen = f"; where a row is random, the mean over {draws} draws that no attacker saw"
    seen = seen if draws > 1 else ""
    return Table(
        f"Transformations of {data['name']}"
        + (f", attacked within L∞ radius {within}" if radii else ", not attacked"),
        tuple(header),
        tuple(body),
        (
            f"Accuracy on the first {num} images of {data['name']} ({data['split']} split), or on "
            "the first n where n is named, in brackets the 95 % Wilson interval for the choice "
            f"of images, and the attack that left so little{seen}.",
            *_attack_notes(shown),
            *_source_notes(shown),
        ),
    )


def _source_notes(shown: list[dict]) -> list[str]:
    """Returns what the rows that need more than their name were made of."""
    made = {r["row"]["title"]: r["row"]["params"]["defense"] for r in shown}
    told = [f"{title}: {of['name']}" for title, of in made.items() if of]
    return [f"Made of: {'; '.join(told)}."] if told else []


def _attack_notes(shown: list[dict]) -> list[str]:
    """Returns what blind and informed attacks are, of the ones that were run."""
    blind, informed = _settings(shown, _BLIND), _settings(shown, _ADAPTIVE)
    quilted = any(r["row"]["key"] == "quilting" and r["column"]["key"] == "own" for r in shown)
    coarse = ", or, for quilting, that of a low-pass" if quilted else ""
    notes = []
    if blind:
        notes.append(
            f"**blind**: the strongest of {', '.join(blind)}, found on the classifier alone, "
            "which is what papers of transformations measure."
        )
    if informed:
        notes.append(
            f"**informed**: the strongest of {', '.join(informed)}, and of the blind ones, which "
            "who knows more has as well, within this radius or, where it is named, a smaller one; "
            "those with another n are compared on the images they share. *BPDA, identity* takes "
            "the identity's gradient for the transformation's; *own gradient* the "
            f"transformation's, or, where it rounds, that of soft rounding{coarse}; *EOT* "
            "averages over draws. APGD is for rows without randomness, NoisyAPGD for the others. "
            "An attack of more steps, draws or starts may leave less."
        )
    return notes


def claims_table(records: list[dict], speed: dict | None = None) -> Table | None:
    """Returns what the abstracts of Feature Distillation claim beside what was measured here.

    None where the records hold no Feature Distillation. `speed` is what `python -m eval speed`
    wrote.
    """
    shown = rec.with_role(records, "comparison")
    if "fd" not in rec.rows(shown):
        return None
    small = [r for r in _radii(shown) if r < 2.5 / 255]
    bare, clean = (_clean(shown, key) for key in ("undefended", "fd"))
    if not small or bare is None or clean is None:
        return None
    near = max(small)
    size = rec.radius_text("linf", near)
    fooled, left = (_blind(shown, key, near) for key in ("undefended", "fd"))
    bpda = tables.lowest(_fits(shown, "fd", ("bpda",), near))
    best = _informed(shown, "fd", near)
    twice = is_compressed(shown[0]["data"]["name"])
    benign = (
        "accuracy on benign images",
        "falls by at most 1 %",
        f"{_change(bare, clean)}, to {_text(clean)}",
        "the same",
    )
    rows = [
        # What the first pass costs is not seen among images that have been through it.
        *(() if twice else (benign,)),
        (
            "accuracy on adversarial images",
            "from about 20 % to about 90 %",
            f"from {_text(fooled)} to {_text(left)}: the strongest blind attacks at {size}",
            _text(best, at=True),
        ),
        (
            "accuracy under the adaptive attack (BPDA)",
            "about 60 %",
            _text(bpda, at=True),
            _text(best, at=True),
        ),
    ]
    if speed is not None:
        ratios = speed_report.ratio_texts(speed)
        rows.append(
            (
                "time",
                "about 259 times faster than quilting and total variation (not said which)",
                "; ".join(f"{name}: {text}" for name, text in ratios.items()),
                "—",
            )
        )
    return Table(
        "Feature Distillation: what the abstracts claim, and what was measured here",
        tuple(map(Cell, ("", "claim", "in the claim's setting", "under an informed attacker"))),
        tuple(tuple(map(Cell, row)) for row in rows),
        (
            "Claims are of the abstracts of arXiv 1803.05787 and its CVPR version, of other "
            "networks and images; the claims name no radius, and the authors' code attacks at "
            "2/255. Measured here is the table 25/30 of that code, in "
            + ("two passes" if twice else "one pass")
            + "; after ± the standard error of a difference on the same images, in brackets 95 % "
            "intervals.",
        ),
    )


def figure(records: list[dict]) -> Drawing | None:
    """Returns clean, blind and informed accuracy of every transformation, a panel per radius."""
    shown = rec.with_role(records, "comparison")
    radii = _radii(shown)
    if not radii:
        return None
    titles = rec.rows(shown)
    height = (1.1 if len(radii) > 2 else 1.6) + 0.27 * len(titles)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        drawn = Figure(figsize=(2.6 + 2.1 * len(radii), height))
        grid = drawn.subplots(1, len(radii), sharey=True, squeeze=False)[0]
        for axes, radius in zip(grid, radii, strict=True):
            for place, key in enumerate(titles):
                _draw_row(axes, place, shown, key, radius)
            axes.set_title(rec.radius_text("linf", radius))
            axes.set_xlim(-3, 103)
            axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
            axes.set_ylim(len(titles) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
        grid[0].set_yticks(range(len(titles)), list(titles.values()))
        handles = [
            grid[0].plot([], [], "|", color=GREY, markersize=9, label="clean")[0],
            grid[0].plot([], [], "o", color=BLUE, fillstyle="none", label="strongest blind")[0],
            grid[0].plot([], [], "o", color=RUST, label="strongest informed, 95 % interval")[0],
        ]
        across = 3 if len(radii) > 2 else 1  # as wide as the panels are
        drawn.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False)
        png = png_bytes(drawn)
    return Drawing(
        "comparison",
        "Blind attacks and informed ones",
        "Accuracy on clean images, under the strongest attack that does not know the "
        "transformation, and under the strongest that does; one panel per L∞ radius. The length "
        "of a line is what an evaluation with blind attacks alone would have hidden.",
        _alt(shown, titles, radii),
        png,
    )


def gallery(path: pathlib.Path) -> Drawing:
    """Returns one image behind every transformation.

    Raises:
        ValueError: the file is damaged.
    """
    images, titles = read_array(path, "images"), read_array(path, "titles").tolist()
    across = min(5, len(images))
    down = math.ceil(len(images) / across)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        drawn = Figure(figsize=(1.9 * across, 2.2 * down))
        grid = drawn.subplots(down, across, squeeze=False).ravel()
        for axes, image, title in zip(grid, images, titles, strict=False):
            axes.imshow(image)
            axes.set_title(textwrap.fill(title, 20), loc="center", fontsize=9, color=INK)
        for axes in grid:
            axes.set_axis_off()
        png = png_bytes(drawn)
    return Drawing(
        "gallery",
        "One image, transformed",
        "The first image of the set, unattacked, behind every transformation; random ones with "
        "one draw.",
        "The first image behind " + ", ".join(titles),
        png,
    )


def _draw_row(axes, place: int, shown: list[dict], key: str, radius: float) -> None:
    share = lambda record: 100 * record["result"]["mean"]["accuracy"]
    clean = _clean(shown, key)
    blind, best = _blind(shown, key, radius), _informed(shown, key, radius)
    if clean is not None:
        axes.plot(share(clean), place, "|", color=GREY, markersize=9)
    if blind is not None and best is not None:
        axes.plot([share(blind), share(best)], [place, place], color=FAINT, zorder=1)
    if blind is not None:
        axes.plot(share(blind), place, "o", color=BLUE, fillstyle="none")
    if best is not None:
        ends = [100 * best["result"]["mean"][end] for end in ("low", "high")]
        axes.plot(ends, [place, place], color=RUST, linewidth=1.2)
        axes.plot(share(best), place, "o", color=RUST)


def _fits(shown: list[dict], row: str, columns: tuple, radius: float) -> list[dict]:
    return [
        record
        for record in shown
        if record["row"]["key"] == row
        and record["column"]["key"] in columns
        and rec.ball(record) == ("linf", radius)
    ]


def _clean(shown: list[dict], row: str) -> dict | None:
    fits = (r for r in shown if (r["row"]["key"], r["column"]["key"]) == (row, "clean"))
    return next(fits, None)


def _blind(shown: list[dict], row: str, radius: float) -> dict | None:
    return tables.lowest(_fits(shown, row, _BLIND, radius))


def _informed(shown: list[dict], row: str, radius: float) -> dict | None:
    """Returns the strongest of all attacks within the radius, if one was made for the row.

    Of two as strong the one that uses the whole radius.
    """
    within = [r for r in _radii(shown)[::-1] if r <= radius]
    fits = lambda columns: [f for r in within for f in _fits(shown, row, columns, r)]
    return tables.lowest(fits((*_BLIND, *_ADAPTIVE))) if fits(_ADAPTIVE) else None


def _radii(shown: list[dict]) -> list[float]:
    found = {rec.ball(record) for record in shown}
    return sorted({b[1] for b in found if b and b[0] == "linf" and b[1] < math.inf})


def _score(record: dict | None, usual: int | None, radius: float | None = None) -> Cell:
    """Returns a score with its attack, and with its n and radius unless they are the usual."""
    if record is None:
        return ABSENT
    score, num = record["result"]["mean"], record["result"]["num_examples"]
    attack = [record["column"]["title"]] if record["column"]["attack"] else []
    ball = rec.ball(record)
    if attack and ball and radius not in (None, ball[1]):
        attack[0] += f" at {rec.radius_text(*ball)}"
    names = ", ".join([*attack, *([] if num == usual else [f"n = {num}"])])
    brackets = f" ({names})" if names and usual is None else f" {names}"
    return Cell(percent(score["accuracy"]), (interval(score) + brackets).strip())


def _text(record: dict | None, *, at: bool = False) -> str:
    ball = rec.ball(record) if record else None
    return str(_score(record, None)) + (f" at {rec.radius_text(*ball)}" if at and ball else "")


def _change(before: dict, after: dict) -> str:
    """Returns how far accuracy falls or rises, with the standard error on the same images."""
    counts = [
        np.array(r["result"]["correct_draws"]) / r["num_score_draws"] for r in (before, after)
    ]
    fall = 100 * (counts[0] - counts[1])
    error = fall.std() / math.sqrt(len(fall))
    verb = "falls" if fall.mean() >= 0 else "rises"
    return f"{verb} by {abs(fall.mean()):.1f} ± {error:.1f} points"


def _settings(shown: list[dict], columns: tuple) -> list[str]:
    """Returns the titles of attacks, with what they are."""
    found = []
    for key in columns:
        own = [r for r in shown if r["column"]["key"] == key]
        if own:
            attacks = [record["column"]["attack"] for record in own]
            # Rows without randomness have a rule of their own.
            rules = " or ".join(sorted({attack["class"] for attack in attacks}))
            many = attacks[0]["num_steps"] > 1
            text = f"{rules}, {attacks[0]['num_steps']} step{'s' * many}"
            draws = rec.num_draws(own[0])
            text += f", {draws} draws a step" if draws > 1 else ""
            found.append(f"{own[0]['column']['title']} ({text})")
    return found


def _alt(shown: list[dict], titles: dict[str, str], radii: list[float]) -> str:
    parts = []
    for key, title in titles.items():
        for radius in radii:
            blind, best = _blind(shown, key, radius), _informed(shown, key, radius)
            if blind is not None and best is not None:
                shares = (percent(r["result"]["mean"]["accuracy"]) for r in (blind, best))
                words = " blind, ".join(shares)
                parts.append(f"{title} at {rec.radius_text('linf', radius)}: {words} informed")
    return "; ".join(parts)
