"""Which words are synonyms: by WordNet's files, and for pairs that anybody can check."""

import gzip

import numpy as np
import pytest

from rainjax.services import ServiceLabel, agreement, fold, meanings
from rainjax.services.words import make_table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Car", "automobile"),
        ("cars", "Automobile"),
        ("airplane", "plane"),
        ("Cell Phone", "mobile_phone"),
        ("gas_pump", "gasoline pump"),
        ("chain saw", "chainsaw"),
        ("women", "woman"),
        ("Guitars", "guitar"),
        ("great_white_shark", "Great  White-Shark"),
        ("glass", "Glass"),
    ],
)
def test_synonyms_fold_alike(one, other):
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"), [("car", "vehicle"), ("dog", "cat"), ("bass", "bas"), ("tench", "trout")]
)
def test_other_words_do_not(one, other):
    assert fold(one) != fold(other)


def test_aliases_count(tmp_path):
    label = ServiceLabel("Mobile Phone", 0.9, ("Smartphone",))
    assert meanings(label) == {fold("cellphone"), "smartphone"}


# Lines of WordNet 3.1, shortened behind what is read: two animals, one a genus; an act.
DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
  10
02086723 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 002 @ 02085998 n 0000 | a member
02085998 05 n 02 canine 0 canid 0 001 @ 02077948 n 0000 | any of various
00002137 04 n 02 swim 0 swimming 0 001 @ 00002136 n 0000 | an act
10042764 18 n 02 cad 0 dog 0 001 @ 10042763 n 0000 | someone
"""
INDEX = """\
  1 This software and database is being provided to you, the LICENSEE, by
cad n 1 1 @ 1 0 10042764
canid n 1 1 @ 1 0 02085998
canine n 1 2 @ ~ 1 1 02085998
canis_familiaris n 1 1 @ 1 0 02086723
dog n 2 1 @ 2 1 02086723 10042764
domestic_dog n 1 1 @ 1 0 02086723
swim n 1 1 @ 1 0 00002137
swimming n 1 1 @ 1 0 00002137
"""


def test_the_table_is_made_of_wordnets_files(tmp_path):
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    text = gzip.decompress(make_table(tmp_path)).decode()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    notice = "# This software and database is being provided to you, the LICENSEE, by"
    assert comments == [notice, "#"]
    # By first senses: a cad is no dog. Latin and acts are left out.
    assert rows == [["02085998", "canid", "canine"], ["02086723", "dog", "domestic_dog"]]


def answer(*names):
    return tuple(ServiceLabel(name, 1 - 0.1 * place) for place, name in enumerate(names))


@pytest.mark.parametrize(
    ("other", "top1", "topk", "overlap"),
    [
        (("car", "wheel", "road"), True, True, 1.0),
        (("automobile", "road", "tree"), True, True, 2 / 3),
        (("vehicle", "motorcar", "tree"), False, True, 1 / 3),
        (("vehicle", "tree", "sky", "car"), False, False, 0.0),
        ((), False, False, 0.0),
    ],
)
def test_agreement(other, top1, topk, overlap):
    found = agreement(answer("Car", "Wheel", "Road"), answer(*other), 3)
    assert (found.top1, found.topk) == (top1, topk)
    np.testing.assert_allclose(found.overlap, overlap)


def test_agreement_with_nothing():
    assert agreement((), answer("car"), 3) is None
    with pytest.raises(ValueError, match="k=0"):
        agreement(answer("car"), answer("car"), 0)
