"""NCIS's studies from end to end, on tiny networks and a few pictures."""

import dataclasses
import pathlib

import numpy as np
import pytest

from eval.pages import studies
from eval.studies.common import load_ncis
from eval.studies.later import Later
from eval.studies.ncis import NCISIterations, NCISStudy
from rainjax import data, zoo
from rainjax.attacks import InputDiversity, TranslationInvariance
from rainjax.defenses import NCIS, GaussianSmoothing
from rainjax.evaluation import Knowledge, evaluate
from rainjax.evaluation.study import cells
from rainjax.report import report
from tests import saved_networks
from tests.tiny import BLIND_SPOT_TINY, RESNET_TINY, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A classifier, an attacker's own, two blind-spot networks and RAIN's."""
    place = tmp_path_factory.mktemp("networks")
    saved_networks.save(place)
    images, labels = data.load("builtin", "train").get(np.arange(200))
    own = resnet_params(images.astype(np.float32) / 255, labels, seed=5)
    zoo.save(place, "own", RESNET_TINY, own, saved_networks.CARD)
    saved_networks.save_blind_spot(place)
    saved_networks.save_blind_spot(place, "wide", **{"smoothing.sigma": 2, "given": "raw"})
    return place


@pytest.fixture(scope="module")
def config(place, tmp_path_factory):
    return NCISStudy(
        name="tiny",
        rows=("ncis",),
        classifier=str(place / "classifier"),
        transfer=(str(place / "own"),),
        blind_spot=str(place / "blind_spot"),
        ncis_iterations=2,
        radii=(8 / 255,),
        num_examples=4,
        num_steps=2,
        num_queries=3,
        cw_steps=2,
        batch_size=4,
        out=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def records(config, quick_compilation):
    return evaluate(config.study(), config.out, progress=False)


def test_who_is_blind_and_who_is_not(records):
    rows = {"no defense", "NCIS"}
    blind, known = ("PGD", "APGD", "Square", "transfer", "CW L2"), ("own gradient",)
    found = {}
    for record in records:
        found.setdefault(record.threat, {})[record.subject] = record
    assert {name: set(own) for name, own in found.items()} == {
        **dict.fromkeys(("clean", *blind, *known), rows), "BPDA, identity": {"NCIS"},
    }  # fmt: skip
    for name in blind:
        wanted = Knowledge.TRANSFER if name == "transfer" else Knowledge.CLASSIFIER
        for record in found[name].values():
            assert record.knowledge is wanted
            assert record.description.startswith("blind to the transformation")
            assert ("black box" in record.description) == (name in ("Square", "transfer"))
    assert found["transfer"]["NCIS"].description.endswith(" on own")
    assert found["CW L2"]["NCIS"].ball == ("l2", float("inf"))


def test_the_gradient_that_is_blurred_is_the_one_at_the_image(config):
    (threat,) = (threat for threat in config.threats() if threat.name == "transfer")
    (first, second) = threat.surrogate.source.pipeline.defense.stages
    assert (first, second) == (TranslationInvariance(3), InputDiversity())
    assert threat.attack.momentum == 1.0


def test_several_classifiers_are_attacked_together(config, place):
    images, labels = data.load("builtin", "train").get(np.arange(200))
    another = resnet_params(images.astype(np.float32) / 255, labels, seed=6)
    zoo.save(place, "another", RESNET_TINY, another, saved_networks.CARD)
    names = config.transfer[0], str(place / "another")
    both = dataclasses.replace(config, transfer=names, transfer_combine="loss")
    (threat,) = (threat for threat in both.threats() if threat.name == "transfer")
    source = threat.surrogate.source
    assert source.sources == {"own": "own", "another": "another"}
    assert threat.description.endswith(" on own, another")
    assert source.pipeline.combine == "loss"
    for member in source.pipeline.members:
        assert member.defense.stages == (TranslationInvariance(3), InputDiversity())
    (cell,) = [cell for cell in cells(both.study()) if cell.threat.name == "transfer"][:1]
    assert cell.num_gradients == 2 * config.num_steps
    with pytest.raises(ValueError, match=r"transfer_arch=\('resnet20',\) must name the network"):
        dataclasses.replace(both, transfer_arch=("resnet20",))


def test_the_steps_of_two_attacks_are_kept_at_the_largest_radius(config):
    wide = dataclasses.replace(config, radii=(1 / 255, 4 / 255, 2 / 255), transfer=())
    kept = [(t.name, t.attack.radius) for t in wide.threats() if "iterates" in t.tags]
    assert set(kept) == {("PGD", 4 / 255), ("own gradient", 4 / 255)}
    assert not any(threat.name == "transfer" for threat in wide.threats())


def test_the_network_is_smoothed_for_as_it_was_trained(records, place):
    (target,) = {
        str(record.content["subject"]["target"]["defense"]["sigma"])
        for record in records
        if record.subject == "NCIS"
    }
    assert target == "1.0"
    ncis, _, name = load_ncis(str(place / "wide"), 4)
    assert (name, ncis) == ("wide", NCIS(BLIND_SPOT_TINY, 4, 2.0, 3, smooth_input=False))


def test_steps_are_kept_and_drawn(records, config):
    kept = {path.name for path in (config.out / "tiny" / "iterates").glob("*.npz")}
    assert kept == {f"ncis--{name}--linf-8--k1--n4.npz" for name in ("pgd", "own-gradient")}
    made = report(config.out / "tiny")
    (drawn,) = (d for d in made.displays if type(d).__name__ == "Iterates")
    assert len(drawn.drawings(made.results)) == 2
    assert made.displays[0].heading.startswith("Every defense against attackers")


@pytest.fixture(scope="module")
def sweep(place, tmp_path_factory):
    return NCISIterations(
        name="sweep",
        split="validation",
        skip=3,
        classifier=str(place / "classifier"),
        networks=(str(place / "blind_spot"), str(place / "wide")),
        num_iterations=(1, 2),
        num_examples=2,
        num_steps=1,
        batch_size=2,
        out=tmp_path_factory.mktemp("results"),
    )


def test_a_sweep_has_every_network_and_every_gaussian_they_were_trained_with(sweep):
    found = {subject.name: subject.pipeline.defense for subject in sweep.subjects()}
    assert list(found) == [
        "no defense",
        "smoothing, sigma 1, 3 × 3, T = 1", "NCIS, blind_spot, T = 1",
        "smoothing, sigma 1, 3 × 3, T = 2", "NCIS, blind_spot, T = 2",
        "smoothing, sigma 2, 3 × 3, T = 1", "NCIS, wide, T = 1",
        "smoothing, sigma 2, 3 × 3, T = 2", "NCIS, wide, T = 2",
    ]  # fmt: skip
    assert found["smoothing, sigma 2, 3 × 3, T = 2"] == GaussianSmoothing(2, 2.0, 3)
    assert found["NCIS, blind_spot, T = 2"] == NCIS(BLIND_SPOT_TINY, 2, 1.0, 3)
    knowledge = {threat.name: threat.knowledge for threat in sweep.threats()}
    assert knowledge["APGD"] is Knowledge.CLASSIFIER
    assert knowledge["own gradient"] is Knowledge.DEFENSE
    # Who is blind is cheap to measure, and on all images.
    nums = {threat.knowledge: threat.num_examples for threat in sweep.threats()}
    assert nums[Knowledge.CLASSIFIER] is None
    assert nums[Knowledge.DEFENSE] == 50


def test_two_borders_are_two_lines_of_a_sweep(sweep, place):
    other = saved_networks.save_blind_spot(place, "edge", **{"smoothing.border": "edge"})
    both = dataclasses.replace(sweep, networks=(sweep.networks[0], other), num_iterations=(1,))
    found = {subject.name: subject.pipeline.defense for subject in both.subjects()}
    assert found["smoothing, sigma 1, 3 × 3, T = 1"] == GaussianSmoothing(1, 1.0, 3)
    assert found["smoothing, sigma 1, 3 × 3, edge, T = 1"] == GaussianSmoothing(1, 1.0, 3, "edge")


def test_a_sweep_draws_a_line_of_each(sweep):
    one = dataclasses.replace(sweep, networks=sweep.networks[:1])
    study = one.study()
    study = dataclasses.replace(study, threats=study.threats[:1])  # clean, or it compiles for long
    records = evaluate(study, one.out, progress=False)
    made = report(one.out / "sweep")
    lines = made.displays[0].lines(made.results)
    assert list(lines) == ["smoothing, sigma 1, 3 × 3", "NCIS, blind_spot"]
    assert all(len(line) == 2 for line in lines.values())
    (drawing,) = made.displays[0].drawings(made.results)
    assert "At 0: no defense." in drawing.caption
    assert {record.content["data"]["name"] for record in records} == {"builtin, from 3 on"}


def test_images_that_are_left_out_are_not_seen():
    every = data.load("builtin", "test")
    later = Later(every, 5)
    pictures, labels = later.get(np.arange(3))
    there, classes = every.get(np.arange(5, 8))
    np.testing.assert_array_equal(pictures, there)
    np.testing.assert_array_equal(labels, classes)
    np.testing.assert_array_equal(later.image(1), there[1])
    np.testing.assert_array_equal(later.labels(np.array([2])), classes[2:])
    assert later.source_index(np.array([0])) == every.source_index(np.array([5]))
    assert len(later) == len(every) - 5
    assert later.fingerprint != every.fingerprint
    with pytest.raises(IndexError, match=r"position -1 is outside 'builtin, from 5 on'"):
        later.get(np.array([-1]))
    with pytest.raises(ValueError, match="skip=4000 leaves none of the 4000 images of 'builtin'"):
        Later(every, 4000)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_queries": 0}, "num_queries=0 must be at least 1"),
        ({"ncis_iterations": 0}, "ncis_iterations=0 must be at least 1"),
        ({"skip": -1}, "skip=-1 must be 0 or more"),
        ({"rows": ("nics",)}, "rows='nics' is none of .*, smoothing, .*, ncis"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_iterations": (0, 1)}, r"num_iterations=\(0, 1\) must be whole numbers from 1 on"),
        ({"num_adaptive_examples": 0}, "num_adaptive_examples=0 must be at least 1"),
        ({"num_iterations": (2, 2)}, r"num_iterations=\(2, 2\) holds one twice"),
        ({"radius": 8.0}, r"radius=8.0 must lie in \(0, 1\]"),
    ],
)
def test_bad_options_of_a_sweep_are_refused(sweep, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(sweep, **changes)


def test_what_does_not_fit_is_refused(config, sweep, place, tmp_path):
    itself = dataclasses.replace(config, transfer=(config.classifier,))
    with pytest.raises(ValueError, match="is the classifier itself: name another, or none"):
        itself.study()
    with pytest.raises(ValueError, match="row 'ncis' needs a blind-spot network: give --blind-"):
        dataclasses.replace(config, blind_spot=None).study()
    with pytest.raises(ValueError, match=r"networks=\(\) must name one at least: give --networks"):
        dataclasses.replace(sweep, networks=()).subjects()
    with pytest.raises(ValueError, match="holds a EDSR, not a BlindSpot"):
        dataclasses.replace(config, blind_spot=str(place / "before")).study()
    for said, sentence in (
        ({"given": "smooth"}, r"given='smooth' among its options, so how NCIS"),
        ({"smoothing.sigma": True}, r"smoothing\.sigma=True among its options"),
        ({"smoothing.sigma": None}, r"smoothing\.sigma=None among its options, so how NCIS"),
        ({"smoothing.kernel_size": "5"}, r"smoothing\.kernel_size='5' among its options"),
        ({"smoothing.kernel_size": 4}, "kernel_size=4"),
        ({"smoothing.border": "wrap"}, "border='wrap'"),
    ):
        path = saved_networks.save_blind_spot(tmp_path, **said)
        with unchecked(), pytest.raises(ValueError, match=sentence):
            load_ncis(path, 1)
    other = pathlib.Path(saved_networks.save_blind_spot(tmp_path, **{"given": "raw"}))
    twice = dataclasses.replace(sweep, networks=(str(place / "blind_spot"), str(other)))
    with pytest.raises(ValueError, match="two that are called 'blind_spot': train one under"):
        twice.subjects()


def test_studies_are_measured_apart_from_where_they_are_tuned():
    found = {name: options for name, (options, _) in studies().items() if "ncis" in name}
    assert set(found) == {
        "ncis", "cifar10_ncis", "cifar10_ncis_robust", "photographs_ncis", "ncis_iterations",
        "cifar10_ncis_iterations", "photographs_ncis_iterations",
    }  # fmt: skip
    assert found["ncis_iterations"].split != found["ncis"].split
    tuned, measured = found["cifar10_ncis_iterations"], found["cifar10_ncis"]
    assert tuned.skip >= measured.num_examples
    tuned, measured = found["photographs_ncis_iterations"], found["photographs_ncis"]
    assert (tuned.data, tuned.split) == ("imagenette224", "train") != (measured.data, "train")
    assert isinstance(found["ncis"], NCISStudy)
    assert found["ncis"].smoothing == GaussianSmoothing()
