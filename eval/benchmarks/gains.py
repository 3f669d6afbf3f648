"""Whether a proposed way to attack gains anything on a pipeline of ours: `python -m eval gains`.

Each part holds proposals against what the library has, on the same images, at the same number of
gradients, and scored under the same draws. A proposal joins the library where the accuracy it
leaves is below the other's beyond chance: the 95 % interval of the paired difference lies below
zero. What does not is kept in `_gain_candidates.py`. Of attacks by scores it is the default, draws
in common on both sides of a difference, that is held against draws of their own.
"""

import dataclasses
import pathlib
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from eval.benchmarks._gain_candidates import (
    MALT,
    Normalized,
    ProbabilityMarginPGD,
    Selective,
    SignVotes,
)
from rainjax import RAIN, Defended, Identity, data, zoo
from rainjax._files import write_json
from rainjax.attacks import APGD, EOT, NES, PGD, SPSA, ZOO, Attack, SimBA
from rainjax.devices import data_mesh
from rainjax.evaluation import run_attack, score
from rainjax.evaluation.describe import describe_attack
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, example_keys
from rainjax.nets import EDSR
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table


@dataclasses.dataclass(frozen=True)
class Gains:
    """Measures what proposed directions, losses and targets gain over what attacks have."""

    data: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set."""
    split: str = "test"
    """The split whose first images are attacked."""
    data_dir: pathlib.Path | None = None
    """Where prepared data sets lie; by default where TFDS looks."""
    classifier: str = "builtin_resnet"
    """The classifier: a zoo name or a path."""
    classifier_arch: str | None = None
    """The architecture of published weights, where `classifier` is a file of them."""
    edsr: str = "builtin_edsr_rain"
    """RAIN's network: a zoo name or a path."""
    num_examples: int = 64
    """Images attacked, in one batch."""
    rain_radius: float = 2 / 255
    """Radius in L-inf of the attacks on RAIN: one at which they leave something."""
    bare_radius: float = 0.5 / 255
    """Radius in L-inf of the attacks on the classifier alone."""
    num_steps: int = 20
    """Steps of every attack; more where a proposal would otherwise cost less."""
    num_draws: int = 8
    """Draws of RAIN a step."""
    num_score_draws: int = 16
    """Draws that score an image behind RAIN."""
    num_targets: int = 3
    """Classes aimed at, one after the other, by targeted attacks."""
    num_candidates: int = 9
    """Classes that these are chosen from; fewer where there are fewer."""
    query_radius: float = 8 / 255
    """Radius in L-inf of the attacks by scores on RAIN, which have few queries."""
    num_queries: int = 300
    """Queries of an image that each of them has."""
    only: str = ""
    """Only parts whose names hold this are measured, such as `queries`."""
    seed: int = 0
    """Root of every draw."""
    out: pathlib.Path = pathlib.Path("results/gains")
    """The record is written to OUT/gains.json."""

    def __post_init__(self):
        names = ("num_examples", "num_steps", "num_draws", "num_score_draws", "num_queries")
        for field in names:
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class _Part:
    """A question: attacks on one pipeline, of which the first is what the library has."""

    name: str
    target: Defended
    num_score_draws: int
    attacks: dict[str, Attack]


def run(options: Gains) -> pathlib.Path:
    """Runs the benchmark, writes the record and returns its path.

    Raises:
        ValueError: the data set or the networks are missing, or do not fit each other.
    """
    classifier = zoo.load_any(options.classifier, options.classifier_arch)
    edsr = zoo.load(options.edsr)
    if not isinstance(edsr.network, EDSR):
        raise ValueError(f"{options.edsr!r} holds no EDSR.")
    params = {"defense": edsr.params, "classifier": classifier.params}
    rain = Defended(RAIN(edsr.network, 0.0625), classifier.network)
    source = data.load(options.data, options.split, data_dir=options.data_dir)
    images, labels = source.get(np.arange(options.num_examples))
    batch = jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels)
    bare = Defended(Identity(), classifier.network)
    parts = [part for part in _parts(options, rain, bare) if options.only in part.name]
    if not parts:
        raise ValueError(f"only={options.only!r} is in the name of no part.")
    entries = []
    with tqdm(total=sum(len(part.attacks) for part in parts), desc="gains", unit="run") as bar:
        for part in parts:
            own = params if part.target is rain else {**params, "defense": ()}
            for name, attack in part.attacks.items():
                bar.set_postfix_str(f"{part.name}: {name}")
                entries.append(_measured(options, part, name, attack, own, batch))
                bar.update()
    record = {
        "schema": 1,
        "kind": "gains",
        "options": {**dataclasses.asdict(options), "out": None, "data_dir": None}
        | {"classifier": pathlib.Path(options.classifier).name},
        "entries": entries,
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "gains.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    return path


def _parts(options: Gains, rain: Defended, bare: Defended) -> list[_Part]:
    steps, radius, draws = options.num_steps, options.rain_radius, options.num_draws
    shared = {"radius": radius, "step_size": radius / 4, "num_steps": steps, "loss": "margin"}
    # One draw at a time, which is how attacks on CPU take them where nothing else is said.
    eot = lambda direction=None: EOT(draws, chunk_size=1, direction=direction)
    directions: dict[str, Attack] = {
        "mean gradient": PGD(**shared, eot=eot()),
        "mean of gradients of unit length": PGD(**shared, eot=eot(Normalized())),
        "votes of signs": PGD(**shared, eot=eot(SignVotes())),
        "choice of draws by EM": PGD(**shared, eot=eot(Selective(radius))),
        "AggMo, in the library": PGD(**shared, eot=eot(), momentum=(0.0, 0.9, 0.99)),
    }
    margins: dict[str, tuple[Defended, dict[str, Attack]]] = {}
    for title, target, size, own in (
        ("behind RAIN", rain, radius, eot()),
        ("classifier alone", bare, options.bare_radius, EOT()),
    ):
        fading = {"radius": size, "step_size": 2 * size, "num_steps": steps, "eot": own}
        fading |= {"schedule": "cosine", "best_iterate": target is bare}
        margins[title] = (
            target,
            {
                "margin of logits": PGD(loss="margin", **fading),
                "cross-entropy, in the library": PGD(**fading),
                "margin of probabilities": ProbabilityMarginPGD(**fading),
            },
        )
    num, chosen = options.num_targets, options.num_candidates
    towards = {"radius": options.bare_radius, "num_targets": num}
    spared = -(-chosen // num)  # steps a target, for what the choice costs
    targets: dict[str, Attack] = {
        "targets of the highest logits": APGD(num_steps=steps + spared, **towards),
        "targets by MALT": MALT(num_steps=steps, num_candidates=chosen, **towards),
    }
    scored = options.num_score_draws
    return [
        _Part("direction, behind RAIN", rain, scored, directions),
        *(
            _Part(f"loss, {title}", target, scored if target is rain else 1, attacks)
            for title, (target, attacks) in margins.items()
        ),
        _Part("targets, classifier alone", bare, 1, targets),
        *(
            _Part(f"queries of {name}, behind RAIN", rain, scored, pair)
            for name, pair in _queries(options).items()
        ),
    ]


def _queries(options: Gains) -> dict[str, dict[str, Attack]]:
    """Returns attacks by scores, each with draws of its own for every query and in common."""
    radius = options.query_radius
    ball = {"radius": radius, "num_queries": options.num_queries}
    pairs = {**ball, "num_pairs": 10, "step_size": radius / 4, "loss": "margin"}
    attacks = {
        "NES": NES(**pairs),
        "SPSA": SPSA(**pairs),
        "SimBA, pixels": SimBA(**ball, loss="margin"),
        "SimBA, cosines": SimBA(**ball, loss="margin", basis="dct", low_frequencies=16),
        "ZOO": ZOO(
            num_queries=options.num_queries,
            num_coordinates=25,
            attack_sizes=((0, 8),),
            initial_const=10.0,
            probe_size=1e-3,
            step_size=0.02,
        ),
    }
    return {
        name: {
            "draws of its own for each query": dataclasses.replace(attack, paired=False),
            "draws in common, in the library": attack,
        }
        for name, attack in attacks.items()
    }


def _measured(
    options: Gains, part: _Part, name: str, attack: Attack, params: Any, batch: Any
) -> dict[str, Any]:
    """Attacks and scores the images, and returns what came of it."""
    images, labels = batch
    indices = jnp.arange(options.num_examples)
    mesh = data_mesh(batch_size=options.num_examples)
    keys = lambda purpose: example_keys(options.seed, purpose, indices)
    began = time.perf_counter()
    attacked = run_attack(
        part.target, attack, params, keys(Purpose.ATTACK), images, labels, mesh=mesh
    )
    seconds = time.perf_counter() - began
    logits = score(
        part.target, params, keys(Purpose.SCORE), attacked,
        num_draws=part.num_score_draws, mesh=mesh,
    )  # fmt: skip
    correct = (np.asarray(logits).argmax(-1) == np.asarray(labels)[:, None]).sum(1)
    return {
        "part": part.name,
        "name": name,
        "attack": describe_attack(attack),
        "num_gradients": attack.num_gradients,
        "num_score_draws": part.num_score_draws,
        "correct_draws": correct.tolist(),
        "linf_max": float(np.abs(np.asarray(attacked) - np.asarray(images)).max()),
        "seconds": seconds,
    }


def difference(
    entry: dict[str, Any], other: dict[str, Any], *, every_draw: bool = False
) -> tuple[float, float, float]:
    """Returns how far the accuracy of an entry is above another's, and its 95 % interval.

    The difference is paired image by image, and its interval the normal one of their mean: the
    images are chance, and so are the draws that score them. One-shot, or with `every_draw` N-shot.
    """

    def right(entry: dict[str, Any]) -> Float[np.ndarray, "n"]:
        share = np.asarray(entry["correct_draws"]) / entry["num_score_draws"]
        return (share == 1.0).astype(float) if every_draw else share

    apart = right(entry) - right(other)
    half = 1.96 * apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.inf
    return float(apart.mean()), float(apart.mean() - half), float(apart.mean() + half)


def gains(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the part and the name of every proposal that gains beyond chance."""
    found = []
    for entry, first in _pairs(record):
        if entry is not first and difference(entry, first)[2] < 0:
            found.append((entry["part"], entry["name"]))
    return found


def _pairs(record: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns each entry with the one that its part compares it with, the part's first."""
    first: dict[str, dict[str, Any]] = {}
    return [(entry, first.setdefault(entry["part"], entry)) for entry in record["entries"]]


def _table(record: dict[str, Any]) -> Table:
    options, won = record["options"], gains(record)
    rows = []
    for entry, first in _pairs(record):
        draws = entry["num_score_draws"]
        shares = np.asarray(entry["correct_draws"]) / draws
        cells = [Cell(entry["part"]), Cell(entry["name"]), Cell(f"{entry['num_gradients']:,}")]
        cells.append(Cell(f"{100 * shares.mean():.1f} %"))
        cells.append(Cell("compared with") if entry is first else _apart(entry, first))
        if draws > 1:
            cells.append(Cell(f"{100 * (shares == 1).mean():.1f} %"))
        else:
            cells.append(Cell("—"))
        gained = (entry["part"], entry["name"]) in won
        cells.append(Cell("" if entry is first else "yes" if gained else "no"))
        rows.append(tuple(cells))
    radii = [f"{255 * options[f'{name}_radius']:.3g}/255" for name in ("rain", "bare")]
    queried = ""
    if "query_radius" in options:  # older records have no such part
        queried = f", {255 * options['query_radius']:.3g}/255 of attacks by scores behind RAIN"
    return Table(
        "What proposed attacks gain over the library's",
        tuple(
            map(
                Cell,
                ("", "attack", "gradients", "one-shot", "difference", "N-shot", "gains"),
            )
        ),
        tuple(rows),
        (
            f"Accuracy left of the first {options['num_examples']} images of {options['data']} "
            f"({options['split']} split), {options['classifier']}; L∞ radius {radii[0]} behind "
            f"RAIN ({options['edsr']}), {radii[1]} on the classifier alone{queried}.",
            f"**one-shot**: the mean over {options['num_score_draws']} draws behind RAIN; "
            "**N-shot**: an image counts only if all of these are right; **gradients**: of an "
            "image, draws counted; of attacks by scores their queries.",
            "**difference**: in points, paired image by image, with its 95 % interval; a "
            "proposal **gains** where all of it lies below zero.",
        ),
    )


def _apart(entry: dict[str, Any], first: dict[str, Any]) -> Cell:
    middle, low, high = (100 * value for value in difference(entry, first))
    return Cell(f"{middle:+.1f}", f"[{low:+.1f}, {high:+.1f}]")


def _problem(record: dict[str, Any]) -> str:
    num = record["options"]["num_examples"]
    for entry in record["entries"]:
        if len(entry["correct_draws"]) != num:
            return f"{entry['name']} counts {len(entry['correct_draws'])} images of {num}"
    return "" if record["entries"] else "it has no entries"


RECORD = SingleFileRecord(
    "gains", "python -m eval gains", lambda record: (_table(record),), _problem
)
