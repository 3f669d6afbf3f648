"""Attacks: one family per file, one contract for all (see `Attack`)."""

from rainjax.attacks._base import Attack, GradientAttack
from rainjax.attacks.pgd import PGD, fgsm

__all__ = ["PGD", "Attack", "GradientAttack", "fgsm"]
