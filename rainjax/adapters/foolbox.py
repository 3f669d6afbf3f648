"""Foolbox: the pipeline as a model of its JAX backend."""

import functools
from typing import Any

from rainjax._extras import require
from rainjax.adapters._batched import Batched
from rainjax.pipeline import Defended
from rainjax.typing import Params

_require = functools.partial(require, "foolbox", name="Foolbox", extra="foolbox")


def as_foolbox_model(
    defended: Defended, params: Params, *, seed: int = 0, fresh: bool = True
) -> Any:
    """Returns a `foolbox.models.JAXModel` of images `n h w c` in bounds (0, 1).

    Every call draws anew for every image, as a function of `seed` and of how many calls there
    were; with `fresh=False` every call has the same draws. Foolbox counts its own successes on
    one draw of each image: score what it returns with `rainjax.score`. The few of its attacks
    that change arrays in place (Foolbox 3.3.4: PointwiseAttack) ask JAX for a function that it
    no longer has; give those `foolbox.PyTorchModel(as_torch_module(...), bounds=(0, 1))`.

    Raises:
        ImportError: Foolbox is not installed.
        ValueError: `seed` is not in 0..2**32-1. The model raises it for images that are no
            float32 in [0, 1] or come traced by `jit`, and FloatingPointError for NaN logits.
    """
    foolbox = _require()
    batched = Batched(defended, params, seed=seed, fresh=fresh)
    return foolbox.models.JAXModel(batched.logits, bounds=(0, 1))
