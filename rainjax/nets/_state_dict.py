"""State dicts as programs save them: in a checkpoint, as tensors, with a prefix to each name."""

import collections
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


def state_dict(given: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a state dict, or of the only one in a checkpoint, by name.

    Raises:
        ValueError: it is none, or holds several, which could be of other networks, or none.
    """
    if not isinstance(given, Mapping):
        hint = ": give its state_dict()" if hasattr(given, "state_dict") else ""
        raise ValueError(
            f"Weights come as a dict from names to arrays, not as a {type(given).__name__}{hint}."
        )
    if not any(isinstance(part, Mapping) for part in given.values()):
        return {str(name): _as_array(value) for name, value in given.items()}
    found = _state_dicts(given, "checkpoint")
    if len(found) != 1:
        one = next(iter(found), "checkpoint['state_dict']")
        raise ValueError(
            f"This checkpoint holds {len(found)} state dicts, {', '.join(found) or 'none'}: give "
            f"the one of the network, as in {one}."
        )
    return state_dict(*found.values())


def without_prefix(
    arrays: Mapping[str, np.ndarray], known: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns the arrays under names that are `known`, where a wrapper put a prefix before them.

    The prefix is the one behind which most of the known names are, at least half of them:
    "module." of DataParallel, "_orig_mod." of torch.compile, "model.", "state_dict.", or several.
    Other names stay as they are.
    """
    counts = collections.Counter[str]()
    for name in arrays:
        for start in (0, *(i + 1 for i, letter in enumerate(name) if letter in "./")):
            if name[start:] in known:
                counts[name[:start]] += 1
    prefix = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    if not prefix or 2 * counts[prefix] < len(known):
        return dict(arrays)
    return {
        name.removeprefix(prefix) if name.removeprefix(prefix) not in arrays else name: array
        for name, array in arrays.items()
    }


def _state_dicts(given: Mapping, path: str) -> dict[str, Mapping]:
    """Returns the dicts that hold arrays alone, by how they are reached.

    What an optimizer keeps of every parameter lies behind numbers, and is passed over.
    """
    found = {}
    for name, part in given.items():
        if not isinstance(part, Mapping) or not part or not all(isinstance(n, str) for n in part):
            continue
        here = f"{path}[{name!r}]"
        if all(hasattr(value, "shape") for value in part.values()):
            found[here] = part
        else:
            found |= _state_dicts(part, here)
    return found


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor of PyTorch, which NumPy takes neither from a GPU,
        value = value.detach().cpu()  # nor with a gradient, nor in bfloat16
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)
