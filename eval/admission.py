"""Whether a study fits its data, and whether a folder is its own."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from eval import study as st
from eval.config import Study
from rainjax._files import read_json, write_json
from rainjax.data import ImageSet


def check(config: Study, images: ImageSet, row: st.Row) -> int:
    """Returns the images' height, or says what does not fit."""
    if config.num_examples > len(images):
        raise ValueError(
            f"num_examples={config.num_examples}, but {config.data!r} has {len(images)} images "
            f"in its split {config.split!r}."
        )
    first, _ = images.get(np.arange(1))
    _, labels = images.get(np.arange(config.num_eot_examples))
    classes = len(np.unique(labels))
    if config.num_eot_examples >= 4 * images.num_classes and 2 * classes <= images.num_classes:
        raise ValueError(
            f"The first {config.num_eot_examples} images of {config.data!r} are of {classes} of "
            f"its {images.num_classes} classes: the set is sorted; import it with --shuffle."
        )
    shape = jax.ShapeDtypeStruct(first.shape[1:], jnp.float32)
    outputs = jax.eval_shape(row.target.classifier.apply, row.params["classifier"], shape).shape
    if outputs != (images.num_classes,):
        raise ValueError(
            f"The classifier {config.classifier!r} has {outputs[0]} outputs, but {config.data!r} "
            f"has {images.num_classes} classes: choose a classifier of this data set."
        )
    return first.shape[1]


def identity(config: Study, images: ImageSet, found: list[st.Row]) -> dict:
    """Returns what two runs must share to be of one study."""
    # Places, what changes memory alone, what only adds records or takes them away, and what
    # other images say.
    free = ("out", "data_dir", "classifier", "pretrained", "finetuned", "batch_size", "eot_chunk",
            "eot_sweep", "radius_sweep", "known_key", "eight_bit", "autoattack",
            "rows", "radii", "table", "enhancer", "rain", "bank_data", "bank_split",
            "bank_size", "two_pass")  # fmt: skip
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    sources = {row.key: row.sources for row in found}
    facts = {"data_is": images.fingerprint, "params": sources}
    return json.loads(json.dumps({**options, **facts}))


def claim(folder: pathlib.Path, found: dict) -> None:
    """Marks the folder as this study's, or refuses one that holds another's."""
    path = folder / "study.json"
    if path.exists():
        there = read_json(path)
        differing = sorted(k for k in found if found[k] != there.get(k))
        if differing:
            name = differing[0]
            raise ValueError(
                f"{folder} holds a study with {name}={there.get(name)!r}, not "
                f"{found[name]!r}: choose another --out or --name, or delete the folder."
            )
    write_json(path, found)
