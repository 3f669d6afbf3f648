"""Predictions proved behind a rounding: where no level can change, or none that matters.

An attack says what was found, and so gives an upper bound on robust accuracy. This is the lower
one: a bound on every value before it is rounded says which outputs the defense cannot leave,
whatever an attacker does. Nothing in it is random.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rainjax._arrays import as_array
from rainjax._checks import as_plain, check_kind
from rainjax._values import Value
from rainjax.attacks import balls, losses
from rainjax.defenses import Quantizer
from rainjax.defenses._base import LevelBounds
from rainjax.devices import full_batches
from rainjax.evaluation.batches import ImageBatch, Labels, check_batch, refuse_traced
from rainjax.evaluation.measures import Arrays, share
from rainjax.evaluation.packing import pack_counts
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Defended, Pipeline
from rainjax.typing import Params

# A proof asks for so much more than a tie: logits are sums of many float32 products.
_LEAST_MARGIN = 1e-3
_MOST_LEVEL = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class RoundingCertificates:
    """Which predictions no perturbation in a ball changes, and how much was left open.

    `proved` is False where the image is classified wrongly, where too much was left open, or where
    one of the outputs that could not be excluded is classified wrongly: it does not say that
    there is an attack.
    """

    proved: Bool[np.ndarray, "n"]
    correct: Bool[np.ndarray, "n"]
    """Whether the image itself is classified rightly."""
    num_open: Int[np.ndarray, "n"]
    """How many rounded values could not be shown to keep their level."""
    log2_outcomes: Float[np.ndarray, "n"]
    """The number of outputs that could not be excluded, as a power of two."""
    radius: float
    norm: str

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """The share of images whose right prediction is proved, and its 95 % Wilson interval."""
        hits, total = int(self.proved.sum()), len(self.proved)
        return (hits / total, *wilson_interval(hits, total))


def certify_rounding(
    pipeline: Defended,
    params: Params,
    images: ImageBatch,
    labels: Labels,
    *,
    radius: float,
    norm: str = "linf",
    max_outcomes: int = 4096,
    batch_size: int = 64,
) -> RoundingCertificates:
    """Returns which right predictions of a pipeline hold for every image within `radius`.

    The pipeline's defense bounds every value before it rounds it, by intervals: see
    `Quantizer.level_bounds`. Where each can be rounded to one level alone, the classifier sees
    one image, whatever the attacker does. Where the levels that are left give at most
    `max_outcomes` images, all of them are classified. That is a superset of what can be reached,
    so a proof may be missed and never be wrong, up to the rounding of float32 in the classifier:
    the defense's own is within the bounds, and a logit must lead by more than 0.001.

    Feature Distillation in RGB, BitDepth and, with wide bounds, JPEG have such bounds; SHIELD, as
    a random defense, and chains have none.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import Defended, FeatureDistillation, zoo
    >>> from rainjax.evaluation import certify_rounding
    >>> classifier = zoo.load("builtin_resnet")
    >>> pipeline = Defended(FeatureDistillation(), classifier.network)
    >>> params = {"defense": (), "classifier": classifier.params}
    >>> images = jnp.full((1, 32, 32, 3), 0.5)
    >>> label = pipeline.predict(params, jax.random.key(0), images[0])
    >>> certify_rounding(pipeline, params, images, label[None], radius=0.2 / 255).proved.tolist()
    [True]

    Args:
        pipeline: A classifier behind a defense that rounds.
        params: Its parameters, `{"defense": ..., "classifier": ...}`.
        images: `n h w c`, float32 in [0, 1].
        labels: Their classes.
        radius: In units of the [0, 1] range.
        norm: "linf" or "l2".
        max_outcomes: The most images that are classified for one proof.
        batch_size: Images that are classified together.

    Raises:
        ValueError: the defense has no such bounds, is random, the norm or a number is out of
            range, or images and labels do not belong together.
    """
    check_kind(pipeline, Defended, "certify_rounding(pipeline=...)")
    refuse_traced("certify_rounding", params, images, labels)
    defense = pipeline.defense
    if norm not in ("linf", "l2"):
        raise ValueError(f"{norm=} has no bounds on levels: take 'linf' or 'l2'.")
    balls.check(norm, radius)
    for name, number in (("max_outcomes", max_outcomes), ("batch_size", batch_size)):
        if as_plain(name, number, int) < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    images = jnp.asarray(as_array("images", images))
    keys = jax.random.split(jax.random.key(0), len(images))
    images = check_batch(pipeline, params, keys, images, labels)
    labels = np.asarray(labels)
    bounds = None
    if isinstance(defense, Quantizer) and not defense.is_random:
        bounds = _bounds(defense, images, radius, norm)
    if bounds is None:
        raise ValueError(
            f"{type(defense).__name__} gives no bounds on what it rounds, so nothing can be "
            "proved: certify FeatureDistillation, JPEG or BitDepth with true rounding, or measure "
            "an attack."
        )
    shapes = tuple(tuple(found.shape[1:]) for found in bounds.low)
    low, high = (_flat(found) for found in (bounds.low, bounds.high))
    options = high - low + 1
    # A level that is too large for int32 was cut off there, and so may be any.
    held = (np.maximum(high, -low) < _MOST_LEVEL).all(1)
    log2 = np.where(held, np.log2(np.maximum(options, 1)).sum(1), np.inf)
    margin = functools.partial(_own_margins, pipeline, params)
    correct = np.concatenate(
        [
            np.asarray(margin(images[i : i + batch_size], labels[i : i + batch_size])) < 0
            for i in range(0, len(images), batch_size)
        ]
    )
    proved = correct & (log2 <= np.log2(max_outcomes) + 1e-9)
    rows, numbers = _outcomes(options, np.flatnonzero(proved))
    shape = tuple(images.shape[1:])
    for chosen, kept in full_batches(np.arange(len(rows)), batch_size) if len(rows) else ():
        levels = [_levels(low[rows[i]], options[rows[i]], numbers[i]) for i in kept]
        found = _level_margins(
            pipeline, shapes, shape, params, np.stack(levels), labels[rows[kept]]
        )
        beaten = ~(np.asarray(found) < -_LEAST_MARGIN)  # NaN is no proof
        proved[rows[chosen][beaten[: len(chosen)]]] = False
    return RoundingCertificates(proved, correct, (options > 1).sum(1), log2, radius, norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundingCertificate(Value):
    """A threat model's "attack" that is a proof: what no attacker changes within a ball.

    `certify_rounding` of each image, as a number of a study: `ThreatModel("proved",
    RoundingCertificate(radius=1 / 255), knowledge=Knowledge.NONE)`. It applies where the defense
    bounds what it rounds. Displays show it as the lower end of a bracket, whose upper end is what
    the strongest attack within the ball leaves, and never as an attack.

    Raises:
        ValueError: an option is out of range, or of another kind.
    """

    norm: Literal["linf", "l2"] = "linf"
    radius: float
    max_outcomes: int = 4096

    def __post_init__(self):
        super().__post_init__()
        balls.check(self.norm, self.radius)
        if self.max_outcomes < 1:
            raise ValueError(f"max_outcomes={self.max_outcomes} must be at least 1.")

    def applies(self, pipeline: Pipeline, shape: tuple[int, ...]) -> bool:
        """Returns whether a pipeline's defense bounds the levels of images of a shape."""
        defense = pipeline.defense if isinstance(pipeline, Defended) else None
        if not isinstance(defense, Quantizer) or defense.is_random:
            return False

        def lowest(image):
            bounds = defense.level_bounds(image, self.radius, self.norm)
            return None if bounds is None else bounds.low

        return jax.eval_shape(lowest, jax.ShapeDtypeStruct(shape, jnp.float32)) is not None

    def prove(
        self, pipeline: Pipeline, params: Params, images: np.ndarray, labels: np.ndarray,
        *, batch_size: int,
    ) -> Arrays:  # fmt: skip
        """Returns what a study keeps of a batch, an entry an image; raises as the function."""
        assert isinstance(pipeline, Defended)  # it applies
        found = certify_rounding(
            pipeline, params, images, labels, radius=self.radius, norm=self.norm,
            max_outcomes=self.max_outcomes, batch_size=batch_size,
        )  # fmt: skip
        names = ("proved", "correct", "num_open", "log2_outcomes")
        return {name: np.asarray(getattr(found, name)) for name in names}


def proof_outcome(kept: Arrays) -> dict[str, Any]:
    """Returns what a record says of the proofs of all batches together."""
    proved = share(kept["proved"])
    ends = f"[{100 * proved['low']:.1f}, {100 * proved['high']:.1f}]"
    return {
        "result": {
            "num_examples": len(kept["proved"]),
            "proved": proved,
            "proved_images": pack_counts(kept["proved"].astype(int)),
            "num_correct": int(kept["correct"].sum()),
            "num_open_median": float(np.median(kept["num_open"])),
        },
        "shown": {"proved": f"{100 * proved['accuracy']:.1f} % {ends}"},
    }


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _bounds(defense: Quantizer, images, radius: float, norm: str) -> LevelBounds | None:
    return jax.vmap(lambda image: defense.level_bounds(image, radius, norm))(images)


@functools.partial(jax.jit, static_argnums=0)
def _own_margins(pipeline: Defended, params, images, labels) -> Float[Array, "n"]:
    def one(image, label):
        return losses.margin(pipeline.logits(params, jax.random.key(0), image), label)

    return jax.vmap(one)(images, labels)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _level_margins(pipeline: Defended, shapes, shape, params, levels, labels):
    """Returns the margins for the images that the defense makes of these levels."""
    ends = np.cumsum([math.prod(one) for one in shapes])[:-1]
    defense = pipeline.defense
    assert isinstance(defense, Quantizer)  # it gave the bounds

    def one(row, label):
        parts = tuple(x.reshape(of) for x, of in zip(jnp.split(row, ends), shapes, strict=True))
        seen = defense.from_levels(parts, shape)
        return losses.margin(pipeline.classifier.apply(params["classifier"], seen), label)

    return jax.vmap(one)(levels, labels)


def _flat(levels: tuple[Array, ...]) -> Int[np.ndarray, "n levels"]:
    flat = [np.asarray(x, np.int64).reshape(len(x), -1) for x in levels]
    return np.concatenate(flat, axis=1)


def _outcomes(options, wanted) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Returns every output that is left of the images wanted: whose it is, and its number."""
    counts = [int(options[row].astype(np.int64).prod()) for row in wanted]
    numbers = [np.arange(count) for count in counts]
    none = np.zeros(0, np.int64)
    return np.repeat(wanted, counts).astype(np.int64), np.concatenate([none, *numbers])


def _levels(low, options, number) -> Int[np.ndarray, "levels"]:
    """Returns the levels of one output, counted through those that are open."""
    (open_ones,) = np.nonzero(options > 1)
    levels = low.copy()
    if len(open_ones):
        levels[open_ones] += np.array(np.unravel_index(number, options[open_ones]), low.dtype)
    return levels
