"""Local files that can become a TFDS set: plain arrays, encoded files in an .npz, folders."""

import collections.abc
import dataclasses
import io
import pathlib
import zipfile
import zlib

import numpy as np
import PIL.Image

# Pillow's names of pixels with 8 bits per channel or less, which become RGB without loss.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


@dataclasses.dataclass(frozen=True)
class Source:
    """Pictures of one split before they are imported.

    Attributes:
        path: The file or folder they come from.
        names: What to call each picture in a message.
        labels: One class number per picture, int64; None if unlabelled.
        index: The position of each picture in the set that it was taken from, int64.
        encoded: Returns the file of one picture, PNG or otherwise, without loss.
        class_names: The classes, if the source names them.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    labels: np.ndarray | None
    index: np.ndarray
    encoded: collections.abc.Callable[[int], bytes]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_source(path: pathlib.Path) -> Source:
    """Returns the pictures of an .npz file or of a folder.

    An .npz file holds one of:
      `images` uint8 `n h w 3`;
      `residual` uint8 `n 3 h w`: the planes G, R - G and B - G, each differenced along both
        axes, all modulo 256 (smooth pictures then compress well);
      `data` and `offsets`: encoded files end to end, file i at offsets[i]:offsets[i + 1];
    and may hold `labels` (-1: none), `index` (default 0, 1, ...) and `names`.
    A folder holds pictures, or one sub-folder of pictures per class.

    Raises:
        ValueError: `path` is none of these, or its arrays do not fit together.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if path.suffix != ".npz":
        raise ValueError(f"{path} is neither a folder nor an .npz file.")
    try:
        # Opened here, because NumPy forgets to close a file that turns out to be damaged.
        with path.open("rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: {name!r} is no array; write the file with numpy.savez.")
    if "images" in arrays:
        images = _check_array(path, arrays, "images", "n h w 3", lambda s: s[3] == 3)
        return _from_pixels(path, arrays, images)
    if "residual" in arrays:
        residual = _check_array(path, arrays, "residual", "n 3 h w", lambda s: s[1] == 3)
        return _from_pixels(path, arrays, undo_differences(residual))
    if "data" in arrays and "offsets" in arrays:
        return _from_container(path, arrays)
    raise ValueError(
        f"{path} holds {', '.join(arrays) or 'nothing'}; it needs 'images', 'residual',"
        " or 'data' with 'offsets'."
    )


def undo_differences(residual: np.ndarray) -> np.ndarray:
    """Returns pixels `n h w 3` of difference-coded planes `n 3 h w`, both uint8."""
    planes = residual.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    green = planes[:, 0]
    return np.stack([planes[:, 1] + green, green, planes[:, 2] + green], -1)


def why_undecoded(error: Exception) -> str:
    """Returns why a picture cannot be decoded; Pillow names the stream that it was read from."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "it is no picture of a format that Pillow reads"
    return str(error)


def to_png(image: PIL.Image.Image) -> bytes:
    """Returns `image` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_array(path, arrays, name, shape, fits):
    array = arrays[name]
    shape_fits = array.ndim == 4 and fits(array.shape) and min(array.shape[1:]) > 0
    if array.dtype != np.uint8 or not shape_fits:
        raise ValueError(
            f"{path}: {name!r} must be uint8, {shape}, not {array.dtype} {array.shape}."
        )
    return array


def _from_pixels(path, arrays, images):
    labels, index, names = _columns(path, arrays, len(images))
    return Source(path, names, labels, index, lambda i: to_png(PIL.Image.fromarray(images[i])))


def _from_container(path, arrays):
    data, offsets = arrays["data"], arrays["offsets"]
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"{path}: 'data' must be a line of uint8, not {data.dtype} {data.shape}.")
    if (
        offsets.ndim != 1
        or len(offsets) < 1
        or not np.issubdtype(offsets.dtype, np.integer)
        or offsets[0] != 0
        or offsets[-1] != len(data)
        or (np.diff(offsets) <= 0).any()
    ):
        raise ValueError(
            f"{path}: 'offsets' must grow from 0 to the {len(data)} bytes of 'data';"
            " the file is damaged or truncated."
        )
    labels, index, names = _columns(path, arrays, len(offsets) - 1)
    raw = data.tobytes()
    return Source(path, names, labels, index, lambda i: raw[offsets[i] : offsets[i + 1]])


def _columns(path, arrays, length):
    if not length:
        raise ValueError(f"{path} holds no pictures.")
    for name in ("labels", "index", "names"):
        if name in arrays and arrays[name].shape != (length,):
            raise ValueError(
                f"{path}: {name!r} has shape {arrays[name].shape} for {length} pictures."
            )
    for name in ("labels", "index"):
        if name in arrays and not np.issubdtype(arrays[name].dtype, np.integer):
            raise ValueError(f"{path}: {name!r} must be integers, not {arrays[name].dtype}.")
    index = arrays.get("index", np.arange(length)).astype(np.int64)
    repeated = np.flatnonzero(np.diff(np.sort(index)) == 0)
    if len(repeated):
        raise ValueError(f"{path}: 'index' names position {np.sort(index)[repeated[0]]} twice.")
    names = [f"picture {i}" for i in range(length)]
    if "names" in arrays:
        names = [f"{place} ({name})" for place, name in zip(names, arrays["names"], strict=True)]
    labels = arrays.get("labels")
    if labels is None or (labels == -1).all():
        return None, index, tuple(names)
    if (labels < 0).any():
        first = int(np.flatnonzero(labels < 0)[0])
        raise ValueError(
            f"{path}: {names[first]} has label {labels[first]}; labels count from 0, and -1"
            " means that no picture has one."
        )
    return labels.astype(np.int64), index, tuple(names)


def _read_folder(path):
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    flat = _pictures_in(path)
    if folders and flat:
        raise ValueError(
            f"{path} holds both pictures ({flat[0].name}) and folders ({folders[0].name});"
            " it must be one folder per class, or pictures alone."
        )
    files, labels = flat, None
    if folders:
        groups = [_pictures_in(folder) for folder in folders]
        empty = [folder for folder, group in zip(folders, groups, strict=True) if not group]
        if empty:
            raise ValueError(f"the class folder {empty[0]} holds no pictures.")
        files = [file for group in groups for file in group]
        labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(SUFFIXES)}).")
    return Source(
        path,
        tuple(file.relative_to(path).as_posix() for file in files),
        labels,
        np.arange(len(files)),
        lambda i: files[i].read_bytes(),
        tuple(folder.name for folder in folders),
    )


def _pictures_in(folder):
    return sorted(
        file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES
    )
