"""Options of the wrong kind are refused by every value in the same words."""

import dataclasses

import numpy as np
import pytest

from rainjax.attacks import InputDiversity, ScaleInvariance
from rainjax.defenses import (
    JPEG,
    RAIN,
    SHIELD,
    BilateralFilter,
    BitDepth,
    Chain,
    FeatureDistillation,
    GaussianNoise,
    Identity,
    LowPass,
    MedianFilter,
    PixelDeflection,
    Quilting,
    RandomCrop,
    RandomResizePad,
    RandomSubset,
    SuperResolution,
    TotalVariation,
    WaveletDenoising,
)
from rainjax.gradients import BPDA
from tests.contracts import DEFENSES
from tests.tiny import unchecked


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BitDepth(3.5), "bits=3.5 must be a whole number"),
        (lambda: BitDepth(True), "bits=True must be a whole number"),
        (lambda: MedianFilter(2.0), "size=2.0 must be a whole number"),
        (lambda: TotalVariation("x"), "weight='x' must be a number"),
        (lambda: TotalVariation(num_iterations=True), "num_iterations=True must be a whole"),
        (lambda: BilateralFilter(3.0), "size=3.0 must be a whole number"),
        (lambda: LowPass(2.5), "cutoff=2.5 must be a whole number"),
        (lambda: JPEG(75.5), "quality=75.5 must be a whole number"),
        (lambda: JPEG(rounding=["true"]), "rounding=.'true'. is none of 'true', 'straight_thr"),
        (lambda: SHIELD([20, 40]), r"qualities=\[20, 40\] must be a tuple, and each part"),
        (lambda: SHIELD((20, 40.5)), r"qualities=\(20, 40.5\) must be .* part of it a whole num"),
        (lambda: FeatureDistillation([[1.0] * 8] * 8), "must be a tuple, and each part of it a t"),
        (lambda: FeatureDistillation(level_shift="no"), "level_shift='no' must be True or False"),
        (lambda: GaussianNoise(None), "sigma=None must be a number"),
        (lambda: RandomCrop("half"), "share='half' must be a number"),
        (lambda: RandomResizePad(1j), "smallest=1j must be a number"),
        (lambda: WaveletDenoising("x"), "sigma='x' must be a number or None"),
        (lambda: WaveletDenoising(num_levels=1.5), "num_levels=1.5 must be a whole number or N"),
        (lambda: WaveletDenoising(wavelet="haar"), "wavelet='haar' is none of 'db1', 'db2'"),
        (lambda: PixelDeflection(1.5), "num_deflections=1.5 must be a whole number"),
        (lambda: PixelDeflection(denoiser=None), "denoiser=None must be of type WaveletDenoising"),
        (lambda: Quilting(overlap=2.0), "overlap=2.0 must be a whole number"),
        (lambda: RAIN(network=Identity()), r"network=\.\.\.\) takes a Network, not a Defense"),
        (lambda: SuperResolution(network=None), r"network=\.\.\.\) takes a Network, not None"),
        (lambda: Chain(Identity()), r"stages=Identity\(\) must be a tuple, and each part of it o"),
        (lambda: Chain([Identity()]), r"stages=\[Identity\(\)\] must be a tuple"),
        (
            lambda: RandomSubset((Identity,)),
            r"stages=\.\.\.\) takes a Defense, not the class Iden",
        ),
        (lambda: RandomSubset((Identity(),), 0.5), "num_min=0.5 must be a whole number"),
        (
            lambda: BPDA(Identity(), "identity"),
            r"backward=\.\.\.\) takes a Defense, not 'identity'",
        ),
        (lambda: InputDiversity("often"), "probability='often' must be a number"),
        (lambda: ScaleInvariance(2.5), "num_copies=2.5 must be a whole number"),
    ],
)
def test_options_of_another_kind_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("case", DEFENSES, ids=lambda case: case.name)
def test_every_defense_refuses_them(case):
    for field in dataclasses.fields(case.defense):
        with unchecked(), pytest.raises(ValueError, match=f"{field.name}="):
            dataclasses.replace(case.defense, **{field.name: object()})


def test_numbers_of_numpy_are_numbers():
    with unchecked():
        assert LowPass(np.int64(5)) == LowPass(5)
        assert JPEG(np.int64(80)).quality == 80
        assert GaussianNoise(np.float32(0.5)).sigma == 0.5
        assert GaussianNoise(1).sigma == 1
