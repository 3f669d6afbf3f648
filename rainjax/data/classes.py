"""Which classes the splits of an import have in common, and how they are numbered."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rainjax._checks import is_whole
from rainjax.data.class_names import check_names, look_alike
from rainjax.data.sources import Source


def agree_on_classes(
    splits: dict[str, Source], class_names: Sequence[str], keep_labels: Sequence[int]
) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """Returns the splits with final labels, the names of the classes, and what to say of them.

    Raises:
        ValueError: they have no classes in common, or an option does not fit them.
    """
    class_names, notes = check_names(class_names), []
    labelled = {split for split, source in splits.items() if source.labels is not None}
    if not labelled:
        for option, value in (("class_names", class_names), ("keep_labels", keep_labels)):
            if value:
                raise ValueError(f"{option} was given, but the pictures have no labels.")
        return splits, (), notes
    if labelled != set(splits):
        bare = next(split for split in splits if split not in labelled)
        raise ValueError(
            f"split {bare!r} has no labels and split {min(labelled)!r} has:"
            " import them as two sets."
        )
    if _have_folders(splits):
        notes = _check_folder_names(splits)
        splits, folder_names = _merge_folder_names(splits)
        splits, class_names = _name_folders(splits, folder_names, class_names)
    present = np.unique(np.concatenate([_labels(source) for source in splits.values()]))
    if keep_labels:
        numbers = all(map(is_whole, keep_labels))
        if not numbers or len(set(keep_labels)) != len(keep_labels) or min(keep_labels) < 0:
            raise ValueError(f"keep_labels must be different and not negative: {keep_labels}.")
        if _have_folders(splits) or (class_names and len(class_names) != len(keep_labels)):
            if max(keep_labels) >= len(class_names):
                raise ValueError(
                    f"keep_labels has {max(keep_labels)}, but there are {len(class_names)} class"
                    f" names: give {len(keep_labels)} names, or one for every label."
                )
            class_names = tuple(class_names[label] for label in keep_labels)
        absent = [label for label in keep_labels if label not in present]
        if absent:
            raise ValueError(f"keep_labels has {absent[0]}, a label that no picture has.")
        kept = {split: _keep(source, keep_labels) for split, source in splits.items()}
        total = sum(map(len, splits.values()))
        notes.append(f"Kept {sum(map(len, kept.values()))} of {total} pictures by their labels.")
        splits = kept
        present = np.arange(len(keep_labels))
    if not class_names:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        if len(gaps):
            raise ValueError(
                f"label {present[gaps[0]]} occurs and label {gaps[0]} does not: name every class, "
                "or keep some labels, or mend the labels."
            )
        class_names = tuple(map(str, present))
    for source in splits.values():
        labels = _labels(source)
        outside = np.flatnonzero(labels >= len(class_names))
        if len(outside):
            raise ValueError(
                f"{source.path}: {source.names[outside[0]]} has label {labels[outside[0]]},"
                f" but there are {len(class_names)} class names."
            )
    return splits, class_names, notes


def _have_folders(splits):
    """Returns whether the classes are folders, in every split or in none."""
    named = [split for split, source in splits.items() if source.class_names]
    if named and len(named) != len(splits):
        raise ValueError(
            f"split {named[0]!r} is a folder of class folders and another is not:"
            " their labels cannot be compared; import them as two sets."
        )
    return bool(named)


def _check_folder_names(splits):
    """Returns sentences about names that look alike, and about classes that a split lacks."""
    owners = {}
    for split, source in splits.items():
        for name in source.class_names:
            owners.setdefault(name, set()).add(split)
    notes = []
    for names in look_alike(list(owners)):
        shown = ", ".join(f"{name!a} ({', '.join(sorted(owners[name]))})" for name in names)
        if not set.intersection(*(owners[name] for name in names)):
            raise ValueError(
                f"the class folders {shown} look alike, and no split has them all: rename them "
                "if they are one class; if they are several, give one split a folder of each."
            )
        notes.append(f"The class folders {shown} look alike; each is a class of its own.")
    for split, source in splits.items():
        lacking = sorted(set(owners) - set(source.class_names))
        if lacking:
            notes.append(
                f"Split {split!r} has no folder for {len(lacking)} of the {len(owners)} classes "
                f"({', '.join(lacking[:5])})."
            )
    return notes


def _merge_folder_names(splits):
    """Numbers the class folders of all splits alike, though one split may lack some."""
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
    kept = take(source, chosen)
    return dataclasses.replace(kept, labels=np.array([numbers[i] for i in _labels(kept).tolist()]))


def _labels(source: Source) -> np.ndarray:
    if source.labels is None:
        raise ValueError(f"{source.path} has no labels.")
    return source.labels


def take(source: Source, chosen: np.ndarray) -> Source:
    """Returns the chosen pictures of a source, in that order."""
    return dataclasses.replace(
        source,
        names=tuple(source.names[i] for i in chosen),
        labels=None if source.labels is None else source.labels[chosen],
        index=source.index[chosen],
        encoded=lambda i: source.encoded(int(chosen[i])),
    )
