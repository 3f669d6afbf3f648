"""Threat models: what an attacker knows, what he differentiates, and how he climbs it."""

import abc
import dataclasses
from typing import Any, Literal, get_args, get_type_hints

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax._values import Value
from rainjax.attacks import EOT, Attack
from rainjax.attacks.labels import LabelOnly
from rainjax.defenses import Identity
from rainjax.defenses._base import Defense, quantizes
from rainjax.ensemble import Ensemble
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.distorted import Distorted
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.names import check_name
from rainjax.evaluation.published import Published
from rainjax.evaluation.rounding_certificate import RoundingCertificate
from rainjax.evaluation.subject import Subject
from rainjax.gradients import BPDA, with_own_gradient
from rainjax.guarded import Guarded
from rainjax.pipeline import Pipeline
from rainjax.transforms.blocks import Rounding
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Surrogate(Value):
    """What an attacker differentiates instead of the pipeline that is scored."""

    @abc.abstractmethod
    def of(self, pipeline: Pipeline) -> Pipeline | None:
        """Returns the pipeline that is differentiated, with the parameters that `params` returns.

        None says that such an attacker has nothing to do here: the threat model does not apply.
        """

    def params(self, own: Params) -> Params:
        """Returns the parameters of what is differentiated; by default the subject's `own`."""
        return own

    def fitted(self, attack: Any, surrogate: Pipeline, height: int) -> Any:
        """Returns `attack` as it fits a surrogate of images `height` high.

        By default as it is, but for an `Ensemble`, whose every member it asks about.
        """
        del height
        return surrogate.fitted(attack) if isinstance(surrogate, Ensemble) else attack


@dataclasses.dataclass(frozen=True)
class Itself(Surrogate):
    """The pipeline as it is: white box, or black box for an attack that takes no gradient."""

    def of(self, pipeline: Pipeline) -> Pipeline:
        return pipeline


@dataclasses.dataclass(frozen=True)
class ClassifierAlone(Surrogate):
    """The classifier without its defense: an attacker who is blind to it."""

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        return pipeline.undefended()


@dataclasses.dataclass(frozen=True)
class IdentityGradient(Surrogate):
    """The true pipeline, with the identity's gradient for the defense's: plain BPDA."""

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        if not pipeline.defended:
            return None
        return pipeline.map_defense(lambda defense: BPDA(defense, Identity()))


@dataclasses.dataclass(frozen=True)
class OwnGradient(Surrogate):
    """The true pipeline, with the gradient that its defense names: its own, or a soft twin's."""

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        return pipeline.map_defense(with_own_gradient) or pipeline


@dataclasses.dataclass(frozen=True)
class GradientOf(Surrogate):
    """The true pipeline, with the gradient of `backward` for the defense's."""

    backward: Defense

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        if not pipeline.defended:
            return None
        return pipeline.map_defense(lambda defense: BPDA(defense, self.backward))


@dataclasses.dataclass(frozen=True)
class SoftRounding(Surrogate):
    """The true pipeline, with the gradient of soft rounding wherever its defense rounds.

    That is wherever it has a field `rounding`, in a stage of it as well. At the jumps a `"sine"`
    is steeper than a `"cubic"`, which `OwnGradient` takes: see `transforms.rounded`.
    """

    rounding: Literal["cubic", "sine"] = "sine"

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        rounds = []

        def soft(defense: Defense) -> Defense:
            twin = _with_rounding(defense, self.rounding)
            rounds.append(twin != defense)
            return BPDA(defense, twin) if rounds[-1] else defense

        surrogate = pipeline.map_defense(soft)
        return surrogate if any(rounds) else None


@dataclasses.dataclass(frozen=True)
class MeanField(Surrogate):
    """A defense's mean over its draws, its outcomes enumerated, where it offers one."""

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        found: list[Defense | None] = []

        def mean(defense: Defense) -> Defense:
            found.append(defense.mean_field())
            return found[-1] or defense

        surrogate = pipeline.map_defense(mean)
        return surrogate if found and found[-1] is not None else None

    def fitted(self, attack: Any, surrogate: Pipeline, height: int) -> Any:
        """Returns the attack with every outcome of the surrogate once in each of its answers."""
        num = surrogate.num_outcomes(height)
        if num is None:
            return attack
        return dataclasses.replace(attack, eot=enumerated(attack.eot, num))


@dataclasses.dataclass(frozen=True)
class RoundedOutputs(Surrogate):
    """The identity's gradient for a defense that lists what it can return, where it rounds.

    That is the gradient at the defense's output, which `ReachableOutputs` asks for; it is given
    the defense as well. It does not apply where the defense is no `Quantizer`, or has parameters.
    """

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        found: list[bool] = []

        def straight(defense: Defense) -> Defense:
            found.append(quantizes(defense))
            return BPDA(defense, Identity())

        surrogate = pipeline.map_defense(straight)
        return surrogate if any(found) else None

    def fitted(self, attack: Any, surrogate: Pipeline, height: int) -> Any:
        """Returns the attack with the surrogate's defense."""
        del height
        found: list[Defense] = []

        def take(defense: Defense) -> Defense:
            found.append(defense.forward if isinstance(defense, BPDA) else defense)
            return defense

        surrogate.map_defense(take)
        return dataclasses.replace(attack, defense=found[-1])


@dataclasses.dataclass(frozen=True)
class WantsRejection(Surrogate):
    """A pipeline that rejects, for an attacker who has gained with a rejection: a saboteur.

    Whatever the pipeline says of it: see `rainjax.Guarded`. It does not apply to others.
    """

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        if not isinstance(pipeline, Guarded):
            return None
        return dataclasses.replace(pipeline, rejected="error")


@dataclasses.dataclass(frozen=True)
class Transfer(Surrogate):
    """Another pipeline, of the attacker's own: what fools it is tried on all subjects alike.

    The attacker asks the pipeline that is scored nothing: `knowledge=Knowledge.TRANSFER`. An
    iterative attack that fits its source well may transfer badly; `rainjax.attacks` has what
    helps (`VMI`, `Admix`, `InputDiversity` and its likes, losses without a probability), and so
    have several sources at once: `Transfer(joined("ensemble", subjects))`.
    """

    source: Subject

    def of(self, pipeline: Pipeline) -> Pipeline:
        return self.source.pipeline

    def params(self, own: Params) -> Params:
        return self.source.params


@dataclasses.dataclass(frozen=True)
class When(Surrogate):
    """Another surrogate, where the pipeline is `random` or `defended`, or is not; None: either."""

    surrogate: Surrogate
    random: bool | None = None
    defended: bool | None = None

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        for wanted, found in (
            (self.random, pipeline.is_random),
            (self.defended, pipeline.defended),
        ):
            if wanted is not None and wanted != found:
                return None
        return self.surrogate.of(pipeline)

    def params(self, own: Params) -> Params:
        return self.surrogate.params(own)

    def fitted(self, attack: Any, surrogate: Pipeline, height: int) -> Any:
        return self.surrogate.fitted(attack, surrogate, height)


@dataclasses.dataclass(frozen=True)
class ThreatModel(metaclass=Named):
    """An attacker: an attack, what it differentiates, and what that takes to know.

    `attack` is None where nobody attacks, a `RoundingCertificate` where it is proved what
    nobody can change, and `Distorted` where an image is of poor quality; nobody attacks it then
    unless it says so. With
    `knowledge=Knowledge.KEYS` the attacker is given the draws that will be scored, all of them,
    and needs `EOT(draws="enumerated")`; that applies to random pipelines alone. A `Ladder` asks
    the whole pipeline what still stands, so its attacker knows SCORES or DEFENSE; one who knows
    LABELS has an attack that asks for no more, such as `HopSkipJump`. `num_examples`
    lowers a study's, where an attack is dear, and never raises it. `tags` name the displays it is
    for: "table", or the curve that it is a point of.
    `protocol` is what a published protocol fixes: where the measurement deviates, its record and
    the tables say so.

    >>> from rainjax import EOT, PGD, Defended, nets
    >>> from rainjax.defenses import GaussianNoise
    >>> from rainjax.evaluation import IdentityGradient, ThreatModel
    >>> bpda = ThreatModel("BPDA", PGD(eot=EOT(16)), IdentityGradient())
    >>> bpda.surrogate.of(Defended(GaussianNoise(), nets.ResNet(depth=8))).defense
    BPDA(forward=GaussianNoise(sigma=0.25), backward=Identity())

    Raises:
        ValueError: a part is of another kind, or the parts do not fit each other.
    """

    name: str
    attack: Attack | AutoAttack | Ladder | RoundingCertificate | None
    surrogate: Surrogate = Itself()
    knowledge: Knowledge = Knowledge.DEFENSE
    num_examples: int | None = None
    description: str = ""
    tags: tuple[str, ...] = ("table",)
    protocol: Published | None = None

    def __post_init__(self):
        check_name(self.name)
        check_fields(self)
        if self.protocol is not None:
            self.protocol.check(self.attack)
        nobody = self.attack is None or isinstance(self.attack, RoundingCertificate)
        if isinstance(self.attack, Distorted):
            nobody = self.attack.then is None
        if nobody != (self.knowledge is Knowledge.NONE):
            raise ValueError(
                f"The threat model {self.name!r} has attack={self.attack!r} and knowledge="
                f"{self.knowledge.name}: with NONE there is no attack, a certificate or a "
                "distortion, with all others an attack."
            )
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"num_examples={self.num_examples} must be at least 1.")
        if getattr(self.attack, "targeted", False):
            raise ValueError(
                f"The attack of {self.name!r} is targeted, and would lead towards the true "
                "labels: leave targeted=False."
            )
        surrogate, own = _inner(self.surrogate), self.source is not None
        if not nobody and own != (self.knowledge is Knowledge.TRANSFER):
            raise ValueError(
                f"The threat model {self.name!r} has surrogate={type(surrogate).__name__} and "
                f"knowledge={self.knowledge.name}: an attacker with a pipeline of his own, a "
                "Transfer, knows TRANSFER and nothing of the one that is scored."
            )
        asks = (Knowledge.SCORES, Knowledge.DEFENSE)
        if isinstance(self.attack, Ladder) and self.knowledge not in asks:
            raise ValueError(
                f"The attack of {self.name!r} is a Ladder, which asks the whole pipeline what "
                f"still stands, and knowledge={self.knowledge.name} does not allow that: give "
                "SCORES, or DEFENSE, whatever the surrogate."
            )
        query = getattr(self.attack, "query", None)
        if self.knowledge is Knowledge.LABELS and not isinstance(query, LabelOnly):
            raise ValueError(
                f"The attacker of {self.name!r} knows LABELS, and {type(self.attack).__name__} "
                "asks for more: give SCORES for logits, DEFENSE for gradients, or an attack whose "
                "query is LabelOnly, such as HopSkipJump."
            )
        if self.knowledge is Knowledge.KEYS:
            eot = getattr(self.attack, "eot", None)
            if eot is None or eot.draws != "enumerated":
                raise ValueError(
                    f"The attacker of {self.name!r} knows the scoring draws and should use each: "
                    "give the attack eot=EOT(draws='enumerated')."
                )

    @property
    def source(self) -> Subject | None:
        """What the attacker has of his own, where the surrogate is a `Transfer`."""
        surrogate = _inner(self.surrogate)
        return surrogate.source if isinstance(surrogate, Transfer) else None


def _inner(surrogate: Surrogate) -> Surrogate:
    """Returns a surrogate without the conditions around it."""
    while isinstance(surrogate, When):
        surrogate = surrogate.surrogate
    return surrogate


def proved(
    radius: float, *, norm: Literal["linf", "l2"] = "linf", tags: tuple[str, ...] = ("table",)
) -> ThreatModel:
    """Returns the lower end beside a study's attacks within a ball, where it can be proved."""
    return ThreatModel(
        "proved",
        RoundingCertificate(norm=norm, radius=radius),
        knowledge=Knowledge.NONE,
        description="a proof: no perturbation in the ball changes what the classifier answers",
        tags=tags,
    )


CLEAN = ThreatModel("clean", None, knowledge=Knowledge.NONE, description="no attack")


def enumerated(eot: EOT, num: int) -> EOT:
    """Returns an EOT over `num` outcomes by number, in chunks of at most the size it had."""
    most = eot.chunk_size
    chunk = most and max(n for n in range(1, min(most, num) + 1) if num % n == 0)
    return dataclasses.replace(eot, num_samples=num, draws="enumerated", chunk_size=chunk)


def _with_rounding(value: Any, rounding: str) -> Any:
    """Returns a value with another `rounding` in it and in all of its parts that have one."""
    if isinstance(value, tuple):
        return tuple(_with_rounding(part, rounding) for part in value)
    if not isinstance(value, Defense):
        return value
    own = [field.name for field in dataclasses.fields(value) if field.init]
    fields = {name: getattr(value, name) for name in own}
    changed = {
        name: rounding
        if name == "rounding" and _is_rounding(value)
        else _with_rounding(part, rounding)
        for name, part in fields.items()
    }
    return value if changed == fields else dataclasses.replace(value, **changed)


def _is_rounding(defense: Any) -> bool:
    """Tells whether a defense's `rounding` is one of this library's, and not just called so."""
    try:
        return get_type_hints(type(defense))["rounding"] == Rounding
    except NameError:  # a name that its module does not have: what is there now decides
        return defense.rounding in get_args(Rounding)
