"""Climbing a ladder: rung after rung on what still stands, and what a record says of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from rainjax.attacks import Attack
from rainjax.attacks.queries import LossAndGradient
from rainjax.devices import full_batches
from rainjax.evaluation.driver import shrunk_sizes
from rainjax.evaluation.effort import with_draws
from rainjax.evaluation.ensemble import Member, Worst, attacked_by, judged
from rainjax.evaluation.ladder import Ladder, Rung, is_flat, paired_change
from rainjax.evaluation.noise import GradientNoise, gradient_noise, settled
from rainjax.evaluation.packing import pack_counts
from rainjax.evaluation.watch import ZeroGradients
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Pipeline
from rainjax.typing import Params

Arrays = dict[str, np.ndarray]
Memo = Callable[[list[int], Callable[[], Arrays]], Arrays]
ENDS = ("budget", "flat", "nothing stands")
_RUNG = ("steps", "draws", "restarts", "num_attacked", "num_gradients")


@dataclasses.dataclass(frozen=True, eq=False)
class Climbed:
    """What a ladder left of every image, and what it was on each rung.

    `best` is the rung that an image's version comes from, -1 for the original, and `correct` the
    number of the `num_draws` draws of comparison that got it right after each rung. `ended` is
    one of `ENDS`, `noise` None where it was not asked for. `zero_gradient` says for which images
    no rung had a gradient to follow, None where none asked for one.
    """

    images: Float[np.ndarray, "n h w c"]
    best: Int[np.ndarray, "n"]
    correct: Int[np.ndarray, "n rungs"]
    num_draws: int
    rungs: tuple[Rung, ...]
    num_attacked: tuple[int, ...]
    ended: str
    noise: GradientNoise | None
    zero_gradient: Bool[np.ndarray, "n"] | None

    def arrays(self, kinds: tuple[str, ...]) -> Arrays:
        """Returns it as the arrays that a unit keeps, of which `ladder_record` makes a record."""
        numbers = [
            [
                -1 if rung.doubled is None else kinds.index(rung.doubled),
                *_numbers(rung.attack),
                attacked,
                rung.attack.num_gradients,
            ]
            for rung, attacked in zip(self.rungs, self.num_attacked, strict=True)
        ]
        return {
            "attacked": self.images,
            "best": self.best,
            "correct": self.correct,
            "rungs": np.array(numbers),
            "ladder": np.array([self.num_draws, ENDS.index(self.ended)]),
            **({} if self.noise is None else _kept_noise(self.noise)),
        }


def climb(
    target: Pipeline,
    surrogate: Pipeline,
    ladder: Ladder,
    params: Params,
    seed: int,
    indices: Int[np.ndarray, "n"],
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    *,
    batch_size: int = 64,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
    memo: Memo = lambda place, make: make(),
) -> Climbed:
    """Attacks images on one rung after the other, until the ladder is flat or its budget spent.

    Whether it goes on is decided from all images together, so they are given together; they are
    attacked in batches of `batch_size`, which change nothing. Every draw is a function of `seed`,
    of an image's position in the data set (`indices`) and of the rung. `on_gradient(n)` is called
    after every `n` image gradients, `ladder.num_gradients` for each image in all. What a batch of
    a rung comes to is asked of `memo(place, make)`, which may keep what `make` returns.

    Args:
        target: The pipeline that is scored.
        surrogate: What the attack differentiates.
        ladder: The rungs, and the budget.
        params: The parameters of both.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        batch_size: Images attacked together.
        mesh: The devices that a batch is spread over.
        on_gradient: Called with every number of image gradients made.
        memo: Keeps what a batch of a rung comes to, or makes it.

    Raises:
        ValueError: as `run_attack` does.
    """
    ladder = ladder.on(is_random=surrogate.is_random)
    kinds = ladder.kinds
    assert kinds is not None
    devices = 1 if mesh is None else mesh.size
    size = -(-min(batch_size, len(images)) // devices) * devices
    sizes = shrunk_sizes(size, mesh)[1:]  # without 0
    num_draws = ladder.num_select_draws if target.is_random else 1
    bill = _Bill(ladder.num_gradients * len(images), on_gradient)
    # What a rejection is worth is the attacker's to say, of the pipeline that is scored.
    rejection = surrogate.rejection or target.rejection
    judge = functools.partial(_judge, target, params, seed, num_draws, mesh, rejection)

    first, noise = _first(
        surrogate, ladder, params, seed, indices, images, labels, size, mesh, memo
    )
    right, margins, counts = judge(indices, images, labels, size=size, attacked=False)
    worst, correct = Worst.of(images, right, margins), counts
    zeros = ZeroGradients(len(images))
    rungs: list[Rung] = []
    history: list[np.ndarray] = []
    attacked: list[int] = []
    ended = ENDS[0]
    for place, rung in enumerate(ladder.rungs(first)):
        standing = worst.standing
        # What still stands may be few by now: a batch as large as at first would be padding.
        fits = next(fewer for fewer in sizes if fewer >= min(len(standing), size))
        for chosen, rows in full_batches(standing, fits):

            def make(rung=rung, place=place, chosen=chosen, rows=rows) -> Arrays:
                attack = _filled(rung.attack, size // len(rows))
                member = Member(f"rung {place}", attack, surrogate)
                found, zero = attacked_by(
                    target, member, place, params, seed, indices[rows], images[rows],
                    labels[rows], num=len(chosen), mesh=mesh,
                    on_gradient=lambda n: bill.add(n * len(chosen)),
                )  # fmt: skip
                right, margins, counts = judge(
                    indices[chosen], found, labels[chosen], size=len(rows)
                )
                kept = {"found": found, "right": right, "margins": margins, "counts": counts}
                return kept if zero is None else {**kept, "zero": zero}

            kept = memo([place, *map(int, chosen)], make)
            zeros.add(chosen, kept.get("zero"))
            worse = worst.keep(chosen, kept["found"], kept["right"], kept["margins"], place)
            correct = correct.copy()
            correct[chosen[worse]] = kept["counts"][worse]
        rungs.append(rung)
        history.append(correct)
        attacked.append(len(standing))
        if not len(worst.standing):
            ended = ENDS[2]
            break
        if is_flat(kinds, [rung.doubled for rung in rungs], np.stack(history, 1) / num_draws):
            ended = ENDS[1]
            break
    bill.settle()
    return Climbed(
        worst.images, worst.best, np.stack(history, 1), num_draws, tuple(rungs), tuple(attacked),
        ended, noise, zeros.images,
    )  # fmt: skip


def ladder_record(kinds: list[str], kept: Arrays) -> dict[str, Any]:
    """Returns what a record says of a ladder, from the arrays of its unit.

    The shares of right answers are over the draws that rungs are compared on, which are not those
    of the score. `change` is the rise over the rung before, and `error` its standard error.
    """
    num_draws, ended = map(int, kept["ladder"])
    correct, best = kept["correct"], kept["best"]
    rungs = []
    for place, (kind, *numbers) in enumerate(kept["rungs"].tolist()):
        shares = correct[:, place] / num_draws
        low, high = wilson_interval(float(shares.sum()), len(shares))
        found = {
            "doubled": None if kind < 0 else kinds[kind],
            **dict(zip(_RUNG, numbers, strict=True)),
            "num_best": int((best == place).sum()),
            "accuracy": float(shares.mean()),
            "low": low,
            "high": high,
            "correct_draws": pack_counts(correct[:, place]),
        }
        if place:
            change, error = paired_change(correct[:, place - 1] / num_draws, shares)
            found |= {"change": change, "error": error}
        rungs.append(found)
    return {
        "flat": ENDS[ended] != "budget",
        "ended": ENDS[ended],
        "num_draws": num_draws,
        "rungs": rungs,
        "noise": _noise_record(kept),
    }


class _Bill:
    """Counts gradients towards what a ladder may cost, so that a progress bar comes to its end."""

    def __init__(self, total: int, on_gradient: Callable[[int], object] | None):
        self._left, self._on_gradient = total, on_gradient

    def add(self, num: int) -> None:
        """Counts some, as far as they were foreseen."""
        num = min(num, self._left)
        self._left -= num
        if self._on_gradient and num:
            self._on_gradient(num)

    def settle(self) -> None:
        """Counts what the ladder did without."""
        self.add(self._left)


def _judge(
    target, params, seed, num_draws, mesh, rejection, indices, images, labels, *, size,
    attacked=True,
):  # fmt: skip
    """Returns the verdicts and margins of the selection draws, and how many others are right.

    On a pipeline without randomness the one draw is both.
    """
    total = 2 * num_draws if target.is_random else 1
    right, margins = judged(
        target, params, seed, indices, images, labels,
        num_draws=total, size=size, mesh=mesh, attacked=attacked, rejection=rejection,
    )  # fmt: skip
    others = right[:, num_draws:] if target.is_random else right
    return right[:, :num_draws], margins[:, :num_draws], others.sum(1)


def _first(
    surrogate, ladder: Ladder, params, seed, indices, images, labels, size, mesh, memo: Memo
) -> tuple[Attack, GradientNoise | None]:
    """Returns the attack of the first rung, with the draws that its gradient needs."""
    attack, stability = ladder.attack, ladder.stability
    if stability is None or not isinstance(attack.query, LossAndGradient):
        return attack, None
    more = lambda num: dataclasses.replace(attack, eot=with_draws(attack.eot, num))

    def make() -> Arrays:
        noise = gradient_noise(
            surrogate, params, seed, indices, images, labels, loss=attack.query.loss,
            first=attack.num_draws, batch_size=size, mesh=mesh,
            enough=lambda num, cosine: (
                settled(cosine, stability) or not ladder.pays_for(more(2 * num))
            ),
        )  # fmt: skip
        return _kept_noise(noise)

    kept = memo([-1], make)
    numbers = attack.num_draws * 2 ** np.arange(kept["stability"].shape[1])
    noise = GradientNoise(kept["cosine"], kept["zeros"], numbers, kept["stability"])
    return more(int(numbers[-1])), noise


def _filled(attack: Attack, times: int) -> Attack:
    """Returns the attack with more draws held at once, where a batch is so many times smaller.

    Few images with one draw a call would leave a CPU waiting for the calls. Results do not depend
    on it; elsewhere than on CPU all draws are held already, unless a chunk size says otherwise.
    """
    eot = attack.eot
    if eot.chunk_size is None and jax.default_backend() != "cpu":
        return attack
    most = min((eot.chunk_size or 1) * times, eot.num_samples)
    chunk = max(n for n in range(1, most + 1) if eot.num_samples % n == 0)
    return dataclasses.replace(attack, eot=dataclasses.replace(eot, chunk_size=chunk))


def _kept_noise(noise: GradientNoise) -> Arrays:
    return {"cosine": noise.cosine, "zeros": noise.zeros, "stability": noise.stability}


def _noise_record(kept: Arrays) -> dict[str, Any] | None:
    """Returns means over the images that have a direction; None in the place of no number."""
    if "cosine" not in kept:
        return None

    def mean(values: np.ndarray) -> float | None:
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else None

    num = kept["stability"].shape[1]
    draws = int(kept["rungs"][0, 1 + _RUNG.index("draws")])
    return {
        "pairwise_cosine": mean(kept["cosine"]),
        "zero_entries": float(kept["zeros"].mean()),
        "stability": [
            {"num_draws": draws >> (num - 1 - place), "cosine": mean(kept["stability"][:, place])}
            for place in range(num)
        ],
    }


def _numbers(attack: Any) -> tuple[int, int, int]:
    steps = getattr(attack, "num_steps", getattr(attack, "num_queries", attack.num_calls))
    return steps, attack.num_draws, getattr(attack, "num_restarts", 1)
