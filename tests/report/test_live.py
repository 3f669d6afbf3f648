"""What pages can be asked: plain values of curves, and images and figures as small as they get."""

import io
import json

import numpy as np
import PIL.Image

from rainjax.evaluation import Score
from rainjax.report import Chart, Line, Pictures
from rainjax.report.live import smaller
from rainjax.report.style import BLUE


def _png(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def _pixels(png):
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"))


def test_charts_are_plain_values():
    scores = [Score(0.5, 0.4, 0.6), Score(0.25, 0.2, 0.3)]
    line = Line("a", BLUE, (0, (5, 2)), "o", [1.0, 2.0], scores)
    level = line.level((1.0, 2.0))
    chart = Chart({"": [line, level, Line.bare("b", "#123456", ":", [0.5], [1], "s")]}, "K", [1.0])
    told = json.loads(json.dumps(chart.data(), allow_nan=False))["panels"][0]["lines"]
    assert told[0] == {
        "label": "a", "colour": "blue", "dashes": [10, 4], "marks": ["o", "o"],
        "hollow_end": False, "stepped": False, "x": [1.0, 2.0], "y": [0.5, 0.25],
        "low": [0.4, 0.2], "high": [0.6, 0.3],
    }  # fmt: skip
    assert (told[1]["y"], told[1]["marks"], told[1]["low"]) == ([0.5, 0.5], [], [])
    assert (told[2]["colour"], told[2]["y"], told[2]["marks"]) == ("#123456", [1.0], ["s"])


def test_figures_of_few_colours_get_a_palette_and_photographs_none():
    rng = np.random.default_rng(0)
    colours = np.array([[255, 255, 255], [0, 114, 178], [194, 78, 0]], np.uint8)
    figure = colours[rng.integers(0, 3, (200, 300))]
    png = _png(figure)
    assert len(smaller(png)) < len(png) / 2
    assert (_pixels(smaller(png)) == figure).all()
    noise = _png(rng.integers(0, 256, (80, 80, 3), np.uint8))
    assert smaller(noise) == noise


def test_images_keep_their_size_and_channels_stand_side_by_side():
    rng = np.random.default_rng(0)
    for channels, wide in ((3, 7), (1, 7), (2, 14)):
        images = rng.random((2, 5, 7, channels)).astype(np.float32)
        found = Pictures.of({"original": images}, ["a", "b"], ["a", "a"], ["b", "b"], "change", 4)
        first = found.pictures[0]
        assert first.size == (wide, 5)
        assert first.rightly_seen == (True, False)
        assert found.pictures[1].rightly_seen == (False, True)
        shown = _pixels(first.versions["original"])
        assert shown.shape == (5, wide, 3)
        last = images[0, ..., -1] if channels != 3 else images[0, ..., 2]
        assert abs(shown[:, -7:, 2] - 255 * last.astype(float)).max() <= 0.51
