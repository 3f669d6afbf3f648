"""Purifiers: one file per published method."""

from rainjax.defenses._base import (
    Candidates,
    Chain,
    Defense,
    Deterministic,
    Identity,
    Iterative,
    Quantizer,
)
from rainjax.defenses.bilateral import BilateralFilter
from rainjax.defenses.feature_distillation import FeatureDistillation, two_steps
from rainjax.defenses.gaussian_noise import GaussianNoise
from rainjax.defenses.gaussian_smoothing import GaussianSmoothing
from rainjax.defenses.jpeg import JPEG, SHIELD
from rainjax.defenses.low_pass import LowPass
from rainjax.defenses.ncis import NCIS
from rainjax.defenses.non_local_means import NonLocalMeans
from rainjax.defenses.pixel_deflection import PixelDeflection
from rainjax.defenses.quilting import Quilting, patch_bank
from rainjax.defenses.rain import RAIN, MeanFieldRAIN
from rainjax.defenses.random_crop import RandomCrop
from rainjax.defenses.random_resize_pad import RandomResizePad
from rainjax.defenses.random_subset import RandomSubset
from rainjax.defenses.squeezing import BitDepth, MedianFilter
from rainjax.defenses.super_resolution import SuperResolution
from rainjax.defenses.total_variation import TotalVariation
from rainjax.defenses.wavelet_denoising import WaveletDenoising

__all__ = [
    "JPEG",
    "NCIS",
    "RAIN",
    "SHIELD",
    "BilateralFilter",
    "BitDepth",
    "Candidates",
    "Chain",
    "Defense",
    "Deterministic",
    "FeatureDistillation",
    "GaussianNoise",
    "GaussianSmoothing",
    "Identity",
    "Iterative",
    "LowPass",
    "MeanFieldRAIN",
    "MedianFilter",
    "NonLocalMeans",
    "PixelDeflection",
    "Quantizer",
    "Quilting",
    "RandomCrop",
    "RandomResizePad",
    "RandomSubset",
    "SuperResolution",
    "TotalVariation",
    "WaveletDenoising",
    "patch_bank",
    "two_steps",
]
