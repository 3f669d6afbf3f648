"""Images of poor quality in a study, which nobody attacked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import EOT, PGD, Guarded, Purpose, example_keys, transforms
from rainjax._files import read_array
from rainjax.attacks import Square
from rainjax.evaluation import (
    ClassifierAlone,
    Detection,
    Distorted,
    Knowledge,
    Subject,
    ThreatModel,
    WantsRejection,
    evaluate,
)
from rainjax.evaluation.study import cells
from rainjax.evaluation.work import Work
from rainjax.metrics import auroc
from tests.guards import IMAGES, PARAMS, PLAIN, WEIGHTS, guarded, raw
from tests.small_studies import RIGHT, study_of

NOISE = Distorted(distortion="gaussian_noise", severity=5, scale="cifar10_c")
POOR = ThreatModel("gaussian noise 5", NOISE, ClassifierAlone(), Knowledge.NONE)


def noisy():
    """The pictures of a study, distorted by its keys with nothing but the transform."""
    keys = example_keys(7, Purpose.ATTACK, np.arange(12))
    one = lambda key, image: transforms.distort(
        jax.random.split(key)[0], image, name="gaussian_noise", severity=5, scale="cifar10_c"
    )
    return np.asarray(jax.jit(jax.vmap(one))(keys, jnp.asarray(IMAGES[:12])))


def test_a_study_measures_what_the_transform_returns(tmp_path):
    """None is led back to its original, and a rejection of what nobody attacked is not right."""
    pipeline, params = guarded()
    subject = Subject("guarded", pipeline, params)
    (record,) = evaluate(study_of(subject, threats=(POOR,)), tmp_path, progress=False)
    study = study_of(subject, threats=(POOR,))
    work = Work(study, tmp_path)
    (cell,) = cells(study)
    for unit in work.units(cell):
        work.make(unit, lambda n: None)
    kept = np.concatenate([read_array(unit.attacked, "attacked") for unit in work.units(cell)])
    np.testing.assert_allclose(kept, noisy(), atol=1e-6)
    assert np.abs(kept - IMAGES[:12]).max() > 0.2
    answers = raw(pipeline, params, noisy()).argmax(-1)
    assert (answers == 10).any()
    assert record.score().accuracy == pytest.approx(np.mean(answers == RIGHT[:12]))


def test_detection_ranks_as_the_scores_do(tmp_path):
    """AUROC of the record against that of the linear scores themselves."""
    pipeline, params = guarded()
    study = study_of(
        Subject("guarded", pipeline, params), threats=(POOR,), measure=Detection(num_resamples=20)
    )
    (record,) = evaluate(study, tmp_path, progress=False)
    weights = np.asarray(WEIGHTS["weights"])
    clean, poor = (np.sum(weights * x, (1, 2, 3)) for x in (IMAGES[:12], noisy()))
    found = record.result["all_attacked"]["auroc"]["value"]
    assert found == pytest.approx(auroc(clean, poor))
    rejected = poor > float(params["threshold"])
    assert record.result["coverage"]["value"] == pytest.approx(np.mean(~rejected))


def test_detectors_share_the_distorted_images(tmp_path):
    pipeline, params = guarded()
    other = Guarded(PLAIN, type(pipeline.detector)(0.1))
    study = study_of(
        Subject("one", pipeline, params), Subject("other", other, params), threats=(POOR,)
    )
    work = Work(study, tmp_path)
    files = {unit.attacked for cell in cells(study) for unit in work.units(cell)}
    assert len(files) == len(work.units(cells(study)[0]))


def test_distortions_are_nobodys_attack():
    with pytest.raises(ValueError, match="a certificate or a distortion"):
        ThreatModel("noise", NOISE, ClassifierAlone(), Knowledge.CLASSIFIER)
    with pytest.raises(ValueError, match="severity=7"):
        Distorted(distortion="pixelate", severity=7)
    assert NOISE.num_gradients == 0


def test_a_saboteur_wants_the_rejection_of_whatever_pipeline():
    pipeline, _ = guarded()
    assert WantsRejection().of(pipeline).rejected == "error"
    assert WantsRejection().of(PLAIN) is None


def test_sabotage_rejects_fine_images(tmp_path):
    pipeline, params = guarded()
    attack = PGD(radius=0.1, step_size=0.02, loss="rejection", best_iterate=True, num_steps=10)
    study = study_of(
        Subject("guarded", pipeline, params),
        Subject("bare", PLAIN, PARAMS),
        threats=(ThreatModel("sabotage", attack, WantsRejection()),),
    )
    assert len(cells(study)) == 1
    study = study_of(
        *study.subjects[:1], threats=study.threats, measure=Detection(num_resamples=20)
    )
    (record,) = evaluate(study, tmp_path, progress=False)
    weights = np.asarray(WEIGHTS["weights"])
    reach = np.sum(weights * IMAGES[:12], (1, 2, 3)) + 0.1 * np.abs(weights).sum()
    share = np.mean(reach > float(params["threshold"]))
    assert 1 - record.result["coverage"]["value"] == pytest.approx(share, abs=0.1)
    assert share > 0.5


def test_a_poor_image_is_made_to_look_fine(tmp_path):
    """Around the distorted image, and never back to the original, which passes as it is."""
    pipeline, params = guarded()
    attack = PGD(radius=0.1, step_size=0.02, loss="acceptance", best_iterate=True, num_steps=10)
    washed = dataclasses.replace(NOISE, then=attack)
    study = study_of(
        Subject("guarded", pipeline, params),
        threats=(POOR, ThreatModel("noise, whitewashed", washed)),
        measure=Detection(num_resamples=20),
    )
    poor, record = evaluate(study, tmp_path, progress=False)
    weights = np.asarray(WEIGHTS["weights"])
    lowest = np.clip(noisy() - 0.1 * np.sign(weights), 0, 1)
    still = np.sum(weights * lowest, (1, 2, 3)) > float(params["threshold"])
    rejected = 1 - record.result["coverage"]["value"]
    assert rejected == pytest.approx(np.mean(still), abs=0.1)
    assert rejected < 1 - poor.result["coverage"]["value"]
    assert record.result["linf_max"] > 0.2
    assert washed.num_gradients == attack.num_gradients


def test_an_attack_on_a_poor_image_knows_something():
    washed = dataclasses.replace(NOISE, then=PGD())
    with pytest.raises(ValueError, match=r"a\s+distortion"):
        ThreatModel("noise", washed, ClassifierAlone(), Knowledge.NONE)
    for eot in (EOT(), EOT(2)):
        both = dataclasses.replace(NOISE, then=PGD(eot=EOT(2)), eot=eot)
        assert both.eot == both.then.eot == EOT(2)
    grown = dataclasses.replace(both, eot=EOT(4))
    assert grown.then.eot == EOT(4)
    with pytest.raises((TypeError, ValueError), match="then"):
        dataclasses.replace(NOISE, then=Square())


def test_doing_nothing_with_a_poor_image_is_kept_where_an_attack_undoes_a_mistake(tmp_path):
    """A step so large that PGD leads wrong poor images to right answers, and never the better."""
    attack = PGD(radius=0.5, step_size=0.5, num_steps=1, random_start=True)
    washed = dataclasses.replace(NOISE, then=attack)
    study = study_of(
        Subject("bare", PLAIN, PARAMS),
        threats=(POOR, ThreatModel("noise, then PGD", washed)),
    )
    poor, moved = evaluate(study, tmp_path, progress=False)
    assert moved.score().accuracy <= poor.score().accuracy
