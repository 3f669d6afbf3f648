"""Bad input of every kind, over the whole public surface: one sentence, and never a raw error."""

import dataclasses
import inspect
import json
import math
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval.__main__ as eval_program
import rainjax.__main__ as program
from rainjax import (
    attacks,
    data,
    defenses,
    distillation,
    evaluation,
    gradients,
    metrics,
    nets,
    report,
    smoothing,
    transforms,
    zoo,
)
from rainjax._values import Value
from rainjax.attacks import APGD, EOT, FAB, PGD, Square
from rainjax.data.splits import Data
from rainjax.defenses import RAIN, Identity
from rainjax.evaluation import Study, Subject, ThreatModel, autoattack, ensemble, extras, universal
from rainjax.evaluation.loading import load_study
from rainjax.evaluation.records import load_order
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.pipeline import Defended
from tests.small_studies import KERNEL, RIGHT, SMALL, linear, study_of
from tests.tiny import Linear, unchecked

TARGET = Defended(Identity(), Linear(108, 10))
PARAMS = {"defense": (), "classifier": {"kernel": KERNEL}}
IMAGES = (SMALL / 255).astype(np.float32)
KEYS = example_keys(0, Purpose.ATTACK, np.arange(16))
ONE_STEP = PGD(num_steps=1)
KEY = jax.random.key(0)
IMAGE = jnp.asarray(IMAGES[0])
NAN = float("nan")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A folder of files that are not what they should be."""
    folder = tmp_path_factory.mktemp("malformed")
    for name in ("empty.npz", "empty.safetensors", "empty.json", "study.py"):
        (folder / name).touch()
    (folder / "text.npz").write_text("no archive")
    (folder / "text.safetensors").write_text("no tensors")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (folder / "number.py").write_text("study = 3\n")
    (folder / "wrong.py").write_text("def study(:\n")
    (folder / "records").mkdir()
    (folder / "records" / "one.json").write_text(json.dumps({"kind": "robustness"}))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "study.json").write_text("{")
    (folder / "nothing").mkdir()
    return folder


def attacked(attack=ONE_STEP, params=PARAMS, keys=KEYS, images=IMAGES, labels=RIGHT):
    return evaluation.run_attack(TARGET, attack, params, keys, images, labels)


def made(**options):
    return evaluation.evaluate(study_of(linear(Identity())), progress=False, **options)


def members(*given):
    return ensemble.run_ensemble(
        TARGET, given, PARAMS, 0, np.arange(16), IMAGES, RIGHT, num_select_draws=1
    )


def shared(**options):
    options = {"seed": 0, "indices": np.arange(16), "images": IMAGES, "labels": RIGHT} | options
    return universal.universal_perturbation(TARGET, PARAMS, **options)


def smoothed(sigma=0.1, **options):
    given = {"num_select": 2, "num_estimate": 20, "alpha": 0.01} | options
    return smoothing.certify(smoothing.Smoothed(TARGET, sigma), PARAMS, KEYS, IMAGES, **given)


def run(*words):
    program.main([str(word) for word in words])


def imported(at, split):
    run("data", "import", "--name", "n", "--split", split, "--data-dir", at)


def run_eval(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_program, "use_all_cores", lambda: None)
        patch.setattr(sys, "argv", ["eval", *map(str, words)])
        eval_program.main()


ATTACKS = [
    (lambda at: PGD(radius=-0.1), "radius=-0.1"),
    (lambda at: PGD(radius=NAN), "radius=nan"),
    (lambda at: PGD(radius="8/255"), "'8/255'"),
    (lambda at: PGD(radius=[0.1]), r"[0.1]"),
    (lambda at: PGD(num_steps=0), "num_steps=0"),
    (lambda at: PGD(num_steps=1.5), "num_steps=1.5"),
    (lambda at: PGD(num_steps=True), "num_steps=True"),
    (lambda at: PGD(random_start="False"), "random_start='False'"),
    (lambda at: PGD(early_stop="no"), "early_stop='no'"),
    (lambda at: PGD(norm="l7"), "'l7'"),
    (lambda at: PGD(loss="hinge"), "'hinge'"),
    (lambda at: PGD(eot=16), "EOT(16)"),
    (lambda at: PGD(momentum=math.inf), "momentum=inf"),
    (lambda at: PGD(step_size=None), "step_size=None"),
    (lambda at: PGD(block=0), "block=0"),
    (lambda at: PGD(num_restarts=0), "num_restarts=0"),
    (lambda at: EOT(0), "num_samples=0"),
    (lambda at: EOT(5, chunk_size=2), "chunk_size=2"),
    (lambda at: EOT(2, draws="many"), "'many'"),
    (lambda at: APGD(rho=2.0), "rho=2.0"),
    (lambda at: FAB(num_targets=0), "num_targets=0"),
    (lambda at: Square(p_init=0.0), "p_init=0.0"),
    (lambda at: attacks.DeepFool(overshoot=-1.0), "overshoot=-1.0"),
    (lambda at: attacks.CarliniWagner(initial_const=0.0), "initial_const=0.0"),
    (lambda at: attacks.ElasticNet(beta=-1.0), "beta=-1.0"),
    (lambda at: attacks.ScaleInvariance(0), "num_copies=0"),
    (lambda at: attacks.TranslationInvariance(4), "size=4"),
    (lambda at: attacks.InputDiversity(probability=2.0), "probability=2.0"),
    (lambda at: autoattack.AutoAttack(version="fast"), "'fast'"),
    (lambda at: autoattack.AutoAttack(num_targets=0), "num_targets=0"),
    (lambda at: attacked(attack=PGD), "PGD(...)"),
    (lambda at: attacked(images=SMALL), "uint8"),
    (lambda at: attacked(images=2 * IMAGES), "[0, 1]"),
    (lambda at: attacked(images=IMAGES[0]), "(6, 6, 3)"),
    (lambda at: attacked(images=IMAGES[:0], keys=KEYS[:0], labels=RIGHT[:0]), "no images"),
    (lambda at: attacked(labels=RIGHT + 100), "classes"),
    (lambda at: attacked(labels=RIGHT / 2), "whole number"),
    (lambda at: attacked(labels=RIGHT[:3]), "3 labels"),
    (lambda at: attacked(keys=KEYS[:3]), "3 keys"),
    (lambda at: attacked(params={}), '"classifier"'),
    (lambda at: members(), "at least one member"),
    (lambda at: members(PGD()), "Member(name, attack)"),
    (lambda at: members(ensemble.Member("a", PGD), ensemble.Member("b", PGD())), "PGD(...)"),
    (lambda at: shared(num_epochs=0), "num_epochs=0"),
    (lambda at: shared(num_epochs="3"), "num_epochs='3'"),
    (lambda at: shared(cap="4"), "cap='4'"),
    (lambda at: shared(eot=4), "EOT(16)"),
    (lambda at: shared(loss="hinge"), "hinge"),
    (lambda at: shared(labels=RIGHT[:2]), "2 labels"),
]
DEFENSES = [
    (lambda at: defenses.JPEG(quality=0), "(0,)"),
    (lambda at: defenses.JPEG(quality="75"), "quality='75'"),
    (lambda at: defenses.JPEG(subsampling="4:1:1"), "'4:1:1'"),
    (lambda at: defenses.SHIELD(qualities=()), "()"),
    (lambda at: defenses.SHIELD(qualities=(20, 200)), "200"),
    (lambda at: defenses.SHIELD(qualities=[20, 40]), "[20, 40]"),
    (lambda at: RAIN(shift_fraction=-0.1), "shift_fraction=-0.1"),
    (lambda at: RAIN(downsample="nearest"), "'nearest'"),
    (lambda at: RAIN(network=nets.ResNet()), "ResNet"),
    (lambda at: defenses.BitDepth(0), "bits=0"),
    (lambda at: defenses.MedianFilter(0), "size=0"),
    (lambda at: defenses.BilateralFilter(sigma_color=0.0), "sigma_color=0.0"),
    (lambda at: defenses.GaussianNoise(-1.0), "sigma=-1.0"),
    (lambda at: defenses.GaussianNoise(NAN), "sigma=nan"),
    (lambda at: defenses.LowPass(0), "cutoff=0"),
    (lambda at: defenses.PixelDeflection(num_deflections=0), "num_deflections=0"),
    (lambda at: defenses.RandomCrop(0.0), "share=0.0"),
    (lambda at: defenses.RandomResizePad(2.0), "smallest=2.0"),
    (lambda at: defenses.RandomSubset(()), "stages"),
    (lambda at: defenses.RandomSubset((Identity(),), num_min=3), "num_min=3"),
    (lambda at: defenses.TotalVariation(weight=0.0), "weight=0.0"),
    (lambda at: defenses.WaveletDenoising(wavelet="haar"), "'haar'"),
    (lambda at: defenses.Quilting(patch_size=3, overlap=3), "overlap=3"),
    (lambda at: defenses.FeatureDistillation(steps=((1.0,),)), "8"),
    (lambda at: defenses.FeatureDistillation(steps=None), "steps=None"),
    (lambda at: defenses.two_steps("corner5x5"), "'corner5x5'"),
    (lambda at: defenses.two_steps((70,)), "70"),
    (lambda at: defenses.two_steps(7), "7"),
    (lambda at: defenses.two_steps(accuracy="25"), "'25'"),
    (lambda at: defenses.Chain([Identity()]), "tuple"),
    (lambda at: defenses.Chain(Identity()), "Identity"),
    (lambda at: defenses.patch_bank(KEY, SMALL, 0), "num_patches=0"),
    (lambda at: defenses.patch_bank(KEY, SMALL, 4, patch_size=9), "9"),
    (lambda at: defenses.patch_bank(KEY, SMALL, "4"), "'4'"),
    (lambda at: defenses.JPEG().purify(jnp.zeros((8, 8, 2))), "not 2"),
    (lambda at: gradients.BPDA(Identity(), None), "None"),
    (lambda at: gradients.expectation(lambda key: key, "16"), "'16'"),
    (lambda at: gradients.expectation(lambda key: key, 4, chunk_size=3), "chunk_size=3"),
    (lambda at: Defended(Identity(), None), "None"),
    (lambda at: TARGET.logits(PARAMS, KEY, IMAGES), "one image"),
    (lambda at: TARGET.logits({}, KEY, IMAGE), "classifier"),
    (lambda at: TARGET.logits(PARAMS, KEY, jnp.zeros((4, 4, 3))), "(4, 4, 3)"),
    (lambda at: smoothed(sigma=0.0), "sigma=0.0"),
    (lambda at: smoothed(sigma="0.1"), "sigma='0.1'"),
    (lambda at: smoothed(alpha="0.01"), "alpha='0.01'"),
    (lambda at: smoothed(alpha=1.5), "alpha=1.5"),
    (lambda at: smoothed(num_estimate=1.5), "num_estimate=1.5"),
    (lambda at: smoothed(num_select="2"), "whole number"),
    (lambda at: smoothed(chunk_size=0), "chunk_size=0"),
    (lambda at: smoothed(batch_size=-1), "batch_size=-1"),
    (lambda at: smoothing.certify(TARGET, PARAMS, KEYS, IMAGES), "Smoothed(pipeline, sigma)"),
    (lambda at: smoothing.lower_bound(np.array([5]), 3), "[5]"),
    (lambda at: transforms.jpeg(IMAGE, quality=101), "quality=101"),
    (lambda at: transforms.jpeg(IMAGE, subsampling="4:1:1"), "'4:1:1'"),
    (lambda at: transforms.resize_bicubic(IMAGE, 0, 8), "0 x 8"),
    (lambda at: transforms.resize_bicubic(IMAGE, 8.5, 8), "8.5"),
    (lambda at: transforms.random_circular_shift(KEY, IMAGE, max_shift=-1), "max_shift=-1"),
    (lambda at: transforms.random_circular_shift(KEY, IMAGE, max_shift=0.5), "max_shift=0.5"),
    (lambda at: transforms.halve_bicubic(jnp.zeros((3, 4, 3))), "3 x 4"),
    (lambda at: transforms.block_dct(jnp.zeros((9, 8, 3))), "9 x 8"),
    (lambda at: transforms.rounded(IMAGE, "up"), "'up'"),
    (lambda at: transforms.wavelet_shrinkage(IMAGE, wavelet="haar"), "'haar'"),
    (lambda at: transforms.wavelet_shrinkage(IMAGE, num_levels=0), "num_levels=0"),
    (lambda at: transforms.wavelet_shrinkage(IMAGE, -1.0), "sigma=-1.0"),
    (lambda at: distillation.changed_share(-1, 2), "radius=-1"),
    (lambda at: distillation.changed_share("8", 2), "radius='8'"),
    (lambda at: distillation.defensive_step(8.0, 1.5), "share=1.5"),
    (lambda at: distillation.coefficient_spread(np.zeros((2, 4, 4, 3), np.uint8)), "(2, 4, 4, 3)"),
    (lambda at: distillation.coefficient_spread(np.zeros((8, 8), np.uint8)), "(8, 8)"),
    (lambda at: distillation.moved_share(IMAGES, IMAGES[:2], np.ones((8, 8))), "(2, 6, 6, 3)"),
    (lambda at: distillation.ranking(np.zeros((3, 3))), "(3, 3)"),
]
FILES = [
    (lambda at: nets.ResNet(depth=9), "got 9"),
    (lambda at: nets.EDSR(num_blocks="4"), "num_blocks='4'"),
    (lambda at: nets.EDSR(num_features=0), "num_features=0"),
    (lambda at: nets.from_function(None, {}), "None"),
    (lambda at: nets.from_function(lambda p, x: x, {"a": "text"}), "tree of arrays"),
    (lambda at: nets.from_flax(3), "int"),
    (lambda at: nets.from_linen(3, {}), "int"),
    (lambda at: nets.from_torch(nets.ResNet(depth=8), {}), "ResNet"),
    (lambda at: zoo.load("builtin_resent"), "builtin_resnet"),
    (lambda at: zoo.load(at / "absent"), "absent"),
    (lambda at: zoo.load(at / "nothing"), "nothing"),
    (lambda at: zoo.load(at / "text.safetensors"), "text"),
    (lambda at: zoo.load(3), "not int"),
    (lambda at: zoo.load_any(at / "empty.npz", "resnet20"), "empty.npz"),
    (lambda at: zoo.load_any(at / "text.npz", "resnet20"), "text.npz"),
    (lambda at: zoo.load_any(at / "text.npz", "resnet19"), "resnet19"),
    (lambda at: zoo.load_steps(at / "empty.json"), "empty.json"),
    (lambda at: zoo.load_steps(at / "list.json"), "list.json"),
    (lambda at: zoo.load_steps(at / "absent.json"), "absent.json"),
    (lambda at: zoo.check_name("a b"), "'a b'"),
    (lambda at: zoo.save(at, "n", nets.ResNet(depth=8), {}, {}), "card"),
    (lambda at: data.load("bultin", "test"), "bultin"),
    (lambda at: data.load("builtin", "tset"), "tset"),
    (lambda at: data.load("cifar10", "test", data_dir=at), "cifar10"),
    (lambda at: data.load(3, "test"), "3"),
    (lambda at: data.from_arrays(SMALL, RIGHT[:3], name="n"), "3 labels"),
    (lambda at: data.from_arrays(SMALL[0], RIGHT, name="n"), "(6, 6, 3)"),
    (lambda at: data.from_arrays(SMALL * 0.9, RIGHT, name="n"), "divide"),
    (lambda at: data.from_arrays(SMALL, RIGHT - 10, name="n"), "labels lie in -"),
    (lambda at: data.from_arrays(SMALL, RIGHT, name=""), "name=''"),
    (lambda at: data.from_arrays(SMALL, RIGHT, name="n", class_names=["a"]), "1 classes"),
    (lambda at: data.from_arrays("pictures", RIGHT, name="n"), "batch"),
    (lambda at: data.from_arrays([[1], [2, 3]], RIGHT, name="n"), "one size"),
    (lambda at: data.from_arrays(None, RIGHT, name="n"), "batch"),
    (lambda at: data.from_arrays(SMALL, RIGHT, name="n", split=3), "split=3"),
    (lambda at: Data("builtin", num_validation=0), "num_validation=0"),
    (lambda at: Data("builtin", num_training=0), "num_training=0"),
    (lambda at: metrics.psnr(IMAGE, jnp.zeros((3, 3, 3))), "(3, 3, 3)"),
    (lambda at: metrics.psnr(jnp.asarray(SMALL[0]), jnp.asarray(SMALL[0])), "uint8"),
    (lambda at: metrics.psnr(255 * IMAGE, 255 * IMAGE), "255"),
    (lambda at: metrics.ssim(IMAGE, IMAGE), "window"),
    (lambda at: metrics.ssim(IMAGE, IMAGE, window=4), "window=4"),
    (lambda at: metrics.wilson_interval(3, 0), "total=0"),
    (lambda at: metrics.wilson_interval(5, 3), "successes=5"),
    (lambda at: metrics.wilson_interval(1, 3, confidence=95), "confidence=95"),
    (lambda at: metrics.wilson_interval("1", 3), "'1'"),
    (lambda at: metrics.radial_frequencies(1, 8), "height=1"),
    (lambda at: metrics.radial_spectrum(jnp.zeros((8, 8))), "(8, 8)"),
    (lambda at: purpose_key("3", Purpose.SCORE), "seed='3'"),
    (lambda at: purpose_key(-1, Purpose.SCORE), "seed=-1"),
    (lambda at: purpose_key(0, "score"), "'score'"),
    (lambda at: example_keys(0, Purpose.SCORE, np.array([-1])), "-1"),
    (lambda at: example_keys(0, Purpose.SCORE, np.array([2**32 + 1])), "4294967297"),
    (lambda at: example_keys(0, Purpose.SCORE, np.array([0.5])), "float"),
]
EVALUATION = [
    (lambda at: made(shard="0/3"), "'0/3'"),
    (lambda at: made(mesh=2), "data_mesh()"),
    (lambda at: made(out=at / "empty.npz"), "empty.npz"),
    (lambda at: made(out=at / "empty.npz" / "below"), "below"),
    (lambda at: made(out=3), "out=3"),
    (lambda at: evaluation.evaluate(lambda: 3), "call it"),
    (lambda at: evaluation.evaluate(None), "None"),
    (lambda at: study_of(linear(Identity()), num_examples=0), "num_examples=0"),
    (lambda at: study_of(linear(Identity()), num_examples=99), "num_examples=99"),
    (lambda at: study_of(linear(Identity()), seed=-1), "seed=-1"),
    (lambda at: study_of(linear(Identity()), batch_size="8"), "batch_size='8'"),
    (lambda at: study_of(linear(Identity()), name="a/b"), "'a/b'"),
    (lambda at: study_of(linear(Identity()), measure="accuracy"), "Robustness()"),
    (lambda at: study_of(linear(Identity()), measure=evaluation.TopK(10)), "k=10"),
    (lambda at: study_of(linear(Identity()), displays=[3]), "3"),
    (lambda at: study_of(linear(Identity()), displays=3), "displays=3"),
    (lambda at: study_of(linear(Identity(), "a"), linear(Identity(), "a")), "'a'"),
    (lambda at: study_of(), "subjects is empty"),
    (lambda at: study_of(TARGET), "Subject(name, pipeline, params)"),
    (lambda at: Study("n", IMAGES, [linear(Identity())], [evaluation.CLEAN]), "from_arrays"),
    (lambda at: Subject("", TARGET, PARAMS), "name=''"),
    (lambda at: Subject("n", TARGET, {"kernel": KERNEL}), '"classifier"'),
    (lambda at: Subject("n", Identity(), ()), "Defended(defense, network)"),
    (lambda at: Subject("n", TARGET, PARAMS, "here"), "sources='here'"),
    (lambda at: ThreatModel("n", PGD), "PGD(...)"),
    (lambda at: ThreatModel("n", None), "knowledge"),
    (lambda at: ThreatModel("n", PGD(), num_examples=0), "num_examples=0"),
    (lambda at: ThreatModel("n", PGD(), tags="table"), "tags='table'"),
    (lambda at: ThreatModel("n", PGD(targeted=True)), "targeted"),
    (lambda at: evaluation.adaptive(radius=8), "radius=8"),
    (lambda at: evaluation.adaptive(radius="8/255"), "'8/255'"),
    (lambda at: evaluation.adaptive(eot=16), "EOT(16)"),
    (lambda at: evaluation.adaptive(num_steps="40"), "'40'"),
    (lambda at: evaluation.TopK(0), "k=0"),
    (lambda at: evaluation.TopK("5"), "k='5'"),
    (lambda at: evaluation.CertifyOptions(sigmas=()), "sigmas=()"),
    (lambda at: evaluation.CertifyOptions(alpha="0.1"), "alpha='0.1'"),
    (lambda at: evaluation.SanityOptions(num_examples=1), "num_examples=1"),
    (lambda at: evaluation.SanityOptions(num_steps="4"), "num_steps='4'"),
    (lambda at: evaluation.SanityOptions(radius="8/255"), "'8/255'"),
    (lambda at: evaluation.check_study(study_of(linear(Identity())), at, subjects=["b"]), "'b'"),
    (lambda at: evaluation.check_study(3), "3"),
    (lambda at: evaluation.certify_study(study_of(linear(Identity())), at, subjects=()), "empty"),
    (lambda at: evaluation.certify_study(study_of(linear(Identity())), at, options=3), "options"),
    (lambda at: evaluation.score(TARGET, PARAMS, KEYS, IMAGES, num_draws=0), "num_draws=0"),
    (lambda at: evaluation.score(TARGET, PARAMS, KEYS, IMAGES, num_draws="1"), "whole number"),
    (lambda at: evaluation.round_to_8bit(IMAGES, IMAGES, "linf", "8"), "'8'"),
    (lambda at: evaluation.round_to_8bit(IMAGES, IMAGES[:2], "linf", 0.1), "(2, 6, 6, 3)"),
    (lambda at: evaluation.parse_shard("3/3"), "index=3"),
    (lambda at: evaluation.parse_shard("one of two"), "'one of two'"),
    (lambda at: evaluation.parse_shard(None), "None"),
    (lambda at: evaluation.Shard(0, 0), "count=0"),
    (lambda at: evaluation.merge([]), "folders is empty"),
    (lambda at: evaluation.merge(at / "nothing"), "nothing"),
    (lambda at: evaluation.merge(3), "3"),
    (lambda at: evaluation.load_records(at), "one.json"),
    (lambda at: evaluation.load_records(at / "absent"), "absent"),
    (lambda at: load_order(at / "damaged"), "study.json"),
    (lambda at: load_study(at / "absent.py"), "absent.py"),
    (lambda at: load_study(at / "study.py"), "study.py"),
    (lambda at: load_study(at / "number.py"), "int"),
    (lambda at: load_study(at / "list.json"), "list.json"),
    (lambda at: extras.Panels(num_images=0), "num_images=0"),
    (lambda at: extras.Spectrum(subjects="RAIN"), "subjects='RAIN'"),
    (lambda at: report.report(at / "nothing"), "nothing"),
    (lambda at: report.report([]), "no records"),
    (lambda at: report.report(3), "3"),
    (lambda at: report.report([3]), "3"),
    (lambda at: report.write_report(at / "absent"), "absent"),
    (lambda at: report.ResultsTable(tag=3), "tag=3"),
    (lambda at: report.Curve("sigma", None), "'sigma'"),
    (lambda at: report.update_readme(at / "absent.md", {}), "absent.md"),
    (lambda at: report.update_readme(at / "text.npz", {"a": ""}), "results:a"),
]
PROGRAMS = [
    (lambda at: run("evaluate", at / "absent.py", "--out", at), "absent.py"),
    (lambda at: run("evaluate", at / "wrong.py", "--out", at), "wrong.py"),
    (lambda at: run("evaluate", at / "number.py", "--out", at), "int"),
    (lambda at: run("evaluate", at / "number.py", "--out", at / "text.npz"), "text.npz"),
    (lambda at: run("evaluate", at / "number.py", "--array", 3, "--out", at), "--submit"),
    (lambda at: run("report", at / "absent"), "absent"),
    (lambda at: run("report", at), "one.json"),
    (lambda at: run("sanity", at), "--study"),
    (lambda at: run("sanity", at / "absent.py", "--out", at), "absent.py"),
    (lambda at: run("merge", at / "nothing"), "nothing"),
    (lambda at: run("data", "show", "builtin", "tset"), "tset"),
    (lambda at: run("data", "show", "builtin", "test", "--columns", 0), "--columns"),
    (lambda at: run("data", "show", "builtin", "test", "--out", at / "sheet.txt"), "sheet.txt"),
    (lambda at: run("data", "import", "--name", "n", "--split", "test"), "'test'"),
    (lambda at: imported(at, f"a={at / 'absent'}"), "absent"),
    (lambda at: imported(at, f"a={at / 'text.npz'}"), "text.npz"),
    (lambda at: imported(at, f"a={at / 'nothing'}"), "nothing"),
    (lambda at: run("zoo", "show", "builtin_resent"), "builtin_resnet"),
    (lambda at: run("zoo", "--folder", at / "absent"), "absent"),
    (lambda at: run_eval("report", at / "absent"), "absent"),
    (lambda at: run_eval("report", at / "list.json"), "list.json"),
    (lambda at: run_eval("sanity", "--rows", "fdd", "--out", at), "'fdd'"),
    (lambda at: run_eval("quick", "--classifier", "resnet99", "--out", at), "resnet99"),
    (lambda at: run_eval("speed", "--data", "cifar99", "--out", at), "cifar99"),
    (lambda at: run_eval("super_resolution", "--data", "a/b", "--out", at), "'a'"),
]


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        pytest.param(call, phrase, id=f"{name}-{number}-{phrase}")
        for name, cases in (
            ("attacks", ATTACKS),
            ("defenses", DEFENSES),
            ("files", FILES),
            ("evaluation", EVALUATION),
            ("programs", PROGRAMS),
        )
        for number, (call, phrase) in enumerate(cases)
    ],
)
def test_bad_input_is_refused_in_one_sentence(at, call, phrase):
    with unchecked():
        sentence = sentence_of(lambda: call(at))
    assert phrase in sentence, sentence


def sentence_of(call):
    """Returns what a call says when it refuses its input; fails where it says it badly."""
    with pytest.raises((SystemExit, ValueError, TypeError, FileNotFoundError)) as caught:
        call()
    error = caught.value
    assert not isinstance(error, UnicodeError | json.JSONDecodeError)
    sentence = error.code if isinstance(error, SystemExit) else str(error)
    check_sentence(sentence)
    return sentence


def check_sentence(sentence):
    assert isinstance(sentence, str)
    assert sentence
    assert "\n" not in sentence
    assert len(sentence) < 400, sentence
    for raw in (" object at 0x", "has no attribute", "Tracer", "Errno", "positional argument"):
        assert raw not in sentence, sentence


VALUES = [
    value
    for module in (attacks, defenses, nets, report)
    for value in map(module.__dict__.get, module.__all__)
    if isinstance(value, type)
    and issubclass(value, Value | report.Display)
    and not inspect.isabstract(value)
] + [evaluation.CertifyOptions, evaluation.SanityOptions, evaluation.TopK, extras.Panels]
JUNK = st.sampled_from(
    [None, True, "", "3", b"3", -1, 0, 2, 10**9, 0.5, -0.5, NAN, math.inf, 1j, (), (1, "a"), [1],
     {}, {"a": 1}, np.float32(0.5), np.zeros(2), object(), int, print]
)  # fmt: skip


@hypothesis.settings(max_examples=400)
@hypothesis.given(st.sampled_from(VALUES), st.data())
def test_options_of_any_kind_are_taken_or_refused(kind, draw):
    """A value that is made has fields of the kinds they say, and no number that is none."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    hypothesis.assume(fields)
    field = draw.draw(st.sampled_from(fields))
    others = {f.name: REQUIRED.get(f.name) for f in fields if f.default is f.default_factory}
    given_value = draw.draw(JUNK)
    with unchecked():
        try:
            value = kind(**{**others, field.name: given_value})
        except ValueError as error:
            check_sentence(str(error))
            return
    held = getattr(value, field.name)
    if field.type in (int, float, bool, str):
        assert isinstance(held, (int, float) if field.type is float else field.type)
        assert isinstance(held, bool) is (field.type is bool)
    assert held == held  # no NaN


REQUIRED = {"stages": (Identity(),), "rain": RAIN(), "forward": Identity(), "backward": Identity()}


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    st.sampled_from(["u1", "i1", "i8", "f4", "f8", "c8", "?", "U3", "O"]),
    st.lists(st.integers(0, 3), max_size=5),
    st.integers(-3, 70000),
)
def test_arrays_of_any_kind_are_taken_or_refused(kind, shape, label):
    images = np.zeros(shape, kind)
    with unchecked():
        try:
            made = data.from_arrays(images, np.full(shape[:1], label), name="n")
        except ValueError as error:
            check_sentence(str(error))
            return
    assert made.image(0).dtype == np.uint8


@hypothesis.given(st.text(max_size=9) | st.from_regex(r"\A\d{1,3}/\d{1,3}\Z"))
def test_texts_of_any_kind_are_shares_or_refused(text):
    try:
        shard = evaluation.parse_shard(text)
    except ValueError as error:
        check_sentence(str(error))
    else:
        assert 0 <= shard.index < shard.count
