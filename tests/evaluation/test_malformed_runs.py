"""Files, folders, studies and command lines that are not what they should be: one sentence."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import eval.__main__ as eval_program
import rainjax.__main__ as program
from rainjax import (
    data,
    evaluation,
    metrics,
    nets,
    report,
    zoo,
)
from rainjax.attacks import PGD
from rainjax.data.splits import Data
from rainjax.defenses import Identity
from rainjax.evaluation import Study, Subject, ThreatModel, extras
from rainjax.evaluation.loading import load_study
from rainjax.evaluation.records import load_order
from rainjax.keys import Purpose, example_keys, purpose_key
from tests.malformed import (
    IMAGE,
    IMAGES,
    KEYS,
    PARAMS,
    TARGET,
    cases,
    sentence_of,
)
from tests.small_studies import KERNEL, RIGHT, SMALL, linear, study_of
from tests.tiny import unchecked


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


def made(**options):
    return evaluation.evaluate(study_of(linear(Identity())), progress=False, **options)


def run(*words):
    program.main([str(word) for word in words])


def imported(at, split):
    run("data", "import", "--name", "n", "--split", split, "--data-dir", at)


def run_eval(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_program, "use_all_cores", lambda: None)
        patch.setattr(sys, "argv", ["eval", *map(str, words)])
        eval_program.main()


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
    (lambda at: metrics.ms_ssim(IMAGE, IMAGE), "161"),
    (lambda at: metrics.gmsd(jnp.asarray(SMALL[0]), jnp.asarray(SMALL[0])), "uint8"),
    (lambda at: metrics.mscn(255 * jnp.ones((8, 8, 3))), "255"),
    (lambda at: metrics.mscn(jnp.ones((8, 8, 3)), border="wrap"), "border='wrap'"),
    (lambda at: metrics.brisque_features(jnp.zeros((8, 8, 3))), "13 pixels"),
    (lambda at: metrics.gradient_statistics(jnp.zeros((8, 8, 2))), "has 2"),
    (lambda at: metrics.spectral_slope(jnp.zeros((8, 8, 3)), lowest=0.5), "lowest=0.5"),
    (lambda at: metrics.high_frequency_share(jnp.zeros((8, 8, 3)), cutoff=1), "cutoff=1"),
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
    (lambda at: evaluation.protocols.lee_kim_2023("l1"), "'l1'"),
    (lambda at: evaluation.protocols.adbm("l0"), "'l0'"),
    (lambda at: evaluation.protocols.robustbench(data="mnist"), "'mnist'"),
    (lambda at: evaluation.protocols.diffhammer().threats(num_steps=0), "num_steps=0"),
    (lambda at: evaluation.protocols.diffhammer().threats(eps=0.1), "'eps'"),
    (lambda at: evaluation.protocols.attackbench(PGD(num_steps=1001)), "2002"),
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
    (lambda at: extras.MostSuspicious(num_images=0), "num_images=0"),
    (lambda at: extras.Spectrum(subjects="RAIN"), "subjects='RAIN'"),
    (lambda at: report.report(at / "nothing"), "nothing"),
    (lambda at: report.report([]), "no records"),
    (lambda at: report.report(3), "3"),
    (lambda at: report.report([3]), "3"),
    (lambda at: report.write_report(at / "absent"), "absent"),
    (lambda at: report.ResultsTable(tag=3), "tag=3"),
    (lambda at: report.Curve("sigma", None), "'sigma'"),
    (lambda at: report.FieldCurve("", None), "field=''"),
    (lambda at: report.FieldCurve("sigma", None, float("inf")), "none_at=inf"),
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
    (lambda at: run_eval("residuals", "--data", "cifar99", "--out", at), "cifar99"),
]


@cases(files=FILES, evaluation=EVALUATION, programs=PROGRAMS)
def test_bad_input_is_refused_in_one_sentence(at, call, phrase):
    with unchecked():
        sentence = sentence_of(lambda: call(at))
    assert phrase in sentence, sentence
