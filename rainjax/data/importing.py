"""Turns local pictures into a TFDS data set once, without TensorFlow and without loss."""

import dataclasses
import io
import pathlib
import re
import shutil
import tempfile
import time

import numpy as np
import PIL.Image
import tqdm

from rainjax.data.builtin import NAME as BUILTIN
from rainjax.data.prepared import require_tfds
from rainjax.data.sources import MODES, Source, read_source, to_png, why_undecoded

VERSION = "1.0.0"
_CHUNK = 256  # pictures between two updates of the metadata
_SHARD = 20_000  # pictures per file


def import_pictures(
    sources: dict[str, pathlib.Path],
    name: str,
    data_dir: pathlib.Path,
    *,
    class_names: tuple[str, ...] = (),
    keep_labels: tuple[int, ...] = (),
    size: int | None = None,
    shuffle: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> pathlib.Path:
    """Writes the data set `name` with a split for each of `sources`; returns its folder.

    Pictures are stored as they are where they are 8-bit RGB PNG or JPEG files, as PNG files
    otherwise. The set appears under its name when it is complete, not before.

    Args:
        sources: What `read_source` can read, by the name of the split it becomes.
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
    final = data_dir / name / VERSION
    _check_request(sources, name, size, final, overwrite)
    tfds = require_tfds()
    splits = {split: read_source(pathlib.Path(path)) for split, path in sources.items()}
    splits, class_names = _agree_on_classes(splits, class_names, keep_labels)
    if shuffle:
        splits = {split: _shuffled(source) for split, source in splits.items()}
    data_dir.mkdir(parents=True, exist_ok=True)
    _sweep(data_dir, name)
    with tempfile.TemporaryDirectory(prefix=f".importing-{name}-", dir=data_dir) as staging:
        built = pathlib.Path(staging) / name / VERSION
        built.mkdir(parents=True)
        _write(tfds, built, name, splits, class_names, size, progress)
        final.parent.mkdir(exist_ok=True)
        if final.exists():
            final.rename(pathlib.Path(staging) / "replaced")
        built.rename(final)
    return final


def _check_request(sources, name, size, final, overwrite):
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == BUILTIN:
        raise ValueError(
            f"a data set cannot be called {name!r}: use small letters, digits and _, starting"
            f" with a letter, and not {BUILTIN!r}."
        )
    if not sources:
        raise ValueError("there is nothing to import: name at least one split.")
    for split in sources:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", split) or split == "all":
            raise ValueError(
                f"a split cannot be called {split!r}: use small letters, digits and _, starting"
                " with a letter, and not 'all'."
            )
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}.")
    others = [path.parent for path in final.parent.rglob("dataset_info.json")]
    others = [path for path in others if path != final]
    if others:
        raise ValueError(
            f"there is {others[0]}, which did not come from an import and would be "
            "read instead: choose another name."
        )
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{final} exists; choose another name, or replace it with overwrite=True (--overwrite "
            "on a command line)."
        )


def _agree_on_classes(splits, class_names, keep_labels):
    """Returns the splits with final labels, and the names of the classes."""
    labelled = {split for split, source in splits.items() if source.labels is not None}
    if not labelled:
        for option, value in (("class_names", class_names), ("keep_labels", keep_labels)):
            if value:
                raise ValueError(f"{option} was given, but the pictures have no labels.")
        return splits, ()
    if labelled != set(splits):
        bare = next(split for split in splits if split not in labelled)
        raise ValueError(
            f"split {bare!r} has no labels and split {min(labelled)!r} has:"
            " import them as two sets."
        )
    splits, folder_names = _merge_folder_names(splits)
    if folder_names:
        splits, class_names = _name_folders(splits, folder_names, class_names)
    present = np.unique(np.concatenate([_labels(source) for source in splits.values()]))
    if keep_labels:
        if len(set(keep_labels)) != len(keep_labels) or min(keep_labels) < 0:
            raise ValueError(f"keep_labels must be different and not negative: {keep_labels}.")
        if folder_names or (class_names and len(class_names) != len(keep_labels)):
            if max(keep_labels) >= len(class_names):
                raise ValueError(
                    f"keep_labels has {max(keep_labels)}, but there are {len(class_names)} class"
                    f" names: give {len(keep_labels)} names, or one for every label."
                )
            class_names = tuple(class_names[label] for label in keep_labels)
        absent = [label for label in keep_labels if label not in present]
        if absent:
            raise ValueError(f"keep_labels has {absent[0]}, a label that no picture has.")
        splits = {split: _keep(source, keep_labels) for split, source in splits.items()}
        present = np.arange(len(keep_labels))
    if not class_names:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        if len(gaps):
            raise ValueError(
                f"label {present[gaps[0]]} occurs and label {gaps[0]} does not: name every class, "
                "or keep some labels, or mend the labels."
            )
        class_names = tuple(map(str, present))
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise ValueError(f"two classes are called {twice!r}.")
    for source in splits.values():
        labels = _labels(source)
        outside = np.flatnonzero(labels >= len(class_names))
        if len(outside):
            raise ValueError(
                f"{source.path}: {source.names[outside[0]]} has label {labels[outside[0]]},"
                f" but there are {len(class_names)} class names."
            )
    return splits, class_names


def _merge_folder_names(splits):
    """Numbers the class folders of all splits alike, though one split may lack some."""
    named = [split for split, source in splits.items() if source.class_names]
    if not named:
        return splits, ()
    if len(named) != len(splits):
        raise ValueError(
            f"split {named[0]!r} is a folder of class folders and another is not:"
            " their labels cannot be compared; import them as two sets."
        )
    names = sorted({name for source in splits.values() for name in source.class_names})
    merged = {}
    for split, source in splits.items():
        numbers = np.array([names.index(name) for name in source.class_names])
        merged[split] = dataclasses.replace(
            source, labels=numbers[_labels(source)], class_names=tuple(names)
        )
    return merged, tuple(names)


def _name_folders(splits, folder_names, class_names):
    """Returns the splits and one name per folder; the folders' own names may be reordered."""
    if not class_names:
        return splits, folder_names
    if len(class_names) != len(folder_names):
        raise ValueError(
            f"there are {len(folder_names)} class folders ({', '.join(folder_names[:5])} ...) and "
            f"{len(class_names)} class names: give one for each folder, or none."
        )
    odd = [name for name in class_names if name not in folder_names]
    if odd and {n.casefold() for n in class_names} & {n.casefold() for n in folder_names}:
        raise ValueError(
            f"no class folder is called {odd[0]!r}, though some of the names given are folders': "
            f"give them all ({', '.join(folder_names[:5])} ...), in any order, or only new ones."
        )
    if not odd:
        numbers = np.array([class_names.index(name) for name in folder_names])
        splits = {
            split: dataclasses.replace(source, labels=numbers[_labels(source)])
            for split, source in splits.items()
        }
    return splits, class_names


def _keep(source: Source, keep_labels) -> Source:
    chosen = np.flatnonzero(np.isin(_labels(source), keep_labels))
    if not len(chosen):
        raise ValueError(f"{source.path} has no picture with one of the labels {keep_labels}.")
    numbers = {label: number for number, label in enumerate(keep_labels)}
    kept = _take(source, chosen)
    return dataclasses.replace(kept, labels=np.array([numbers[i] for i in _labels(kept).tolist()]))


def _labels(source: Source) -> np.ndarray:
    if source.labels is None:
        raise ValueError(f"{source.path} has no labels.")
    return source.labels


def _shuffled(source: Source) -> Source:
    return _take(source, np.random.default_rng(0).permutation(len(source)))


def _take(source: Source, chosen: np.ndarray) -> Source:
    return dataclasses.replace(
        source,
        names=tuple(source.names[i] for i in chosen),
        labels=None if source.labels is None else source.labels[chosen],
        index=source.index[chosen],
        encoded=lambda i: source.encoded(int(chosen[i])),
    )


def _sweep(data_dir, name):
    """Removes what killed imports left: work folders that nobody has written to for an hour."""
    for folder in data_dir.glob(f".importing-{name}-*"):
        newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
        if time.time() - newest > 3600:
            shutil.rmtree(folder, ignore_errors=True)


def _write(tfds, folder, name, splits, class_names, size, progress):
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
    with tqdm.tqdm(total=total, desc=name, unit=" pictures", disable=not progress) as bar:
        for split, source in splits.items():
            for start in range(0, len(source), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(source)))
                writer.add_examples({split: [_example(source, i, size) for i in chunk]})
                bar.update(len(chunk))
    writer.close_all()


def _example(source, i, size):
    example = {"image": io.BytesIO(_picture(source, i, size)), "index": int(source.index[i])}
    if source.labels is not None:
        example["label"] = int(source.labels[i])
    return example


def _picture(source, i, size):
    """Returns the bytes to store: the source's own, unless they must change."""
    encoded = source.encoded(i)
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            image.load()
    except Exception as error:
        raise ValueError(
            f"{source.path}: {source.names[i]} cannot be decoded: {why_undecoded(error)}."
        ) from error
    if image.mode not in MODES:
        raise ValueError(
            f"{source.path}: {source.names[i]} has pixels of kind {image.mode!r};"
            " pictures must have 8 bits per channel."
        )
    if size is not None:
        return to_png(_fit(image.convert("RGB"), size))
    if image.mode == "RGB" and image.format in ("PNG", "JPEG"):
        return encoded
    return to_png(image.convert("RGB"))


def _fit(image, size):
    """Resizes the short side to `size` and cuts the centre out, both in one resampling."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box)
