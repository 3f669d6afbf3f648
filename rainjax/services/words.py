"""Whether two words mean one thing: WordNet's synonyms, and plurals.

`wordnet_nouns.txt.gz` holds the nouns of WordNet 3.1 (Princeton University, 2011; its licence is
in the file) that share their most frequent sense with another noun, for senses that a picture may
show: animals, artifacts, parts of the body, food, objects, people, phenomena, plants and the most
general ones. `make_table` makes it from WordNet's own files.
"""

import collections
import functools
import gzip
import importlib.resources
import itertools
import pathlib
import re
import unicodedata

from rainjax.services._base import ServiceLabel

_TABLE = "wordnet_nouns.txt.gz"
# Lexicographer files of wninput(5WN): Tops, animal, artifact, body, food, object, person,
# phenomenon, plant.
_SHOWN = (3, 5, 6, 8, 13, 17, 18, 19, 20)
# WordNet's rules of detachment for nouns, morphy(7WN).
_ENDINGS = (
    ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
    ("ies", "y"), ("s", ""),
)  # fmt: skip


def fold(word: str) -> str:
    """Returns what stands for a word: WordNet's number of its most frequent sense, or itself.

    The number is that of WordNet 3.1, with an n before it, for a word with a synonym in that
    sense. Every other word is itself in lower case and in the singular. To be folded alike is an
    equivalence: each word has one sense, whatever else it may mean.
    """
    plain = _plain(word)
    senses = _senses()
    forms = (plain, *_singulars(plain))
    for form in (*forms, *(form.replace(" ", "") for form in forms)):  # cell phone, cellphone
        if form in senses:
            return senses[form]
    kept = plain.endswith(("ss", "us", "is"))
    return next(iter([] if kept else _singulars(plain)), plain)


def meanings(label: ServiceLabel) -> frozenset[str]:
    """Returns what the name of a label, and its aliases, fold to."""
    return frozenset(map(fold, (label.name, *label.aliases)))


def make_table(folder: pathlib.Path) -> bytes:
    """Returns the table that `fold` goes by, from WordNet's `data.noun` and `index.noun`.

    Nouns that are written with a capital are left out, such as the Latin names of genera.
    """
    shown, capitals, head = set(), set(), []
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            head.append(re.sub(r"^\s+\d+", "#", line).rstrip())
            continue
        number, lexicographer, _, count, *words = line.split(" ")
        if int(lexicographer) in _SHOWN:
            shown.add(number)
        words = words[: 2 * int(count, 16) : 2]
        capitals |= {(number, word.lower()) for word in words if word != word.lower()}
    alike = collections.defaultdict(list)
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        word, _, _, num_pointers, *rest = line.split()
        first = rest[int(num_pointers) + 2]
        if first in shown and (first, word) not in capitals:
            alike[first].append(word)
    lines = ["\t".join([n, *words]) for n, words in sorted(alike.items()) if len(words) > 1]
    text = "\n".join([*head, *lines]) + "\n"
    return gzip.compress(text.encode(), mtime=0)


@functools.cache
def _senses() -> dict[str, str]:
    """Returns the number of each noun's most frequent sense, with an n before it."""
    table = importlib.resources.files("rainjax.services").joinpath(_TABLE).read_bytes()
    lines = gzip.decompress(table).decode().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {
        _plain(word): f"n{number}"
        for number, words in ((row[0], row[1:]) for row in rows)
        for word in words
    }


def _plain(word: str) -> str:
    """Returns a word in lower case, with single spaces for all that joins its parts."""
    lower = unicodedata.normalize("NFKC", word).casefold()
    return " ".join(re.split(r"[\s_\-]+", lower.strip()))


def _singulars(word: str) -> list[str]:
    """Returns what a plural may be the plural of, by WordNet's rules."""
    found = (
        word.removesuffix(plural) + singular
        for plural, singular in _ENDINGS
        if word.endswith(plural) and len(word) > len(plural) + 1
    )
    return list(itertools.islice(found, 2))
