"""How noisy the gradients of a random pipeline are, and how many draws their mean needs."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from rainjax._checks import as_plain
from rainjax.attacks import EOT, losses
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient
from rainjax.devices import full_batches
from rainjax.evaluation.driver import ask, placement
from rainjax.evaluation.rejections import folds
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Pipeline
from rainjax.typing import Params

# Apart from the draws of attacks, whose rungs and members count from 2.
_PROBE = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class GradientNoise:
    """What single draws say of the gradient of the loss, image by image.

    `cosine` is the mean over pairs of draws of the cosine between their gradients, and `zeros`
    the share of entries that are zero, over draws and entries. `stability[i, j]` is the cosine
    between the means of two independent sets of `num_draws[j]` draws each; they double from
    column to column. NaN stands where a gradient is zero throughout, and has no direction.
    """

    cosine: Float[np.ndarray, "n"]
    zeros: Float[np.ndarray, "n"]
    num_draws: Int[np.ndarray, "k"]
    stability: Float[np.ndarray, "n k"]

    @property
    def num_gradients(self) -> int:
        """What it cost per image: two sets of the largest number of draws."""
        return 2 * int(self.num_draws[-1])


def gradient_noise(
    surrogate: Pipeline,
    params: Params,
    seed: int,
    indices: Int[np.ndarray, "n"],
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    *,
    loss: str = "cross_entropy",
    first: int = 1,
    enough: Callable[[int, float], bool],
    batch_size: int = 64,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
) -> GradientNoise:
    """Returns the noise of a pipeline's gradient at some images, from as many draws as it takes.

    Two sets of `first` draws each are taken, and twice as many again and again, until
    `enough(num_draws, cosine)` says so; the cosine is the mean of `stability` over the images,
    NaN where none has a gradient. Draws are functions of the seed and of an image's position in
    the data set, `indices`, so batches change nothing.

    Args:
        surrogate: The random pipeline.
        params: Its parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        loss: The loss whose gradient it is, by name.
        first: How many draws each set has at first.
        enough: Told the number of draws and the cosine, says whether to stop.
        batch_size: Images computed together.
        mesh: The devices that a batch is spread over.
        on_gradient: Called with every number of image gradients made.

    Raises:
        ValueError: `first` or `batch_size` is below 1.
    """
    for name, given in (("first", first), ("batch_size", batch_size)):
        if as_plain(name, given, int) < 1:
            raise ValueError(f"{name}={given} must be at least 1.")
    if loss in losses.OF_REJECTION:
        raise ValueError(f"{loss=} is of a detector's score, not of classes: take 'margin'.")
    devices = 1 if mesh is None else mesh.size
    size = -(-min(batch_size, len(images)) // devices) * devices
    place, params = placement(mesh, params)
    query = LossAndGradient(loss)

    def gradients(start: int, count: int, rows: np.ndarray):
        keys = example_keys(seed, Purpose.ATTACK, indices[rows])
        keys = place(jax.vmap(jax.random.fold_in, (0, None))(keys, _PROBE))
        points, label = place(jnp.asarray(images[rows])), place(jnp.asarray(labels[rows]))
        for number in range(start, start + count):
            draw = place(_fold(keys, number))
            yield ask(
                surrogate, query, EOT(), params, draw, points, LabelAndTarget(label, label),
                count=1, labels=label, fold=folds(surrogate),
            )  # fmt: skip

    shape = (len(images), int(np.prod(images.shape[1:])))
    sums = np.zeros((2, *shape), np.float32)
    units, zeros = np.zeros(shape, np.float64), np.zeros(len(images))
    pointing = np.zeros(len(images))  # how many draws have a direction

    def add(half: int, start: int, count: int) -> None:
        for chosen, rows in full_batches(np.arange(len(images)), size):
            for answer in gradients(start, count, rows):
                one = np.asarray(answer.gradient)[: len(chosen)].reshape(len(chosen), -1)
                sums[half][chosen] += one
                length = np.linalg.norm(one.astype(np.float64), axis=1)
                some = length > 0
                units[chosen[some]] += one[some] / length[some, None]
                pointing[chosen] += some
                zeros[chosen] += (one == 0).mean(1)
                if on_gradient:
                    on_gradient(len(chosen))

    numbers, stability = [first], []
    add(0, 0, first)
    add(1, first, first)
    while True:
        stability.append(_cosine(sums[0], sums[1]))
        there = stability[-1][~np.isnan(stability[-1])]
        if enough(numbers[-1], float(there.mean()) if len(there) else float("nan")):
            break
        num = numbers[-1]
        sums[0] += sums[1]  # what were two sets become one of twice the size
        sums[1] = 0
        add(1, 2 * num, 2 * num)
        numbers.append(2 * num)
    total = 2 * numbers[-1]
    pairs = pointing * (pointing - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(pairs > 0, ((units**2).sum(1) - pointing) / pairs, np.nan)
    return GradientNoise(cosine, zeros / total, np.array(numbers), np.stack(stability, 1))


def num_draws_for(
    surrogate: Pipeline,
    params: Params,
    seed: int,
    indices: Int[np.ndarray, "n"],
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    *,
    stability: float = 0.9,
    first: int = 1,
    most: int = 256,
    **options,
) -> int:
    """Returns how many draws the mean gradient's direction needs: `first`, doubled up to `most`.

    They are enough when the cosine between the means of two independent sets of them is at
    least `stability`, in the mean over the images. Where no image has a gradient no number
    is, and `first` is returned. `options` are those of `gradient_noise`, which says what else
    there is to know.

    Args:
        surrogate: The random pipeline.
        params: Its parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        stability: The cosine that is asked for, in [-1, 1].
        first: The number to begin with.
        most: The number to end with.
        **options: Those of `gradient_noise`.

    Raises:
        ValueError: as `gradient_noise`.
    """
    found = gradient_noise(
        surrogate, params, seed, indices, images, labels, first=first,
        enough=lambda num, cosine: settled(cosine, stability) or 2 * num > most, **options,
    )  # fmt: skip
    return int(found.num_draws[-1])


def settled(cosine: float, stability: float) -> bool:
    """Tells whether a direction is stable, or is none: more draws of nothing show nothing."""
    return bool(np.isnan(cosine)) or cosine >= stability


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    product = (one * other).sum(1)
    return np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1), np.nan)


@jax.jit
def _fold(keys, number):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
