"""Checks that an attack was strong enough to be believed.

The pathologies of Athalye et al. (2018) and the list of Carlini et al. (2019), each as a number
and a verdict. A check that fails says which accuracies it affects: the attack, not the defense,
may be what was measured.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rainjax.attacks import PGD, Attack, BallAttack
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient
from rainjax.devices import data_mesh, full_batches
from rainjax.evaluation.driver import ask, watched_attack
from rainjax.evaluation.effort import with_draws
from rainjax.evaluation.ladder import paired_change
from rainjax.evaluation.rejections import folds
from rainjax.evaluation.scoring import score
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.suspects import Suspect, Variations, attacks, whole
from rainjax.evaluation.threats import ClassifierAlone
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: what was expected, what was found, and whether they agree.

    `passed` is None for a number without a verdict. `doubts` names the threat models whose
    accuracies a failure affects.
    """

    name: str
    expected: str
    found: str
    passed: bool | None
    doubts: tuple[str, ...]
    numbers: dict[str, Any]

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "    "}[self.passed]
        return f"{mark} {self.name}: {self.found}"


def run_checks(
    subject: Subject,
    suspect: Suspect,
    images: np.ndarray,
    labels: np.ndarray,
    variations: Variations,
    *,
    seed: int = 0,
    num_score_draws: int = 5,
    batch_size: int = 64,
    on_gradient: Callable[[int], object] | None = None,
    on_check: Callable[[Check], object] | None = None,
) -> tuple[list[Check], list[dict[str, Any]]]:
    """Returns the checks of an attack, and the loss surfaces of a few images.

    `images` are float32 in [0, 1], two at least. All are compared with themselves: a change
    counts when it exceeds two standard errors of the mean change over the images.

    Args:
        subject: The pipeline and its parameters.
        suspect: The attack that is checked, and what it differentiates.
        images: `n h w c`, float32 in [0, 1], two at least.
        labels: The right classes, of shape `n`.
        variations: How far each setting of the attack is varied.
        seed: The root of every draw.
        num_score_draws: Fresh draws under which images are scored.
        batch_size: Images attacked together.
        on_gradient: Called with every number of image gradients made.
        on_check: Called with every check once it is known.
    """
    bench = _Bench(
        subject, suspect, images, labels, variations, seed, num_score_draws,
        min(batch_size, len(images)), on_gradient,
    )  # fmt: skip
    checks = []
    for make in (
        _gradients, _steps, _samples, _radius, _unbounded, _black_box, _blind, _noise, _variance,
    ):  # fmt: skip
        found = make(bench)
        if found is not None:
            checks.append(found)
            if on_check:
                on_check(found)
    return checks, _surfaces(bench)


class _Bench:
    """A subject and images, and what every check does with them."""

    def __init__(
        self, subject: Subject, suspect: Suspect, images: np.ndarray, labels: np.ndarray,
        variations: Variations, seed: int, num_score_draws: int, batch_size: int,
        on_gradient: Callable[[int], object] | None,
    ):  # fmt: skip
        self.target, self.params = subject.pipeline, subject.params
        self.threat, self.climbers = (suspect.threat,), suspect.climbers
        self.surrogate, self.attack = suspect.surrogate, suspect.attack
        self.images, self.labels, self.variations = images, labels, variations
        self.seed = seed
        self.attacks = attacks(subject, suspect, variations, images.shape[1:])
        self._num_draws = num_score_draws if self.target.is_random else 1
        self._batch_size, self._on_gradient = batch_size, on_gradient
        self._mesh: Mesh = data_mesh(batch_size=batch_size)
        self._right: dict[str, np.ndarray] = {}

    @property
    def radius_per_value(self) -> float:
        """How far every value of an image moves that is moved by the radius in all of them."""
        return self.attack.radius / whole(self.attack.norm, self.images.shape[1:])

    def left(self, name: str) -> np.ndarray:
        """Returns each image's share of right answers under an attack, by its name."""
        if name not in self._right:
            blind = ClassifierAlone().of(self.target) if name == "blind" else None
            # Scores are asked of the pipeline itself; gradients of what the attacker put in place.
            seen = blind or (self.target if name == "queries" else self.surrogate)
            self._right[name] = self.right(self._attacked(self.attacks[name], seen))
        return self._right[name]

    @functools.cached_property
    def clean(self) -> np.ndarray:
        """The shares of draws that are right on the images as they are."""
        return (self.clean_logits.argmax(-1) == self.labels[:, None]).mean(1)

    @functools.cached_property
    def clean_logits(self) -> np.ndarray:
        """The logits of the images as they are, under the scoring draws."""
        return self.logits(self.images, attacked=False)

    def right(self, attacked: np.ndarray) -> np.ndarray:
        """Returns each image's share of right answers under fresh draws."""
        predicted = self.logits(attacked).argmax(-1)
        return (predicted == self.labels[:, None]).mean(1)

    def logits(self, images: np.ndarray, *, attacked: bool = True) -> np.ndarray:
        """Returns the target's logits under the scoring draws."""
        found = [
            score(
                self.target, self.params, keys, images[full],
                num_draws=self._num_draws, labels=self.labels[full], attacked=attacked,
                mesh=self._mesh,
            )
            for _, full, keys in self._batches(Purpose.SCORE)
        ]  # fmt: skip
        return np.concatenate([np.asarray(logits) for logits in found])[: len(images)]

    def slopes(self, num_draws: int) -> np.ndarray:
        """Returns the mean gradient of the loss at the images themselves."""
        found = []
        eot = dataclasses.replace(with_draws(self.attack.eot, num_draws), chunk_size=1)
        for rows, full, keys in self._batches(Purpose.ATTACK):
            labels, points = jnp.asarray(self.labels[full]), jnp.asarray(self.images[full])
            aim = LabelAndTarget(labels, labels)
            answer = ask(
                self.surrogate, LossAndGradient("cross_entropy"), eot, self.params, keys, points,
                aim, count=num_draws, labels=labels, fold=folds(self.surrogate),
            )  # fmt: skip
            found.append(np.asarray(answer.gradient)[: len(rows)])
        return np.concatenate(found)

    def _attacked(self, attack: Attack, surrogate: Pipeline) -> np.ndarray:
        found = [
            watched_attack(
                surrogate, attack, self.params, keys, self.images[full], self.labels[full],
                mesh=self._mesh, on_gradient=self._tick(len(rows)),
            )[0][: len(rows)]
            for rows, full, keys in self._batches(Purpose.ATTACK)
        ]  # fmt: skip
        return np.concatenate([np.asarray(images) for images in found])

    def _batches(self, purpose: Purpose):
        for rows, full in full_batches(np.arange(len(self.images)), self._batch_size):
            yield rows, full, example_keys(self.seed, purpose, full)

    def _tick(self, count: int) -> Callable[[int], object] | None:
        on_gradient = self._on_gradient
        return None if on_gradient is None else lambda n: on_gradient(n * count)


# -- The checks ---------------------------------------------------------------------------


def _gradients(bench: _Bench) -> Check:
    """A gradient that is zero says nothing, whatever the attack does with it."""
    num = bench.attack.num_draws
    slopes = bench.slopes(num).reshape(len(bench.images), -1)
    one = bench.slopes(1).reshape(len(bench.images), -1)
    silent = float((~slopes.any(1) | np.isnan(slopes).any(1)).mean())
    zeros, zeros_one = float((slopes == 0).mean()), float((one == 0).mean())
    found = f"{silent:.1%} of the images have no gradient at all; {zeros:.1%} of its entries are 0"
    if bench.target.is_random:
        found += f" over {num} draws, {zeros_one:.1%} under one"
    return Check(
        "gradients are there",
        "no image without a gradient, and at most half of the entries zero",
        found + ".",
        silent == 0 and zeros <= 0.5,
        bench.climbers,
        {"images_without": silent, "zeros": zeros, "zeros_one_draw": zeros_one},
    )


def _steps(bench: _Bench) -> Check:
    names = ("fewer steps", "attack", "more steps")
    levels = {_steps_of(bench.attacks[name]): bench.left(name) for name in names}
    return never_helps("more steps", "steps", levels, bench.threat)


def _samples(bench: _Bench) -> Check | None:
    if "more draws" not in bench.attacks:
        return None
    names = [name for name in ("one draw", "attack", "more draws") if name in bench.attacks]
    levels = {bench.attacks[name].num_draws: bench.left(name) for name in names}
    return never_helps("more EOT samples", "draws a step", levels, bench.threat)


def _radius(bench: _Bench) -> Check:
    names = ("half the radius", "attack", "twice the radius")
    attacks = [bench.attacks[name] for name in names]
    radii = [attack.radius for attack in attacks if isinstance(attack, BallAttack)]
    words = [_words(bench.attack.norm, radius) for radius in radii]
    levels = dict(zip(words, map(bench.left, names), strict=True))
    return never_helps("a larger radius", "radius", levels, bench.threat)


def _unbounded(bench: _Bench) -> Check:
    left, chance = bench.left("unbounded"), 1 / bench.clean_logits.shape[-1]
    radius = _words(bench.attack.norm, whole(bench.attack.norm, bench.images.shape[1:]))
    return Check(
        "an unbounded attack wins",
        f"at most {chance:.0%} right, which is chance, when every image may become any other",
        f"{left.mean():.1%} right at radius {radius} after {bench.attack.num_steps} steps.",
        bool(left.mean() <= chance),
        bench.threat,
        {"accuracy": float(left.mean()), "chance": chance},
    )


def _black_box(bench: _Bench) -> Check | None:
    attack = bench.attacks.get("queries")
    if attack is None:
        return None
    return _not_stronger(
        "black box against white box",
        f"Square with {bench.variations.num_queries} queries (draws each: {attack.num_draws})",
        bench.left("queries"),
        bench,
    )


def _blind(bench: _Bench) -> Check | None:
    if "blind" not in bench.attacks:
        return None
    left = bench.left("blind")
    return _not_stronger("blind against adaptive", "the purifier-blind attack", left, bench)


def _noise(bench: _Bench) -> Check:
    rng = np.random.default_rng(bench.seed)
    sign = rng.choice([-1.0, 1.0], size=bench.images.shape)
    noisy = np.clip(bench.images + bench.radius_per_value * sign, 0, 1).astype(np.float32)
    left = bench.right(noisy)
    return _not_stronger(
        "random noise against the attack", "noise of the same radius", left, bench
    )


def _variance(bench: _Bench) -> Check | None:
    if not bench.target.is_random:
        return None
    logits = bench.clean_logits.astype(np.float64)
    own = np.take_along_axis(logits, bench.labels[:, None, None], -1)[..., 0]
    np.put_along_axis(logits, bench.labels[:, None, None], -np.inf, -1)
    margins = own - logits.max(-1)
    spread, size = margins.std(1), np.abs(margins.mean(1))
    flips = float(((margins > 0).any(1) & (margins <= 0).any(1)).mean())
    return Check(
        "the draws matter",
        "shown without a verdict: how much the answer depends on the draw",
        f"The margin's standard deviation over draws is {np.median(spread):.2f} (median image) "
        f"beside a mean size of {np.median(size):.2f}; {flips:.1%} of the clean images are right "
        "under some draws and wrong under others.",
        None,
        (),
        {"spread": spread.tolist(), "flips": flips},
    )


def never_helps(name: str, unit: str, levels: dict, doubts: tuple[str, ...]) -> Check:
    """Returns the check that compares each level with the one before, image by image.

    `levels` are each image's shares of right answers, by the level's name, weak attacks first.
    """
    shares = list(levels.values())
    pairs = [paired_change(before, after) for before, after in itertools.pairwise(shares)]
    helped = [change > 2 * error for change, error in pairs]
    path = " -> ".join(f"{share.mean():.1%}" for share in shares)
    return Check(
        f"{name} never helps the defense",
        f"accuracy does not rise with {name}",
        f"{path} at {unit} {', '.join(map(str, levels))}.",
        not any(helped),
        doubts,
        {"levels": [str(level) for level in levels], **shares_of(shares)},
    )


def shares_of(shares: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns mean shares of images with the ends of their 95 % intervals, as plain JSON."""
    ends = [wilson_interval(float(share.sum()), len(share)) for share in shares]
    return {
        "accuracies": [float(share.mean()) for share in shares],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "num_examples": len(shares[0]),
    }


def _not_stronger(name: str, weaker: str, left: np.ndarray, bench: _Bench) -> Check:
    baseline = bench.left("attack")
    change, error = paired_change(left, baseline)
    return Check(
        name,
        f"{weaker} leaves no less than the attack that sees the gradient",
        f"{weaker} leaves {left.mean():.1%}, the attack {baseline.mean():.1%} "
        f"(clean: {bench.clean.mean():.1%}).",
        bool(change <= 2 * error),
        bench.threat,
        shares_of([left, baseline]),
    )


def _words(norm: str, radius: float) -> str:
    return f"{255 * radius:.3g}/255" if norm == "linf" else f"{radius:.3g}"


def _steps_of(attack: Attack) -> int:
    assert isinstance(attack, PGD)
    return attack.num_steps


# -- The loss surface ---------------------------------------------------------------------


def _surfaces(bench: _Bench) -> list[dict[str, Any]]:
    """Returns the mean loss over a plane: the gradient's sign against a random sign."""
    reach = np.linspace(-2, 2, bench.variations.surface_points) * bench.radius_per_value
    rng = np.random.default_rng(bench.seed + 1)
    count = min(bench.variations.num_surface, len(bench.images))
    if not count:
        return []
    surfaces, num = [], bench.attack.num_draws
    slopes = np.sign(bench.slopes(num)[:count])
    for i in range(count):
        aside = rng.choice([-1.0, 1.0], size=bench.images[i].shape)
        grid = bench.images[i] + (
            reach[:, None, None, None, None] * slopes[i] + reach[None, :, None, None, None] * aside
        )
        plane = np.clip(grid, 0, 1).astype(np.float32).reshape(-1, *bench.images[i].shape)
        keys = example_keys(bench.seed, Purpose.SELECT, np.full(len(plane), i))
        labels = np.full(len(plane), bench.labels[i])
        logits = score(bench.target, bench.params, keys, plane, num_draws=num, labels=labels)
        losses = -jax.nn.log_softmax(logits)[..., int(bench.labels[i])].mean(1)
        surfaces.append(
            {
                "image": i,
                "reach": (reach * 255).tolist(),
                "loss": np.asarray(losses, float).reshape(len(reach), -1).tolist(),
            }
        )
    return surfaces
