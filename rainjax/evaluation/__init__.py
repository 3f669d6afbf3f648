"""Attacking, scoring and recording: from one batch to a whole study."""

from rainjax.evaluation.driver import run_attack
from rainjax.evaluation.scoring import attack_batch, keep_worse, round_to_8bit, score

__all__ = ["attack_batch", "keep_worse", "round_to_8bit", "run_attack", "score"]
