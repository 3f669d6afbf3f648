"""Axes that tell the truth, labels that can be read, looks that follow from places."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure

from rainjax.report import style
from rainjax.report.style import GREY, PALETTE, subject_colour, threat_look
from tests.report.made_records import make_record, results_of


@pytest.mark.parametrize("highest", [0.0, 0.03, 0.17, 0.31, 0.55, 0.7, 1.0])
def test_ticks_are_where_they_say(highest):
    figure = Figure()
    axes = figure.subplots()
    style.percent_axis(axes, highest)
    figure.draw_without_rendering()
    places, labels = axes.get_yticks(), axes.yaxis.get_ticklabels()
    said = [float(label.get_text().removesuffix(" %")) / 100 for label in labels]
    assert said == pytest.approx(places)
    assert 3 <= len([place for place in places if place <= axes.get_ylim()[1]]) <= 7


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.01, 0.1))
def test_labels_never_overlap_and_keep_their_order(wanted, step):
    placed = style.spread(wanted, step)
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(np.asarray(placed)[order])
    assert (gaps >= step - 1e-9).all()
    assert min(placed) >= -1e-9
    far_apart = len(wanted) == 1 or np.diff(np.sort(wanted)).min() > step
    if far_apart:
        np.testing.assert_allclose(placed, wanted, atol=1e-9)


def test_looks_follow_places_and_not_names():
    results = results_of(
        [make_record(name, key, [5]) for name in ("mine", "undefended", *"abcdef")
         for key in ("clean", "blind", "eot")]
    )  # fmt: skip
    assert subject_colour(results, "Undefended") == GREY
    colours = [subject_colour(results, name) for name in ("mine", *"abcdef")]
    assert colours == [*PALETTE, *PALETTE[:2]]
    assert threat_look(results, "purifier-blind PGD") != threat_look(results, "EOT-PGD")
