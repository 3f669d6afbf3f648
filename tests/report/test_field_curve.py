"""Lines join subjects whose defenses differ in one field alone."""

from rainjax.report import FieldCurve
from tests.report.made_records import make_record, results_of

CURVE = FieldCurve("num_iterations", "table", none_at=0.0)


def made(row, column, right, *, defense=None, sha256="a", **changes):
    """A record of ten images, `right` of them right; no defense is none."""
    content = make_record(row, column, [5] * right + [0] * (10 - right), **changes)
    subject = content["subject"]
    subject |= {"defended": defense is not None, "is_random": False}
    subject["target"] = {"class": "Defended", "defense": defense or {"class": "Identity"}}
    subject["params"]["defense"] = None if defense is None else {"name": "n", "sha256": sha256}
    return content


def smoothing(num, sigma=1.0):
    return {"class": "GaussianSmoothing", "num_iterations": num, "sigma": sigma}


def study():
    found = [made("bare", "clean", 10), made("bare", "blind", 0), made("bare", "white_box", 0)]
    for num, clean, blind, adaptive in ((4, 5, 4, 0), (1, 9, 2, 1)):
        name, own = f"smoothing, sigma 1, T = {num}", smoothing(num)
        found += [
            made(name, "clean", clean, defense=own),
            made(name, "blind", blind, defense=own),
            made(name, "blind", blind + 1, defense=own, name="weaker"),
            made(name, "white_box", adaptive, defense=own),
        ]
    return found


def numbers(contents, curve=CURVE):
    return {
        name: [record.content["subject"]["target"]["defense"]["num_iterations"] for record in line]
        for name, line in curve.lines(results_of(contents)).items()
    }


def test_a_line_joins_what_differs_in_the_field_alone():
    assert numbers(study()) == {"smoothing, sigma 1": [1, 4]}
    wider = [made(f"wide, T = {n}", "clean", 5, defense=smoothing(n, 2.0)) for n in (2, 3)]
    other = [
        made(f"smoothing, sigma 1, T = {n} ", "clean", 5, defense=smoothing(n), sha256="b")
        for n in (1, 2)
    ]
    untagged = [made("no, T = 9", "clean", 5, defense=smoothing(9), tags=["other"])]
    assert numbers([*study(), *wider, *other, *untagged]) == {
        "smoothing, sigma 1": [1, 4],
        "wide": [2, 3],
        "smoothing, sigma 1'": [1, 2],  # of other parameters, which its name does not say
    }
    flag = [made("flag", "clean", 5, defense=smoothing(True))]
    assert numbers(flag) == {}


def test_every_panel_has_its_attacker_and_the_bare_classifier_its_place():
    (drawing,) = CURVE.drawings(results_of(study()))
    assert drawing.name == "field-num-iterations"
    assert drawing.title.endswith("number of iterations, within L∞ radius 8/255")
    story = "smoothing, sigma 1"
    assert f"clean: {story}: 100.0 % at 0, 50.0 % at 4." in drawing.alt
    assert f"strongest blind: {story}: 0.0 % at 0, 40.0 % at 4." in drawing.alt
    assert f"strongest adaptive: {story}: 0.0 % at 0, 0.0 % at 4." in drawing.alt
    assert "At 0: bare." in drawing.caption
    assert "Strongest, point by point, were purifier-blind PGD, white-box PGD;" in drawing.caption
    (level,) = FieldCurve("num_iterations", None).drawings(results_of(study()))
    assert f"clean: {story}: 90.0 % at 1, 50.0 % at 4." in level.alt
    assert "Dashed: bare." in level.caption


def behind_another(content):
    content["subject"]["params"]["classifier"] = {"name": "other", "sha256": "cd"}
    return content


def test_a_line_begins_at_its_own_classifier_and_runs_from_left_to_right():
    other = [made("bare too", "clean", 7)]
    other += [made(f"other, T = {n}", "clean", 6 - n, defense=smoothing(n)) for n in (1, 2)]
    contents = [*study(), *map(behind_another, other)]
    (drawing,) = CURVE.drawings(results_of(contents))
    assert "clean: smoothing, sigma 1: 100.0 % at 0, 50.0 % at 4." in drawing.alt
    assert "clean: other: 70.0 % at 0, 40.0 % at 2." in drawing.alt
    assert "At 0: bare, bare too." in drawing.caption
    (last,) = FieldCurve("num_iterations", "table", none_at=9.0).drawings(results_of(study()))
    assert "clean: smoothing, sigma 1: 90.0 % at 1, 100.0 % at 9." in last.alt


def test_a_line_without_its_classifier_does_not_borrow_another():
    alone = [made("bare", "clean", 10)]
    alone += [
        behind_another(made(f"other, T = {n}", "clean", 6 - n, defense=smoothing(n)))
        for n in (1, 2)
    ]
    (drawing,) = CURVE.drawings(results_of(alone))
    assert "clean: other: 50.0 % at 1, 40.0 % at 2." in drawing.alt
    assert "bare" not in drawing.caption


def test_there_is_one_figure_for_each_ball_and_one_where_nobody_attacks():
    near = [
        made(f"smoothing, sigma 1, T = {n}", "blind", 6, defense=smoothing(n), radius=4 / 255)
        for n in (1, 4)
    ]
    first, second = CURVE.drawings(results_of([*study(), *near]))
    assert (first.name, second.name) == (
        "field-num-iterations-linf-0.01569", "field-num-iterations-linf-0.03137",
    )  # fmt: skip
    assert "adaptive" not in first.alt
    clean = [content for content in study() if content["threat"]["attack"] is None]
    (alone,) = CURVE.drawings(results_of(clean))
    assert "blind" not in alone.alt


def test_nothing_is_drawn_within_a_ball_in_which_only_the_bare_classifier_was_attacked():
    attacks = [made("bare", "blind", 3, radius=2 / 255)]
    attacks += [
        made(f"smoothing, T = {n}", "blind", 6, defense=smoothing(n), radius=4 / 255)
        for n in (1, 4)
    ]
    (drawing,) = CURVE.drawings(results_of(attacks))
    assert drawing.title.endswith("4/255")


def test_nothing_is_drawn_where_nothing_differs():
    same = [content for content in study() if "T = 4" not in content["subject"]["name"]]
    assert CURVE.drawings(results_of(same)) == []
    assert FieldCurve("sigma", None).drawings(results_of(study())) == []
    assert "number of iterations alone" in CURVE.absent
