"""Displays of detection tell the records' numbers, and leave out what they cannot show."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats

from rainjax.evaluation import Record
from rainjax.evaluation.packing import unpack_counts
from rainjax.report import (
    DetectionOverRadius,
    DistortionMap,
    MostSuspicious,
    RiskCoverageCurves,
    RocCurves,
    ScoreHistograms,
    default_displays,
    detection_maps,
    suspicious,
    write_report,
)
from rainjax.report.results import Results
from tests.report.made_detections import detection_study, make_detection
from tests.report.made_records import full_study, results_of, write_study
from tests.tiny import unchecked

EVERY = [
    RocCurves(), RocCurves(log_x=True, of="successful"), ScoreHistograms(), RiskCoverageCurves(),
    DetectionOverRadius(), DistortionMap(),
]  # fmt: skip


@pytest.fixture(scope="module")
def contents():
    return detection_study()


@pytest.fixture(scope="module")
def results(contents):
    return results_of(contents)


def record(results, subject, threat):
    (found,) = [r for r in results.tagged("table") if (r.subject, r.threat) == (subject, threat)]
    return found


@pytest.mark.parametrize("display", EVERY, ids=lambda display: type(display).__name__)
def test_displays_draw_what_was_measured(display, results):
    drawings = display.drawings(results)
    per_subject = isinstance(display, DistortionMap)
    assert len(drawings) == (2 if per_subject else 1)
    for drawing in drawings:
        assert drawing.png.startswith(b"\x89PNG")
        assert "n = 120" in drawing.caption
        assert any(re.fullmatch(pattern.replace("*", ".*"), f"{drawing.name}.png")
                   for pattern in display.files)  # fmt: skip
    assert display.heading
    # Records of accuracies have nothing for them, nor do tags that no record has.
    assert display.drawings(results_of(full_study())) == []
    assert dataclasses.replace(display, tag="of nothing").drawings(results) == []


def test_figures_of_other_options_have_other_names(results):
    displays = [
        RocCurves(),
        RocCurves(log_x=True),
        RocCurves(of="successful"),
        RocCurves("radius"),
    ]
    displays += [DetectionOverRadius(), DetectionOverRadius("radius", 0.05)]
    displays += [DetectionOverRadius(of="successful")]
    names = [drawing.name for display in displays for drawing in display.drawings(results)]
    assert len(set(names)) == len(names) == 7


def test_curves_tell_the_area_below_them(results):
    (drawing,) = RocCurves().drawings(results)
    one = record(results, "quality", "adaptive PGD").result["scores"]
    area = scipy.stats.mannwhitneyu(one["attacked"], one["clean"]).statistic / 120**2
    assert f"quality, adaptive PGD, AUROC {area:.3f}." in drawing.alt
    (drawing,) = RocCurves(of="successful").drawings(results)
    one = record(results, "student", "Square").result
    wrong = {k: unpack_counts(v) > 0 for k, v in one["wrong_draws"].items()}
    chosen = wrong["attacked"] & ~wrong["clean"]
    attacked = np.array(one["scores"]["attacked"])[chosen]
    statistic = scipy.stats.mannwhitneyu(attacked, one["scores"]["clean"]).statistic
    assert f"student, Square, AUROC {statistic / 120 / chosen.sum():.3f}." in drawing.alt


@pytest.mark.parametrize("log_x", [False, True])
def test_a_page_is_given_every_step_of_the_curve(results, log_x):
    (drawing,) = RocCurves(log_x=log_x).drawings(results)
    panels = drawing.chart.panels
    for record in results.records:
        if record.attack is None or "table" not in record.tags:
            continue
        clean, seen = (np.asarray(record.result["scores"][k]) for k in ("clean", "attacked"))
        lines = [line for line in panels[record.subject] if line.label == record.threat]
        curve = next(line for line in lines if line.stepped)
        levels = [score.accuracy for score in curve.scores]
        # By the book: of all thresholds that so few clean images are above, the best one.
        thresholds = [-np.inf, *clean, *seen]
        for number in range(log_x, len(clean) + 1):
            allowed = [t for t in thresholds if (clean > t).sum() <= number]
            best = max((seen > t).mean() for t in allowed)
            place = np.searchsorted(curve.x, number / len(clean) + 1e-9) - 1
            assert levels[place] == pytest.approx(best, abs=1e-9)
        for dot in lines:
            if not dot.stepped:
                assert dot.x == [(clean > 0).mean()]
                assert dot.scores[0].accuracy == (seen > 0).mean()


def test_histograms_tell_what_is_above_the_threshold(results):
    (drawing,) = ScoreHistograms().drawings(results)
    for threat, name in (("clean", "clean"), ("blind PGD", "attacked")):
        scores = np.array(record(results, "quality", threat).result["scores"][name])
        assert f"quality, {threat}, {100 * (scores > 0).mean():.1f} % above." in drawing.alt


def test_risk_tells_the_area_and_what_the_best_order_saves(results):
    (drawing,) = RiskCoverageCurves().drawings(results)
    found = record(results, "student", "Square").result["risk_coverage"]
    text = f"area {found['area']:.3f}, {found['excess']:.3f} above the best"
    assert f"student, Square, {text}." in drawing.alt


def test_a_line_joins_the_radii_of_one_threat_model(results):
    runs = DetectionOverRadius().runs(results)
    assert [[round(255 * r.radius) for r in run] for run in runs] == [[1, 2, 4, 16]] * 2
    (drawing,) = DetectionOverRadius("radius", 0.05).drawings(results)
    first, last = (
        run.result["all_attacked"]["detection_rates"]["0.05"]["value"]
        for run in (runs[0][0], runs[0][-1])
    )
    assert (
        f"quality, blind PGD: {100 * first:.1f} % at radius 1/255, {100 * last:.1f} % at radius "
        "16/255."
    ) in drawing.alt
    assert "5.0 % of the same images" in drawing.caption
    with pytest.raises(ValueError, match=r"no detection at false_positive_rate=0.1: take one of "
                       r"0\.01, 0\.05, or measure Detection"):  # fmt: skip
        DetectionOverRadius("radius", 0.1).drawings(results)


def test_a_map_has_a_row_for_each_kind_and_a_column_for_each_severity(results):
    first, _ = DistortionMap().drawings(results)
    assert first.name == "distortions-quality"
    assert first.alt.startswith("Three heat maps of 3 distortions at 5 severities.")
    own = [r.result for r in results.tagged("distortions") if r.subject == "quality"]
    for name, words, rest in (
        ("accuracy_without_detector", "classifier wrong", True),
        ("coverage", "rejected", True),
        ("slips_through", "answered wrong", False),
    ):
        mean = np.mean([result[name]["value"] for result in own])
        assert f"{words} {100 * (1 - mean if rest else mean):.1f} %" in first.caption
    # What was not measured is left empty, and drawn all the same.
    few = [make_detection("a", f"noise {s}", severity=s, radius=None) for s in (1, 5)]
    few.append(make_detection("a", "blur 5", severity=5, radius=None))
    (drawing,) = DistortionMap(None).drawings(results_of(few))
    assert "2 distortions at 2 severities" in drawing.alt


@pytest.mark.parametrize(
    ("name", "severity", "kind"),
    [
        ("gaussian noise 3", 3, "gaussian noise"),
        ("blur, severity 5", 5, "blur"),
        ("jpeg_compression-2", 2, "jpeg_compression"),
        ("noise 13", 3, "noise 13"),
        ("noise 3", 4, "noise 3"),
        ("3", 3, "3"),
    ],
)
def test_a_kind_is_a_name_without_its_severity(name, severity, kind):
    made = Record(make_detection("a", name, severity=severity, radius=None, num=12))
    assert detection_maps.distortion_of(made) == kind
    assert detection_maps.severity_of(made) == severity
    attack = made.content["threat"]["attack"]
    attack["severity"] = "3"
    assert detection_maps.severity_of(made) is None
    attack["distortion"] = {"class": "Distortion", "name": "contrast", "severity": 2}
    assert detection_maps.severity_of(made) == 2


def test_lines_of_one_name_are_told_apart_by_their_balls():
    two = [make_detection("a", "PGD", radius=r / 255) for r in (2, 8)]
    (drawing,) = RocCurves().drawings(results_of(two))
    assert "a, PGD within L∞ radius 2/255, AUROC" in drawing.alt
    assert "a, PGD within L∞ radius 8/255, AUROC" in drawing.alt


def test_more_lines_than_can_be_told_apart_are_refused():
    many = [make_detection("a", f"attack {letter}", num=20) for letter in "abcdefghi"]
    with pytest.raises(ValueError, match=r"9 lines for 'a' cannot be told apart: .* tag of 8"):
        RocCurves().drawings(results_of(many))
    names = {type(display) for display in default_displays(results_of(many))}
    assert RocCurves not in names


def test_records_that_lack_images_are_refused(contents):
    broken = make_detection("a", "PGD", num=20)
    broken["result"]["scores"]["attacked"].pop()
    with pytest.raises(ValueError, match="is of 20 images, but its scores are of 20 and 19"):
        RocCurves().drawings(results_of([broken]))


def test_a_threshold_that_nothing_passes_and_no_successful_attack_are_drawn():
    nothing = make_detection("a", "PGD", shift=-9, wrong=0)
    assert nothing["result"]["successful"] is None
    everything = make_detection("b", "PGD", shift=9, wrong=1)
    assert everything["result"]["accuracy_of_answered"] is None
    results = results_of([nothing, everything])
    for display in (RocCurves(), RocCurves(log_x=True), ScoreHistograms(), RiskCoverageCurves()):
        assert len(display.drawings(results)) == 1
    assert "a, PGD" not in RocCurves(of="successful").drawings(results)[0].alt


def test_options_of_a_histogram_are_checked():
    with pytest.raises(ValueError, match="num_bins=1 must be from 2 to 1000"):
        ScoreHistograms(num_bins=1)
    with unchecked(), pytest.raises(ValueError, match="of='some' is none"):
        RocCurves(of="some")


def suspicious_images(folder, name, num=3):
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 255, size=(2 * num, 8, 8, 3)).astype(np.uint8),
        "scores": np.linspace(2, -3, 2 * num),
        "predicted": np.arange(2 * num) % 2,
        "labels": np.zeros(2 * num, int),
        "class_names": np.array(["dog", "cat"]),
    }
    (folder / "suspicious").mkdir(exist_ok=True)
    path = folder / "suspicious" / f"{name}.npz"
    np.savez(path, **arrays)
    return path, arrays


def test_the_most_and_the_least_suspicious_images_are_shown(tmp_path, contents):
    write_study(tmp_path, contents[:2])
    path, arrays = suspicious_images(tmp_path, contents[1]["id"])
    (drawing,) = MostSuspicious().drawings(Results.read(tmp_path))
    assert drawing.title.startswith("quality, blind PGD, ")
    assert drawing.alt == (
        "3 images of the highest scores (2 to 0), of which 1 classified wrong, and as many of the "
        "lowest (-1 to -3), of which 2."
    )
    np.savez(path, **(arrays | {"scores": arrays["scores"][:5]}))
    with pytest.raises(ValueError, match=r"must hold as many suspicious .* not \[6, 5, 6, 6\]"):
        suspicious.suspicious(path, "title")
    del arrays["labels"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="lacks the array 'labels'"):
        suspicious.suspicious(path, "title")


def test_a_report_has_them_by_default(tmp_path, contents):
    write_study(tmp_path, [c for c in contents if c["subject"]["name"] == "quality"])
    suspicious_images(tmp_path, contents[1]["id"])
    shown = default_displays(Results.read(tmp_path))
    assert {type(display) for display in shown} >= {
        RocCurves, ScoreHistograms, RiskCoverageCurves, DetectionOverRadius, DistortionMap,
        MostSuspicious,
    }  # fmt: skip
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for heading in ("Detection against false positives", "The most and the least suspicious"):
        assert heading in page
    assert "The tables show what Detection measured; no rule judges it." in page
