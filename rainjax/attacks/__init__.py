"""Attacks: one family per file, one contract for all (see `Attack`)."""

from rainjax.attacks._base import Attack, BallAttack
from rainjax.attacks.admix import Admix, ImagePool
from rainjax.attacks.apgd import APGD
from rainjax.attacks.boundary import Boundary
from rainjax.attacks.carlini_wagner import CarliniWagner, CarliniWagnerLinf
from rainjax.attacks.deepfool import DeepFool
from rainjax.attacks.directions import Direction, JointDirection, UnitGradients
from rainjax.attacks.elastic_net import ElasticNet
from rainjax.attacks.eot import EOT
from rainjax.attacks.fab import FAB
from rainjax.attacks.hop_skip_jump import HopSkipJump
from rainjax.attacks.labels import LabelAttack
from rainjax.attacks.minimum_norm import MinimumNormAttack
from rainjax.attacks.momentum import MomentumAttack
from rainjax.attacks.nes import NES
from rainjax.attacks.noisy_apgd import NoisyAPGD
from rainjax.attacks.pgd import PGD, fgsm
from rainjax.attacks.rays import RayS
from rainjax.attacks.reachable import ReachableOutputs
from rainjax.attacks.scores import ScoreAttack
from rainjax.attacks.selective import SelectivePGD
from rainjax.attacks.sequential import SequentialTest
from rainjax.attacks.simba import SimBA
from rainjax.attacks.spsa import SPSA
from rainjax.attacks.square import Square
from rainjax.attacks.starts import GivenImages, Start, UniformNoise
from rainjax.attacks.surfree import SurFree
from rainjax.attacks.transfer import InputDiversity, ScaleInvariance, TranslationInvariance
from rainjax.attacks.variance import VMI
from rainjax.attacks.zeroth_order import ZOO

__all__ = [
    "APGD",
    "EOT",
    "FAB",
    "NES",
    "PGD",
    "SPSA",
    "VMI",
    "ZOO",
    "Admix",
    "Attack",
    "BallAttack",
    "Boundary",
    "CarliniWagner",
    "CarliniWagnerLinf",
    "DeepFool",
    "Direction",
    "ElasticNet",
    "GivenImages",
    "HopSkipJump",
    "ImagePool",
    "InputDiversity",
    "JointDirection",
    "LabelAttack",
    "MinimumNormAttack",
    "MomentumAttack",
    "NoisyAPGD",
    "RayS",
    "ReachableOutputs",
    "ScaleInvariance",
    "ScoreAttack",
    "SelectivePGD",
    "SequentialTest",
    "SimBA",
    "Square",
    "Start",
    "SurFree",
    "TranslationInvariance",
    "UniformNoise",
    "UnitGradients",
    "fgsm",
]
