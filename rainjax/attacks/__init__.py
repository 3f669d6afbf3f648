"""Attacks: one family per file, one contract for all (see `Attack`)."""

from rainjax.attacks._base import Attack, BallAttack
from rainjax.attacks.carlini_wagner import CarliniWagner, CarliniWagnerLinf
from rainjax.attacks.deepfool import DeepFool
from rainjax.attacks.elastic_net import ElasticNet
from rainjax.attacks.eot import EOT
from rainjax.attacks.minimum_norm import MinimumNormAttack
from rainjax.attacks.pgd import PGD, fgsm

__all__ = [
    "EOT",
    "PGD",
    "Attack",
    "BallAttack",
    "CarliniWagner",
    "CarliniWagnerLinf",
    "DeepFool",
    "ElasticNet",
    "MinimumNormAttack",
    "fgsm",
]
