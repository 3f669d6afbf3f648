"""Purifiers: one file per published method."""

from rainjax.defenses._base import Chain, Defense, Identity
from rainjax.defenses.feature_distillation import FeatureDistillation, two_steps
from rainjax.defenses.jpeg import JPEG, SHIELD
from rainjax.defenses.rain import RAIN, MeanFieldRAIN

__all__ = [
    "JPEG",
    "RAIN",
    "SHIELD",
    "Chain",
    "Defense",
    "FeatureDistillation",
    "Identity",
    "MeanFieldRAIN",
    "two_steps",
]
