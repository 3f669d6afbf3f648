"""Certificates of any study's subjects: what `certify` says, kept in one record."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import CLEAN, Study, Subject, certification
from rainjax.evaluation.certification import CertifyOptions, certify_study
from rainjax.evaluation.smoothing import Smoothed, certify
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from tests.small_studies import Arrays
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SIZE = 4 * 4 * 3
IMAGES = RNG.integers(0, 256, size=(6, 4, 4, 3)).astype(np.uint8)
KERNEL = RNG.normal(size=(SIZE, 10)).astype(np.float32)
LABELS = (IMAGES.reshape(6, -1) / 255 @ KERNEL).argmax(-1)
FEW = CertifyOptions(
    sigmas=(0.05, 0.2), num_examples=5, num_select=8, num_estimate=16, radii=(0.0, 0.1)
)


def subject_of(defense, name, kernel=KERNEL):
    params = {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}
    return Subject(name, Defended(defense, Linear(SIZE, 10)), params)


BARE, NOISY = subject_of(Identity(), "bare"), subject_of(GaussianNoise(0.1), "noisy")


def study_of(*subjects, **options):
    given = {"batch_size": 4, "seed": 3} | options
    return Study("small", Arrays(IMAGES, LABELS), subjects, (CLEAN,), **given)


def test_the_record_holds_what_certify_says(tmp_path):
    study = study_of(BARE, NOISY)
    record = certify_study(study, tmp_path, options=FEW, progress=False)
    assert json.loads((tmp_path / "small" / "smoothing.json").read_text()) == record
    assert record["options"] == {
        "num_examples": 5, "num_select": 8, "num_estimate": 16, "alpha": 0.001, "seed": 3,
    }  # fmt: skip
    assert record["radii"] == [0.0, 0.1]
    assert record["data"]["labels"] == LABELS[:5].tolist()
    places = [(cell["row"]["title"], cell["sigma"]) for cell in record["cells"]]
    assert places == [("bare", 0.05), ("bare", 0.2), ("noisy", 0.05), ("noisy", 0.2)]
    for cell in record["cells"]:
        subject = {"bare": BARE, "noisy": NOISY}[cell["row"]["title"]]
        found = certify(
            Smoothed(subject.pipeline, cell["sigma"]),
            subject.params,
            example_keys(3, Purpose.SCORE, np.arange(5)),
            IMAGES[:5].astype(np.float32) / 255,
            num_select=8,
            num_estimate=16,
        )
        for part in ("classes", "radii", "selected", "counts"):
            assert cell[part] == getattr(found, part).tolist()
    assert str(tmp_path) not in json.dumps(record)
    # A study of fewer images has them all certified.
    few = certify_study(study_of(BARE, num_examples=2), tmp_path / "few", options=FEW)
    assert few["options"]["num_examples"] == len(few["cells"][0]["counts"]) == 2


def test_only_what_is_missing_is_certified(tmp_path, monkeypatch):
    made, whole = [], certification._certified

    def certified(study, subject, sigma, *args):
        made.append((subject.name, sigma))
        return whole(study, subject, sigma, *args)

    monkeypatch.setattr(certification, "_certified", certified)
    run = lambda study, **options: certify_study(
        study, tmp_path, progress=False,
        **({"options": FEW} | options),
    )  # fmt: skip
    run(study_of(BARE, NOISY), subjects=["noisy"])
    first = run(study_of(BARE))  # noisy is no subject of this one, and its cells stay
    assert made == [("noisy", 0.05), ("noisy", 0.2), ("bare", 0.05), ("bare", 0.2)]
    assert [cell["row"]["title"] for cell in first["cells"]] == ["bare"] * 2 + ["noisy"] * 2
    made.clear()
    again = run(study_of(NOISY, BARE), options=dataclasses.replace(FEW, radii=(0.3,)))
    assert not made
    assert again["radii"] == [0.3]
    assert again["cells"] == first["cells"][2:] + first["cells"][:2]
    # Another defense under the same name, with the same parameters, is made again.
    other = dataclasses.replace(NOISY, pipeline=Defended(GaussianNoise(0.2), Linear(SIZE, 10)))
    run(study_of(BARE, other))
    assert made == [("noisy", 0.05), ("noisy", 0.2)]
    made.clear()
    monkeypatch.setattr(certification, "code_digest", lambda: "other")
    run(study_of(BARE, other), subjects=["bare"])
    assert made == [("bare", 0.05), ("bare", 0.2)]


def test_records_of_something_else_are_not_overwritten(tmp_path):
    run = lambda study, **options: certify_study(
        study, tmp_path, options=dataclasses.replace(FEW, sigmas=(0.1,), **options), progress=False
    )
    run(study_of(BARE))
    for study, options, sentence in (
        (study_of(BARE, seed=4), {}, "is of other options: choose another folder"),
        (study_of(BARE), {"alpha": 0.01}, "is of other options"),
        (study_of(BARE), {"num_examples": 4}, "is of other options"),
        (study_of(subject_of(Identity(), "bare", 2 * KERNEL)), {}, "other parameters of 'bare'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(study, **options)
    with pytest.raises(ValueError, match="subjects='noisy' is none of 'bare'"):
        certify_study(study_of(BARE), tmp_path, subjects=["noisy"])
    (tmp_path / "small" / "smoothing.json").write_text('{"kind": "peers", "schema": 1}')
    with pytest.raises(ValueError, match="is no record of certificates"):
        run(study_of(BARE))
    other = Subject(
        "other", Defended(Identity(), Linear(SIZE, 7)),
        {"defense": (), "classifier": {"kernel": jnp.zeros((SIZE, 7))}},
    )  # fmt: skip
    with pytest.raises(ValueError, match="'other' tells 7 classes apart, but"):
        run(study_of(other))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"num_estimate": 9}, "num_estimate=9 can only abstain"),
        ({"sigmas": ()}, r"sigmas=\(\) must name one"),
        ({"sigmas": (0.1, float("inf"))}, r"sigmas=\(0.1, inf\) must be positive and finite"),
        ({"radii": ()}, r"radii=\(\) must be some"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CertifyOptions(**options)
