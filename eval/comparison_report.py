"""What a reader sees of a comparison of transformations: a short table, claims, a figure."""

import math
import pathlib
import textwrap

import matplotlib
from matplotlib.figure import Figure

from eval import records as rec
from eval import speed_report
from eval.files import read_array
from eval.style import BLUE, FAINT, GREY, INK, RUST, STYLE, Drawing, png_bytes
from eval.tables import ABSENT, Cell, Table, interval, percent

_BLIND = ("fgsm", "bim", "pgd")
_ADAPTIVE = ("bpda", "own", "eot")


def is_comparison(records: list[dict]) -> bool:
    """Returns whether the records are of transformations side by side."""
    return any("comparison" in record["roles"] for record in records)


def summaries(folder: pathlib.Path, records: list[dict]) -> list[Table]:
    """Returns the short table and, where Feature Distillation is in it, that of its claims.

    Claims of time are held against `speed.json` beside the folder, if it is there.
    """
    speed = folder.parent / "speed.json"
    claims = claims_table(records, speed_report.load(speed) if speed.exists() else None)
    return [short_table(records), *([claims] if claims is not None else [])]


def short_table(records: list[dict], radii: tuple[float, ...] = (2 / 255, 8 / 255)) -> Table:
    """Returns clean accuracy and, for each radius, the strongest blind and informed attacks."""
    shown = rec.with_role(records, "comparison")
    radii = tuple(r for r in _radii(shown) if any(math.isclose(r, w) for w in radii))
    header = [Cell(""), Cell("clean")]
    for radius in radii:
        text = rec.radius_text("linf", radius)
        header += [Cell(f"{text}, blind"), Cell(f"{text}, informed")]
    body = []
    for key, title in rec.rows(shown).items():
        clean = _find(shown, key, ("clean",), None)
        cells = [Cell(title), _score(clean)]
        for radius in radii:
            cells += [_score(_find(shown, key, names, radius)) for names in (_BLIND, _ADAPTIVE)]
        body.append(tuple(cells))
    data = shown[0]["data"]
    few = sorted({r["result"]["num_examples"] for r in shown if r["column"]["key"] == "eot"})
    many = sorted({r["result"]["num_examples"] for r in shown} - set(few))
    return Table(
        f"Transformations of {data['name']}, attacked within L∞ radius "
        + " and ".join(rec.radius_text("linf", r) for r in radii),
        tuple(header),
        tuple(body),
        (
            f"Accuracy on the first {_numbers(many)} images of {data['name']} ({data['split']} "
            "split), in brackets the 95 % Wilson interval for the choice of images; a random "
            f"transformation is scored under {_draws(shown)} draws that no attacker saw.",
            "**blind**: the strongest of "
            + ", ".join(_titles(shown, _BLIND))
            + ", found on the classifier alone, which is what papers of transformations measure.",
            "**informed**: the strongest of "
            + ", ".join(_settings(shown, _ADAPTIVE))
            + ("" if few in ([], many) else f"; EOT on {_numbers(few)} images")
            + ". *BPDA, identity* takes the identity's gradient for the transformation's; *own "
            "gradient* the transformation's, or, where it rounds, that of soft rounding; *EOT* "
            "averages over draws.",
        ),
    )


def claims_table(records: list[dict], speed: dict | None = None) -> Table | None:
    """Returns what the abstracts of Feature Distillation claim beside what was measured here.

    None where the records hold no Feature Distillation. `speed` is what `python -m eval speed`
    wrote.
    """
    shown = rec.with_role(records, "comparison")
    if "fd" not in rec.rows(shown):
        return None
    small = [r for r in _radii(shown) if r < 2.5 / 255]
    bare, clean = (_find(shown, key, ("clean",), None) for key in ("undefended", "fd"))
    if not small or bare is None or clean is None:
        return None
    near = max(small)
    size = rec.radius_text("linf", near)
    fooled, left = (_find(shown, key, _BLIND, near) for key in ("undefended", "fd"))
    bpda, best = (_find(shown, "fd", names, near) for names in (("bpda",), _ADAPTIVE))
    loss = 100 * (bare["result"]["mean"]["accuracy"] - clean["result"]["mean"]["accuracy"])
    rows = [
        (
            "accuracy on benign images",
            "falls by at most 1 %",
            f"falls by {loss:.1f} points, to {_text(clean)}",
            "the same",
        ),
        (
            "accuracy on adversarial images",
            "from about 20 % to about 90 %",
            f"from {_text(fooled)} to {_text(left)}: strongest blind attack at {size}",
            f"to {_text(best)} at {size}",
        ),
        (
            "accuracy under the adaptive attack (BPDA)",
            "about 60 %",
            f"{_text(bpda)}: BPDA with the identity at {size}",
            f"{_text(best)} at {size}",
        ),
    ]
    if speed is not None:
        ratios = speed_report.ratios(speed)
        rows.append(
            (
                "time",
                "about 259 times faster than quilting and total variation (not said which)",
                "; ".join(f"{name}: {ratio:.0f} times" for name, ratio in ratios.items()),
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
            "2/255. Table 25/30 of that code, one pass.",
        ),
    )


def figure(records: list[dict]) -> Drawing | None:
    """Returns clean, blind and informed accuracy of every transformation, a panel per radius."""
    shown = rec.with_role(records, "comparison")
    radii = _radii(shown)
    if not radii:
        return None
    titles = rec.rows(shown)
    height = 1.1 + 0.27 * len(titles)
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
        drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
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
    clean = _find(shown, key, ("clean",), None)
    blind, best = (_find(shown, key, names, radius) for names in (_BLIND, _ADAPTIVE))
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
    elif blind is not None and key == "undefended":
        axes.plot(share(blind), place, "o", color=INK)  # blind is informed: nothing to know


def _find(shown: list[dict], row: str, columns: tuple, radius: float | None) -> dict | None:
    """Returns the lowest record of a row in some columns at a radius, if there is one."""
    fits = [
        record
        for record in shown
        if record["row"]["key"] == row
        and record["column"]["key"] in columns
        and (radius is None or rec.ball(record) == ("linf", radius))
    ]
    return min(fits, key=lambda r: r["result"]["mean"]["accuracy"], default=None)


def _radii(shown: list[dict]) -> list[float]:
    found = {rec.ball(record) for record in shown}
    return sorted({b[1] for b in found if b and b[0] == "linf" and b[1] < math.inf})


def _score(record: dict | None) -> Cell:
    if record is None:
        return ABSENT
    return Cell(percent(record["result"]["mean"]["accuracy"]), interval(record["result"]["mean"]))


def _text(record: dict | None) -> str:
    if record is None:
        return "—"
    return f"{_score(record)} (n = {record['result']['num_examples']})"


def _titles(shown: list[dict], columns: tuple) -> list[str]:
    named = {r["column"]["key"]: r["column"]["title"] for r in shown}
    return [named[key] for key in columns if key in named]


def _settings(shown: list[dict], columns: tuple) -> list[str]:
    """Returns the titles of informed attacks, with what they are."""
    found = []
    for key in columns:
        own = [r for r in shown if r["column"]["key"] == key]
        if own:
            attack = own[0]["column"]["attack"]
            text = f"{attack['class']}, {attack['num_steps']} steps"
            draws = rec.num_draws(own[0])
            text += f", {draws} draws a step" if draws > 1 else ""
            found.append(f"{own[0]['column']['title']} ({text})")
    return found


def _numbers(counts: list[int]) -> str:
    return " or ".join(map(str, counts))


def _draws(shown: list[dict]) -> int:
    return max(record["num_score_draws"] for record in shown)


def _alt(shown: list[dict], titles: dict[str, str], radii: list[float]) -> str:
    parts = []
    for key, title in titles.items():
        for radius in radii:
            blind, best = (_find(shown, key, names, radius) for names in (_BLIND, _ADAPTIVE))
            if blind is not None and best is not None:
                shares = (percent(r["result"]["mean"]["accuracy"]) for r in (blind, best))
                words = " blind, ".join(shares)
                parts.append(f"{title} at {rec.radius_text('linf', radius)}: {words} informed")
    return "; ".join(parts)
