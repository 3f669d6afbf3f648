"""Values and arrays that are not what they should be: one sentence, and never a raw error."""

import dataclasses
import inspect
import math

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from rainjax import (
    attacks,
    data,
    defenses,
    distillation,
    evaluation,
    gradients,
    nets,
    report,
    smoothing,
    transforms,
)
from rainjax._values import Value
from rainjax.attacks import APGD, EOT, FAB, PGD, Square
from rainjax.defenses import RAIN, Identity
from rainjax.evaluation import Ladder, autoattack, ensemble, extras, universal
from rainjax.pipeline import Defended
from tests.malformed import (
    IMAGE,
    IMAGES,
    KEY,
    KEYS,
    NAN,
    ONE_STEP,
    PARAMS,
    TARGET,
    cases,
    check_sentence,
    sentence_of,
)
from tests.small_studies import RIGHT, SMALL
from tests.tiny import unchecked


def attacked(attack=ONE_STEP, params=PARAMS, keys=KEYS, images=IMAGES, labels=RIGHT):
    return evaluation.run_attack(TARGET, attack, params, keys, images, labels)


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


ATTACKS = [
    (lambda: PGD(radius=-0.1), "radius=-0.1"),
    (lambda: PGD(radius=NAN), "radius=nan"),
    (lambda: PGD(radius="8/255"), "'8/255'"),
    (lambda: PGD(radius=[0.1]), r"[0.1]"),
    (lambda: PGD(num_steps=0), "num_steps=0"),
    (lambda: PGD(num_steps=1.5), "num_steps=1.5"),
    (lambda: PGD(num_steps=True), "num_steps=True"),
    (lambda: PGD(random_start="False"), "random_start='False'"),
    (lambda: PGD(early_stop="no"), "early_stop='no'"),
    (lambda: PGD(norm="l7"), "'l7'"),
    (lambda: PGD(loss="hinge"), "'hinge'"),
    (lambda: PGD(eot=16), "EOT(16)"),
    (lambda: PGD(momentum=math.inf), "momentum=inf"),
    (lambda: PGD(step_size=None), "step_size=None"),
    (lambda: PGD(block=0), "block=0"),
    (lambda: PGD(num_restarts=0), "num_restarts=0"),
    (lambda: EOT(0), "num_samples=0"),
    (lambda: EOT(5, chunk_size=2), "chunk_size=2"),
    (lambda: EOT(2, draws="many"), "'many'"),
    (lambda: EOT(2, direction="sign"), "'sign'"),
    (lambda: APGD(rho=2.0), "rho=2.0"),
    (lambda: FAB(num_targets=0), "num_targets=0"),
    (lambda: Square(p_init=0.0), "p_init=0.0"),
    (lambda: attacks.DeepFool(overshoot=-1.0), "overshoot=-1.0"),
    (lambda: attacks.CarliniWagner(initial_const=0.0), "initial_const=0.0"),
    (lambda: attacks.ElasticNet(beta=-1.0), "beta=-1.0"),
    (lambda: attacks.ScaleInvariance(0), "num_copies=0"),
    (lambda: attacks.TranslationInvariance(4), "size=4"),
    (lambda: attacks.InputDiversity(probability=2.0), "probability=2.0"),
    (lambda: autoattack.AutoAttack(version="fast"), "'fast'"),
    (lambda: autoattack.AutoAttack(num_targets=0), "num_targets=0"),
    (lambda: Ladder(PGD(), max_gradients=1), "max_gradients=1"),
    (lambda: Ladder(PGD(), stability=1.0), "stability=1.0"),
    (lambda: Ladder(PGD(), num_select_draws=0), "num_select_draws=0"),
    (lambda: Ladder(PGD(), kinds=("queries",)), "('queries',)"),
    (lambda: Ladder(PGD(), kinds=()), "kinds=()"),
    (lambda: Ladder(PGD), "Ladder(attack"),
    (lambda: attacked(attack=PGD), "PGD(...)"),
    (lambda: attacked(images=SMALL), "uint8"),
    (lambda: attacked(images=2 * IMAGES), "[0, 1]"),
    (lambda: attacked(images=IMAGES[0]), "(6, 6, 3)"),
    (lambda: attacked(images=IMAGES[:0], keys=KEYS[:0], labels=RIGHT[:0]), "no images"),
    (lambda: attacked(labels=RIGHT + 100), "classes"),
    (lambda: attacked(labels=RIGHT / 2), "whole number"),
    (lambda: attacked(labels=RIGHT[:3]), "3 labels"),
    (lambda: attacked(keys=KEYS[:3]), "3 keys"),
    (lambda: attacked(params={}), '"classifier"'),
    (lambda: members(), "at least one member"),
    (lambda: members(PGD()), "Member(name, attack)"),
    (lambda: members(ensemble.Member("a", PGD), ensemble.Member("b", PGD())), "PGD(...)"),
    (lambda: shared(num_epochs=0), "num_epochs=0"),
    (lambda: shared(num_epochs="3"), "num_epochs='3'"),
    (lambda: shared(cap="4"), "cap='4'"),
    (lambda: shared(eot=4), "EOT(16)"),
    (lambda: shared(loss="hinge"), "hinge"),
    (lambda: shared(labels=RIGHT[:2]), "2 labels"),
]
DEFENSES = [
    (lambda: defenses.JPEG(quality=0), "(0,)"),
    (lambda: defenses.JPEG(quality="75"), "quality='75'"),
    (lambda: defenses.JPEG(subsampling="4:1:1"), "'4:1:1'"),
    (lambda: defenses.SHIELD(qualities=()), "()"),
    (lambda: defenses.SHIELD(qualities=(20, 200)), "200"),
    (lambda: defenses.SHIELD(qualities=[20, 40]), "[20, 40]"),
    (lambda: RAIN(shift_fraction=-0.1), "shift_fraction=-0.1"),
    (lambda: RAIN(downsample="nearest"), "'nearest'"),
    (lambda: RAIN(network=nets.ResNet()), "ResNet"),
    (lambda: defenses.BitDepth(0), "bits=0"),
    (lambda: defenses.MedianFilter(0), "size=0"),
    (lambda: defenses.BilateralFilter(sigma_color=0.0), "sigma_color=0.0"),
    (lambda: defenses.NonLocalMeans(patch_size=4), "patch_size=4"),
    (lambda: defenses.NonLocalMeans(patch_distance=0), "patch_distance=0"),
    (lambda: defenses.NonLocalMeans(h=0.0), "h=0.0"),
    (lambda: defenses.NonLocalMeans(sigma=NAN), "sigma=nan"),
    (lambda: defenses.GaussianNoise(-1.0), "sigma=-1.0"),
    (lambda: defenses.GaussianNoise(NAN), "sigma=nan"),
    (lambda: defenses.GaussianSmoothing(sigma=NAN), "sigma=nan"),
    (lambda: defenses.GaussianSmoothing(kernel_size=2), "kernel_size=2"),
    (lambda: defenses.LowPass(0), "cutoff=0"),
    (lambda: defenses.NCIS(num_iterations=0), "num_iterations=0"),
    (lambda: defenses.NCIS(border="wrap"), "border='wrap'"),
    (lambda: defenses.PixelDeflection(num_deflections=0), "num_deflections=0"),
    (lambda: defenses.RandomCrop(0.0), "share=0.0"),
    (lambda: defenses.RandomResizePad(2.0), "smallest=2.0"),
    (lambda: defenses.RandomSubset(()), "stages"),
    (lambda: defenses.RandomSubset((Identity(),), num_min=3), "num_min=3"),
    (lambda: defenses.TotalVariation(weight=0.0), "weight=0.0"),
    (lambda: defenses.WaveletDenoising(wavelet="haar"), "'haar'"),
    (lambda: defenses.Quilting(patch_size=3, overlap=3), "overlap=3"),
    (lambda: defenses.FeatureDistillation(steps=((1.0,),)), "8"),
    (lambda: defenses.FeatureDistillation(steps=None), "steps=None"),
    (lambda: defenses.two_steps("corner5x5"), "'corner5x5'"),
    (lambda: defenses.two_steps((70,)), "70"),
    (lambda: defenses.two_steps(7), "7"),
    (lambda: defenses.two_steps(accuracy="25"), "'25'"),
    (lambda: defenses.Chain([Identity()]), "tuple"),
    (lambda: defenses.Chain(Identity()), "Identity"),
    (lambda: defenses.patch_bank(KEY, SMALL, 0), "num_patches=0"),
    (lambda: defenses.patch_bank(KEY, SMALL, 4, patch_size=9), "9"),
    (lambda: defenses.patch_bank(KEY, SMALL, "4"), "'4'"),
    (lambda: defenses.JPEG().purify(jnp.zeros((8, 8, 2))), "not 2"),
    (lambda: gradients.BPDA(Identity(), None), "None"),
    (lambda: gradients.expectation(lambda key: key, "16"), "'16'"),
    (lambda: gradients.expectation(lambda key: key, 4, chunk_size=3), "chunk_size=3"),
    (lambda: Defended(Identity(), None), "None"),
    (lambda: TARGET.logits(PARAMS, KEY, IMAGES), "one image"),
    (lambda: TARGET.logits({}, KEY, IMAGE), "classifier"),
    (lambda: TARGET.logits(PARAMS, KEY, jnp.zeros((4, 4, 3))), "(4, 4, 3)"),
    (lambda: smoothed(sigma=0.0), "sigma=0.0"),
    (lambda: smoothed(sigma="0.1"), "sigma='0.1'"),
    (lambda: smoothed(alpha="0.01"), "alpha='0.01'"),
    (lambda: smoothed(alpha=1.5), "alpha=1.5"),
    (lambda: smoothed(num_estimate=1.5), "num_estimate=1.5"),
    (lambda: smoothed(num_select="2"), "whole number"),
    (lambda: smoothed(chunk_size=0), "chunk_size=0"),
    (lambda: smoothed(batch_size=-1), "batch_size=-1"),
    (lambda: smoothing.certify(TARGET, PARAMS, KEYS, IMAGES), "Smoothed(pipeline, sigma)"),
    (lambda: smoothing.lower_bound(np.array([5]), 3), "[5]"),
    (lambda: transforms.jpeg(IMAGE, quality=101), "quality=101"),
    (lambda: transforms.jpeg(IMAGE, subsampling="4:1:1"), "'4:1:1'"),
    (lambda: transforms.resize_bicubic(IMAGE, 0, 8), "0 x 8"),
    (lambda: transforms.resize_bicubic(IMAGE, 8.5, 8), "8.5"),
    (lambda: transforms.random_circular_shift(KEY, IMAGE, max_shift=-1), "max_shift=-1"),
    (lambda: transforms.random_circular_shift(KEY, IMAGE, max_shift=0.5), "max_shift=0.5"),
    (lambda: transforms.halve_bicubic(jnp.zeros((3, 4, 3))), "3 x 4"),
    (lambda: transforms.block_dct(jnp.zeros((9, 8, 3))), "9 x 8"),
    (lambda: transforms.rounded(IMAGE, "up"), "'up'"),
    (lambda: transforms.Distortion("fog", 1, "imagenet_c"), "'fog'"),
    (lambda: transforms.Distortion("contrast", 0, "imagenet_c"), "severity=0"),
    (lambda: transforms.Distortion("contrast", 2.5, "imagenet_c"), "severity=2.5"),
    (lambda: transforms.Distortion("contrast", 1, "cifar"), "'cifar'"),
    (lambda: transforms.Distortion("saturate", 1, "cifar10_c").apply(KEY, IMAGE[..., :1]), "RGB"),
    (lambda: transforms.Distortion("contrast", 1, "cifar10_c").apply(KEY, 255 * IMAGE), "[0, 1]"),
    (lambda: transforms.wavelet_shrinkage(IMAGE, wavelet="haar"), "'haar'"),
    (lambda: transforms.wavelet_shrinkage(IMAGE, num_levels=0), "num_levels=0"),
    (lambda: transforms.wavelet_shrinkage(IMAGE, -1.0), "sigma=-1.0"),
    (lambda: distillation.changed_share(-1, 2), "radius=-1"),
    (lambda: distillation.changed_share("8", 2), "radius='8'"),
    (lambda: distillation.defensive_step(8.0, 1.5), "share=1.5"),
    (lambda: distillation.coefficient_spread(np.zeros((2, 4, 4, 3), np.uint8)), "(2, 4, 4, 3)"),
    (lambda: distillation.coefficient_spread(np.zeros((8, 8), np.uint8)), "(8, 8)"),
    (lambda: distillation.moved_share(IMAGES, IMAGES[:2], np.ones((8, 8))), "(2, 6, 6, 3)"),
    (lambda: distillation.ranking(np.zeros((3, 3))), "(3, 3)"),
]


@cases(attacks=ATTACKS, defenses=DEFENSES)
def test_bad_input_is_refused_in_one_sentence(call, phrase):
    with unchecked():
        sentence = sentence_of(lambda: call())
    assert phrase in sentence, sentence


VALUES = [
    value
    for module in (attacks, defenses, nets, report)
    for value in map(module.__dict__.get, module.__all__)
    if isinstance(value, type)
    and issubclass(value, Value | report.Display)
    and not inspect.isabstract(value)
] + [
    evaluation.CertifyOptions,
    evaluation.Detection,
    evaluation.SanityOptions,
    evaluation.TopK,
    extras.MostSuspicious,
    extras.Panels,
    extras.Iterates,
]
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
