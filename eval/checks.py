"""Checks that an attack was strong enough to be believed.

The pathologies of Athalye et al. (2018) and the list of Carlini et al. (2019), each as a number
and a verdict. A check that fails puts the accuracies beside it in doubt: the attack, not the
defense, may be what was measured.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from rainjax.attacks import EOT, PGD, Attack, Square, balls
from rainjax.attacks.queries import Aim, Slope
from rainjax.defenses import Identity
from rainjax.devices import full_batches
from rainjax.evaluation import run_attack, score
from rainjax.evaluation.driver import ask
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Defended
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Options:
    """What is checked: an attack's settings, and how far each is varied.

    On the command line the settings are options of their own, the study's by default.
    """

    radius: tyro.conf.Suppress[float] = 8 / 255
    step_size: tyro.conf.Suppress[float] = 2 / 255
    num_steps: tyro.conf.Suppress[int] = 10
    num_eot: tyro.conf.Suppress[int] = 8
    num_score_draws: tyro.conf.Suppress[int] = 5
    seed: tyro.conf.Suppress[int] = 0
    more: int = 4
    """Steps and draws are raised this many times, and lowered as much."""
    num_queries: int = 300
    """Queries of the black-box attack (Square)."""
    num_surface: int = 3
    """Images whose loss surface is drawn."""
    surface_points: int = 9
    """Points along each side of a loss surface."""
    batch_size: int = 64
    """Images attacked together."""

    def __post_init__(self):
        balls.check("linf", self.radius)
        if not self.radius:
            raise ValueError("radius=0.0 leaves an attack nothing to do: give a positive one.")
        for field in ("num_steps", "num_eot", "num_queries", "num_score_draws", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.more < 2:
            raise ValueError(f"more={self.more} must be at least 2: it is by how much to vary.")
        if not self.step_size > 0 or self.num_surface < 0 or self.surface_points < 3:
            raise ValueError(
                f"step_size={self.step_size} must be positive, num_surface={self.num_surface} not "
                f"negative, surface_points={self.surface_points} at least 3."
            )


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: what was expected, what was found, and whether they agree.

    `passed` is None for a number that is told without a verdict. `doubts` names the column of
    the report whose accuracy a failure puts in doubt, or `gradients`: all that climb them.
    """

    name: str
    expected: str
    found: str
    passed: bool | None
    doubts: str | None
    numbers: dict


def run_checks(
    target: Defended,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    options: Options,
    *,
    random: bool,
    attacker: Defended | None = None,
    column: str | None = None,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
    on_check: Callable[[Check], object] | None = None,
) -> tuple[list[Check], list[dict]]:
    """Returns the checks, and the loss surfaces of a few images.

    `images` are float32 in [0, 1]; `random` says whether the pipeline draws anything. `attacker`
    is what the attack differentiates, by default the pipeline, and `column` the report's column
    that this attack stands in. All images are compared with themselves: a change counts when it
    exceeds two standard errors of the mean change over the images.
    """
    bench = _Bench(
        target, params, images, labels, options, random, mesh, on_gradient, attacker, column
    )
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


def num_gradients(target: Defended, options: Options, num_images: int, *, random: bool) -> int:
    """Returns how many image gradients and queries the checks take, to size a progress bar."""
    k, steps, more = options.num_eot if random else 1, options.num_steps, options.more
    attacks = k * (4 * steps + max(steps // more, 1) + steps * more)
    if random:
        attacks += steps * (1 + k * more)
    if not isinstance(target.defense, Identity):
        attacks += steps
    queries = options.num_queries * (2 * min(k, 4) if random else 1)  # of pairs, or one by one
    return num_images * (attacks + queries)


class _Bench:
    """The images and the pipeline, and what every check does with them."""

    def __init__(
        self, target, params, images, labels, options, random, mesh, on_gradient, attacker, column
    ):
        self.attacker = attacker or target
        self.column = column or ("eot" if random else "white_box")
        self.target, self.params, self.options, self.random = target, params, options, random
        self.images, self.labels = images, labels
        self._mesh, self._on_gradient = mesh, on_gradient
        self.num_eot = options.num_eot if random else 1

    def attack(self, **changes) -> PGD:
        """Returns the attack under suspicion, or a variation of it."""
        options = self.options
        num_eot = changes.pop("num_eot", self.num_eot)
        radius = changes.pop("radius", options.radius)
        settings = {
            "radius": radius,
            "step_size": options.step_size * radius / options.radius,
            "num_steps": options.num_steps,
            "eot": EOT(num_eot, chunk_size=1 if jax.default_backend() == "cpu" else None),
        }
        return PGD(**(settings | changes))

    @functools.cached_property
    def baseline(self) -> np.ndarray:
        """The shares of draws that are right under the attack under suspicion."""
        return self.right(self.attacked(self.attack()))

    @functools.cached_property
    def clean(self) -> np.ndarray:
        """The shares of draws that are right on the images as they are."""
        return (self.clean_logits.argmax(-1) == self.labels[:, None]).mean(1)

    @functools.cached_property
    def clean_logits(self) -> np.ndarray:
        """The logits of the images as they are, under the scoring draws."""
        return self.logits(self.images)

    def attacked(self, attack: Attack, surrogate: Defended | None = None) -> np.ndarray:
        """Attacks all images, batch by batch."""
        seen: Defended = self.attacker if surrogate is None else surrogate
        found = [
            run_attack(
                seen, attack, self.params, keys, self.images[full], self.labels[full],
                mesh=self._mesh, on_gradient=self._tick(len(rows)),
            )[: len(rows)]
            for rows, full, keys in self._batches(Purpose.ATTACK)
        ]  # fmt: skip
        return np.concatenate([np.asarray(images) for images in found])

    def right(self, attacked: np.ndarray) -> np.ndarray:
        """Returns each image's share of right answers under fresh draws."""
        predicted = self.logits(attacked).argmax(-1)
        return (predicted == self.labels[:, None]).mean(1)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the target's logits under the scoring draws."""
        draws = self.options.num_score_draws if self.random else 1
        found = [
            score(self.target, self.params, keys, images[full], num_draws=draws, mesh=self._mesh)
            for _, full, keys in self._batches(Purpose.SCORE)
        ]
        return np.concatenate([np.asarray(logits) for logits in found])[: len(images)]

    def slopes(self, num_eot: int) -> np.ndarray:
        """Returns the mean gradient of the loss at the images themselves."""
        found = []
        for rows, full, keys in self._batches(Purpose.ATTACK):
            labels, points = jnp.asarray(self.labels[full]), jnp.asarray(self.images[full])
            about, eot = Aim(labels, labels), EOT(num_eot, chunk_size=1)
            answer = ask(
                self.attacker, Slope("cross_entropy"), eot, self.params, keys, points, about,
                count=num_eot,
            )  # fmt: skip
            found.append(np.asarray(answer.gradient)[: len(rows)])
        return np.concatenate(found)

    def _batches(self, purpose: Purpose):
        count = len(self.images)
        for rows, full in full_batches(np.arange(count), min(self.options.batch_size, count)):
            yield rows, full, example_keys(self.options.seed, purpose, full)

    def _tick(self, count: int) -> Callable[[int], object] | None:
        on_gradient = self._on_gradient
        return None if on_gradient is None else lambda n: on_gradient(n * count)


# -- The checks ---------------------------------------------------------------------------


def _gradients(bench: _Bench) -> Check:
    """A gradient that is zero says nothing, whatever the attack does with it."""
    slopes = bench.slopes(bench.num_eot).reshape(len(bench.images), -1)
    one = bench.slopes(1).reshape(len(bench.images), -1)
    silent = float((~slopes.any(1) | np.isnan(slopes).any(1)).mean())
    zeros, zeros_one = float((slopes == 0).mean()), float((one == 0).mean())
    found = f"{silent:.1%} of the images have no gradient at all; {zeros:.1%} of its entries are 0"
    if bench.random:
        found += f" over {bench.num_eot} draws, {zeros_one:.1%} under one"
    return Check(
        "gradients are there",
        "no image without a gradient, and at most half of the entries zero",
        found + ".",
        silent == 0 and zeros <= 0.5,
        "gradients",
        {"images_without": silent, "zeros": zeros, "zeros_one_draw": zeros_one},
    )


def _steps(bench: _Bench) -> Check:
    few, many = max(bench.options.num_steps // bench.options.more, 1), bench.options.more
    many = bench.options.num_steps * many
    fewer = bench.right(bench.attacked(bench.attack(num_steps=few)))
    more = bench.right(bench.attacked(bench.attack(num_steps=many)))
    levels = {few: fewer, bench.options.num_steps: bench.baseline, many: more}
    return _never_helps("more steps", "steps", levels, bench.column)


def _samples(bench: _Bench) -> Check | None:
    if not bench.random:
        return None
    one = bench.right(bench.attacked(bench.attack(num_eot=1)))
    num = bench.num_eot * bench.options.more
    more = bench.right(bench.attacked(bench.attack(num_eot=num)))
    levels = {1: one, bench.num_eot: bench.baseline, num: more}
    return _never_helps("more EOT samples", "draws a step", levels, "eot")


def _radius(bench: _Bench) -> Check:
    radius = bench.options.radius
    half = bench.right(bench.attacked(bench.attack(radius=radius / 2)))
    wider = min(2 * radius, 1.0)
    double = bench.right(bench.attacked(bench.attack(radius=wider)))
    levels = {
        f"{255 * radius / 2:.3g}/255": half,
        f"{255 * radius:.3g}/255": bench.baseline,
        f"{255 * wider:.3g}/255": double,
    }
    return _never_helps("a larger radius", "radius", levels, bench.column)


def _unbounded(bench: _Bench) -> Check:
    steps = bench.options.num_steps
    # A random start in the whole cube would be noise: a broken image, but not by the attack.
    attack = bench.attack(radius=1.0, step_size=max(0.5 / steps, 4 / 255), random_start=False)
    left = bench.right(bench.attacked(attack))
    chance = 1 / bench.clean_logits.shape[-1]
    return Check(
        "an unbounded attack wins",
        f"at most {chance:.0%} right, which is chance, when every image may become any other",
        f"{left.mean():.1%} right at radius 255/255 after {steps} steps.",
        bool(left.mean() <= chance),
        bench.column,
        {"accuracy": float(left.mean()), "chance": chance},
    )


def _black_box(bench: _Bench) -> Check:
    eot = EOT(min(bench.num_eot, 4), chunk_size=1)
    options = bench.options
    attack = Square(
        radius=options.radius, num_queries=options.num_queries, eot=eot, paired=bench.random
    )
    left = bench.right(bench.attacked(attack))
    return _not_stronger(
        "black box against white box",
        f"Square with {options.num_queries} queries (draws each: {eot.num_samples})",
        left,
        bench,
    )


def _blind(bench: _Bench) -> Check | None:
    if isinstance(bench.target.defense, Identity):
        return None
    surrogate = Defended(Identity(), bench.target.classifier)
    left = bench.right(bench.attacked(bench.attack(num_eot=1), surrogate))
    return _not_stronger("blind against adaptive", "the purifier-blind attack", left, bench)


def _noise(bench: _Bench) -> Check:
    rng = np.random.default_rng(bench.options.seed)
    sign = rng.choice([-1.0, 1.0], size=bench.images.shape)
    noisy = np.clip(bench.images + bench.options.radius * sign, 0, 1).astype(np.float32)
    left = bench.right(noisy)
    return _not_stronger(
        "random noise against the attack", "noise of the same radius", left, bench
    )


def _variance(bench: _Bench) -> Check | None:
    if not bench.random:
        return None
    logits = bench.clean_logits.astype(np.float64)
    own = np.take_along_axis(logits, bench.labels[:, None, None], -1)[..., 0]
    np.put_along_axis(logits, bench.labels[:, None, None], -np.inf, -1)
    margins = own - logits.max(-1)
    spread, size = margins.std(1), np.abs(margins.mean(1))
    flips = float(((margins > 0).any(1) & (margins <= 0).any(1)).mean())
    return Check(
        "the draws matter",
        "told, not judged: how much the answer depends on the draw",
        f"The margin's standard deviation over draws is {np.median(spread):.2f} (median image) "
        f"beside a mean size of {np.median(size):.2f}; {flips:.1%} of the clean images are right "
        "under some draws and wrong under others.",
        None,
        None,
        {"spread": spread.tolist(), "flips": flips},
    )


def _never_helps(name: str, unit: str, levels: dict, doubts: str) -> Check:
    """Compares each level with the one before, image by image."""
    shares = list(levels.values())
    pairs = [_change(before, after) for before, after in itertools.pairwise(shares)]
    helped = [change > 2 * error for change, error in pairs]
    path = " -> ".join(f"{share.mean():.1%}" for share in shares)
    return Check(
        f"{name} never helps the defense",
        f"accuracy does not rise with {name}",
        f"{path} at {unit} {', '.join(map(str, levels))}.",
        not any(helped),
        doubts,
        {"levels": [str(level) for level in levels], **_shares(shares)},
    )


def _not_stronger(name: str, weaker: str, left: np.ndarray, bench: _Bench) -> Check:
    change, error = _change(left, bench.baseline)
    return Check(
        name,
        f"{weaker} leaves no less than the attack that sees the gradient",
        f"{weaker} leaves {left.mean():.1%}, the attack {bench.baseline.mean():.1%} "
        f"(clean: {bench.clean.mean():.1%}).",
        bool(change <= 2 * error),
        bench.column,
        _shares([left, bench.baseline]),
    )


def _change(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Returns the mean rise over images and its standard error."""
    rise = after - before
    return float(rise.mean()), float(rise.std(ddof=1) / np.sqrt(len(rise))) if len(
        rise
    ) > 1 else 0.0


def _shares(shares: list[np.ndarray]) -> dict:
    ends = [wilson_interval(float(share.sum()), len(share)) for share in shares]
    return {
        "accuracies": [float(share.mean()) for share in shares],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "num_examples": len(shares[0]),
    }


# -- The loss surface ---------------------------------------------------------------------


def _surfaces(bench: _Bench) -> list[dict]:
    """Returns the mean loss over a plane: the gradient's sign against a random sign."""
    options, surfaces = bench.options, []
    reach = np.linspace(-2, 2, options.surface_points) * options.radius
    rng = np.random.default_rng(options.seed + 1)
    count = min(options.num_surface, len(bench.images))
    if not count:
        return []
    slopes = np.sign(bench.slopes(bench.num_eot)[:count])
    for i in range(count):
        aside = rng.choice([-1.0, 1.0], size=bench.images[i].shape)
        grid = bench.images[i] + (
            reach[:, None, None, None, None] * slopes[i] + reach[None, :, None, None, None] * aside
        )
        plane = np.clip(grid, 0, 1).astype(np.float32).reshape(-1, *bench.images[i].shape)
        keys = example_keys(options.seed, Purpose.SELECT, np.full(len(plane), i))
        logits = score(bench.target, bench.params, keys, plane, num_draws=bench.num_eot)
        losses = -jax.nn.log_softmax(logits)[..., int(bench.labels[i])].mean(1)
        surfaces.append(
            {
                "image": i,
                "reach": (reach * 255).tolist(),
                "loss": np.asarray(losses, float).reshape(len(reach), -1).tolist(),
            }
        )
    return surfaces
