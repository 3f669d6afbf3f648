"""Designs a table of Feature Distillation: `python -m eval design builtin`.

Two steps and a band (Liu et al., 2019). The step against perturbations follows from the budget of
an attack, in closed form, and is held against what an attack does. The band of coefficients that
the classifier needs follows from their spread over the data, and its step is the largest that
costs no more accuracy than is tolerated. Both are judged on images held out of training, never on
a test split.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from eval._design_figure import draw
from eval._design_measures import Bench, cost, measured_step, statistics
from rainjax import distillation, zoo
from rainjax._files import write_json
from rainjax.attacks import PGD
from rainjax.data.splits import Data, check_held_out, check_outputs, labelled
from rainjax.defenses import FeatureDistillation, two_steps
from rainjax.evaluation.provenance import provenance


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a design is written."""

    name: str
    """The design is written to the folder of this name."""
    out: pathlib.Path = pathlib.Path("runs")
    """The folder that holds the designs."""
    fresh: bool = False
    """Replace the design that the folder holds."""

    def __post_init__(self):
        zoo.check_name(self.name)

    @property
    def folder(self) -> pathlib.Path:
        """The design's own folder."""
        return self.out / self.name


# Each of them is measured on all images that choose.
_MOST_STEPS = 1000
_FILES = ("table.json", "design.json", "design.png")


@dataclasses.dataclass(frozen=True)
class Design:
    """Designs a table of Feature Distillation for a classifier that stays as it is.

    The training images give the spread of the coefficients, those that choose are attacked and
    give the steps.
    """

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    classifier: str
    """The classifier: the name or path of a zoo entry, or of published weights (.npz)."""
    classifier_arch: str | None = None
    """The architecture of published weights, such as `resnet20`; a zoo entry says so itself."""
    radius: float = 8 / 255
    """L-inf radius of the attack that the table is designed against."""
    share: float = 0.2128
    """Share of coefficients that such an attack may move to another multiple of the step; the
    default lets through as much as the authors' step of 30 does at 8/255."""
    bands: Literal["rank", "corner4x4", "triangle15"] = "rank"
    """The accuracy-sensitive band: the coefficients of largest spread (paper), the 4x4 corner of
    the authors' code, or the triangle of the paper's figure."""
    rank: int = 15
    """How many coefficients of largest spread are the band (paper: 15)."""
    tolerance: float = 0.01
    """Accuracy that may be lost on images that are not attacked (paper: 1 %)."""
    resolution: float = 1.0
    """Steps are multiples of this many grey levels; JPEG's tables hold whole numbers."""
    num_attacked: int = 500
    """Attack this many of the images that choose."""
    num_steps: int = 10
    """PGD steps, each of a quarter of the radius."""
    batch_size: int = 100
    """Images at a time. The table does not depend on it."""
    seed: int = 0
    """Decides the attack's random start."""

    def __post_init__(self):
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius={self.radius} must lie in (0, 1]; 8/255 is 0.03137.")
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share} must lie between 0 and 1.")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} must lie in [0, 1); 1 % is 0.01.")
        if not 1 <= self.rank <= 63:
            raise ValueError(f"rank={self.rank} must lie in 1..63, so that both bands have some.")
        if not 0 < self.resolution < math.inf:
            raise ValueError(f"resolution={self.resolution} must be positive and finite.")
        largest = distillation.defensive_step(255 * self.radius, self.share)
        if largest / self.resolution > _MOST_STEPS:
            raise ValueError(
                f"share={self.share} asks for a step of {largest:.4g} at radius={self.radius:.4g},"
                f" which leaves more than {_MOST_STEPS} multiples of resolution={self.resolution} "
                "to try: raise the share or the resolution."
            )
        for field in ("num_attacked", "num_steps", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.num_attacked > self.data.num_validation:
            raise ValueError(
                f"num_attacked={self.num_attacked} must be at most "
                f"num_validation={self.data.num_validation}: they are some of those images."
            )


PRESETS = {
    "builtin": (
        "For builtin_resnet on the built-in set, at 4/255: a minute on two busy cores. Its "
        "classes differ in fine texture: at 8/255 no step of the band costs 1 % or less.",
        Design(
            run=Output("builtin_design"),
            data=Data(),
            classifier="builtin_resnet",
            radius=4 / 255,
        ),
    ),
    "cifar10": (
        "For a published ResNet-20 (--classifier FILE.npz) on CIFAR-10, whose training images it "
        "has seen, at 2/255: 8 in both bands, in a minute on two busy cores. Beside the 15 that "
        "4/255 asks for, no step in the band keeps the loss within 2 %.",
        Design(
            run=Output("cifar10_design"),
            data=Data("cifar10"),
            classifier=tyro.MISSING,
            classifier_arch="resnet20",
            radius=2 / 255,
        ),
    ),
    "imagenette224": (
        "For MobileNetV2 (--classifier FILE.npz) on Imagenette at 224 x 224, whose training "
        "images it has seen, at 8/255: 30 in both bands, in ten minutes on two busy cores.",
        Design(
            run=Output("imagenette224_design"),
            data=Data("imagenette224", num_training=500, num_validation=500),
            classifier=tyro.MISSING,
            classifier_arch="mobilenetv2_imagenette",
            num_attacked=100,
            batch_size=20,
        ),
    ),
    "smoke": (
        "`builtin` on fewer pictures and with coarser steps, to see that everything works.",
        Design(
            run=Output("smoke_design"),
            data=Data(num_training=1000, num_validation=300),
            classifier="builtin_resnet",
            radius=4 / 255,
            resolution=3.0,
            num_attacked=100,
            num_steps=5,
        ),
    ),
}


def candidates(largest: float, resolution: float) -> tuple[float, ...]:
    """Returns `largest` and the multiples of `resolution` below it, the largest first."""
    below = np.arange(math.ceil(largest / resolution - 1e-9) - 1, 0, -1)
    return (largest, *(float(resolution * number) for number in below))


def first_within(losses: Iterable[float], tolerance: float) -> int | None:
    """Returns the position of the first loss within the tolerance; None where there is none.

    Of `losses` it looks at no more.
    """
    within = (i for i, loss in enumerate(losses) if loss <= tolerance + 1e-9)
    return next(within, None)


def design(options: Design) -> None:
    """Designs the table that `options` describe, and writes it.

    Where no step of the band costs as little as is tolerated, the step outside is not lowered
    behind the user's back, as it is what the budget asked for: the record and the figure are
    written, no table, and what step outside would do is said.

    Raises:
        ValueError: the classifier does not fit the images, or has seen those that choose; no
            step of the band costs as little as is tolerated; or the folder holds a design.
    """
    classifier = zoo.load_any(options.classifier, options.classifier_arch)
    split = options.data.load()
    tuning = labelled(split.validation, split.validation_indices)
    check_outputs(classifier, split.validation, tuning["image"])
    check_held_out(classifier, split)
    _claim(options.run)
    bench = Bench(
        classifier, tuning["image"], tuning["label"], tuning["index"],
        batch_size=options.batch_size, seed=options.seed,
    )  # fmt: skip

    spread = distillation.coefficient_spread(split.training.get(split.training_indices)[0])
    positions = distillation.ranking(spread)[: options.rank]
    band = positions if options.bands == "rank" else options.bands
    inside = np.array(two_steps(band, 1.0, 2.0)) == 1
    exact = distillation.defensive_step(255 * options.radius, options.share)
    largest = options.resolution * math.ceil(exact / options.resolution - 1e-9)

    right = bench.right()

    def price(accuracy: float, defense: float) -> dict[str, Any]:
        table = two_steps(band, accuracy, defense)
        return cost(right, bench.right(FeatureDistillation(table)))

    grid = candidates(largest, options.resolution)
    scored = [{"step": step, **price(step, largest)} for step in _bar(grid, "steps inside")]
    chosen = first_within([one["loss"] for one in scored], options.tolerance)
    best = min(range(len(scored)), key=lambda i: scored[i]["loss"]) if chosen is None else chosen
    feasible = None
    if chosen is None:
        losses = (price(grid[-1], step)["loss"] for step in _bar(grid[1:], "steps outside"))
        place = first_within(losses, options.tolerance)
        feasible = None if place is None else grid[1:][place]
    steps = two_steps(band, scored[best]["step"], largest)

    radius = options.radius
    attack = PGD(radius=radius, step_size=radius / 4, num_steps=options.num_steps)
    images, attacked = bench.attack(attack, options.num_attacked)
    undefended = bench.right(images=attacked)
    defended = bench.right(FeatureDistillation(steps), attacked)
    record = {
        "kind": "design",
        "method": "feature_distillation",
        "name": options.run.name,
        "options": _identity(options),
        "data": split.describe(),
        "classifier": {
            "name": classifier.name,
            "architecture": options.classifier_arch,
            "sha256": classifier.sha256,
        },
        "band": {
            "rule": options.bands,
            "positions": np.flatnonzero(inside).tolist(),
            "spread": spread.tolist(),
        },
        "defensive": {
            "radius": 255 * radius,
            "share": options.share,
            "closed_form": exact,
            "step": largest,
            "measured_step": measured_step(images, attacked, inside, options.share),
            **statistics(images, attacked, steps, inside, radius=255 * radius),
        },
        "refinement": {
            "rule": "the largest step whose loss of accuracy is within the tolerance",
            "tolerance": options.tolerance,
            "num_examples": len(right),
            "undefended": float(right.mean()),
            "candidates": scored,
            "found": chosen is not None,
            "feasible_defense": feasible,
            **scored[best],
        },
        "attacked": {
            "threat_model": "blind to the defense: no measure of robustness",
            "attack": f"PGD-{options.num_steps}",
            "num_examples": options.num_attacked,
            "undefended": float(undefended.mean()),
            "defended": float(defended.mean()),
        },
        "steps": steps if chosen is not None else None,
        **provenance(),
    }
    _write(options, record)
    if chosen is None:
        raise ValueError(_nothing_found(options, record))


def read(words: list[str]) -> Design:
    """Returns the design that a command line asks for: a preset, and what it changes of it."""
    return tyro.extras.overridable_config_cli(
        PRESETS, args=words, prog="python -m eval design", description=__doc__
    )


def _identity(options: Design) -> dict[str, Any]:
    """Returns what decides a design: its options but for places, those of the data by name."""
    plain = dataclasses.asdict(options)
    del plain["run"], plain["classifier"], plain["data"]["data_dir"]
    data = {f"data.{name}": value for name, value in plain.pop("data").items()}
    return {**data, **plain}


def _bar(steps: Sequence[float], what: str) -> Iterable[float]:
    return tqdm(steps, desc=what, unit="step", dynamic_ncols=True)


def _claim(output: Output) -> None:
    """Empties the run's folder of what an earlier design left; only if told so."""
    there = [output.folder / name for name in _FILES if (output.folder / name).exists()]
    if there and not output.fresh:
        raise ValueError(
            f"{output.folder} holds a design already: choose another --name, or start over with "
            "--fresh."
        )
    for path in there:
        path.unlink()
    output.folder.mkdir(parents=True, exist_ok=True)


def _write(options: Design, record: dict[str, Any]) -> None:
    folder, found = options.run.folder, record["refinement"]
    write_json(folder / "design.json", record)
    draw(folder / "design.png", record)
    defensive = record["defensive"]
    moved = defensive["moved"]
    attack = record["attacked"]
    print(
        f"Outside the band, step {defensive['step']:g} ({defensive['closed_form']:.2f} in closed "
        f"form): an attack of radius {defensive['radius']:g} moves "
        f"{moved['closed_form']['defense']:.1%} of the coefficients in closed form, and "
        f"{moved['measured']['defense']:.1%} measured.\n"
        f"Under attack, blind to the defense: {attack['undefended']:.1%} right without, "
        f"{attack['defended']:.1%} with it.\n"
        f"Wrote {folder / 'design.json'} and design.png.",
        flush=True,
    )
    if not found["found"]:
        return
    facts = {
        key: record[key] for key in ("name", "data", "classifier", "command", "revision", "method")
    }
    facts |= {
        "radius": defensive["radius"],
        "share": defensive["share"],
        "band": record["band"]["positions"],
        "accuracy": found["step"],
        "defense": defensive["step"],
        "loss": found["loss"],
        "tolerance": found["tolerance"],
    }
    path = folder / "table.json"
    zoo.save_steps(path, record["steps"], facts)
    print(
        f"Inside, step {found['step']:g}: it costs {found['loss']:.2%} ± "
        f"{found['loss_error']:.2%} of {found['num_examples']} images that chose it.\n"
        f"Wrote {path}: FeatureDistillation(rainjax.zoo.load_steps({str(path)!r})).",
        flush=True,
    )


def _nothing_found(options: Design, record: dict[str, Any]) -> str:
    found, defensive = record["refinement"], record["defensive"]
    step = found["feasible_defense"]
    if step is None:
        mend = "and no smaller step outside keeps it either: raise --tolerance."
    else:
        # Rounded up: a larger share asks for no larger step.
        share = math.ceil(1e4 * distillation.changed_share(defensive["radius"], step)) / 1e4
        mend = (
            f"and the largest step outside that leaves room for one inside is {step:g}: take "
            f"--share {share:g}, or raise --tolerance, or --rank for a wider band."
        )
    return (
        f"With step {defensive['step']:g} outside no step in the band keeps the loss of accuracy "
        f"within {options.tolerance:.2%}: the best of {len(found['candidates'])}, "
        f"{found['step']:g}, loses {found['loss']:.2%} of {found['num_examples']} images, {mend}"
    )
