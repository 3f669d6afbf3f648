"""What the design of a table asks: who is right, what an attack moves, what a defense costs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rainjax import distillation, zoo
from rainjax.attacks import Attack
from rainjax.defenses import Deterministic, Identity
from rainjax.defenses.feature_distillation import Steps
from rainjax.devices import data_mesh, full_batches
from rainjax.evaluation import run_attack, score
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended


class Bench:
    """A classifier and images with labels, and what is asked about both, batch by batch.

    `indices` are the images' positions in their set: their draws depend on nothing else.
    """

    def __init__(
        self,
        classifier: zoo.Entry,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        batch_size: int,
        seed: int,
    ):
        self._images, self._labels, self._indices = images, labels, indices
        self._pipeline = Defended(Identity(), classifier.network)
        self._params = {"defense": (), "classifier": classifier.params}
        self._mesh = data_mesh(batch_size=batch_size)
        self._batch_size, self._seed = batch_size, seed

    def right(
        self, defense: Deterministic | None = None, images: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns for each image whether the classifier is right about it behind `defense`.

        `images` take the places of the first ones that there are.
        """
        images = self._images if images is None else images
        # Purified here, not in the pipeline: that would be compiled anew for every table.
        purify = jax.vmap(defense.purify) if defense else lambda image: image

        def answer(rows, keys):
            purified = purify(jnp.asarray(_floats(images[rows])))
            logits = score(
                self._pipeline, self._params, keys, purified, num_draws=1, mesh=self._mesh
            )
            return np.asarray(logits)[:, 0].argmax(-1) == self._labels[rows]

        return self._in_batches(answer, len(images), Purpose.SCORE)

    def attack(self, attack: Attack, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first `count` images, and what an attack on the classifier made of them."""
        total = math.ceil(count / self._batch_size) * attack.num_gradients
        with tqdm(total=total, desc="attack", unit="grad", dynamic_ncols=True) as bar:

            def answer(rows, keys):
                images = _floats(self._images[rows])
                attacked = run_attack(
                    self._pipeline, attack, self._params, keys, images, self._labels[rows],
                    mesh=self._mesh, on_gradient=bar.update,
                )  # fmt: skip
                return np.asarray(attacked)

            attacked = self._in_batches(answer, count, Purpose.ATTACK)
        return _floats(self._images[:count]), attacked

    def _in_batches(self, answer: Callable, count: int, purpose: Purpose) -> np.ndarray:
        found = []
        for rows, full in full_batches(np.arange(count), self._batch_size):
            keys = example_keys(self._seed, purpose, self._indices[full])
            found.append(answer(full, keys)[: len(rows)])
        return np.concatenate(found)


def cost(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Returns the accuracy `after`, the loss of it since `before`, and that one's standard error.

    The images are the same: those that were lost and those that were gained are counted apart.
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    loss = (lost - gained) / len(before)
    error = math.sqrt(((lost + gained) / len(before) - loss**2) / len(before))
    return {
        "accuracy": float(after.mean()),
        "loss": loss,
        "loss_error": error,
        "lost": lost,
        "gained": gained,
    }


def statistics(
    images: np.ndarray, attacked: np.ndarray, steps: Steps, inside: np.ndarray, *, radius: float
) -> dict[str, Any]:
    """Returns what an attack of `radius` grey levels did to the coefficients, as plain JSON.

    Shares are means over the band, `inside`, and over the rest. Beside the measured ones are two
    in closed form: of random signs and, "shaped", of changes that are normal with the standard
    deviation measured at each frequency.
    """
    perturbation = distillation.coefficient_spread(255 * (attacked - images))

    def in_bands(share: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(share[inside].mean()), "defense": float(share[~inside].mean())}

    def shares(table: np.ndarray) -> dict[str, Any]:
        closed = np.vectorize(distillation.changed_share, otypes=[float])
        return {
            "closed_form": in_bands(closed(radius, table)),
            "shaped": in_bands(closed(perturbation, table)),
            "measured": in_bands(distillation.moved_share(images, attacked, table)),
        }

    table = np.array(steps)
    curve = table[~inside].max() * np.arange(1, 25) / 12
    return {
        "num_examples": len(images),
        "benign_spread": distillation.coefficient_spread(255 * images).tolist(),
        "adversarial_spread": distillation.coefficient_spread(255 * attacked).tolist(),
        "perturbation_spread": perturbation.tolist(),
        "moved": shares(table),
        "moved_by_position": distillation.moved_share(images, attacked, table).tolist(),
        "curve": [{"step": float(s), **shares(np.full((8, 8), s))} for s in curve],
    }


def measured_step(
    images: np.ndarray, attacked: np.ndarray, inside: np.ndarray, share: float
) -> float:
    """Returns the step at which the attack moves `share` of what is not `inside`.

    By bisection, to a thousandth: the share falls with the step, nearly.
    """

    def moved(step: float) -> float:
        table = np.full((8, 8), step)
        return distillation.moved_share(images, attacked, table)[~inside].mean()

    low, high = 0.0, 1.0
    while moved(high) > share:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) > share else (low, middle)
    return high


def _floats(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.float32 else images.astype(np.float32) / 255
