"""Batteries of threat models: what every defense should meet before its accuracy is believed."""

import dataclasses

from rainjax.attacks import APGD, EOT, NoisyAPGD, ReachableOutputs, Square
from rainjax.defenses import LowPass
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.threats import (
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Itself,
    MeanField,
    OwnGradient,
    RoundedOutputs,
    SoftRounding,
    ThreatModel,
    When,
)


def ladders(
    radius: float = 8 / 255,
    *,
    num_steps: int = 20,
    eot: EOT | None = None,
    num_queries: int = 500,
    max_gradients: int = 20_000,
    stability: float | None = 0.9,
    num_examples: int | None = None,
    tags: tuple[str, ...] = ("table",),
) -> tuple[ThreatModel, ...]:
    """Returns a strength ladder within an L-inf `radius` for every surrogate that may apply.

    They are what an accuracy above the undefended classifier's needs before a table shows it
    without "≤". The first rung takes `num_steps` steps or `num_queries` queries; where a pipeline
    is random it averages over the draws of `eot`, or over more where the gradient needs them for
    its `stability`. A ladder ends at `max_gradients` per image, flat or not: see `Ladder`.

    Raises:
        ValueError: as `Ladder` does.
    """
    eot = EOT(4) if eot is None else eot
    exact = APGD(radius=radius, num_steps=num_steps, loss="margin")
    noisy = NoisyAPGD(radius=radius, num_steps=num_steps, loss="margin", eot=eot)
    # Where nothing is random the first success is one for good.
    first = dataclasses.replace(exact, early_stop=True)
    reach = ReachableOutputs(radius=radius, num_steps=num_steps, num_restarts=2, early_stop=True)
    noisy_reach = ReachableOutputs(
        radius=radius, num_steps=num_steps, num_restarts=1, best_iterate=False, eot=eot
    )
    search = Square(radius=radius, num_queries=num_queries, paired=False, early_stop=True)
    paired = Square(radius=radius, num_queries=num_queries, paired=True)
    gradients = Knowledge.DEFENSE
    # What it is called, what is differentiated, what the attacker knows, and how he climbs a
    # surrogate of a pipeline without randomness, and of one with it.
    found = (
        ("BPDA, identity", IdentityGradient(), gradients, first, noisy),
        ("own gradient", OwnGradient(), gradients, first, noisy),
        ("sharper rounding", SoftRounding("sine"), gradients, first, noisy),
        ("BPDA, low-pass", GradientOf(LowPass()), gradients, first, noisy),
        ("reachable outputs", RoundedOutputs(), gradients, reach, noisy_reach),
        ("mean field", MeanField(), gradients, exact, exact),
        ("transfer", When(ClassifierAlone(), defended=True), gradients, exact, exact),
        ("Square", Itself(), Knowledge.SCORES, search, paired),
    )
    words = {
        "BPDA, identity": "the identity's gradient for the defense's",
        "own gradient": "the defense's own gradient, or its soft twin's",
        "sharper rounding": "the gradient of rounding that is nearly as sharp as the true one",
        "BPDA, low-pass": "a low-pass filter's gradient for the defense's",
        "reachable outputs": "the best of the outputs that the rounding can be led to",
        "mean field": "the defense's mean over its draws, every outcome counted",
        "transfer": "gradients of the classifier alone, kept where they fool the whole pipeline",
        "Square": "the logits of the whole pipeline, and no gradient",
    }
    return tuple(
        ThreatModel(
            f"{name}, ladder",
            Ladder(attack, max_gradients=max_gradients, stability=stability),
            When(surrogate, random=random),
            knowledge,
            num_examples=num_examples,
            description=f"{words[name]}; steps, draws and restarts doubled until nothing falls",
            tags=tags,
        )
        for name, surrogate, knowledge, *attacks in found
        for random, attack in zip((False, True), attacks, strict=True)
    )
