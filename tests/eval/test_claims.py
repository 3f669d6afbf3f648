"""The claims of papers' abstracts, held against records whose numbers are known."""

import json

import numpy as np

from eval import report
from eval.claims import claims_tables
from rainjax.report import check_readme, update_readme
from tests.report.made_records import (
    cells,
    expected_cell,
    make_record,
    results_of,
    write_study,
)

FD, BARE = "Feature Distillation, 25/30", "no defense"


def made(row, column, counts, radius=2 / 255, **changes):
    content = make_record(row, column, counts, radius=radius, tags=["comparison", "table"],
                          **changes)  # fmt: skip
    content["subject"]["defended"] = row != BARE
    return content


def study():
    return [
        made(BARE, "clean", [5, 5, 5, 5, 0, 0]),
        made(BARE, "blind", [0] * 6, name="BIM"),
        made(FD, "clean", [5, 5, 0, 0, 5, 0]),
        made(FD, "blind", [5, 5, 0, 0, 0, 0], name="BIM"),
        made(FD, "white_box", [5, 0, 0, 0, 0, 0], name="BPDA, identity"),
        made(FD, "white_box", [0] * 6, name="own gradient") | {"id": "own"},
        made(FD, "blind", [0] * 6, None, norm="l2", name="CW L2"),
    ]


def table(contents, speed=None):
    tables = claims_tables(results_of(contents), speed) if contents else []
    return tables[0] if tables else None


def test_claims_stand_beside_what_was_measured():
    found = table(study())
    assert found is not None
    benign, adversarial, bpda = ([str(cell) for cell in row] for row in found.rows)
    error = np.std([0, 0, 1, 1, -1, 0]) * 100 / np.sqrt(6)
    assert f"falls by 16.7 ± {error:.1f} points, to {expected_cell(3, 6)} (n = 6)" == benign[2]
    assert adversarial[2] == (
        f"from {expected_cell(0, 6)} (BIM, n = 6) to {expected_cell(2, 6)} (BIM, n = 6): the "
        "strongest blind attacks at 2/255"
    )
    assert bpda[2] == f"{expected_cell(1, 6)} (BPDA, identity, n = 6) at 2/255"
    assert bpda[3] == f"{expected_cell(0, 6)} (own gradient, n = 6) at 2/255"
    assert "in one pass" in found.notes[0]


def test_accuracy_may_also_rise():
    contents = study()
    contents[0]["result"], contents[2]["result"] = contents[2]["result"], contents[0]["result"]
    found = table(contents)
    assert found is not None
    assert str(found.rows[0][2]).startswith("rises by 16.7 ± ")


def test_images_that_were_compressed_before_say_nothing_of_benign_ones():
    contents = study()
    for content in contents:
        content["data"]["name"] = "builtin, compressed"
    found = table(contents)
    assert found is not None
    assert [str(row[0]) for row in found.rows] == [
        "accuracy on adversarial images", "accuracy under the adaptive attack (BPDA)",
    ]  # fmt: skip
    assert "in two passes" in found.notes[0]


def test_claims_need_feature_distillation_at_a_small_radius():
    contents = study()
    assert table([c for c in contents if c["subject"]["name"] != FD]) is None
    assert table([c for c in contents if c["subject"]["name"] != BARE]) is None
    clean = [c for c in contents if c["threat"]["name"] == "clean"]
    assert table(clean) is None
    assert table([*clean, made(FD, "blind", [0] * 6, 4 / 255)]) is None


def test_claims_of_time_are_held_against_the_benchmark(tmp_path):
    entries = [
        {"name": name, "whose": whose, "batch_size": size, "median_ms": ms, "mib_per_image": 1.0}
        for name, whose, ms in (
            ("Feature Distillation", "rainjax", 2.0),
            ("total variation", "rainjax", 3.0),
            ("total variation", "somebody", 5000.0),
        )
        for size in (1, 64)
    ]
    speed = {
        "kind": "speed", "schema": 1, "entries": entries,
        "options": {"batch_sizes": [1, 64], "num_slow": 1, "min_seconds": 0.1,
                    "size": 8, "data": "builtin",
                    "num_repeats": 1, "bank_size": 1, "quality": 75},
        "jpeg_error": {"true rounding": {"mean": 0.0, "max": 0.0}},
        "run": {"num_devices": 1, "device": "cpu"},
    }  # fmt: skip
    folder = write_study(tmp_path / "study", study())
    for place in ("speed.json", "speed/speed.json"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(speed))
        (found,) = report.extra_tables(folder)
        assert str(found.rows[3][2]) == (
            "total variation (rainjax): 1.5 × (batch 1), 1.5 × (batch 64); "
            "total variation (somebody): 2,500 × (batch 1), 2,500 × (batch 64)"
        )
        path.unlink()


def test_report_and_readme_show_them(tmp_path):
    folder = write_study(tmp_path / "tiny", study())
    paths = report.write_report(folder)
    assert {path.name for path in paths} == {"report.html", "report.md", "comparison.png"}
    text = (folder / "report.md").read_text()
    assert "Feature Distillation: what the abstracts claim" in text
    assert "Attacks that look for the nearest success in L2" in text
    assert "Feature Distillation: what the abstracts claim" in report.summary(folder)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:tiny -->\n<!-- /results:tiny -->\n")
    blocks = report.blocks([folder])
    update_readme(readme, blocks)
    assert not check_readme(readme, blocks)
    names = [row[0] for row in cells(readme.read_text())]
    assert FD in names
    assert "accuracy on benign images" in names


def square(row, counts):
    """A record of Square, which asked the classifier alone."""
    content = made(row, "black_box", counts, radius=4 / 255)
    content["threat"]["knowledge"] = "classifier"
    return content


def ncis_study():
    found = [
        made("no defense", "clean", [5] * 6),
        # At 1/255 blind attacks leave too much for the claim to be of it.
        made("no defense", "blind", [5, 5, 5, 5, 0, 0], radius=1 / 255),
        made("no defense", "blind", [5, 0, 0, 0, 0, 0], radius=4 / 255),
        square("no defense", [5, 5, 0, 0, 0, 0]),
        made("no defense", "white_box", [0] * 6, radius=4 / 255),
    ]
    for name, right, left in (("Gaussian smoothing", 3, 2), ("NCIS", 5, 4)):
        found += [
            made(name, "clean", [5] * right + [0] * (6 - right)),
            made(name, "blind", [5] * left + [0] * (6 - left), radius=4 / 255),
            square(name, [5] * 5 + [0]),
            made(name, "white_box", [5] * (left - 2) + [0] * (8 - left), radius=4 / 255),
        ]
    return found


def test_claims_of_ncis_stand_beside_blind_and_adaptive_attacks():
    contents = ncis_study()
    found = table(contents)
    assert found is not None
    assert found.title.startswith("NCIS: ")
    rows = [[str(cell) for cell in row] for row in found.rows]
    cell = lambda right, name: f"{expected_cell(right, 6)} ({name}, n = 6)"
    blind, adaptive, square = "purifier-blind PGD", "white-box PGD", "Square"
    assert rows[0][2:] == [
        f"from {cell(1, blind)} to {cell(2, blind)}: the strongest blind attacks at 4/255",
        f"{cell(0, adaptive)} at 4/255",
    ]
    assert rows[1][2].startswith(
        "with it instead of smoothing alone, as the note says, clean accuracy rises by 33.3"
    )
    assert rows[2][2].startswith(f"from {cell(1, blind)} to {cell(4, blind)}")
    # More than is left of the undefended classifier, and nobody climbed a ladder.
    assert rows[2][3] == f"≤ {cell(2, adaptive)} at 4/255"
    assert any(note.startswith("**≤**: an upper bound") for note in found.notes)
    told = {row[0]: row[2] for row in rows[3:]}
    assert told[f"the same, {blind} alone"] == f"{cell(1, blind)} to {cell(4, blind)}"
    assert told[f"the same, {square} alone"] == f"{cell(2, square)} to {cell(5, square)}"
    assert told["accuracy on benign images"].startswith("falls by 16.7")
    alone = table([c for c in contents if c["subject"]["name"] != "Gaussian smoothing"])
    assert alone is not None
    assert len(alone.rows) == len(found.rows) - 2


def test_claims_of_ncis_need_a_classifier_that_attacks_break():
    contents = ncis_study()
    small = [c for c in contents if c["axes"]["radius"] != 4 / 255]
    assert table(small) is None
    assert table([c for c in contents if c["subject"]["name"] != "NCIS"]) is None


def test_claims_are_of_a_radius_at_which_both_were_attacked_and_of_the_strongest_record():
    contents = ncis_study()
    # Within 2/255 nobody attacked the classifier alone, so nothing says that attacks break it.
    near = [made("NCIS", "blind", [5] * 6, radius=2 / 255)]
    weaker = made("NCIS", "blind", [5] * 6, radius=4 / 255) | {"id": "weaker"}
    found, plain = table([*near, *contents, weaker]), table(contents)
    assert found is not None
    assert plain is not None
    assert found.rows == plain.rows


def test_who_asks_the_defended_pipeline_is_not_in_the_claims_setting():
    contents = ncis_study()
    asks = [
        made(row, "black_box", [0] * 6, radius=4 / 255, name="Square, ladder")
        for row in (BARE, "NCIS")
    ]
    found, plain = table([*contents, *asks]), table(contents)
    assert found is not None
    assert plain is not None
    assert [row[:3] for row in found.rows] == [row[:3] for row in plain.rows]
    assert "Square, ladder" in str(found.rows[2][3])


def test_how_each_smooths_is_said():
    contents = ncis_study()
    for content in contents:
        target = content["subject"]["target"]
        if content["subject"]["name"] != BARE:
            num = 3 if content["subject"]["name"] == "NCIS" else 1
            target["defense"] = {"num_iterations": num, "sigma": 1.5, "kernel_size": 7}
    found = table(contents)
    assert found is not None
    assert (
        "How often and how widely is smoothed: Gaussian smoothing: 1 iteration, sigma 1.5, 7 × 7; "
        "NCIS: 3 iterations, sigma 1.5, 7 × 7."
    ) in found.notes
    for content in contents:
        content["subject"]["target"]["defense"]["smooth_input"] = False
    found = table(contents)
    assert found is not None
    assert any("NCIS: 3 iterations, without smoothing." in note for note in found.notes)


def test_numbers_that_are_in_doubt_are_marked():
    contents = ncis_study()
    contents[-1]["num_zero_gradient"] = 1
    found = table(contents)
    assert found is not None
    assert str(found.rows[2][3]).endswith("at 4/255 ‡")
    assert any(note.startswith("**‡**") for note in found.notes)


def test_claims_of_ncis_hold_its_time_against_others():
    times = {"Gaussian smoothing": 1.0, "NCIS, small": 30.0, "total variation": 10.0}
    speed = {
        "options": {"size": 224, "batch_sizes": [1, 8]},
        "entries": [
            {"name": name, "whose": "rainjax", "batch_size": batch, "size": size,
             "median_ms": ms * batch}
            for name, ms in times.items() for batch in (1, 8) for size in (32, 224)
        ],
    }  # fmt: skip
    found = table(ncis_study(), speed)
    assert found is not None
    assert [str(cell) for cell in found.rows[-1]] == [
        "time", "computationally efficient",
        "Gaussian smoothing: 8.00 ms an image at 224 (0.1 × total variation); "
        "NCIS, small: 240 ms an image at 224 (3 × total variation)", "—",
    ]  # fmt: skip
