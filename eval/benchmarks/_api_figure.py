"""The figure of a record of `python -m eval api`: what each purifier leaves of the labels."""

from typing import Any

from eval.benchmarks._api_tables import NONE, attacked, clean
from rainjax.report import Drawing
from rainjax.report.style import BLUE, GREY, RUST, new_figure, png_bytes, styled

_PANELS = {"top1": "the first label", "topk": "the first label among {k}"}
_KINDS = (
    (clean, "clean image, purified", BLUE, -0.13),
    (attacked, "attacked image, purified", RUST, 0.13),
)


def figure(record: dict[str, Any]) -> Drawing:
    """Returns each purifier's agreement, clean and attacked, with intervals."""
    found = {entry["name"]: entry["agreement"] for entry in record["entries"]}
    rows, k = (None, *record["rows"]), record["options"]["top_k"]
    told = []
    with styled({"axes.grid.axis": "x"}):
        drawn = new_figure(9.5, 1.5 + 0.45 * len(rows))
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, (measure, title) in zip(panels, _PANELS.items(), strict=True):
            for kind, label, colour, shift in _KINDS:
                for place, row in enumerate(rows):
                    one = found[kind(row)].get(measure)
                    if one is None:
                        continue
                    axes.errorbar(
                        one["mean"], place + shift, fmt="o", color=colour, elinewidth=1.5,
                        xerr=[[one["mean"] - one["low"]], [one["high"] - one["mean"]]],
                        label=label if place == 0 else None,
                    )  # fmt: skip
                    if measure == "top1":
                        told.append(f"{kind(row)} {100 * one['mean']:.0f} %")
            bare = found[attacked(None)].get(measure)
            if bare is not None:
                axes.axvline(bare["mean"], color=GREY, linewidth=1, linestyle=(0, (2, 3)))
            axes.set_title(title.format(k=k))
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            axes.set_xlabel("agrees with the clean image's label")
        panels[0].set_yticks(range(len(rows)), [row or NONE for row in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
        png = png_bytes(drawn)
    return Drawing(
        name="api",
        title=f"What purifiers leave of the labels of {record['service']['title']}",
        caption="Share of images whose label agrees with the service's own of the clean image, "
        "with 95 % intervals; dotted: attacked images that nothing purifies.",
        alt=f"Agreement by purifier. {'; '.join(told)}.",
        png=png,
    )
