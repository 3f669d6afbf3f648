"""Whether an attack can be run on a pipeline, by its draws, keys and loss, before any work."""

import dataclasses

from rainjax.attacks import EOT, Attack, losses
from rainjax.pipeline import Pipeline


def check_known_key(attack: Attack, num_score_draws: int, known_key: bool) -> None:
    """Refuses an attack that cannot use the keys it is given.

    Raises:
        ValueError: `known_key` with an attack that does not enumerate exactly the draws that
            will be scored.
    """
    if not known_key:
        return
    eot = attack.eot
    if eot.draws != "enumerated":
        raise ValueError(f"known_key needs an attack with draws='enumerated', not {eot}.")
    if eot.num_samples != num_score_draws:
        raise ValueError(
            f"An attacker who knows the {num_score_draws} scoring draws should use them all: "
            f"set num_samples={num_score_draws}, not {eot.num_samples}."
        )


def check_outcomes(surrogate: Pipeline, eot: EOT, height: int) -> None:
    """Refuses draws that the surrogate's defense does not offer.

    Raises:
        ValueError: saying which.
    """
    name = type(getattr(surrogate, "defense", surrogate)).__name__
    if eot.draws == "stratified" and not surrogate.stratifies:
        raise ValueError(
            f"draws='stratified' needs a defense that can spread its draws evenly, and "
            f"{name} cannot: draw independent keys."
        )
    if eot.num_parts != surrogate.num_parts:
        raise ValueError(
            f"num_parts={eot.num_parts}, and {type(surrogate).__name__} has {surrogate.num_parts} "
            "to be asked about one by one: attack it with `surrogate.fitted(attack)`, which an "
            "Ensemble has."
        )
    there = surrogate.num_outcomes(height)
    if eot.draws == "enumerated" and there != eot.num_samples:
        raise ValueError(
            f"draws='enumerated' takes every outcome once, but num_samples={eot.num_samples} and "
            + (f"{name} has {there}." if there else f"{name} lists none: draw keys instead.")
        )


def check_losses(attack: Attack, num_classes: int) -> None:
    """Refuses an attack whose loss compares more classes than there are.

    Raises:
        ValueError: saying how many it compares, and what to take instead.
    """
    losses.check_classes(getattr(attack, "loss", None), attack.least_classes, num_classes)


def with_fitting_loss(attack: Attack, num_classes: int) -> Attack:
    """Returns the attack, with the margin loss where its own compares more classes than there are.

    The margin is what DLR divides by the spread of the logits, which takes three of them.
    """
    if attack.least_classes <= num_classes or not hasattr(attack, "loss"):
        return attack
    return dataclasses.replace(attack, **{"loss": "margin"})
