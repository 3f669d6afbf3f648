"""Several classifiers as one pipeline, which an attack differentiates together."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rainjax._checks import check_image
from rainjax.attacks import Attack
from rainjax.attacks.directions import UnitGradients
from rainjax.defenses._base import Defense, is_number
from rainjax.keys import split_stratum
from rainjax.pipeline import Pipeline
from rainjax.typing import Draw, Image, Logits, Params, Part, PRNGKey, Stratum

Combine = Literal["logits", "probabilities", "loss", "gradient"]


@dataclasses.dataclass(frozen=True)
class Ensemble(Pipeline):
    """Pipelines of the same classes side by side, for perturbations that fool all of them.

    Its parameters are a tuple with those of each of the `members`. `combine` says of what the
    mean over the members is taken, all with the same weight:

    - `"logits"`: of the logits, whose loss is climbed (Dong et al., 2018, section 3.3);
    - `"probabilities"`: of the probabilities, whose logarithms are the logits here (Liu et al.,
      2017, section 5);
    - `"loss"`: of the losses, and so of their gradients;
    - `"gradient"`: of the gradients, each divided by its L1 norm first (of random members that of
      each draw), so that a member that is steep does not decide alone.

    Its logits are the mean ones (of "probabilities", those of the mean), whatever the draw; so the
    first two hold for any attack as it is, and a gradient of the ensemble counts once. For the
    other two `fitted(attack)` returns the attack with an `EOT` that asks about every member by
    itself under every draw, and each such gradient counts; another attack is refused, and studies
    fit theirs.

    Random members draw from keys of their own, so what one draws says nothing of another's.

    Raises:
        ValueError: there are fewer than two members, or one rejects images, or is an ensemble of
            losses or gradients; and, as soon as it is given an image, one tells other numbers of
            classes apart than the first does.
    """

    members: tuple[Pipeline, ...]
    combine: Combine = "logits"

    def __post_init__(self):
        super().__post_init__()
        if len(self.members) < 2:
            raise ValueError(
                f"An ensemble of {len(self.members)}: give two members at least, or attack the "
                "one itself."
            )
        for number, member in enumerate(self.members):
            if member.rejection is not None:
                raise ValueError(
                    f"Member {number} of the ensemble, {type(member).__name__}, rejects images, "
                    "which has no mean with others' logits: take the pipeline that it guards."
                )
            if member.num_parts > 1:
                raise ValueError(
                    f"Member {number} of the ensemble is one itself, with combine="
                    f"{getattr(member, 'combine', None)!r}: take its members into this one."
                )

    def init(self, key: PRNGKey) -> Params:
        """Returns a tuple with fresh parameters of each member."""
        keys = jax.random.split(key, len(self.members))
        return tuple(m.init(k) for m, k in zip(self.members, keys, strict=True))

    def fitted(self, attack: Attack) -> Attack:
        """Returns the attack with an `EOT` that asks about the members as `combine` says.

        Where that is "logits" or "probabilities" the attack is right as it is.

        Raises:
            ValueError: `attack` is no `Attack`, or its `EOT` says otherwise how gradients are
                combined.
        """
        num = self.num_parts
        if num == 1:
            return attack
        if not isinstance(attack, Attack):
            raise ValueError(
                f"combine={self.combine!r} asks about every member of the ensemble by itself, and "
                f"{type(attack).__name__} has no EOT that says so: give an Attack, or "
                "combine='logits'."
            )
        direction = attack.eot.direction
        if self.combine == "gradient":
            if direction not in (None, UnitGradients("l1")):
                raise ValueError(
                    f"combine='gradient' is a direction by itself, and the EOT has {direction}: "
                    "leave it out, or take combine='loss'."
                )
            direction = UnitGradients("l1")
        eot = dataclasses.replace(attack.eot, num_parts=num, direction=direction)
        return dataclasses.replace(attack, eot=eot)

    @property
    def num_parts(self) -> int:
        """The number of members where an attack has to ask about each, and 1 elsewhere."""
        return len(self.members) if self.combine in ("loss", "gradient") else 1

    @property
    def is_random(self) -> bool:
        """Whether a member is."""
        return any(member.is_random for member in self.members)

    @property
    def differentiable(self) -> bool:
        """Whether every member is."""
        return all(member.differentiable for member in self.members)

    @property
    def defended(self) -> bool:
        """Whether a member is."""
        return any(member.defended for member in self.members)

    @property
    def stratifies(self) -> bool:
        """Whether every member spreads stratified draws evenly."""
        return all(member.stratifies for member in self.members)

    def map_defense(self, change: Callable[[Defense], Defense]) -> "Ensemble | None":
        """Returns the ensemble with the members' defenses changed, None where one has none."""
        changed = [member.map_defense(change) for member in self.members]
        there = tuple(member for member in changed if member is not None)
        if len(there) < len(changed):
            return None
        return dataclasses.replace(self, members=there)

    def num_outcomes(self, height: int) -> int | None:
        """Returns how many outcomes there are, if every random member lists equally many."""
        listed = {m.num_outcomes(height) for m in self.members if m.is_random}
        return listed.pop() if len(listed) == 1 else None

    def check_params(self, params: Params) -> None:
        """Raises ValueError unless `params` are a tuple with those of each member."""
        num = len(self.members)
        if not isinstance(params, tuple | list) or len(params) != num:
            given = len(params) if isinstance(params, tuple | list) else type(params).__name__
            raise ValueError(
                f"Parameters of an ensemble of {num} are a tuple of as many, got {given}: `init` "
                "makes such a tuple."
            )
        for member, own in zip(self.members, params, strict=True):
            member.check_params(own)

    def used(self, params: Params) -> Params:
        """Returns what each member uses."""
        return tuple(m.used(own) for m, own in zip(self.members, params, strict=True))

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the combined logits; see `logits_of_draw`."""
        return self.logits_of_draw(params, key, image)

    def logits_of_draw(self, params: Params, draw: Draw | Part, image: Image) -> Logits:
        """Returns the combined logits under one draw, or of a `Part` those of one member.

        Raises:
            ValueError: the parameters are of other members, one refuses the image, or tells
                another number of classes apart than the first.
            TypeError: a member does not know such draws.
        """
        return self._combined("logits_of_draw", params, draw, image)

    def checked_logits(self, params: Params, draw: Draw | Part, image: Image) -> Logits:
        """Returns `logits_of_draw`, NaN where a member's defense leaves [0, 1]; raises as it."""
        return self._combined("checked_logits", params, draw, image)

    def _combined(self, method: str, params: Params, draw: Draw | Part, image: Image) -> Logits:
        check_image(image, type(self).__name__)
        self.check_params(params)
        num = len(self.members)

        def of(number: int, draw: Any) -> Logits:
            try:
                return getattr(self.members[number], method)(params[number], draw, image)
            except ValueError as error:
                raise ValueError(f"Member {number} of the ensemble: {error}") from error

        if isinstance(draw, Part):
            return of(draw.number, _each(draw.draw, num)[draw.number])
        found = [of(number, own) for number, own in enumerate(_each(draw, num))]
        for number, logits in enumerate(found):
            if logits.shape != found[0].shape:
                raise ValueError(
                    f"Member {number} of the ensemble, {type(self.members[number]).__name__}, "
                    f"tells {logits.shape[0]} classes apart, and the first {found[0].shape[0]}: "
                    "take classifiers of the same classes."
                )
        logits = jnp.stack(found)
        if self.combine == "probabilities":
            return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(num)
        return jnp.mean(logits, axis=0)


def _each(draw: Draw, num: int) -> list[Any]:
    """Returns a draw for each of `num` members: keys of their own, or the same outcome."""
    if isinstance(draw, Stratum):
        return split_stratum(draw, num)
    if is_number(draw):
        return [draw] * num
    return list(jax.random.split(draw, num))
