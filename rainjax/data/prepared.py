"""TFDS data sets that are already on this machine, read without TensorFlow."""

import difflib
import functools
import hashlib
import io
import os
import pathlib
import re
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Int, UInt8

from rainjax._extras import require
from rainjax.data._base import DamagedPicture, ImageSet
from rainjax.data.builtin import NAME as BUILTIN
from rainjax.data.sources import MODES, why_undecoded

_MEMORY = 2**30  # bytes of decoded pictures that one set keeps
_HASHED = 50_000  # pictures that a fingerprint reads, a matter of seconds


def default_data_dir() -> pathlib.Path:
    """Returns the folder of prepared sets: $TFDS_DATA_DIR, or TFDS's own default."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared_sets(data_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of the latest version of each prepared set, by name.

    A set with configurations is listed as `name/config`.
    """
    found = {}
    for path in sorted(data_dir.glob("*/*/dataset_info.json")) + sorted(
        data_dir.glob("*/*/*/dataset_info.json")
    ):
        folder = path.parent
        version = _version(folder.name)
        name = folder.parent.relative_to(data_dir).as_posix()
        if version and not name.startswith("."):
            found.setdefault(name, []).append((version, folder))
    return {name: max(versions)[1] for name, versions in sorted(found.items())}


def require_tfds() -> Any:
    """Returns TFDS, half a second that the built-in set can do without.

    Raises:
        ImportError: it is not installed; says how to.
    """
    return require("tensorflow_datasets", name="tensorflow-datasets", extra="data")


def describe(name: str, data_dir: pathlib.Path) -> tuple[int, dict[str, int]]:
    """Returns the number of classes of a prepared set (0: unlabelled), and its splits' lengths."""
    builder, features = _open(name, data_dir)
    label = features.get("label")
    splits = {split: info.num_examples for split, info in builder.info.splits.items()}
    return getattr(label, "num_classes", 0), splits


class PreparedSet(ImageSet):
    """A split of a prepared TFDS set with an `image` feature and, if labelled, a `label`.

    Pictures are decoded by Pillow, always: another decoder gives other JPEG pixels.
    """

    def __init__(self, name: str, split: str, data_dir: pathlib.Path):
        builder, self._features = _open(name, data_dir)
        tfds = require_tfds()
        splits = builder.info.splits
        if split not in splits:
            raise ValueError(f"{name!r} has no split {split!r}; it has {', '.join(splits)}.")
        if not isinstance(self._features.get("image"), tfds.features.Image):
            raise ValueError(
                f"{name!r} has no feature 'image' that is a picture;"
                f" it has {', '.join(self._features)}."
            )
        label = self._features.get("label")
        if label is not None and not isinstance(label, tfds.features.ClassLabel):
            raise ValueError(f"the label of {name!r} is not a class but {label!r}.")
        self.name = name
        self.split = split
        self.class_names = () if label is None else tuple(label.names)
        self._version = builder.version
        self._records = self._read(builder, splits[split])
        self._decoded = {}
        self._decoded_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The set, its version and split, and a digest of pictures and labels in their order.

        It reads every picture, of a larger set 50,000 of them, evenly spaced.
        """
        digest = hashlib.sha256()
        chosen = np.linspace(0, len(self) - 1, min(len(self), _HASHED)).astype(int)
        for index in chosen.tolist():
            try:
                record = self._record(index)
            except DamagedPicture:
                digest.update(b"damaged")
                continue
            digest.update(hashlib.sha256(record["image"]).digest())
            digest.update(str(self._label(index, record)).encode())
        return (
            f"{self.name.partition(':')[0]}:{self._version}/{self.split}:"
            f"{len(self)} pictures, sha256 {digest.hexdigest()[:16]}"
        )

    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        """Returns pictures of one size and their labels; both are kept in memory up to 1 GiB."""
        self.check_indices(indices)
        images, labels = [], []
        for index in indices.tolist():
            image, label = self._example(index)
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"{self._place(index)} is {_size(image)} where picture {indices[0]} is"
                    f" {_size(images[0])}; `get` wants one size: take them one by one with"
                    f" `image`, or import the set with --size."
                )
            images.append(image)
            labels.append(label)
        stacked = np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8)
        return stacked, np.array(labels, np.int32)

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Returns one picture, of its own size."""
        self.check_indices(np.array([index]))
        return self._example(index)[0]

    def example(self, index: int) -> tuple[UInt8[np.ndarray, "h w c"], int]:
        """Returns one picture, of its own size, and its label, from one record."""
        self.check_indices(np.array([index]))
        return self._example(index)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the decoded pictures behind: a worker process decodes its own."""
        return {**self.__dict__, "_decoded": {}, "_decoded_bytes": 0}

    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the labels alone; -1 for each picture of an unlabelled set."""
        self.check_indices(indices)
        if not self.num_classes:
            return np.full(len(indices), -1, np.int32)
        return np.array([self._label(i, self._record(i)) for i in indices.tolist()], np.int32)

    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns what the set stores as `index`, which imported sets have."""
        self.check_indices(indices)
        if "index" not in self._features:
            raise ValueError(f"{self.name!r} does not say where its pictures were in its source.")
        return np.array([self._record(i)["index"] for i in indices.tolist()], np.int64)

    def _read(self, builder, info):
        tfds = require_tfds()
        place = f"{self.name!r}, split {self.split!r}, in {builder.data_dir}"
        stored = builder.info.file_format
        if stored not in tfds.core.FileFormat.with_random_access():
            raise ValueError(
                f"{place} is stored as {stored.value}, which cannot be read"
                " without TensorFlow; prepare it with --file_format=array_record."
            )
        try:
            records = builder.as_data_source(
                self.split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            # Files are opened at their first record: ask each for it, so that damage shows now.
            for start in np.cumsum([0, *info.shard_lengths[:-1]]).tolist():
                records[start]
        except Exception as error:
            raise ValueError(f"{place} is damaged or incomplete: {error}") from error
        return records

    def _record(self, index):
        try:
            return self._records[index]
        except Exception as error:
            raise DamagedPicture(
                f"{self._place(index)} cannot be read, its file is damaged: {error}"
            ) from error

    def _example(self, index):
        if index in self._decoded:
            return self._decoded[index]
        record = self._record(index)
        try:
            image = decode(record["image"])
        except Exception as error:
            raise DamagedPicture(
                f"{self._place(index)} cannot be decoded: {why_undecoded(error)}"
            ) from error
        label = self._label(index, record)
        if self._decoded_bytes + image.nbytes <= _MEMORY:
            self._decoded[index] = image, label
            self._decoded_bytes += image.nbytes
        return image, label

    def _label(self, index, record):
        if not self.num_classes:
            return -1
        label = int(record["label"])
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"{self._place(index)} has label {label}, outside 0 to {self.num_classes - 1}."
            )
        return label

    def _place(self, index):
        return f"picture {index} of {self.name!r}, split {self.split!r},"


def decode(encoded: bytes) -> UInt8[np.ndarray, "h w c"]:
    """Returns the RGB pixels of an encoded picture of any format Pillow reads.

    Raises:
        ValueError: it has more than 8 bits per channel.
    """
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        if image.mode not in MODES:
            raise ValueError(f"its pixels are of kind {image.mode!r}, not 8 bits per channel")
        pixels = np.asarray(image.convert("RGB"))
    pixels.flags.writeable = False
    return pixels


def _open(name, data_dir):
    folder = _find(name, data_dir)
    tfds = require_tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        features: Any = builder.info.features
        return builder, dict(features.items())
    except Exception as error:
        raise ValueError(f"{folder} is not a readable TFDS data set: {error}") from error


def _find(name, data_dir):
    plain, _, version = name.partition(":")
    available = prepared_sets(data_dir)
    if plain in available:
        folder = available[plain].parent / version if version else available[plain]
        if (folder / "dataset_info.json").exists():
            return folder
        versions = sorted(path.name for path in folder.parent.iterdir() if _version(path.name))
        raise ValueError(f"{plain!r} has no version {version!r}; it has {', '.join(versions)}.")
    names = [BUILTIN, *available]
    close = difflib.get_close_matches(plain, names, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"there is no data set {name!r}.{hint} Built in: {BUILTIN}."
        f" Prepared in {data_dir}: {', '.join(available) or 'none'}. Elsewhere: set "
        "TFDS_DATA_DIR; of your own: `python -m rainjax.data import`."
    )


@functools.cache
def _version(text):
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match else None


def _size(image):
    return f"{image.shape[1]}x{image.shape[0]}"
