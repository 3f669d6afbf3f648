"""Purifiers: one file per published method."""

from rainjax.defenses._base import Chain, Defense, Identity
from rainjax.defenses.rain import RAIN, MeanFieldRAIN

__all__ = ["RAIN", "Chain", "Defense", "Identity", "MeanFieldRAIN"]
