"""Purifiers: one file per published method."""

from rainjax.defenses._base import Chain, Defense, Deterministic, Identity
from rainjax.defenses.feature_distillation import FeatureDistillation, two_steps
from rainjax.defenses.jpeg import JPEG, SHIELD
from rainjax.defenses.pixel_deflection import PixelDeflection
from rainjax.defenses.rain import RAIN, MeanFieldRAIN
from rainjax.defenses.squeezing import BitDepth, MedianFilter
from rainjax.defenses.super_resolution import SuperResolution
from rainjax.defenses.total_variation import TotalVariation
from rainjax.defenses.wavelet_denoising import WaveletDenoising

__all__ = [
    "JPEG",
    "RAIN",
    "SHIELD",
    "BitDepth",
    "Chain",
    "Defense",
    "Deterministic",
    "FeatureDistillation",
    "Identity",
    "MeanFieldRAIN",
    "MedianFilter",
    "PixelDeflection",
    "SuperResolution",
    "TotalVariation",
    "WaveletDenoising",
    "two_steps",
]
