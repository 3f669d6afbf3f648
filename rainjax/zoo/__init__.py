"""Pretrained parameters by name or path: `zoo.load("builtin_resnet")`, `zoo.names()`.

An entry is two files side by side: `<name>.safetensors` with the numbers and `<name>.json`, a card
that says which network they belong to and how they came about; `zoo.verify()` checks them. A
network of your own is saved likewise, and handed to `zoo.load(path, network=MyNet(...))`.
Weights that others published are read from a file, `zoo.load_any(path, architecture)`, or fetched
from the Hugging Face Hub, `zoo.download`. A table of Feature Distillation is one JSON file that
holds the steps and how they came about: `zoo.load_steps(path)`.
"""

from rainjax.zoo._card import NETWORKS
from rainjax.zoo._hub import download
from rainjax.zoo._published import PUBLISHED, load_any, load_torch
from rainjax.zoo._store import Entry, check_name, load, names, save
from rainjax.zoo._tables import load_steps, save_steps
from rainjax.zoo._verify import Verdict, verify

__all__ = [
    "NETWORKS",
    "PUBLISHED",
    "Entry",
    "Verdict",
    "check_name",
    "download",
    "load",
    "load_any",
    "load_steps",
    "load_torch",
    "names",
    "save",
    "save_steps",
    "verify",
]
