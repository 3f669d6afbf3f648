"""Several classifiers as one pipeline, which an attack differentiates together."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rainjax._checks import check_image
from rainjax.attacks import Attack
from rainjax.attacks.directions import UnitGradients
from rainjax.defenses._base import Defense, is_number
from rainjax.pipeline import Pipeline
from rainjax.typing import Draw, Image, Logits, Params, PRNGKey, Stratum

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

    The first two hold for any draw and for any attack. Of the other two a draw is of one member
    alone: of a random one under a key; under draw `i` of a stratified set, or outcome `i` of a
    list, of member `i` modulo their number. `fitted(attack)` returns the attack with every member
    in each of its answers, equally often; a `Transfer` does that by itself. A gradient of the
    first two is one of every member, and counts once; of the others each counts.

    Random members draw from keys of their own, so what one draws says nothing of another's.

    Raises:
        ValueError: there are fewer than two members, or one rejects images; and, as soon as it
            is given an image, one tells other numbers of classes apart than the first does.
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

    def init(self, key: PRNGKey) -> Params:
        """Returns a tuple with fresh parameters of each member."""
        keys = jax.random.split(key, len(self.members))
        return tuple(m.init(k) for m, k in zip(self.members, keys, strict=True))

    def fitted(self, attack: Attack) -> Attack:
        """Returns the attack with draws that take every member equally often.

        Where `combine` is "loss" or "gradient" an `EOT` of K draws becomes one of K draws of each
        member, a draw at a time; elsewhere the attack is right as it is. Fit an attack once: again
        it would take each member more often than it has to.

        Raises:
            ValueError: `attack` is no `Attack`, or its `EOT` says otherwise how draws are
                combined, or how many there are at a step.
        """
        if not self._is_chosen:
            return attack
        what = f"combine={self.combine!r} takes every member of the ensemble equally often"
        if not isinstance(attack, Attack):
            raise ValueError(
                f"{what}, and {type(attack).__name__} does not say how it draws: give an Attack, "
                "or combine='logits'."
            )
        eot = attack.eot
        if eot.first is not None or eot.average == "logits":
            raise ValueError(
                f"{what}, which first={eot.first} with average={eot.average!r} of its EOT does "
                "not allow: leave them out, or take combine='logits'."
            )
        direction = eot.direction
        if self.combine == "gradient":
            if direction is not None:
                raise ValueError(
                    f"combine='gradient' is a direction by itself, and the EOT has {direction}: "
                    "leave it out, or take combine='loss'."
                )
            direction = UnitGradients("l1")
        draws = "enumerated" if eot.draws == "enumerated" else "stratified"
        num = eot.num_samples * len(self.members)
        # Of draws side by side each would compute all members.
        fitted = dataclasses.replace(
            eot, num_samples=num, chunk_size=1, draws=draws, direction=direction
        )
        return dataclasses.replace(attack, eot=fitted)

    @property
    def is_random(self) -> bool:
        """Whether a member is, or a key chooses the member."""
        return self._is_chosen or any(member.is_random for member in self.members)

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
        """Whether draws of an even set are spread over the members, or by every one of them."""
        return self._is_chosen or all(member.stratifies for member in self.members)

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
        if not listed and self._is_chosen:
            return len(self.members)
        if len(listed) != 1:
            return None
        (num,) = listed
        return num and num * (len(self.members) if self._is_chosen else 1)

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
        """Returns the combined logits, or those of a random member; see `logits_of_draw`."""
        return self.logits_of_draw(params, key, image)

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns the combined logits under one draw, or those of the member that it is of.

        Raises:
            ValueError: the parameters are of other members, one refuses the image, or tells
                another number of classes apart than the first.
            TypeError: a member does not know such draws.
        """
        return self._combined("logits_of_draw", params, draw, image)

    def checked_logits(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns `logits_of_draw`, NaN where a member's defense leaves [0, 1]; raises as it."""
        return self._combined("checked_logits", params, draw, image)

    @property
    def _is_chosen(self) -> bool:
        """Whether a draw is of one member alone."""
        return self.combine in ("loss", "gradient")

    def _combined(self, method: str, params: Params, draw: Draw, image: Image) -> Logits:
        check_image(image, type(self).__name__)
        self.check_params(params)
        num = len(self.members)
        asked = [
            _member_fn(number, getattr(member, method))
            for number, member in enumerate(self.members)
        ]
        if self._is_chosen:
            chosen, draws = _chosen(self.members, draw)
            branches = [
                lambda image, fn=fn, own=own, draw=draw: fn(own, draw, image)
                for fn, own, draw in zip(asked, params, draws, strict=True)
            ]
            shapes = [jax.eval_shape(branch, image) for branch in branches]
            _check_classes(self.members, shapes)
            return jax.lax.switch(chosen, branches, image)
        draws = _side_by_side(draw, num)
        found = [fn(own, d, image) for fn, own, d in zip(asked, params, draws, strict=True)]
        _check_classes(self.members, found)
        logits = jnp.stack(found)
        if self.combine == "logits":
            return jnp.mean(logits, axis=0)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(num)


def _member_fn(number: int, fn: Callable) -> Callable[[Params, Draw, Image], Logits]:
    """Returns a member's logits as a function that names the member where it refuses an image."""

    def named(params, draw, image):
        try:
            return fn(params, draw, image)
        except ValueError as error:
            raise ValueError(f"Member {number} of the ensemble: {error}") from error

    return named


def _side_by_side(draw: Draw, num: int) -> list[Any]:
    """Returns a draw for each of `num` members: keys of their own, or the same outcome."""
    if isinstance(draw, Stratum):
        return [Stratum(key, draw.number) for key in jax.random.split(draw.key, num)]
    if is_number(draw):
        return [draw] * num
    return list(jax.random.split(draw, num))


def _chosen(members: Sequence[Pipeline], draw: Draw) -> tuple[Int[Array, ""], list[Any]]:
    """Returns the member that a draw is of, and for each the draw that it would then be given."""
    num = len(members)
    if isinstance(draw, Stratum):
        turn = draw.number // num
        return draw.number % num, [
            Stratum(key, turn) if member.stratifies else jax.random.fold_in(key, turn)
            for member, key in zip(members, jax.random.split(draw.key, num), strict=True)
        ]
    if is_number(draw):
        return draw % num, [draw // num] * num
    choice_key, key = jax.random.split(draw)
    return jax.random.randint(choice_key, (), 0, num), list(jax.random.split(key, num))


def _check_classes(members: Sequence[Pipeline], found: Sequence[Any]) -> None:
    first = found[0].shape[0]
    for number, (member, logits) in enumerate(zip(members, found, strict=True)):
        if logits.shape[0] != first:
            raise ValueError(
                f"Member {number} of the ensemble, {type(member).__name__}, tells "
                f"{logits.shape[0]} classes apart, and the first {first}: take classifiers of the "
                "same classes."
            )
