"""Commands about data sets: `python -m rainjax.data list | import | show`."""

import dataclasses
import io
import pathlib
import sys
from typing import Annotated

import numpy as np
import PIL.Image
import tyro

from rainjax import data
from rainjax._files import check_writable, write_bytes
from rainjax._output import until_closed
from rainjax.data import builtin, generated
from rainjax.data.class_names import read_names
from rainjax.data.importing import import_pictures


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the data sets that are here, with the splits and sizes of each."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared sets; default: $TFDS_DATA_DIR, or TFDS's own."""


@dataclasses.dataclass(frozen=True)
class Import:
    """Turns local pictures into a TFDS data set, once and without loss.

    For example, two files of arrays as the two splits of one set:

        python -m rainjax.data import --name cifar10 --split train=train.npz --split test=test.npz

    A source is a folder of pictures (unlabelled), a folder with one sub-folder of pictures per
    class, or an .npz file with `images` (uint8, n h w 3) or with encoded files end to end
    (`data`, `offsets`), and perhaps `labels` and `index`, the position of each picture in the
    set it was taken from. What is left out of it, or changed, is counted and printed.
    """

    name: str
    """What the set will be called."""
    split: tyro.conf.UseAppendAction[tuple[str, ...]]
    """SPLIT=PATH, once per split: test=photos/"""
    classes: str | None = None
    """The names of the classes: separated by commas, or a text file with one per line, of which
    the last column counts where tabs make columns. One for each kept label, or for each label
    there is; for class folders one for each, and the folders' own names set their order."""
    keep_labels: tuple[int, ...] = ()
    """Keep pictures with these labels alone, and renumber them 0, 1, ... in this order."""
    size: int | None = None
    """Resize the short side to this many pixels (bicubic), cut out the centre, store PNG."""
    shuffle: bool = False
    """Store the pictures in one fixed random order: for sources that are sorted by class."""
    overwrite: bool = False
    """Replace a set of this name."""
    data_dir: pathlib.Path | None = None
    """Folder of prepared sets; default: $TFDS_DATA_DIR, or TFDS's own."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Draws the first pictures of a data set as one sheet, a row per class."""

    name: tyro.conf.Positional[str]
    """The data set, such as builtin or cifar10."""
    split: tyro.conf.Positional[str]
    """One of its splits."""
    out: pathlib.Path = pathlib.Path("sheet.png")
    """The PNG file to write."""
    columns: int = 12
    """Pictures per row."""
    zoom: int = 3
    """How many times to enlarge each pixel."""
    data_dir: pathlib.Path | None = None
    """Folder of prepared sets; default: $TFDS_DATA_DIR, or TFDS's own."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a mistake in it ends the program with one sentence."""
    command = tyro.cli(Command, args=arguments, prog="rainjax data", description=__doc__)
    try:
        with until_closed():
            match command:
                case List():
                    _list(command)
                case Import():
                    _import(command)
                case Show():
                    _show(command)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def _list(command):
    folder = (command.data_dir or data.default_data_dir()).expanduser()
    lengths = {split: len(indices) for split, indices in generated.SPLITS.items()}
    print(_line(builtin.NAME, len(generated.CLASS_NAMES), lengths))
    for name in data.prepared_sets(folder):
        try:
            print(_line(name, *data.describe(name, folder)))
        except ValueError as error:
            print(f"{name:20} unreadable: {error}")


def _line(name, num_classes, lengths):
    splits = ", ".join(f"{split} {length}" for split, length in lengths.items())
    return f"{name:20} {f'{num_classes} classes' if num_classes else 'unlabelled':12} {splits}"


def _import(command):
    sources = {}
    for assignment in command.split:
        split, equals, path = assignment.partition("=")
        if not equals or not path:
            raise ValueError(
                f"--split takes SPLIT=PATH, such as test=photos/, not {assignment!r}."
            )
        if split in sources:
            raise ValueError(f"--split names {split!r} twice.")
        sources[split] = pathlib.Path(path).expanduser()  # no shell expands SPLIT=~
    data_dir = (command.data_dir or data.default_data_dir()).expanduser()
    check_writable(data_dir)
    folder = import_pictures(
        sources,
        command.name,
        data_dir,
        class_names=() if command.classes is None else read_names(command.classes),
        keep_labels=command.keep_labels,
        size=command.size,
        shuffle=command.shuffle,
        overwrite=command.overwrite,
        progress=True,
    )
    print(f"imported into {folder}")
    print(_line(command.name, *data.describe(command.name, data_dir)))


def _show(command):
    if command.columns < 1 or command.zoom < 1:
        raise ValueError("--columns and --zoom must be at least 1.")
    if command.out.suffix.lower() != ".png" or command.out.is_dir():
        raise ValueError(f"--out takes a PNG file, such as sheet.png, not {str(command.out)!r}.")
    check_writable(command.out.parent)
    pictures = data.load(command.name, command.split, data_dir=command.data_dir)
    rows = _rows(pictures, command.columns)
    images = [[pictures.image(index) for index in row] for row in rows]
    height = max(image.shape[0] for row in images for image in row)
    width = max(image.shape[1] for row in images for image in row)
    sheet = np.full((len(rows) * height, command.columns * width, 3), 255, np.uint8)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            top, left = i * height, j * width
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    large = sheet.repeat(command.zoom, 0).repeat(command.zoom, 1)
    buffer = io.BytesIO()
    PIL.Image.fromarray(large).save(buffer, "PNG")
    write_bytes(command.out, buffer.getvalue())
    print(f"{pictures}: {sum(map(len, rows))} pictures in {command.out}")


def _rows(pictures, columns):
    """Positions to show: the first of each class, or simply the first."""
    if not pictures.num_classes:
        first = range(min(len(pictures), 10 * columns))
        return [list(first[start : start + columns]) for start in range(0, len(first), columns)]
    rows = [[] for _ in range(pictures.num_classes)]
    for index, label in enumerate(pictures.labels(np.arange(len(pictures)))):
        row = rows[label]
        if len(row) < columns:
            row.append(index)
        if all(len(row) == columns for row in rows):
            break
    return [row for row in rows if row]


if __name__ == "__main__":
    main()
