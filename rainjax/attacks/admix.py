"""Admix: gradients of the image mixed with a little of others, for transfer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax._values import Value
from rainjax.attacks.momentum import MomentumAttack
from rainjax.attacks.queries import LabelAndTarget, LossGradient
from rainjax.typing import Image, Label, PRNGKey


@dataclasses.dataclass(frozen=True)
class ImagePool(Value):
    """Images of the attacker's own with their classes, as a value: `ImagePool.of(images, labels)`.

    A record knows it by its content.
    """

    pixels: bytes = dataclasses.field(repr=False, metadata={"by_content": True})
    shape: tuple[int, ...]
    classes: tuple[int, ...] = dataclasses.field(repr=False)

    @classmethod
    def of(
        cls, images: Float[Array | np.ndarray, "n h w c"], labels: Int[Array | np.ndarray, "n"]
    ) -> "ImagePool":
        """Returns the pool of these images, in [0, 1], and their labels.

        Raises:
            ValueError: they are no batch of images with a label each, or a value lies outside of
                [0, 1].
        """
        array, given = np.asarray(images, np.float32), np.asarray(labels)
        if array.ndim != 4 or not len(array) or given.shape != array.shape[:1]:
            raise ValueError(
                "ImagePool.of takes a batch `n h w c` and a label for each, not arrays of shapes "
                f"{array.shape} and {given.shape}."
            )
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(
                f"ImagePool.of takes images in [0, 1], these lie in [{array.min():.4g}, "
                f"{array.max():.4g}]: divide integers by 255."
            )
        return cls(array.tobytes(), array.shape, tuple(map(int, given.tolist())))

    @property
    def images(self) -> Float[np.ndarray, "n h w c"]:
        """The images as an array."""
        return np.frombuffer(self.pixels, np.float32).reshape(self.shape)

    @property
    def fewest_others(self) -> int:
        """How many images of other classes there are for an image, of whatever class it is."""
        return len(self.classes) - int(np.unique(self.classes, return_counts=True)[1].max())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdmixState:
    """Where one image's attack stands; `others` are the pool's images that this step mixes in.

    `total` is the sum of the step's gradients so far. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n h w c"]
    total: Float[Array, "*n h w c"]
    others: Int[Array, "*n mixed"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Admix(MomentumAttack):
    """MI-FGSM on copies of the image with some of another one added, at several scales.

    At every step it draws `num_mixed` images of other classes from `pool`, adds `portion` of each
    to the image, and follows the mean gradient of `num_scales` copies of every such mixture, each
    darker by half than the one before (Wang et al., 2021, algorithm 1: 3 images, 0.2, 5 scales).
    The pool is the attacker's own: what is found for an image does not depend on which others are
    attacked with it. The authors shuffle the batch instead, whatever its classes, and have images
    in [-1, 1], where half of an image is greyer, not darker. As there, mixtures may leave [0, 1];
    what is handed out does not.

    `radius` and `step_size` are in units of the image's [0, 1] range; `norm` "linf" is the
    published one. With `targeted` the label is the class to be reached, and it is images of that
    class that are left out. A step costs `num_mixed * num_scales` gradients.

    Raises:
        ValueError: an option is out of range, the pool has too few images of other classes,
            `early_stop` is asked for, or an image is of another shape than the pool's.
    """

    pool: ImagePool
    portion: float = 0.2
    num_mixed: int = 3
    num_scales: int = 5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.portion <= 1:
            raise ValueError(f"portion={self.portion} must lie in [0, 1].")
        if self.num_mixed < 1 or self.num_scales < 1:
            raise ValueError(
                f"num_mixed={self.num_mixed} and num_scales={self.num_scales} must be at least 1."
            )
        if self.pool.fewest_others < self.num_mixed:
            raise ValueError(
                f"num_mixed={self.num_mixed}, but for an image of its most frequent class the "
                f"pool has {self.pool.fewest_others} of others: give more images, or mix fewer."
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape that images must have: that of the pool's."""
        return self.pool.shape[1:]

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_steps * self._copies

    @property
    def _copies(self) -> int:
        return self.num_mixed * self.num_scales

    def init(self, key: PRNGKey, image: Image, label: Label) -> AdmixState:
        """Returns the state at the image itself.

        Raises:
            ValueError: the image is of another shape than those of the pool.
        """
        if image.shape != self.image_shape:
            raise ValueError(
                f"Admix has a pool of images of shape {self.image_shape}, and the attacked one is "
                f"of shape {image.shape}: give a pool of its shape."
            )
        zeros = jnp.zeros_like(image)
        others = self._others(key, label)
        return AdmixState(image, image, zeros, zeros, others, label, jnp.array(0))

    def ask(self, state: AdmixState) -> tuple[Image, LabelAndTarget]:
        """Returns a mixture of the iterate with another image, at one of the scales."""
        mixed, scale = self._place(state.calls)
        other = jnp.asarray(self.pool.images, state.image.dtype)[state.others[mixed]]
        return scale * (state.image + self.portion * other), LabelAndTarget(
            state.label, state.label
        )

    def update(self, key: PRNGKey, state: AdmixState, answer: LossGradient) -> AdmixState:
        """Returns the state one copy further, after the last of them at the next iterate."""
        _, scale = self._place(state.calls)
        total = state.total + scale * answer.gradient
        calls = state.calls + 1
        ends = calls % self._copies == 0
        momentum = self.accumulated(state.momentum, total / self._copies)
        moved = self.moved(state.origin, state.image, momentum)
        return AdmixState(
            origin=state.origin,
            image=jnp.where(ends, moved, state.image),
            momentum=jnp.where(ends, momentum, state.momentum),
            total=jnp.where(ends, 0.0, total),
            others=jnp.where(ends, self._others(key, state.label), state.others),
            label=state.label,
            calls=calls,
        )

    def result(self, state: AdmixState) -> Image:
        """Returns the last iterate."""
        return state.image

    def _place(self, calls: Int[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """Returns which of the step's images is mixed in, and by what the mixture is scaled."""
        place = calls % self._copies
        return place // self.num_scales, 0.5 ** (place % self.num_scales)

    def _others(self, key: PRNGKey, label: Label) -> Int[Array, "mixed"]:
        """Returns the numbers of different images of the pool, none of the label's class."""
        lots = jax.random.uniform(key, (len(self.pool.classes),))
        own = jnp.asarray(self.pool.classes) == label
        return jax.lax.top_k(jnp.where(own, -1.0, lots), self.num_mixed)[1]
