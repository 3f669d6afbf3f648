"""Turns local pictures into a TFDS data set once, without TensorFlow and without loss."""

import collections
import io
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import tqdm

from rainjax._checks import is_whole
from rainjax.data.builtin import NAME as BUILTIN
from rainjax.data.classes import agree_on_classes, take
from rainjax.data.pictures import to_store
from rainjax.data.prepared import require_tfds
from rainjax.data.sources import Source, read_source

VERSION = "1.0.0"
_CHUNK = 256  # pictures between two updates of the metadata
_SHARD = 20_000  # pictures per file


def import_pictures(
    sources: dict[str, pathlib.Path],
    name: str,
    data_dir: pathlib.Path,
    *,
    class_names: Sequence[str] = (),
    keep_labels: Sequence[int] = (),
    size: int | None = None,
    shuffle: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> pathlib.Path:
    """Writes the data set `name` with a split for each of `sources`; returns its folder.

    Pictures are stored as they are where they are 8-bit RGB PNG or JPEG files that stand upright,
    as PNG files otherwise. The set appears under its name when it is complete, not before. What
    is left out or changed is counted, and printed to the error output.

    Args:
        sources: What `read_source` can read, by the name of the split it becomes.
        name: What the set will be called; it becomes a folder's name.
        data_dir: The folder that gets it.
        class_names: One per class; or one per label before `keep_labels` picks some. For class
            folders, one per folder: their own names in the order wanted, or new ones in the
            alphabetical order of the folders.
        keep_labels: Labels to keep, renumbered 0, 1, ... in this order; empty keeps all.
        size: Reduce or enlarge the short side to this many pixels (bicubic) and cut out the
            centre.
        shuffle: Store each split in one fixed random order instead of its own.
        overwrite: Replace a set of this name.
        progress: Show a bar.

    Raises:
        ValueError: a name, file, label or option is wrong; the message says which.
        FileExistsError: there is such a set, and `overwrite` is false.
        ImportError: TFDS, which writes the set, is not installed.
    """
    data_dir = pathlib.Path(data_dir)
    final = _check_request(sources, name, size, data_dir, overwrite)
    tfds = require_tfds()
    splits = {split: read_source(pathlib.Path(path)) for split, path in sources.items()}
    _print(*(note for source in splits.values() for note in source.notes))
    splits, class_names, notes = agree_on_classes(splits, class_names, keep_labels)
    _print(*notes)
    if shuffle:
        splits = {split: _shuffled(source) for split, source in splits.items()}
    data_dir.mkdir(parents=True, exist_ok=True)
    _sweep(data_dir, name)
    with tempfile.TemporaryDirectory(prefix=f".importing-{name}-", dir=data_dir) as staging:
        built = pathlib.Path(staging) / name / VERSION
        built.mkdir(parents=True)
        changes = _write(tfds, built, name, splits, class_names, size, progress)
        final.parent.mkdir(exist_ok=True)
        if final.exists():
            final.rename(pathlib.Path(staging) / "replaced")
        built.rename(final)
    _print(*changes)
    return final


def _check_request(sources, name, size, data_dir, overwrite):
    """Returns the folder that the set will have, if it may have that."""
    if not _is_plain(name) or name == BUILTIN:
        raise ValueError(
            f"a data set cannot be called {name!r}: use small letters, digits and _, starting"
            f" with a letter, and not {BUILTIN!r}."
        )
    if not isinstance(sources, dict):
        raise ValueError(
            f"sources={sources!r} must be a dict of paths by split, such as {{'test': 'photos'}}."
        )
    if not sources:
        raise ValueError("there is nothing to import: name at least one split.")
    for split in sources:
        if not _is_plain(split) or split == "all":
            raise ValueError(
                f"a split cannot be called {split!r}: use small letters, digits and _, starting"
                " with a letter, and not 'all'."
            )
    if size is not None and not (is_whole(size) and size >= 1):
        raise ValueError(f"size must be at least 1 pixel, not {size!r}: give a whole number.")
    final = data_dir / name / VERSION
    others = [path.parent for path in final.parent.rglob("dataset_info.json")]
    others = [path for path in others if path != final]
    if others:
        raise ValueError(
            f"there is {others[0]}, which did not come from an import and would be "
            "read instead: choose another name."
        )
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{final} exists; choose another name, or replace it: --overwrite (overwrite=True)."
        )
    return final


def _is_plain(name):
    return isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name)


def _print(*sentences: str) -> None:
    for sentence in sentences:
        print(sentence, file=sys.stderr)


def _shuffled(source: Source) -> Source:
    return take(source, np.random.default_rng(0).permutation(len(source)))


def _sweep(data_dir, name):
    """Removes what killed imports left: work folders that nobody has written to for an hour."""
    for folder in data_dir.glob(f".importing-{name}-*"):
        newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
        if time.time() - newest > 3600:
            shutil.rmtree(folder, ignore_errors=True)


def _write(tfds, folder, name, splits, class_names, size, progress):
    """Writes the files of the set; returns sentences about the pictures that were changed."""
    features = {
        "image": tfds.features.Image(shape=(size, size, 3)),
        "index": tfds.features.Scalar(np.int64, doc="position in the set it was taken from"),
    }
    if class_names:
        features["label"] = tfds.features.ClassLabel(names=list(class_names))
    paths = ", ".join(source.path.name for source in splits.values())
    identity = tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=f"Imported from {paths} by rainjax.",
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )
    writer = tfds.core.SequentialWriter(info, _SHARD, file_format="array_record")
    writer.initialize_splits(list(splits))
    total = sum(len(source) for source in splits.values())
    changed = collections.defaultdict(list)
    with tqdm.tqdm(total=total, desc=name, unit=" pictures", disable=not progress) as bar:
        for split, source in splits.items():
            for start in range(0, len(source), _CHUNK):
                examples = []
                for i in range(start, min(start + _CHUNK, len(source))):
                    example, changes = _example(source, i, size)
                    examples.append(example)
                    for change in changes:
                        changed[change].append(f"{source.path}: {source.names[i]}")
                writer.add_examples({split: examples})
                bar.update(len(examples))
    writer.close_all()
    return [
        f"{len(places)} of {total} pictures {change}, such as {places[0]}."
        for change, places in changed.items()
    ]


def _example(source, i, size):
    """Returns what is stored of a picture, and what that changes."""
    try:
        picture, changes = to_store(source.encoded(i), size)
    except ValueError as error:
        raise ValueError(f"{source.path}: {source.names[i]} {error}") from error
    example = {"image": io.BytesIO(picture), "index": int(source.index[i])}
    if source.labels is not None:
        example["label"] = int(source.labels[i])
    return example, changes
