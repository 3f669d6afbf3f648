"""Blind attacks beside adaptive ones: the lowest of each kind, on the images that all share."""

import pytest

from rainjax.evaluation import Record
from rainjax.report import BlindAgainstAdaptive
from rainjax.report.results import lowest
from tests.report.made_records import make_record, results_of

BOTH = ("comparison", "table")


def attack(column, counts, radius=2 / 255, row="noise", **changes):
    return make_record(row, column, counts, radius=radius, tags=BOTH, **changes)


def lines(contents, **options):
    (table,) = BlindAgainstAdaptive(**options).tables(results_of(contents))
    return table, {str(row[0]): [*map(str, row)] for row in table.rows}


FGSM = {"name": "FGSM", "num_steps": 1}
BIM = {"name": "BIM"}


@pytest.fixture
def contents():
    return [
        make_record("undefended", "clean", [5] * 6, tags=BOTH),
        attack("blind", [0] * 6, row="undefended"),
        make_record("noise", "clean", [5, 5, 5, 5, 5, 0], tags=BOTH),
        attack("blind", [5, 5, 5, 5, 0, 0], **FGSM),
        attack("blind", [5, 5, 5, 2, 0, 0], **BIM),
        attack("white_box", [5, 3, 0, 0, 0, 0], name="BPDA, identity"),
        attack("white_box", [5, 0, 0, 0, 0, 5], name="own gradient"),
        # Lower on its four images, and as low on all six as anybody can tell.
        attack("eot", [5, 0, 0, 0]),
        # At a radius as people type it, one who knows nothing does best.
        attack("blind", [5, 5, 0, 0, 0, 0], 0.03137, **FGSM),
        attack("white_box", [5, 5, 5, 0, 0, 0], 0.03137, name="BPDA, identity"),
        # Neither the scoring draws nor another norm compete.
        attack("known_key", [0] * 6),
        attack("white_box", [0] * 6, None, norm="l2", name="CW"),
    ]


def test_short_table_holds_the_lowest_of_each_kind(contents):
    table, found = lines(contents)
    assert [str(cell) for cell in table.header][1:] == [
        "clean", "2/255, blind", "2/255, adaptive", "8/255, blind", "8/255, adaptive",
    ]  # fmt: skip
    line = found["noise"]
    assert line[1].startswith("83.3 % [")
    assert line[2].startswith("56.7 % [")
    assert line[2].endswith("] BIM")
    # On four images EOT and the own gradient are level: who knows more is named, with its n.
    assert line[3].startswith("≤ 25.0 % [")  # above the undefended, and no ladder was climbed
    assert line[3].endswith("] EOT-PGD, n = 4")
    assert line[4].startswith("33.3 % [")
    assert line[4].endswith("] FGSM")
    # What was found within 2/255 lies within 8/255 too.
    assert line[5] == line[3].replace("EOT-PGD", "EOT-PGD at 2/255")
    assert str(table.rows[0][3]) == "—"  # nobody adaptive attacked it
    assert "first 6 images of" in table.notes[0]
    assert "the mean over 5 draws" in table.notes[0]
    assert "FGSM (PGD, 1 step), BIM (PGD, 40 steps)" in table.notes[1]
    assert "EOT-PGD (PGD, 40 steps, 16 draws a step)" in table.notes[2]
    assert "**EOT-PGD**: white box, gradients averaged over 16 draws." in table.notes


def test_radii_are_those_asked_for_or_the_ends_of_those_measured(contents):
    clean = [content for content in contents if content["threat"]["name"] == "clean"]
    table, _ = lines(clean)
    assert (table.title, len(table.header), len(table.notes)) == (
        "Defenses on builtin, not attacked", 2, 1,
    )  # fmt: skip
    assert BlindAgainstAdaptive().drawings(results_of(clean)) == []
    other = [attack("blind", [0] * 6, radius / 255, row="fd") for radius in (3, 4, 12.5)]
    table, found = lines([*clean, *other])
    assert [str(cell) for cell in table.header][2::2] == ["3/255, blind", "12.5/255, blind"]
    assert found["fd"][3] == "—"
    table, _ = lines([*clean, *other], radii=(4 / 255,))
    assert [str(cell) for cell in table.header][2:] == ["4/255, blind", "4/255, adaptive"]


def test_black_boxes_that_ask_the_defense_are_not_blind_to_it(contents):
    square = attack("black_box", [0] * 6)
    before = lines(contents)[1]["noise"]
    table, found = lines([*contents, square])
    assert found["noise"][2] == before[2]
    assert found["noise"][3].endswith("] Square")
    assert "found on the classifier alone" in table.notes[1]
    assert "which know the defense or ask the whole pipeline, and of the blind" in table.notes[2]
    # Who has a classifier of his own, and asks nothing, is.
    own = attack("black_box", [0] * 6, name="transfer")
    own["threat"]["knowledge"] = "transfer"
    table, found = lines([*contents, own])
    assert found["noise"][2].endswith("] transfer")
    assert "which do not know the defense" in table.notes[1]


def test_only_what_a_row_has_to_itself_is_what_it_is_made_of(contents):
    made = [dict(content, subject=dict(content["subject"])) for content in contents]
    for content in made:
        if content["subject"]["name"] == "noise":
            # The same parameters, from a file of another name.
            shared = content["subject"]["params"]["classifier"] | {"name": "elsewhere"}
            defense = {"name": "patches", "sha256": "cd"}
            content["subject"]["params"] = {"classifier": shared, "defense": defense}
    table, _ = lines(made)
    assert "Made of: noise: patches." in table.notes
    table, _ = lines(contents)
    assert not any("Made of" in note for note in table.notes)


def test_its_figure_has_a_panel_for_every_radius(contents):
    (drawing,) = BlindAgainstAdaptive().drawings(results_of(contents))
    assert drawing.name == "comparison"
    assert "noise at 2/255: 56.7 % blind, 25.0 % adaptive" in drawing.alt
    assert "noise at 8/255: 33.3 % blind, 25.0 % adaptive" in drawing.alt
    assert "Undefended" not in drawing.alt


def test_fewer_images_are_held_against_the_lowest_that_others_leave_on_them():
    def records(*contents):
        return [Record(content) for content in contents]

    bpda = attack("white_box", [5, 2, 0, 0, 0, 0], name="BPDA")  # the lowest on six, not on four
    eot = attack("eot", [5, 0, 0, 0])
    own = attack("white_box", [0, 0, 0, 0, 5, 5], name="own")
    assert lowest(records(bpda, own, eot)).threat == "BPDA"
    own = attack("white_box", [5, 2, 0, 0, 5, 5], name="own")
    assert lowest(records(bpda, own, eot)).threat == "EOT-PGD"
    assert lowest([]) is None


def test_what_no_tag_names_is_not_shown(contents):
    assert BlindAgainstAdaptive(tag="other").tables(results_of(contents)) == []
    _, found = lines(contents, tag=None)
    assert list(found) == ["Undefended", "noise"]
