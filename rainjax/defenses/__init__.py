"""Purifiers: one file per published method."""

from rainjax.defenses._base import Chain, Defense, Deterministic, Identity
from rainjax.defenses.feature_distillation import FeatureDistillation, two_steps
from rainjax.defenses.jpeg import JPEG, SHIELD
from rainjax.defenses.quilting import Quilting, patch_bank
from rainjax.defenses.rain import RAIN, MeanFieldRAIN
from rainjax.defenses.squeezing import BitDepth, MedianFilter
from rainjax.defenses.total_variation import TotalVariation

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
    "Quilting",
    "TotalVariation",
    "patch_bank",
    "two_steps",
]
