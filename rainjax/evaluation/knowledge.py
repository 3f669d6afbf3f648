"""What an attacker knows, from nothing to the defender's own random keys."""

import enum


class Knowledge(enum.IntEnum):
    """How much an attacker knows; an order, so that a weaker attacker can be told from a stronger.

    Records hold the names, never the numbers.
    """

    NONE = 0
    """Nobody attacks."""
    TRANSFER = 1
    """No question asked: a classifier of the attacker's own, and what fools that one."""
    LABELS = 2
    """Black box: the labels that the pipeline answers with."""
    SCORES = 3
    """Black box: the logits that the pipeline answers with."""
    CLASSIFIER = 4
    """Blind to the defense: the classifier alone, with its gradient (the NCIS paper's setting)."""
    DEFENSE = 5
    """Adaptive: the whole pipeline, but not the draws that will be scored."""
    KEYS = 6
    """The draws that will be scored as well; a diagnosis, which no attacker has outside."""
