"""Our attacks by labels beside Foolbox's: the same network, starts and queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import Boundary, GivenImages, HopSkipJump
from tests.adapters.common import CONV, MARKS, Conv, nchw, nhwc, peer, torch_conv

pytestmark = MARKS

RNG = np.random.default_rng(2)
NUM = 12
IMAGES = RNG.uniform(0.2, 0.8, size=(NUM, 8, 8, 3)).astype(np.float32)
PARAMS = jax.tree.map(jnp.asarray, CONV)
LOGITS = jax.jit(jax.vmap(lambda x: Conv().apply(PARAMS, x)))
LABELS = np.asarray(LOGITS(IMAGES)).argmax(-1)
POOL = RNG.uniform(size=(10, 8, 8, 3)).astype(np.float32)
CLASSES = np.asarray(LOGITS(POOL)).argmax(-1)
STARTS = POOL[[np.argmax(label != CLASSES) for label in LABELS]]  # each image's first success
ORDERS = {"l2": 2, "linf": np.inf}


def ours(attack):
    """Returns the distances of what our attack finds."""
    logits_fn = lambda draw, image: Conv().apply(PARAMS, image)
    run = jax.jit(jax.vmap(lambda *row: attack(row[0], logits_fn, *row[1:])))
    keys = jax.random.split(jax.random.key(1), NUM)
    return distances(run(keys, jnp.asarray(IMAGES), jnp.asarray(LABELS)), attack.norm)


def distances(found, norm):
    assert (np.asarray(LOGITS(np.asarray(found))).argmax(-1) != LABELS).mean() > 0.9
    return np.linalg.norm((np.asarray(found) - IMAGES).reshape(NUM, -1), ORDERS[norm], axis=1)


@pytest.mark.parametrize(
    ("name", "theirs", "attack", "size"),
    [
        # Its HopSkipJump brings directions to length one over a whole batch, not for each image.
        ("HopSkipJumpAttack", {"steps": 6}, HopSkipJump(), 1),
        ("HopSkipJumpAttack", {"steps": 6, "constraint": "linf"}, HopSkipJump(norm="linf"), 1),
        ("BoundaryAttack", {"steps": 1200}, Boundary(), NUM),
    ],
    ids=["hop_skip_jump", "hop_skip_jump_linf", "boundary"],
)
def test_foolbox_comes_as_near_with_as_many_queries(name, theirs, attack, size):
    """The median distance of twelve images, within ten percent."""
    foolbox, torch = peer("foolbox"), peer("torch")
    torch.manual_seed(0)
    asked = []

    def counting(batch):
        asked.append(len(batch))
        with torch.inference_mode():
            return module(batch)

    module = torch_conv(torch)
    counted = torch.nn.Module()
    counted.forward = counting
    model = foolbox.PyTorchModel(counted.eval(), bounds=(0, 1), device="cpu")
    rival = getattr(foolbox.attacks, name)(**theirs)
    images, starts = nchw(torch, IMAGES), nchw(torch, STARTS)
    found = [
        rival.run(model, images[rows], torch.tensor(LABELS[rows]), starting_points=starts[rows])
        for rows in (slice(first, first + size) for first in range(0, NUM, size))
    ]
    queries = sum(asked) // NUM
    assert set(asked) == {size}
    assert 1000 < queries < 1500
    # Ours asks about the image and the pool as well.
    pool = GivenImages.of(POOL, num_halvings=0)
    budget = queries + 1 + len(POOL)
    near = ours(type(attack)(norm=attack.norm, num_queries=budget, starts=pool))
    ratio = np.median(near) / np.median(distances(nhwc(torch.cat(found)), attack.norm))
    assert 0.9 < ratio < 1.1, ratio
