"""The JAX side of `eval.benchmarks.peers`: rainjax, and Foolbox on JAX, on one random pipeline."""

# Foolbox is no requirement of rainjax's: it is here to be compared with.
# pyright: reportMissingImports=false

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.benchmarks._peers_worker import Case, Library, foolbox_pgd
from rainjax import evaluation, transforms
from rainjax.attacks import EOT, PGD
from rainjax.defenses import Defense, Identity
from rainjax.devices import data_mesh, use_all_cores
from rainjax.keys import Purpose, example_keys
from rainjax.nets import Network, ResNet
from rainjax.nets.convert import from_torch
from rainjax.pipeline import Defended
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class PickAndShift(Defense):
    """Keeps one pixel in four at random, moves them by up to one, and resizes to the old size.

    RAIN with a bicubic kernel in place of its network. Without `random`, its cells are averaged
    and nothing moves: a pipeline without draws, to compare libraries by.
    """

    random: bool = True

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the purified image, of the same even height and width."""
        del params
        height, width, _ = image.shape
        if self.random:
            pick_key, shift_key = jax.random.split(key)
            small = transforms.random_pixel_downsample(pick_key, image)
            small = transforms.random_circular_shift(shift_key, small, max_shift=1)
        else:
            small = transforms.average_downsample(image)
        return transforms.resize_bicubic(small, height, width)


def make(name: str, case: Case) -> Library:
    """Returns the library called `name`, which is to have the process to itself."""
    if name == "rainjax":
        use_all_cores()  # a user of Foolbox has one CPU device, on which XLA runs its threads
        return Rainjax(case)
    return FoolboxJAX(case)


class _OnJAX:
    def __init__(self, case: Case):
        network = ResNet(**fields(case.network))
        self._options = case.options
        self._network = network
        classifier = jax.tree.map(jnp.asarray, from_torch(network, case.weights))
        self._params: Params = {"defense": (), "classifier": classifier}
        self._target = Defended(PickAndShift(), network)
        self._images, self._labels = jnp.asarray(case.images), jnp.asarray(case.labels)
        self.device = jax.devices()[0].device_kind

    def plain_logits(self) -> np.ndarray:
        return plain_logits(self._network, self._params, self._images)

    def device_memory(self) -> tuple[float, float] | None:
        stats = jax.local_devices()[0].memory_stats()
        if not stats or "peak_bytes_in_use" not in stats:
            return None
        return stats["bytes_in_use"] / 2**20, stats["peak_bytes_in_use"] / 2**20


class Rainjax(_OnJAX):
    """rainjax as its own programs use it: one device per core, the batch spread over them."""

    def __init__(self, case: Case):
        super().__init__(case)
        options, self._mesh = self._options, data_mesh(batch_size=len(self._images))
        pgd = PGD(
            radius=options["radius"],
            step_size=options["step_size"],
            num_steps=options["num_steps"],
        )
        eot = EOT(options["num_eot"], chunk_size=options["eot_chunk"])
        self._attacks = {"pgd": pgd, "eot_pgd": dataclasses.replace(pgd, eot=eot)}

    def attack(self, name: str, seed: int) -> np.ndarray:
        attacked = evaluation.run_attack(
            self._target,
            self._attacks[name],
            self._params,
            example_keys(seed, Purpose.ATTACK, jnp.arange(len(self._images))),
            self._images,
            self._labels,
            mesh=self._mesh,
        )
        return np.asarray(attacked)


class FoolboxJAX(_OnJAX):
    """Foolbox on a jitted function of a batch, which takes a fresh key at every call."""

    def __init__(self, case: Case):
        super().__init__(case)
        import foolbox

        self._key = jax.random.key(0)
        target, params = self._target, self._params

        @jax.jit
        def logits(params, key, images):
            keys = jax.random.split(key, len(images))
            return jax.vmap(target.logits, (None, 0, 0))(params, keys, images)

        def model(images):
            self._key, key = jax.random.split(self._key)
            return logits(params, key, images)

        self._model = foolbox.JAXModel(model, bounds=(0, 1))
        self._attacks = foolbox_pgd(self._options)

    def attack(self, name: str, seed: int) -> np.ndarray:
        self._key = jax.random.key(seed)
        attack, radius = self._attacks[name], self._options["radius"]
        _, attacked, _ = attack(self._model, self._images, self._labels, epsilons=radius)
        return np.asarray(attacked)


def plain_logits(network: Network, params: Params, images) -> np.ndarray:
    """Returns the logits of a batch with the pick replaced by its mean and no shift."""
    target = Defended(PickAndShift(random=False), network)
    keys = example_keys(0, Purpose.SCORE, jnp.arange(len(images)))
    logits = evaluation.score(target, params, keys, images, num_draws=1)
    return np.asarray(logits[:, 0])


def early_stopping(
    network: Network, params: Params, images, labels, *, num_steps: int, radii, num_repeats: int
) -> list[dict[str, Any]]:
    """Returns, per radius, the share of images that break and the time with `early_stop`.

    The time is over that of the same attack without, which is the same at any radius: on the
    bare classifier, all images in one batch, the sides in turn. A first run compiles the sizes
    to which the batch shrinks.
    """
    target, mesh = Defended(Identity(), network), data_mesh(batch_size=len(images))
    keys = example_keys(0, Purpose.ATTACK, jnp.arange(len(images)))
    rows = []
    for radius in radii:
        full = PGD(radius=radius, step_size=radius / 4, num_steps=num_steps)
        sides = [dataclasses.replace(full, early_stop=True), full]
        run = functools.partial(evaluation.run_attack, target)
        times, attacked = [[], []], images
        for repeat in range(num_repeats + 1):
            for of_side, side in zip(times, sides, strict=True):
                start = np.array([time.perf_counter(), time.process_time()])
                found = jax.block_until_ready(run(side, params, keys, images, labels, mesh=mesh))
                if repeat:
                    of_side.append([time.perf_counter(), time.process_time()] - start)
                attacked = found if side.early_stop else attacked
        logits = evaluation.score(target, params, keys, attacked, num_draws=1, mesh=mesh)
        broken = np.argmax(np.asarray(logits[:, 0]), axis=1) != np.asarray(labels)
        stopped, whole = np.array(times)
        ratios = np.median(stopped / whole, axis=0).tolist()
        rows.append(
            {
                "radius": radius,
                "broken": float(broken.mean()),
                "time_over_whole": ratios[0],
                "cpu_over_whole": ratios[1],
                "stopped_seconds": float(np.median(stopped[:, 0])),
                "whole_seconds": float(np.median(whole[:, 0])),
            }
        )
    return rows


def fields(plain: dict[str, Any]) -> dict[str, Any]:
    """Returns a network's fields as they were before they were written as JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
