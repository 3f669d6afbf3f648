"""Pictures in a folder: which files are taken, which classes they are of, and what is left out."""

import collections
import dataclasses
import pathlib
import stat
import unicodedata

from rainjax.data.class_names import clean_name

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jp2", ".bmp", ".dib"),
    *(".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # folders that their systems hide


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """The picture files of a folder.

    Attributes:
        files: Where they are, class by class.
        labels: The number of each one's class; None if the folder has no classes.
        class_names: What the classes are called.
        notes: Sentences about what was left out, and what was changed.
    """

    files: list[pathlib.Path]
    labels: list[int] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def find_pictures(path: pathlib.Path) -> PictureFiles:
    """Returns the pictures of a folder: its own, or those of one sub-folder per class.

    A class has the pictures of its folder and of all folders below that. Hidden files and
    folders, and files that are no pictures by their endings, are left out.

    Raises:
        ValueError: there are none, or it is not clear which classes they are of.
    """
    passed = _PassedOver(path)
    folders, files = _entries(path, passed)
    if folders and files:
        raise ValueError(
            f"{path} holds both pictures ({files[0].name}) and folders ({folders[0].name});"
            " it must be one folder per class, or pictures alone: move one kind elsewhere."
        )
    class_names, renamed = _class_names(path, folders)
    groups = [_class_pictures(folder, passed) for folder in folders]
    files = [file for group in groups for file in group] if folders else files
    if passed.empty:
        raise ValueError(
            f"{path}: {_counted(len(passed.empty), 'picture')} of no bytes, such as "
            f"{passed.empty[0].relative_to(path)}: fetch what belongs there, or delete it."
        )
    if not files:
        raise ValueError(
            f"{path} holds no pictures ({', '.join(SUFFIXES)}){_clause(passed.texts())}."
        )
    deeper = [file for file in files if file.parent.parent != path] if folders else []
    notes = [f"{path}: left out {text}." for text in passed.texts()]
    if deeper:
        notes.append(
            f"{path}: took {_counted(len(deeper), 'picture')} from folders inside class folders, "
            f"such as {deeper[0].relative_to(path)}."
        )
    labels = [number for number, group in enumerate(groups) for _ in group] if folders else None
    return PictureFiles(files, labels, class_names, (*notes, *renamed))


@dataclasses.dataclass
class _PassedOver:
    """What is no picture below `path`."""

    path: pathlib.Path
    hidden: list[pathlib.Path] = dataclasses.field(default_factory=list)
    others: list[pathlib.Path] = dataclasses.field(default_factory=list)
    empty: list[pathlib.Path] = dataclasses.field(default_factory=list)

    def texts(self) -> list[str]:
        """Returns what is left out, by reason."""
        texts = []
        if self.hidden:
            example = self.hidden[0].relative_to(self.path)
            counts = _counted(len(self.hidden), "hidden file or folder", "hidden files or folders")
            texts.append(f"{counts} (such as {example})")
        if self.others:
            example = self.others[0].relative_to(self.path)
            kinds = collections.Counter(file.suffix.lower() for file in self.others)
            counts = ", ".join(f"{kind or 'none'}: {n}" for kind, n in kinds.most_common(5))
            texts.append(
                f"{_counted(len(self.others), 'file')} without the ending of a picture "
                f"({counts}; such as {example})"
            )
        return texts


def _entries(folder, passed):
    """Returns the folders and the pictures in a folder, each in the order of their names."""
    folders, pictures = [], []
    # In one Unicode form, so that copies on other systems have the same order.
    by_name = lambda entry: (unicodedata.normalize("NFC", entry.name), entry.name)
    for entry in sorted(folder.iterdir(), key=by_name):
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            passed.hidden.append(entry)
            continue
        try:
            status = entry.stat()
        except OSError:
            if not entry.is_symlink():
                raise
            raise ValueError(
                f"{entry} is a link to {entry.readlink()}, which cannot be reached: bring that "
                "back, or delete the link."
            ) from None
        if stat.S_ISDIR(status.st_mode):
            folders.append(entry)
        elif not stat.S_ISREG(status.st_mode) or entry.suffix.lower() not in SUFFIXES:
            passed.others.append(entry)
        else:
            (pictures if status.st_size else passed.empty).append(entry)
    return folders, pictures


def _class_pictures(folder, passed):
    """Returns the pictures of a class: of its folder, and then of the folders in it."""
    folders, own = _entries(folder, passed)
    deeper = [file for inner in folders for file in _below(inner, (folder,), passed)]
    if not own and deeper:
        raise ValueError(
            f"the class folder {folder} holds pictures in folders of its own only "
            f"({folders[0].name} ...): if those are the classes, import {folder} instead, as a "
            "split of its own; if they are not, move their pictures up."
        )
    if not own and not passed.empty:  # those are refused next
        raise ValueError(
            f"the class folder {folder} holds no pictures{_clause(passed.texts())}: delete it, or "
            "put its pictures there."
        )
    return own + deeper


def _below(folder, above, passed):
    if any(folder.samefile(upper) for upper in above):
        raise ValueError(f"{folder} is a link to a folder that holds it: delete the link.")
    folders, pictures = _entries(folder, passed)
    deeper = [file for inner in folders for file in _below(inner, (*above, folder), passed)]
    return pictures + deeper


def _class_names(path, folders):
    """Returns the names of the classes, and a sentence where they are not the folders'."""
    classes, places = {}, {}
    for folder in folders:
        name = clean_name(folder.name, f"the class folder {folder.name!a} of {path}")
        if name in classes:
            raise ValueError(
                f"the class folders {classes[name].name!a} and {folder.name!a} of {path} differ "
                "in spaces or Unicode forms alone: put them together, or rename one."
            )
        place = folder.resolve()
        if place in places:
            raise ValueError(
                f"the class folders {places[place].name!r} and {folder.name!r} of {path} are one "
                "folder by a link: delete the link."
            )
        classes[name] = places[place] = folder
    renamed = [name for name, folder in classes.items() if folder.name != name]
    if not renamed:
        return tuple(classes), []
    example = f"{classes[renamed[0]].name!a} became {renamed[0]!a}"
    note = (
        f"{path}: wrote {_counted(len(renamed), 'class name')} without spaces at the ends, and in "
        f"one Unicode form (NFC): {example}."
    )
    return tuple(classes), [note]


def _clause(texts: list[str]) -> str:
    return f"; left out {' and '.join(texts)}" if texts else ""


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"
