"""Published protocols by name: what the field calls standard, and where a study deviates from it.

Each function returns a `Protocol`, whose threat models a study takes as they are or with options
of its own: `threats=lee_kim_2023().threats(num_examples=64)`. The records then say what was done
otherwise than published, and tables print it below the number. What a protocol measures and this
library does not have is named there too. All values of the attacks are from the published code,
read in 2026.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from rainjax._arguments import Named
from rainjax._checks import check_fields, check_option
from rainjax.attacks import APGD, EOT, PGD, Attack, Square, balls
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.published import Published, propagations
from rainjax.evaluation.threats import CLEAN, Itself, OwnGradient, ThreatModel

_OF_THREAT = ("num_examples", "surrogate", "tags")
_OF_EOT = {"num_draws": "num_samples", "chunk_size": "chunk_size"}
_IN_ATTACK = "judged on draws of its own after the attack (published: inside the attack"
_IMAGES = "the first images of the set (published: drawn at random)"
_TFDS = {"cifar10": "cifar10", "svhn": "svhn_cropped", "imagenet": "imagenet2012"}
_CUBE = math.sqrt(32 * 32 * 3)  # the L2 length of a step of one along the sign of a gradient


@dataclasses.dataclass(frozen=True)
class Protocol(metaclass=Named):
    """What somebody published as the way to measure: threat models, and the source they are from.

    `published` are the threat models with the published options.
    """

    name: str
    source: str
    published: tuple[ThreatModel, ...]

    def __post_init__(self):
        check_fields(self)

    def threats(self, **deviations: Any) -> tuple[ThreatModel, ...]:
        """Returns clean images and the protocol's threat models, with other options if given.

        Without any they are as published. `num_examples`, `surrogate` and `tags` are options of
        the threat models, `num_draws` and `chunk_size` of their EOT, and all others of their
        attacks, of those that have them: `radius`, `num_steps`, `step_size`, `num_restarts`,
        `num_queries`. A record names whatever differs from what was published.

        Raises:
            ValueError: no attack of the protocol has an option of this name, or it is out of
                range.
        """
        changed = tuple(_changed(threat, deviations) for threat in self.published)
        known = (*_OF_THREAT, *_OF_EOT, *_options(self.published))
        for name in deviations:
            if name not in known:
                raise ValueError(
                    f"No attack of {self.name} has the option {name!r}: give one of "
                    f"{', '.join(known)}."
                )
        return (CLEAN, *changed)


def lee_kim_2023(
    norm: Literal["linf", "l2"] = "linf", data: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
) -> Protocol:
    """Returns the protocol of Lee and Kim (2023, arXiv 2303.09051): EOT-PGD with many steps.

    PGD with 200 steps of 0.007, 20 draws a step and no random start, L-inf 8/255 or L2 0.5, on
    512 images; on ImageNet 20 steps, L-inf 4/255. Other people's purifiers are scored by one
    draw, the authors' own by the vote of ten; a record holds the vote of its scoring draws as
    well. Its purifiers are attacked through fewer steps of diffusion than they take, which is a
    surrogate of the defense's own: give `threats(surrogate=...)`.

    Raises:
        ValueError: it has no such norm or data set.
    """
    check_option("norm", norm, Literal["linf", "l2"])
    check_option("data", data, Literal["cifar10", "svhn", "imagenet"])
    if norm == "l2" and data != "cifar10":
        raise ValueError(f"lee-kim-2023 attacks {data} in L-inf alone: leave norm='l2' out.")
    large = data == "imagenet"
    attack = PGD(
        norm=norm,
        radius=0.5 if norm == "l2" else (4 if large else 8) / 255,
        step_size=0.007 * (_CUBE if norm == "l2" else 1),
        num_steps=20 if large else 200,
        random_start=False,
        eot=EOT(20),
    )
    return _protocol(
        "lee-kim-2023",
        "Lee and Kim (2023), arXiv 2303.09051, and their published code",
        [("PGD", attack, Knowledge.DEFENSE)],
        data=_TFDS[data],
        num_examples=512,
        num_score_draws=1,
        network="ResNet-50" if large else "WideResNet-28-10",
        shots="one-shot, and the vote of 10 draws for the authors' own purifier",
        differs=(
            _IMAGES,
            "one-shot for every purifier (published: the vote of 10 for their own)",
            *_sign_steps(norm, "0.007"),
        ),
    )


def diffpure_aa(
    norm: Literal["linf", "l2"] = "linf", data: Literal["cifar10", "imagenet"] = "cifar10"
) -> Protocol:
    """Returns the protocol of DiffPure (Nie et al., 2022, arXiv 2205.07460): AutoAttack twice.

    The versions "rand", with 20 draws a step, and "standard", of which the lower accuracy is
    told; here every image meets the worst of both, which is never more. L-inf 8/255 (ImageNet
    4/255) or L2 0.5, on 512 images.

    Raises:
        ValueError: it has no such norm or data set.
    """
    check_option("norm", norm, Literal["linf", "l2"])
    check_option("data", data, Literal["cifar10", "imagenet"])
    radius = _robustbench_radius("diffpure-aa", norm, data)
    attack = AutoAttack(version="rand+standard", norm=norm, radius=radius, eot=EOT(20))
    return _protocol(
        "diffpure-aa",
        "Nie et al. (2022), arXiv 2205.07460, and their published code",
        [("AutoAttack", attack, Knowledge.DEFENSE)],
        data=_TFDS[data],
        num_examples=512,
        num_score_draws=1,
        network="ResNet-50" if data == "imagenet" else "WideResNet-28-10",
        shots="N-shot, N the draws that AutoAttack takes",
        differs=(
            _IMAGES,
            "NoisyAPGD in version rand (published: APGD)",
            "the worst of both versions per image (published: the lower of two accuracies)",
            f"{_IN_ATTACK}, where one wrong draw is enough)",
        ),
    )


def adbm(norm: balls.Norm = "linf") -> Protocol:
    """Returns the protocol of ADBM (Li et al., 2025, arXiv 2408.00315): white box and queries.

    PGD with 200 steps, 20 draws a step and a random start, in L-inf 8/255, L2 1.0 or L1 12, and
    in L-inf Square with 5,000 queries as well; on 512 images of CIFAR-10.

    Raises:
        ValueError: it has no such norm.
    """
    balls.check(norm, 0.0)
    radius = {"linf": 8 / 255, "l2": 1.0, "l1": 12.0}[norm]
    step_size = {"linf": 0.007, "l2": 0.005 * _CUBE, "l1": 1.0}[norm]
    options = {"norm": norm, "radius": radius}
    attack = PGD(step_size=step_size, num_steps=200, eot=EOT(20), **options)
    attacks: list[tuple[str, Attack | AutoAttack, Knowledge]] = [
        ("PGD", attack, Knowledge.DEFENSE)
    ]
    black_box: tuple[str, ...] = ()
    if norm == "linf":
        attacks.append(("Square", Square(num_queries=5000, **options), Knowledge.SCORES))
        black_box = ("SPSA", "RayS with 5,000 queries")
    steps = {
        "linf": (),
        "l2": (*_sign_steps(norm, "0.005"), "starts in the ball (published: in the cube)"),
        "l1": ("1 % of the values move in a step (published: 5 %)",),
    }[norm]
    left_out = ", ".join((*black_box, "AutoAttack", "mean cosine of 10 gradients"))
    return _protocol(
        "adbm",
        "Li et al. (2025), arXiv 2408.00315, and their published code",
        attacks,
        data="cifar10",
        num_examples=512,
        num_score_draws=1,
        network="WideResNet-70-16",
        differs=(_IMAGES, *steps, f"left out: {left_out}"),
    )


def diffhammer() -> Protocol:
    """Returns the protocol of DiffHammer (Wang et al., 2024): the average and the worst of ten.

    APGD with 3 restarts of 50 steps, L-inf 8/255; ten draws score every image, clean ones as
    well, and both their mean (one-shot) and their worst (10-shot) are told. The published attack
    scores every point that it visits. How many images there are is left to a configuration.
    """
    attack = APGD(loss="margin", num_steps=50, num_restarts=3, eot=EOT(10))
    return _protocol(
        "diffhammer",
        "Wang et al. (2024), NeurIPS, and their published code",
        [("APGD", attack, Knowledge.DEFENSE)],
        data="cifar10",
        num_score_draws=10,
        network="WideResNet-70-16",
        shots="one-shot and 10-shot",
        differs=(
            "gradients averaged over 10 draws (published: chosen among 10 by EM)",
            f"{_IN_ATTACK}, at every point visited)",
            "every image in every restart, with the margin (published: those that stand, with a "
            "loss for each restart)",
        ),
    )


def robustbench(
    norm: Literal["linf", "l2"] = "linf", data: Literal["cifar10", "imagenet"] = "cifar10"
) -> Protocol:
    """Returns the protocol of RobustBench (Croce et al., 2021, arXiv 2010.09670).

    AutoAttack's version "standard" on the 10,000 images of CIFAR-10, L-inf 8/255 or L2 0.5, or on
    5,000 of ImageNet, L-inf 4/255. It admits no random pipeline.

    Raises:
        ValueError: it has no such norm or data set.
    """
    check_option("norm", norm, Literal["linf", "l2"])
    check_option("data", data, Literal["cifar10", "imagenet"])
    radius = _robustbench_radius("robustbench", norm, data)
    large = data == "imagenet"
    attack = AutoAttack(norm=norm, radius=radius, eot=EOT(), num_targets=9, num_select_draws=1)
    return _protocol(
        "robustbench",
        "Croce et al. (2021), arXiv 2010.09670, and their published code",
        [("AutoAttack", attack, Knowledge.DEFENSE)],
        data=_TFDS[data],
        num_examples=5000 if large else 10000,
        num_score_draws=1,
    )


def attackbench(attack: Attack | AutoAttack, *, name: str | None = None) -> Protocol:
    """Returns the protocol of AttackBench (Cinà et al., 2024, arXiv 2404.19460) for an attack.

    It compares attacks at one price: at most 2,000 propagations an image, forward and backward
    passes counted together; see `rainjax.evaluation.published.propagations`. An attack that costs
    more is refused, where AttackBench lets it go on with a network that answers zeros.

    Raises:
        ValueError: the attack costs more; names both numbers.
    """
    _, backward = propagations(attack)
    knowledge = Knowledge.DEFENSE if backward else Knowledge.SCORES
    return _protocol(
        "attackbench",
        "Cinà et al. (2024), arXiv 2404.19460, and their published code",
        [(name or type(attack).__name__, attack, knowledge)],
        num_score_draws=1,
        most_propagations=2000,
        differs=("the last images are judged (published: the nearest success of all visited)",),
    )


def _protocol(
    name: str,
    source: str,
    attacks: Sequence[tuple[str, Attack | AutoAttack, Knowledge]],
    **fixed: Any,
) -> Protocol:
    threats = []
    for title, attack, knowledge in attacks:
        white = knowledge is Knowledge.DEFENSE
        view = {"surrogate": OwnGradient() if white else Itself(), "knowledge": knowledge}
        published = Published(protocol=name, source=source, attack=attack, **view, **fixed)
        threats.append(
            ThreatModel(
                f"{name} {title}",
                attack,
                **view,
                num_examples=published.num_examples,
                description="white box: the defense's own gradient, or its soft twin's"
                if white
                else "black box: the logits of the whole pipeline, and no gradient",
                protocol=published,
            )
        )
    return Protocol(name, source, tuple(threats))


def _changed(threat: ThreatModel, deviations: dict[str, Any]) -> ThreatModel:
    """Returns a threat model with those of the options that it, its attack or its EOT has."""
    attack: Any = threat.attack
    of_eot = {_OF_EOT[name]: deviations[name] for name in _OF_EOT if name in deviations}
    if of_eot:
        attack = dataclasses.replace(attack, eot=dataclasses.replace(attack.eot, **of_eot))
    own = {name: given for name, given in deviations.items() if name in _fields(attack)}
    of_threat = {name: deviations[name] for name in _OF_THREAT if name in deviations}
    return dataclasses.replace(threat, attack=dataclasses.replace(attack, **own), **of_threat)


def _options(threats: Sequence[ThreatModel]) -> list[str]:
    return list(dict.fromkeys(name for threat in threats for name in _fields(threat.attack)))


def _fields(attack: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(attack)]


def _robustbench_radius(name: str, norm: str, data: str) -> float:
    if data == "imagenet":
        if norm == "l2":
            raise ValueError(f"{name} attacks imagenet in L-inf alone: leave norm='l2' out.")
        return 4 / 255
    return 8 / 255 if norm == "linf" else 0.5


def _sign_steps(norm: str, size: str) -> tuple[str, ...]:
    if norm != "l2":
        return ()
    return (f"steps along the gradient (published: {size} along its sign, which is as long)",)
