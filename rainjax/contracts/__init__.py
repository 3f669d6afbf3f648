"""What every defense, attack and detector promises, to be checked from an author's own tests.

def test_my_defense_keeps_its_promises():
    rainjax.check_defense(MyDefense(0.3), image_shape=(32, 32, 3))
"""

from rainjax.contracts.attacks import AttackOutputs, check_attack
from rainjax.contracts.defenses import DefenseOutputs, check_defense
from rainjax.contracts.detectors import DetectorOutputs, check_detector

__all__ = [
    "AttackOutputs",
    "DefenseOutputs",
    "DetectorOutputs",
    "check_attack",
    "check_defense",
    "check_detector",
]
