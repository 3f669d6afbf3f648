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
from rainjax.evaluation.batches import ImageBatch, Labels, check_batch, refuse_traced
from rainjax.evaluation.compatibility import with_fitting_loss
from rainjax.evaluation.driver import watched_attack
from rainjax.evaluation.rejections import check_answers
from rainjax.evaluation.scoring import score
from rainjax.evaluation.watch import ZeroGradients, zero_gradients
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
    images: ImageBatch,
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

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import PGD, Defended, Identity, Member, nets, run_ensemble
    >>> from rainjax.attacks import Square
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 3)))
    >>> pipeline = Defended(Identity(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> members = (
    ...     Member("PGD", PGD(radius=8 / 255, num_steps=5)),
    ...     Member("Square", Square(radius=8 / 255, num_queries=10, paired=False)),
    ... )
    >>> found = run_ensemble(
    ...     pipeline, members, params, 0, np.arange(2), jnp.full((2, 4, 4, 3), 0.5), jnp.arange(2),
    ...     num_select_draws=1, batch_size=2,
    ... )
    >>> found.images.shape, [member.name for member in found.members]
    ((2, 4, 4, 3), ['PGD', 'Square'])

    Args:
        target: The pipeline that is attacked and asked what still stands.
        members: The attacks with their names, in their order.
        params: The target's parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        num_select_draws: Draws that say what still stands; one where nothing is random.
        batch_size: Images attacked together.
        mesh: The devices that a batch is spread over; their number must divide `batch_size`.
        on_gradient: Called with every number of image gradients made.
        on_member: Called with the record of every member once it is done.

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
        judged, target, params, seed, num_draws=num_select_draws, size=size, mesh=mesh
    )
    worst, records = Worst.of(images, *judge(indices, images, labels, attacked=False)), []
    zeros = ZeroGradients(len(images))
    for place, member in enumerate(members):
        began, spent, num_zero = time.perf_counter(), 0, 0
        standing = worst.standing
        before = len(standing)
        for chosen, rows in full_batches(standing, size):
            found, zero = attacked_by(
                target, member, place, params, seed, indices[rows], images[rows], labels[rows],
                num=len(chosen), mesh=mesh,
                on_gradient=(lambda n: on_gradient(n * size)) if on_gradient else None,
            )  # fmt: skip
            zeros.add(chosen, zero)
            num_zero += 0 if zero is None else int(zero.sum())
            spent += member.attack.num_gradients * len(chosen)
            worst.keep(chosen, found, *judge(indices[chosen], found, labels[chosen]), place)
        broken = before - len(worst.standing)
        seconds = round(time.perf_counter() - began, 3)
        records.append(MemberRecord(member.name, before, broken, 0, spent, num_zero, seconds))
        if on_member:
            on_member(records[-1])
    counted = tuple(
        dataclasses.replace(record, num_best=int((worst.best == place).sum()))
        for place, record in enumerate(records)
    )
    return EnsembleResult(
        jnp.asarray(worst.images), worst.best, worst.right > 0, counted, zeros.images
    )


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


@dataclasses.dataclass(eq=False)
class Worst:
    """The worst version so far of every image, what it is worth, and which attack it came from.

    `right` is the share of selection draws that get it right, `margin` their mean margin, and
    `best` the position of the attack, -1 for the original.
    """

    images: Float[np.ndarray, "n h w c"]
    right: Float[np.ndarray, "n"]
    margin: Float[np.ndarray, "n"]
    best: Int[np.ndarray, "n"]

    @staticmethod
    def of(
        images: Float[np.ndarray, "n h w c"],
        right: Bool[np.ndarray, "n draws"],
        margins: Float[np.ndarray, "n draws"],
    ) -> "Worst":
        """Returns the originals, with what every selection draw makes of them."""
        best = np.full(len(images), -1)
        return Worst(images.copy(), right.mean(1), margins.mean(1), best)

    @property
    def standing(self) -> Int[np.ndarray, "m"]:
        """The positions of the images that some selection draw gets right."""
        return np.flatnonzero(self.right > 0)

    def keep(
        self,
        chosen: Int[np.ndarray, "m"],
        found: Float[np.ndarray, "m h w c"],
        right: Bool[np.ndarray, "m draws"],
        margins: Float[np.ndarray, "m draws"],
        place: int,
    ) -> Bool[np.ndarray, "m"]:
        """Keeps what an attack found for the `chosen` images where it is worse; says where."""
        share, margin = right.mean(1), margins.mean(1)
        worse = (share < self.right[chosen]) | (
            (share == self.right[chosen]) & (margin > self.margin[chosen])
        )
        into = chosen[worse]
        self.images[into], self.best[into] = found[worse], place
        self.right[into], self.margin[into] = share[worse], margin[worse]
        return worse


def _check_members(members: tuple[Member, ...]) -> None:
    """Refuses members that cannot be compared.

    Raises:
        ValueError: naming them, and how to mend them.
    """
    if not isinstance(members, tuple) or not all(isinstance(m, Member) for m in members):
        raise ValueError(
            "members must be a tuple of Member(name, attack); AutoAttack has some: .members."
        )
    if not members:
        raise ValueError("An ensemble needs at least one member.")
    for member in members:
        check_answers(member.attack, "An ensemble")
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


def attacked_by(
    target: Pipeline,
    member: Member,
    place: int,
    params: Params,
    seed: int,
    indices: Int[np.ndarray, "n"],
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    *,
    num: int,
    mesh: Mesh | None,
    on_gradient: Callable[[int], object] | None,
) -> tuple[Float[np.ndarray, "num h w c"], Bool[np.ndarray, "num"] | None]:
    """Returns what the member at `place` makes of the first `num` images, with draws of its own.

    And for which of them it had no gradient to follow, None where it asked for none.

    Args:
        target: The pipeline that is attacked.
        member: The attack with its name.
        place: Its position, from which its draws grow.
        params: The target's parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        num: How many of the images count; the rest fills the batch.
        mesh: The devices that the batch is spread over.
        on_gradient: Called with every number of image gradients made.

    Raises:
        ValueError: as `run_attack`, naming the member.
    """
    keys = example_keys(seed, Purpose.ATTACK, indices)
    # Members draw apart from each other, and from a lone attack, which splits the key in two:
    # to fold in 0 or 1 would be the same.
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2 + place)
    surrogate = member.surrogate or target
    try:
        attacked, watch = watched_attack(
            surrogate, member.attack, params, keys, images, labels, mesh=mesh,
            on_gradient=on_gradient,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"The member {member.name!r}: {error}") from error
    zero = zero_gradients(watch)
    return np.asarray(attacked)[:num], None if zero is None else zero[:num]


def judged(
    target: Pipeline,
    params: Params,
    seed: int,
    indices: Int[np.ndarray, "n"],
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    *,
    num_draws: int,
    size: int,
    mesh: Mesh | None,
    attacked: bool = True,
    rejection: str | None = None,
) -> tuple[Bool[np.ndarray, "n draws"], Float[np.ndarray, "n draws"]]:
    """Returns whether each selection draw gets each image right, and by which margin not.

    Of what may be rejected `attacked` and `rejection` say what that is worth: see `score`.

    Args:
        target: The pipeline that is asked.
        params: Its parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        num_draws: Selection draws for each image.
        size: The size that a batch is filled up to.
        mesh: The devices that a batch is spread over.
        attacked: Whether anybody has moved the images.
        rejection: What a rejection is worth; the target's own word for None.
    """
    rights, margins = [], []
    for chosen, rows in full_batches(np.arange(len(images)), size):
        keys = example_keys(seed, Purpose.SELECT, indices[rows])
        logits = score(
            target, params, keys, images[rows], num_draws=num_draws, labels=labels[rows],
            attacked=attacked, rejection=rejection, mesh=mesh,
        )  # fmt: skip
        logits = np.asarray(logits, np.float64)[: len(chosen)]
        label = labels[chosen][:, None, None]
        own = np.take_along_axis(logits, np.broadcast_to(label, (*logits.shape[:2], 1)), 2)
        others = logits.copy()
        np.put_along_axis(others, np.broadcast_to(label, own.shape), -np.inf, 2)
        rights.append(logits.argmax(-1) == label[..., 0])
        margins.append(others.max(-1) - own[..., 0])
    return np.concatenate(rights), np.concatenate(margins)
