"""Runs the sanity checks of a study's pipelines: `python -m eval sanity`."""

import dataclasses
import datetime
import pathlib
import time
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from eval import checks, comparison, pipelines, presets
from eval import study as st
from eval.config import Robustness, Transformations
from rainjax import data
from rainjax._files import write_json
from rainjax.devices import data_mesh
from rainjax.evaluation.provenance import provenance
from rainjax.report.sanity import line

# What the command line leaves as the study has it.
_OF_STUDY = ("radius", "step_size", "num_steps", "num_eot", "num_score_draws", "seed")
_USUAL = ("undefended", "rain_finetuned")


@dataclasses.dataclass(frozen=True)
class Sanity:
    """Checks that the attacks on a study's pipelines were strong enough to be believed.

    Looks for what makes a defense only seem robust: gradients that are not there, attacks that
    do not gain from more steps, more draws or a larger radius, black-box attacks that beat
    white-box ones. Writes OUT/STUDY/sanity.json, which the study's report shows beside the
    accuracies that a failed check puts in doubt. Of a study of transformations the attack under
    suspicion is PGD with the gradient of its strongest column, averaged over draws where there are
    any: the transformation's own, soft rounding's, or, for quilting, a low-pass's.
    """

    study: Annotated[str, tyro.conf.Positional] = "quick"
    """The study whose networks, data and radius are taken: quick, cifar10, imagenette96, or one of
    transformations."""
    rows: tuple[str, ...] | None = None
    """The pipelines to check: undefended, rain_pretrained, rain_finetuned, by default the first
    and the last; of transformations their names, by default fd and quilting."""
    num_examples: int = 64
    """Images that every check is run on: the first ones."""
    radius: float | None = None
    """Radius of the L-inf ball of the attack under suspicion; by default the study's, of several
    the largest."""
    step_size: float | None = None
    """Size of one of its steps; by default the study's."""
    num_steps: int | None = None
    """Its number of steps; by default the study's."""
    num_eot: int | None = None
    """Draws whose gradients it averages; by default the study's."""
    num_score_draws: int | None = None
    """Fresh draws under which every image is scored; by default the study's."""
    seed: int | None = None
    """The root of every random number; by default the study's."""
    options: tyro.conf.OmitArgPrefixes[checks.Options] = dataclasses.field(
        default_factory=checks.Options
    )
    classifier: str | None = None
    """The classifier instead of the study's: a zoo name, a path, or a file of weights."""
    table: str | None = None
    """The table of the row fd_designed."""
    bank_size: int | None = None
    """Patches in quilting's bank; by default as many as the study has."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    out: pathlib.Path = pathlib.Path("results")
    """The checks are written to OUT/STUDY."""


def run(command: Sanity) -> pathlib.Path:
    """Runs the checks, prints them one by one, and returns the record's path.

    Raises:
        ValueError: no study is called so, or its parts do not fit each other.
    """
    if command.rows == ():
        raise ValueError("rows is empty: name the pipelines to check.")
    if command.num_examples < 2:
        raise ValueError(
            f"num_examples={command.num_examples} must be at least 2: changes are judged against "
            "how much they vary from image to image."
        )
    config = presets.any_study(command.study)
    config = dataclasses.replace(
        config, classifier=command.classifier or config.classifier, data_dir=command.data_dir
    )
    rows = _rows(command, config)
    images_of = data.load(config.data, config.split, data_dir=config.data_dir)
    images, labels = images_of.get(np.arange(command.num_examples))
    images = images.astype(np.float32) / 255
    options, found = _options(command, config), []
    for row in rows:
        column, attacker = None, None
        if isinstance(config, Transformations):
            column, attacker = comparison.strongest_gradient(row)
        random = row.target.defense.is_random
        began = time.perf_counter()
        total = checks.num_gradients(row.target, options, len(images), random=random)
        with tqdm(total=total, unit="grad", unit_scale=True, desc=row.title) as bar:
            results, surfaces = checks.run_checks(
                row.target, row.params, images, labels, options,
                random=random, attacker=attacker, column=column,
                mesh=data_mesh(batch_size=min(options.batch_size, len(images))),
                on_gradient=bar.update,
                on_check=lambda check, bar=bar: bar.write(line(dataclasses.asdict(check))),
            )  # fmt: skip
        found.append(
            {
                "key": row.key,
                "title": row.title,
                "target": st.describe(row.target),
                "params": row.sources,
                "checks": [dataclasses.asdict(check) for check in results],
                "surfaces": surfaces,
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    path = command.out / config.name / "sanity.json"
    record = {
        "schema": 1,
        "kind": "sanity",
        "study": config.name,
        "options": dataclasses.asdict(options),
        "data": {
            "name": images_of.name,
            "split": images_of.split,
            "fingerprint": images_of.fingerprint,
            "num_examples": command.num_examples,
        },
        "rows": found,
        "run": {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **provenance(),
        },
    }
    write_json(path, record)
    return path


def _rows(command: Sanity, config: Robustness | Transformations) -> list[st.Row]:
    """Returns the pipelines to check."""
    usual = ("fd", "quilting") if isinstance(config, Transformations) else _USUAL
    return pipelines.named(
        config, command.rows or usual, table=command.table, bank_size=command.bank_size
    )


def _options(command: Sanity, config: Robustness | Transformations) -> checks.Options:
    """Returns what to check: the study's attack, but for what the command line changes."""
    of_study = {name: getattr(config, name, None) for name in _OF_STUDY}
    if isinstance(config, Transformations):
        radius = max(config.radii) if command.radius is None else command.radius
        of_study |= {"radius": radius, "step_size": radius / 4}
    given = {name: getattr(command, name) for name in _OF_STUDY}
    chosen = {n: of_study[n] if value is None else value for n, value in given.items()}
    return dataclasses.replace(command.options, **chosen)
