"""Several attacks on the same images, of which each image meets the one that hurts it most.

The bookkeeping of AutoAttack (Croce and Hein, 2020), made honest for random pipelines: what
still stands, and which attack was best, is decided on draws of its own, neither those the
attacks saw nor those the result will be scored with.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from rainjax._arguments import Named
from rainjax._arrays import as_array
from rainjax._checks import as_plain, check_fields
from rainjax.attacks import Attack
from rainjax.devices import full_batches
from rainjax.evaluation.batches import Given, Labels, check_batch, refuse_traced
from rainjax.evaluation.compatibility import with_fitting_loss
from rainjax.evaluation.driver import watched_attack
from rainjax.evaluation.scoring import score
from rainjax.evaluation.watch import zero_gradients
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Pipeline
from rainjax.typing import Images, Params


@dataclasses.dataclass(frozen=True)
class Member(metaclass=Named):
    """One attack of an ensemble: its name, and the surrogate it differentiates.

    Without a surrogate it attacks the target itself.
    """

    name: str
    attack: Attack
    surrogate: Pipeline | None = None

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class MemberRecord:
    """What one member did: on how many images, how many it broke, and at what cost."""

    name: str
    num_attacked: int
    num_broken: int
    num_best: int
    """Images whose final version is this member's."""
    num_gradients: int
    """Gradients over all its images, or logits, at most: some images may have stopped early."""
    num_zero_gradient: int
    """Images for which its gradient was exactly zero at every call, and none a success."""
    seconds: float


@dataclasses.dataclass(frozen=True)
class EnsembleResult:
    """The worst version found of every image, and how it was found.

    `best` is the position of the member it came from, -1 for the original; `standing` says
    which images were right under some selection draw to the end. `zero_gradient` says for which
    images every member that attacked them, and asks for gradients, saw none but zero, and no
    success; it is None where no such member attacked any.
    """

    images: Images
    best: Int[np.ndarray, "n"]
    standing: Bool[np.ndarray, "n"]
    members: tuple[MemberRecord, ...]
    zero_gradient: Bool[np.ndarray, "n"] | None = None


def run_ensemble(
    target: Pipeline,
    members: tuple[Member, ...],
    params: Params,
    seed: int,
    indices: Int[Array | np.ndarray, "n"],
    images: Given,
    labels: Labels,
    *,
    num_select_draws: int,
    batch_size: int = 64,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
    on_member: Callable[[MemberRecord], object] | None = None,
) -> EnsembleResult:
    """Attacks every image with one member after the other, as long as it stands.

    An image stands while its worst version so far is classified right under any of
    `num_select_draws` draws. On a pipeline without randomness one is enough; on one with it, one
    draw would take every image that it happens to get wrong for broken. Of several
    versions the one that is right under the fewest draws is kept, and among equals the one
    with the highest mean margin; the original is among them, so the result is never worse than
    doing nothing. What stands is packed into full batches of `batch_size`, so members that
    come late cost little.

    Of a member whose loss compares more classes than there are (DLR takes three), the margin
    loss takes the place, and its name says so; a warning does beforehand.

    Every draw is a function of `seed`, of the image's position in the data set (`indices`) and of
    the member's position, so batches change nothing. `on_gradient(n)` is called after every `n`
    image gradients, `on_member` after every member.

    Raises:
        ValueError: the arguments do not belong together, the members are not of one ball, or a
            member or the target met a NaN; says which.
    """
    refuse_traced("run_ensemble", params, indices, images, labels)
    images, labels, indices = (
        np.asarray(as_array(name, given))
        for name, given in (("images", images), ("labels", labels), ("indices", indices))
    )
    images = images.astype(np.float32) if images.dtype == np.float64 else images  # as JAX would
    _check_members(members)
    if as_plain("batch_size", batch_size, int) < 1 or not images.shape[:1] or not len(images):
        raise ValueError(f"{images.shape=} in batches of {batch_size=}: give at least one image.")
    if not images.shape[:1] == labels.shape[:1] == indices.shape[:1]:
        raise ValueError(
            f"{len(images)} images came with {labels.size} labels and {indices.size} indices: "
            "each image needs one of its own."
        )
    keys = example_keys(seed, Purpose.SELECT, indices)
    images = np.asarray(check_batch(target, params, keys, images, labels))
    members, changed = fitting_members(members, target.num_classes(params, images[0]))
    if changed:
        warnings.warn(f"The members: {changed}.", stacklevel=2)
    devices = 1 if mesh is None else mesh.size
    size = -(-min(batch_size, len(images)) // devices) * devices  # the last batch is padded
    judge = functools.partial(
        _judge, target, params, seed, num_draws=num_select_draws, size=size, mesh=mesh
    )
    worst = images.copy()
    right, margin = judge(indices, images, labels)
    best, records = np.full(len(images), -1), []
    asked, followed = np.zeros((2, len(images)), bool)
    for place, member in enumerate(members):
        began, spent, num_zero = time.perf_counter(), 0, 0
        standing = np.flatnonzero(right > 0)
        before = len(standing)
        for chosen, rows in full_batches(standing, size):
            found, zero = _attack(
                target, member, place, params, seed, indices[rows], images[rows], labels[rows],
                mesh, (lambda n: on_gradient(n * size)) if on_gradient else None,
            )  # fmt: skip
            found = found[: len(chosen)]
            if zero is not None:
                zero = zero[: len(chosen)]
                num_zero += int(zero.sum())
                asked[chosen], followed[chosen] = True, followed[chosen] | ~zero
            spent += member.attack.num_gradients * len(chosen)
            found_right, found_margin = judge(indices[chosen], found, labels[chosen])
            worse = (found_right < right[chosen]) | (
                (found_right == right[chosen]) & (found_margin > margin[chosen])
            )
            into = chosen[worse]
            worst[into], best[into] = found[worse], place
            right[into], margin[into] = found_right[worse], found_margin[worse]
        broken = before - int((right[standing] > 0).sum())
        seconds = round(time.perf_counter() - began, 3)
        records.append(MemberRecord(member.name, before, broken, 0, spent, num_zero, seconds))
        if on_member:
            on_member(records[-1])
    counted = tuple(
        dataclasses.replace(record, num_best=int((best == place).sum()))
        for place, record in enumerate(records)
    )
    zero_gradient = asked & ~followed if asked.any() else None
    return EnsembleResult(jnp.asarray(worst), best, right > 0, counted, zero_gradient)


def fitting_members(
    members: tuple[Member, ...], num_classes: int
) -> tuple[tuple[Member, ...], str | None]:
    """Returns members whose losses the number of classes allows, and in words what changed.

    The words are None where nothing did. A changed member's name says which loss it has now.
    """
    fitting, changed = [], []
    for member in members:
        attack = with_fitting_loss(member.attack, num_classes)
        if attack is not member.attack:
            changed.append(member.name)
            name = f"{member.name} by the margin loss"
            member = dataclasses.replace(member, name=name, attack=attack)
        fitting.append(member)
    if not changed:
        return members, None
    verb = "climbs" if len(changed) == 1 else "climb"
    return tuple(fitting), (
        f"with {num_classes} classes {' and '.join(changed)} {verb} the margin loss, for DLR "
        "compares three"
    )


def _check_members(members: tuple[Member, ...]) -> None:
    if not isinstance(members, tuple) or not all(isinstance(m, Member) for m in members):
        raise ValueError(
            "members must be a tuple of Member(name, attack); AutoAttack has some: .members."
        )
    if not members:
        raise ValueError("An ensemble needs at least one member.")
    ball = lambda attack: (getattr(attack, "norm", None), getattr(attack, "radius", None))
    found = [(member.name, *ball(member.attack)) for member in members]
    balls = {(norm, radius) for _, norm, radius in found}
    if len(balls) > 1 or None in next(iter(balls)):
        raise ValueError(
            f"The members are not of one ball, and the largest would win: {found}. Give all the "
            "same norm and radius."
        )
    targeted = [member.name for member in members if getattr(member.attack, "targeted", False)]
    if targeted:
        raise ValueError(
            f"The members {targeted} are targeted, and would lead back to the labels, which are "
            "the true ones here: leave targeted=False."
        )


def _attack(target, member, place, params, seed, indices, images, labels, mesh, tick):
    keys = example_keys(seed, Purpose.ATTACK, indices)
    # Members draw apart from each other, and from a lone attack, which splits the key in two:
    # to fold in 0 or 1 would be the same.
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2 + place)
    surrogate = member.surrogate or target
    try:
        found, watch = watched_attack(
            surrogate, member.attack, params, keys, images, labels, mesh=mesh, on_gradient=tick
        )
    except ValueError as error:
        raise ValueError(f"The member {member.name!r}: {error}") from error
    return np.asarray(found), zero_gradients(watch)


def _judge(
    target, params, seed, indices, images, labels, *, num_draws, size, mesh
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Returns the share of selection draws that are right, and the mean margin over them."""
    shares, margins = [], []
    for chosen, rows in full_batches(np.arange(len(images)), size):
        keys = example_keys(seed, Purpose.SELECT, indices[rows])
        logits = score(target, params, keys, images[rows], num_draws=num_draws, mesh=mesh)
        logits = np.asarray(logits, np.float64)[: len(chosen)]
        label = labels[chosen][:, None, None]
        own = np.take_along_axis(logits, np.broadcast_to(label, (*logits.shape[:2], 1)), 2)
        others = logits.copy()
        np.put_along_axis(others, np.broadcast_to(label, own.shape), -np.inf, 2)
        shares.append((logits.argmax(-1) == label[..., 0]).mean(1))
        margins.append((others.max(-1) - own[..., 0]).mean(1))
    return np.concatenate(shares), np.concatenate(margins)
