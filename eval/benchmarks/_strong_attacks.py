"""What the attacks cost that look hardest: reachable outputs beside APGD, and strength ladders."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rainjax import data, evaluation, zoo
from rainjax.attacks import APGD, ReachableOutputs
from rainjax.attacks._base import BallAttack
from rainjax.defenses import JPEG, Defense, FeatureDistillation
from rainjax.devices import data_mesh
from rainjax.evaluation import Ladder, OwnGradient, RoundedOutputs
from rainjax.evaluation.climbing import climb
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended, Pipeline

_RADIUS = 2 / 255
ROUNDING = {"Feature Distillation, 25/30": FeatureDistillation(), "JPEG, quality 75": JPEG(75)}
RIVALS = (
    APGD(radius=_RADIUS, num_steps=100, loss="margin"),
    ReachableOutputs(radius=_RADIUS, num_steps=30, num_restarts=4),
)
# In a ball so small that most images stand to the end: what is broken costs nothing more.
LADDER = Ladder(APGD(radius=0.5 / 255, num_steps=5, loss="margin"), max_gradients=2000)


class StrongAttacks:
    """Pipelines that round, in front of a classifier, and images to attack them on."""

    def __init__(self, classifier: str, num_images: int, num_repeats: int):
        entry = zoo.load_any(classifier)
        self._network, self._params = entry.network, {"defense": (), "classifier": entry.params}
        self._num_repeats = num_repeats
        images, labels = data.load("builtin", "test").get(np.arange(num_images))
        self._indices = np.arange(num_images)
        self._images, self._labels = np.asarray(images, np.float32) / 255, np.asarray(labels)
        self._mesh = data_mesh(batch_size=num_images)

    def reachable_over_apgd(self, bar: tqdm) -> list[dict[str, Any]]:
        """Returns the time of reachable outputs over that of APGD-100, a row for each defense.

        Neither stops early. Both are compiled before, and take turns.
        """
        apgd, reach = RIVALS
        rows = []
        for name, defense in ROUNDING.items():
            target = self._target(defense)
            sides = (OwnGradient().of(target), apgd), (RoundedOutputs().of(target), reach)
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(1 + self._num_repeats):
                for of_these, (surrogate, attack) in zip(seconds, sides, strict=True):
                    took = seconds_of(lambda s=surrogate, a=attack, t=turn: self._attack(s, a, t))
                    of_these.extend([took] * (turn > 0))
                bar.update()
            rows.append(
                {
                    "defense": name,
                    "num_images": len(self._images),
                    "image": list(self._images.shape[1:]),
                    "num_gradients": [apgd.num_gradients, reach.num_gradients],
                    **_ratio(*seconds),
                }
            )
        return rows

    def ladder_over_last_rung(self, bar: tqdm) -> dict[str, Any]:
        """Returns what a whole ladder costs over its last rung alone, on all the images."""
        target = self._target(FeatureDistillation())
        surrogate = OwnGradient().of(target)
        assert surrogate is not None

        def whole():
            return climb(
                target, surrogate, LADDER, self._params, 0, self._indices, self._images,
                self._labels, batch_size=len(self._images), mesh=self._mesh,
            )  # fmt: skip

        climbed = whole()
        last = climbed.rungs[-1].attack
        ladders, rungs = [], []
        for turn in range(1 + self._num_repeats):
            took = seconds_of(whole), seconds_of(lambda t=turn: self._attack(surrogate, last, t))
            if turn:
                ladders.append(took[0])
                rungs.append(took[1])
            bar.update()
        counts = [rung.attack.num_gradients for rung in climbed.rungs]
        return {
            "num_images": len(self._images),
            "num_attacked": list(climbed.num_attacked),
            "num_gradients": counts,
            "gradients_ratio": sum(counts) / counts[-1],
            "ended": climbed.ended,
            **_ratio(rungs, ladders),
        }

    def num_parts(self) -> int:
        """Returns how often both together move the bar."""
        return (1 + len(ROUNDING)) * (1 + self._num_repeats)

    def _target(self, defense: Defense) -> Defended:
        return Defended(defense, self._network)

    def _attack(self, surrogate: Pipeline | None, attack: BallAttack, seed: int) -> None:
        assert surrogate is not None
        keys = example_keys(seed, Purpose.ATTACK, jnp.asarray(self._indices))
        found = evaluation.run_attack(
            surrogate, attack, self._params, keys, self._images, self._labels, mesh=self._mesh
        )
        jax.block_until_ready(found)


def _ratio(before: list[float], after: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(after, before, strict=True)]
    seconds = [statistics.median(before), statistics.median(after)]
    return {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": seconds}


def seconds_of(fn: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start
