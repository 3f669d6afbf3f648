"""Randomized smoothing: what a pipeline mostly answers under Gaussian noise, and how surely.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML
2019 (arXiv 1902.02918). Elsewhere a number says what some attack could not do; a certificate says
what no attack can.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose special functions are loaded when they are first asked for
from jax.sharding import Mesh
from jaxtyping import Float, Int

from rainjax._arguments import Named
from rainjax._arrays import as_array
from rainjax._checks import as_plain, check_fields, check_kind, check_num_classes, is_whole
from rainjax.devices import full_batches
from rainjax.evaluation.batches import ImageBatch, Keys, Labels, check_batch, refuse_traced
from rainjax.evaluation.driver import memory_advice, placement
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Pipeline
from rainjax.typing import Image, Logits, Params, PRNGKey

ABSTAINED = -1

# Branches of an example's key. `evaluation.score` counts its draws from 0 and never comes here.
_SELECT, _ESTIMATE, _PREDICT = 2**31, 2**31 + 1, 2**31 + 2


@dataclasses.dataclass(frozen=True)
class Smoothed(metaclass=Named):
    """Answers with the class that `target` is most likely to give under noise of std `sigma`.

    The noise is not clipped, for the guarantee is of the Gaussian: values leave [0, 1], and the
    whole pipeline sees them. A defense that clips does so within the function that is smoothed,
    and that may be any function; but it meets images that it was not made for. Nor need it be
    deterministic: with a fresh draw in every sample, the share of draws that give a class is one
    more function into [0, 1], and the Gaussian mean of any such function obeys the bound that a
    radius is read from (Salman et al., 2019, Appendix A).

    Parameters are those of `target`. No `sigma` is right for all: Cohen et al. take 0.25, 0.5
    and 1.0, for classifiers trained under the same noise.
    """

    target: Pipeline
    sigma: float

    def __post_init__(self):
        check_fields(self)
        _check_sigma(self.sigma)

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the pipeline."""
        return self.target.init(key)

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the target's logits under one draw of the noise and one of its own."""
        return _noisy_logits(self.target, params, key, image, self.sigma)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The most likely classes, `ABSTAINED` (-1) where no two are told apart, and all counts."""

    classes: Int[np.ndarray, "n"]
    counts: Int[np.ndarray, "n classes"]


@dataclasses.dataclass(frozen=True, eq=False)
class Certificates:
    """Around every image, the class of the smoothed classifier and how far it holds.

    `classes` is `ABSTAINED` (-1), and the radius 0, where nothing was certified. `counts` says
    how often the class `selected` was given in `num_draws` draws: all else follows from it.
    """

    classes: Int[np.ndarray, "n"]
    radii: Float[np.ndarray, "n"]
    """In L2, in units of the [0, 1] range."""
    selected: Int[np.ndarray, "n"]
    counts: Int[np.ndarray, "n"]
    num_draws: int
    sigma: float
    alpha: float


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedAccuracy:
    """The share of images that are certified right at each radius, with a 95 % interval."""

    radii: Float[np.ndarray, "radii"]
    accuracy: Float[np.ndarray, "radii"]
    low: Float[np.ndarray, "radii"]
    high: Float[np.ndarray, "radii"]


def predict(
    smoothed: Smoothed,
    params: Params,
    keys: Keys,
    images: ImageBatch,
    *,
    num_draws: int,
    alpha: float = 0.001,
    batch_size: int = 64,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    on_draw: Callable[[int], object] | None = None,
) -> Predictions:
    """Returns what the smoothed classifier answers: PREDICT of Section 3.2.1.

    Abstains unless a two-sided binomial test tells the two most frequent classes apart at level
    `alpha` (0.001 in the authors' code): an answer is not the smoothed classifier's with a
    probability of at most `alpha`. For the other options, and for errors, see `count_classes`.

    Args:
        smoothed: The smoothed classifier.
        params: Its parameters.
        keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        num_draws: Draws of the noise for each image.
        alpha: The probability of a wrong answer that is allowed.
        batch_size: Images computed together.
        chunk_size: Draws of each computed together.
        mesh: The devices that images are spread over.
        on_draw: Called with every number of draws made.
    """
    check_kind(smoothed, Smoothed, "predict(smoothed=...)")
    _check_alpha(alpha)
    refuse_traced("predict", params, keys, images)
    images = check_batch(smoothed.target, params, keys, jnp.asarray(as_array("images", images)))
    as_plain("num_draws", num_draws, int)
    if 2 * 0.5**num_draws > alpha:
        _refuse_few("num_draws", num_draws, alpha, math.ceil(math.log2(2 / alpha)))
    counts = count_classes(
        smoothed, params, _branch(keys, _PREDICT), images, num_draws=num_draws,
        batch_size=batch_size, chunk_size=chunk_size, mesh=mesh, on_draw=on_draw,
    )  # fmt: skip
    second, first = np.sort(counts, axis=1)[:, -2:].T
    # The chance of a split at least as uneven among as many tosses of a fair coin.
    chance = 2 * scipy.special.betainc(first, second + 1, 0.5)
    return Predictions(np.where(chance <= alpha, counts.argmax(1), ABSTAINED), counts)


def certify(
    smoothed: Smoothed,
    params: Params,
    keys: Keys,
    images: ImageBatch,
    *,
    num_select: int = 100,
    num_estimate: int = 100_000,
    alpha: float = 0.001,
    batch_size: int = 64,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    on_draw: Callable[[int], object] | None = None,
) -> Certificates:
    """Returns radii in which the smoothed classifier's answer is certain: CERTIFY, Section 3.2.2.

    `num_select` draws select a class, and as many as `num_estimate` others, which never meet
    those, bound its probability; see `certificates`. Defaults are those of the authors' code. With
    a probability of at least 1 - `alpha` for every image, over the draws, the smoothed classifier
    gives this class everywhere in an open ball of this L2 radius around it. That is said of the
    smoothed classifier, whose answer `predict` finds, and of no other; and of exact arithmetic:
    with numbers in float32 it can be made to fail on purpose (Voráček and Hein, 2023).

    For the other options, and for errors, see `count_classes`.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import Defended, Identity, Purpose, Smoothed, certify, example_keys, nets
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> weights = jnp.stack([jnp.ones(48), -jnp.ones(48)], axis=1)  # far from any boundary
    >>> model = nets.from_function(logits, weights)
    >>> smoothed = Smoothed(Defended(Identity(), model.network), sigma=0.25)
    >>> params = {"defense": (), "classifier": model.params}
    >>> keys = example_keys(0, Purpose.SCORE, np.arange(1))
    >>> found = certify(
    ...     smoothed, params, keys, jnp.ones((1, 4, 4, 3)), num_select=10, num_estimate=1000
    ... )
    >>> found.classes.tolist(), [round(float(radius), 2) for radius in found.radii]
    ([0], [0.62])

    Args:
        smoothed: The smoothed classifier.
        params: Its parameters.
        keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        num_select: Draws that select a class.
        num_estimate: Other draws, that bound its probability.
        alpha: The probability of a wrong radius that is allowed, an image.
        batch_size: Images computed together.
        chunk_size: Draws of each computed together.
        mesh: The devices that images are spread over.
        on_draw: Called with every number of draws made.
    """
    check_kind(smoothed, Smoothed, "certify(smoothed=...)")
    check_certifiable(num_estimate, alpha)
    refuse_traced("certify", params, keys, images)
    images = check_batch(smoothed.target, params, keys, jnp.asarray(as_array("images", images)))
    selected, estimated = (
        count_classes(
            smoothed, params, _branch(keys, stage), images, num_draws=num_draws,
            batch_size=batch_size, chunk_size=chunk_size, mesh=mesh, on_draw=on_draw,
        )
        for stage, num_draws in ((_SELECT, num_select), (_ESTIMATE, num_estimate))
    )  # fmt: skip
    selected = selected.argmax(1)
    counts = np.take_along_axis(estimated, selected[:, None], 1)[:, 0]
    return certificates(
        selected, counts, num_draws=num_estimate, sigma=smoothed.sigma, alpha=alpha
    )


def certificates(
    selected: Int[np.ndarray, "n"],
    counts: Int[np.ndarray, "n"],
    *,
    num_draws: int,
    sigma: float,
    alpha: float = 0.001,
) -> Certificates:
    """Returns what is certain when `counts` of `num_draws` draws gave the class `selected`.

    The radius is `sigma` times the normal quantile of the class's lowest plausible probability
    (Theorem 1, all others taken for one), and there is none unless that is above one half.

    Raises:
        ValueError: `counts` do not lie in 0..`num_draws`, `alpha` is not between 0 and 1, or
            `sigma` not positive and finite.
    """
    _check_sigma(sigma)
    low = lower_bound(counts, num_draws, alpha)
    certain = low > 0.5
    radii = sigma * scipy.special.ndtri(np.where(certain, low, 0.5))
    classes = np.where(certain, selected, ABSTAINED)
    return Certificates(classes, radii, selected, counts, num_draws, sigma, alpha)


def lower_bound(
    counts: Int[np.ndarray, "n"], num_draws: int, alpha: float = 0.001
) -> Float[np.ndarray, "n"]:
    """Returns what a probability is at least, with confidence 1 - `alpha`, given its successes.

    The one-sided interval of Clopper and Pearson (1934), which keeps its word for every number
    of draws.

    Raises:
        ValueError: `counts` do not lie in 0..`num_draws`, or `alpha` is not between 0 and 1.
    """
    _check_alpha(alpha)
    if (
        as_plain("num_draws", num_draws, int) < 1
        or (counts < 0).any()
        or (counts > num_draws).any()
    ):
        raise ValueError(f"counts={counts} must lie in 0..{num_draws=}, which is at least 1.")
    found = scipy.special.betaincinv(np.maximum(counts, 1), num_draws - counts + 1, alpha)
    return np.where(counts > 0, found, 0.0)


def certified_accuracy(
    certified: Certificates, labels: Labels, radii: Float[np.ndarray, "radii"]
) -> CertifiedAccuracy:
    """Returns the share of images with the right class and a radius of at least each of `radii`.

    The interval is Wilson's, for the choice of images: that a certificate fails has a chance of
    its own, `alpha` for each.

    Raises:
        ValueError: there is not one label for every certificate.
    """
    labels = np.asarray(labels)
    if len(labels) != len(certified.classes):
        raise ValueError(f"{len(certified.classes)} certificates came with {len(labels)} labels.")
    right, total = certified.classes == labels, len(labels)
    hits = [int((right & (certified.radii >= radius)).sum()) for radius in radii]
    low, high = np.array([wilson_interval(n, total) for n in hits]).reshape(-1, 2).T
    return CertifiedAccuracy(np.asarray(radii), np.array(hits) / total, low, high)


def count_classes(
    smoothed: Smoothed,
    params: Params,
    keys: Keys,
    images: ImageBatch,
    *,
    num_draws: int,
    batch_size: int = 64,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    on_draw: Callable[[int], object] | None = None,
) -> Int[np.ndarray, "n classes"]:
    """Returns how often each class is the answer in `num_draws` draws for every image.

    Draw `i` is a function of an image's key and of `i` alone, so it does not matter that
    `batch_size` images and `chunk_size` draws of each are computed together; the last ones are
    padded. By default that is 4 draws on CPU, where more gained no time, and 64 elsewhere. With
    `mesh` the images are spread over its devices. `on_draw(n)` is called after every `n` draws,
    over all images, to show progress.

    Args:
        smoothed: The smoothed classifier.
        params: Its parameters.
        keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        num_draws: Draws of the noise for each image.
        batch_size: Images computed together.
        chunk_size: Draws of each computed together.
        mesh: The devices that images are spread over.
        on_draw: Called with every number of draws made.

    Raises:
        ValueError: images and keys do not belong together or are out of range, a number is below
            1 or no whole one, the classifier has one class, or a logit is NaN, which is no answer.
        MemoryError: the device cannot hold a chunk; the message says what to lower.
    """
    check_kind(smoothed, Smoothed, "count_classes(smoothed=...)")
    refuse_traced("count_classes", params, keys, images)
    if chunk_size is None:
        chunk_size = 4 if jax.default_backend() == "cpu" else 64
    given = {"num_draws": num_draws, "batch_size": batch_size, "chunk_size": chunk_size}
    for name, number in given.items():
        if not is_whole(number) or number < 1:
            raise ValueError(f"{name}={number} must be a whole number, and at least 1.")
    images = check_batch(smoothed.target, params, keys, jnp.asarray(as_array("images", images)))
    num_classes = jax.eval_shape(smoothed.logits, params, keys[0], images[0]).shape[0]
    check_num_classes(num_classes, type(smoothed.target).__name__)
    devices = 1 if mesh is None else mesh.size
    size = -(-min(batch_size, len(images)) // devices) * devices
    place, params = placement(mesh, params)
    counts = []
    with memory_advice(
        f"{size} images of {images.shape[1:3]} with {chunk_size=}",
        "lower the chunk_size first (the result stays the same)",
    ):
        for chosen, rows in full_batches(np.arange(len(images)), size):
            batch = place(keys[rows]), place(images[rows])
            total = np.zeros((), np.int64)
            for start in range(0, num_draws, chunk_size):
                found, broken = _count_chunk(
                    smoothed.target, chunk_size, smoothed.sigma, params, *batch, start, num_draws
                )
                total = total + np.asarray(found)
                _check_answers(np.asarray(broken)[: len(chosen)], chosen)
                if on_draw:
                    on_draw(len(chosen) * min(chunk_size, num_draws - start))
            counts.append(total[: len(chosen)])
    return np.concatenate(counts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count_chunk(target: Pipeline, chunk: int, sigma, params, keys, images, start, stop):
    """Counts the answers of draws `start..start+chunk-1`, without those from `stop` on.

    `sigma` is traced: several of them share one compiled program.
    """

    def one(key, image, number):
        logits = _noisy_logits(target, params, jax.random.fold_in(key, number), image, sigma)
        wanted = number < stop
        answer = jnp.where(wanted, jnp.argmax(logits), ABSTAINED)
        return jax.nn.one_hot(answer, len(logits), dtype=jnp.int32), (
            jnp.isnan(logits).any() & wanted  # NaN is first in argmax: class 0 would be counted
        )

    which = start + jnp.arange(chunk)
    draws = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))
    counted, broken = draws(keys, images, which)
    return counted.sum(1), broken.any(1)


def _noisy_logits(target: Pipeline, params, key, image, sigma) -> Logits:
    noise_key, target_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, image.shape, image.dtype)
    return target.logits(params, target_key, image + sigma * noise)


def _branch(keys: Keys, stage: int) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, jnp.uint32(stage))


def _check_answers(broken: np.ndarray, rows: np.ndarray) -> None:
    if broken.any():
        raise ValueError(
            f"The pipeline's logits are NaN under noise for {broken.sum()} of {len(rows)} images, "
            f"the first of them number {rows[broken.argmax()]}: mend the pipeline."
        )


def _check_sigma(sigma: float) -> None:
    if not 0 < as_plain("sigma", sigma) < math.inf:
        raise ValueError(f"{sigma=} must be positive and finite; 0.25 is usual.")


def check_certifiable(num_estimate: int, alpha: float) -> None:
    """Refuses numbers of draws that can certify nothing.

    Raises:
        ValueError: `alpha` is not between 0 and 1, or `num_estimate` draws that all agree would
            not be enough for it.
    """
    _check_alpha(alpha)
    if 0.5 ** as_plain("num_estimate", num_estimate, int) >= alpha:
        _refuse_few("num_estimate", num_estimate, alpha, math.floor(math.log2(1 / alpha)) + 1)


def _check_alpha(alpha: float) -> None:
    if not 0 < as_plain("alpha", alpha) < 1:
        raise ValueError(f"{alpha=} must lie between 0 and 1; 0.001 is usual.")


def _refuse_few(name: str, number: int, alpha: float, least: int) -> None:
    raise ValueError(
        f"{name}={number} can only abstain at {alpha=}, even if all draws agree: take at least "
        f"{least}."
    )
