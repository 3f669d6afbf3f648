"""Batteries of threat models: what every defense should meet before its accuracy is believed."""

import dataclasses

from rainjax.attacks import APGD, EOT, PGD, NoisyAPGD, ReachableOutputs, Square
from rainjax.defenses import LowPass
from rainjax.evaluation.describe import describe, digest
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.threats import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Itself,
    MeanField,
    OwnGradient,
    RoundedOutputs,
    SoftRounding,
    Surrogate,
    ThreatModel,
    When,
    proved,
)
from rainjax.pipeline import Pipeline

# What `ladders` climbs: its name, what is differentiated, what the attacker knows, and in words.
CLIMBED: tuple[tuple[str, Surrogate, Knowledge, str], ...] = (
    (
        "BPDA, identity",
        IdentityGradient(),
        Knowledge.DEFENSE,
        "the identity's gradient for the defense's",
    ),
    (
        "own gradient",
        OwnGradient(),
        Knowledge.DEFENSE,
        "the defense's own gradient, or its soft twin's",
    ),
    (
        "sharper rounding",
        SoftRounding("sine"),
        Knowledge.DEFENSE,
        "the gradient of rounding that is nearly as sharp as the true one",
    ),
    (
        "BPDA, low-pass",
        GradientOf(LowPass()),
        Knowledge.DEFENSE,
        "a low-pass filter's gradient for the defense's",
    ),
    (
        "reachable outputs",
        RoundedOutputs(),
        Knowledge.DEFENSE,
        "the best of the outputs that the rounding can be led to",
    ),
    (
        "mean field",
        MeanField(),
        Knowledge.DEFENSE,
        "the defense's mean over its draws, every outcome counted",
    ),
    (
        "transfer",
        When(ClassifierAlone(), defended=True),
        Knowledge.DEFENSE,
        "gradients of the classifier alone, kept where they fool the whole pipeline",
    ),
    ("Square", Itself(), Knowledge.SCORES, "the logits of the whole pipeline, and no gradient"),
)


def adaptive(
    radius: float = 8 / 255,
    *,
    num_steps: int = 40,
    eot: EOT | None = None,
    num_queries: int = 1000,
    num_examples: int | None = None,
    tags: tuple[str, ...] = ("table",),
) -> tuple[ThreatModel, ...]:
    """Returns the battery that every defense should meet within an L-inf `radius`.

    Clean images; the blind attacker; whoever knows the defense and takes the identity's gradient
    for it, its own, or that of its mean over draws; where it rounds, a choice among the outputs
    that it can be led to; the average over draws where it is random; and a black box by scores,
    which tells when the gradients were what failed; and where the defense bounds what it rounds,
    a proof of what none of them can change. `num_examples` lowers the number of images
    for the attacks that average over draws.

    >>> from rainjax import EOT
    >>> from rainjax.evaluation import adaptive
    >>> battery = adaptive(8 / 255, num_steps=10, eot=EOT(4))
    >>> for name in dict.fromkeys(threat.name for threat in battery):
    ...     print(name)
    clean
    PGD-10, blind
    BPDA, identity
    own gradient
    mean field
    reachable outputs
    Square-1000
    proved

    Args:
        radius: Of the L-inf ball, in units of the [0, 1] range.
        num_steps: Steps of every attack that follows a gradient.
        eot: The draws averaged where a pipeline is random; one at a step for None.
        num_queries: What the black box asks, an image.
        num_examples: Images for attacks that average over draws; the study's own number for None.
        tags: The displays that they are for.
    """
    eot = EOT(16) if eot is None else eot
    exact = APGD(radius=radius, num_steps=num_steps, loss="margin")
    noisy = NoisyAPGD(radius=radius, num_steps=num_steps, loss="margin", eot=eot)
    mean = PGD(radius=radius, step_size=radius / 4, num_steps=num_steps)
    found = [dataclasses.replace(CLEAN, tags=tags)]
    found.append(
        ThreatModel(
            f"PGD-{num_steps}, blind",
            mean,
            When(ClassifierAlone(), defended=True),
            Knowledge.CLASSIFIER,
            description="blind to the defense: gradients of the classifier alone",
            tags=tags,
        )
    )
    ways = (
        ("BPDA, identity", IdentityGradient(), "the identity's gradient for the defense's"),
        ("own gradient", OwnGradient(), "the defense's own gradient, or its soft twin's"),
    )
    for name, surrogate, words in ways:
        for attack, random, num in ((exact, False, None), (noisy, True, num_examples)):
            averaged = f", averaged over {eot.num_samples} draws a step" if random else ""
            found.append(
                ThreatModel(
                    name,
                    attack,
                    When(surrogate, random=random),
                    num_examples=num,
                    description=f"white box: {words}{averaged}",
                    tags=tags,
                )
            )
    found.append(
        ThreatModel(
            "mean field",
            mean,
            MeanField(),
            num_examples=num_examples,
            description="white box: the defense's mean over its draws, every outcome counted",
            tags=tags,
        )
    )
    for random, num in ((False, None), (True, num_examples)):
        found.append(
            ThreatModel(
                "reachable outputs",
                ReachableOutputs(
                    radius=radius,
                    num_steps=num_steps,
                    num_restarts=1 if random else 4,
                    best_iterate=not random,
                    eot=eot if random else EOT(),
                    early_stop=not random,
                ),
                When(RoundedOutputs(), random=random),
                num_examples=num,
                description="white box: the best of the outputs that the rounding can be led to",
                tags=tags,
            )
        )
    for random, num in ((False, None), (True, num_examples)):
        draws = EOT(min(eot.num_samples, 4)) if random else EOT()
        found.append(
            ThreatModel(
                f"Square-{num_queries}",
                Square(radius=radius, num_queries=num_queries, eot=draws, paired=random),
                When(Itself(), random=random),
                Knowledge.SCORES,
                num_examples=num,
                description="black box: the logits of the whole pipeline, and no gradient",
                tags=tags,
            )
        )
    return (*found, proved(radius, tags=tags))


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

    Args:
        radius: Of the L-inf ball, in units of the [0, 1] range.
        num_steps: Steps of the first rung.
        eot: The draws of the first rung where a pipeline is random.
        num_queries: Queries of the first rung of the black box.
        max_gradients: Where a ladder ends, an image.
        stability: The cosine that two means of as many draws should have; None asks for none.
        num_examples: Images for every ladder; the study's own number for None.
        tags: The displays that they are for.

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
    # How an attacker climbs a surrogate of a pipeline without randomness, and of one with it.
    attacks = {
        "reachable outputs": (reach, noisy_reach),
        "mean field": (exact, exact),
        "transfer": (exact, exact),
        "Square": (search, paired),
    }
    return tuple(
        ThreatModel(
            f"{name}, ladder",
            Ladder(attack, max_gradients=max_gradients, stability=stability),
            When(surrogate, random=random),
            knowledge,
            num_examples=num_examples,
            description=f"{words}; steps, draws and restarts doubled until nothing falls",
            tags=tags,
        )
        for name, surrogate, knowledge, words in CLIMBED
        for random, attack in zip((False, True), attacks.get(name, (first, noisy)), strict=True)
    )


def climbable(pipeline: Pipeline) -> dict[str, tuple[str, str]]:
    """Returns every surrogate of `ladders` that applies to a pipeline, by its name.

    Of each it tells how it is climbed, by its "gradient", by "scores" or by the "outputs" that a
    defense lists, and a digest of what is. Where a defense or pipeline refuses one with an error,
    that counts as applying, with an empty digest: nobody climbed it.
    """
    found = {}
    for name, surrogate, knowledge, _ in CLIMBED:
        kind = "gradient" if knowledge > Knowledge.SCORES else "scores"
        if isinstance(surrogate, RoundedOutputs):
            kind = "outputs"  # of the pipeline that plain BPDA differentiates, too
        try:
            of = surrogate.of(pipeline)
            told = None if of is None else digest(describe(of))
        except Exception:  # somebody's own code, which a study without ladders need not run
            found[name] = kind, ""
            continue
        if of is not None and told is not None and (kind == "scores" or of.differentiable):
            found[name] = kind, told
    return found
