"""How often an attacker may try: the words for what a random pipeline's draws are counted as.

All are read from one run's stored logits. They are different numbers of the same attack, so none
stands beside another without its word.
"""

from typing import Any

from rainjax.evaluation.knowledge import Knowledge


def shots_of(record: dict[str, Any]) -> dict[str, str]:
    """Returns the word of each score of a record, which is given as its content.

    "mean" is *one-shot*: an image is sent once, and the draw is what it is. "worst" is *N-shot*: a
    success under any of N draws, an attacker who sends it again. "vote" is *vote of N*, the
    defender's. An attacker who holds the scoring keys is *known key*, whatever is counted. Where
    nothing is random all are *one-shot*, and one number.
    """
    draws = record["num_score_draws"]
    if not record["subject"]["is_random"]:
        return dict.fromkeys(("mean", "worst", "vote"), "one-shot")
    found = {"mean": "one-shot", "worst": f"{draws}-shot", "vote": f"vote of {draws}"}
    if Knowledge[record["threat"]["knowledge"].upper()] is not Knowledge.KEYS:
        return found
    return {name: f"known key, {word}" for name, word in found.items()}
