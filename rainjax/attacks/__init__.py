"""Attacks: one family per file, one contract for all (see `Attack`)."""

from rainjax.attacks._base import Attack, BallAttack
from rainjax.attacks.apgd import APGD
from rainjax.attacks.eot import EOT
from rainjax.attacks.pgd import PGD, fgsm

__all__ = ["APGD", "EOT", "PGD", "Attack", "BallAttack", "fgsm"]
