"""Our attacks by labels beside Foolbox's: the same network, starts and queries."""

import dataclasses

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


def ours(attack, seeds):
    """Returns the distances of what our attack finds, over and over."""
    logits_fn = lambda draw, image: Conv().apply(PARAMS, image)
    run = jax.jit(jax.vmap(lambda *row: attack(row[0], logits_fn, *row[1:])))
    keys = [jax.random.split(jax.random.key(seed), NUM) for seed in range(seeds)]
    rows = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    return [distances(run(some, *rows), attack.norm) for some in keys]


def distances(found, norm):
    assert (np.asarray(LOGITS(np.asarray(found))).argmax(-1) != LABELS).mean() > 0.9
    return np.linalg.norm((np.asarray(found) - IMAGES).reshape(NUM, -1), ORDERS[norm], axis=1)


@pytest.mark.parametrize(
    ("theirs", "attack", "seeds"),
    [
        ({"steps": 6}, HopSkipJump(), 1),
        ({"steps": 6, "constraint": "linf"}, HopSkipJump(norm="linf"), 1),
        # With shorter steps single walks are far from their end, and as far from each other.
        (
            {"steps": 1200, "spherical_step": 0.1, "source_step": 0.05},
            Boundary(spherical_step=0.1, source_step=0.05),
            2,
        ),
    ],
    ids=["hop_skip_jump", "hop_skip_jump_linf", "boundary"],
)
def test_foolbox_comes_as_near_with_as_many_queries(theirs, attack, seeds):
    """The median over twelve images of the mean distance over the seeds, within ten percent."""
    foolbox, torch = peer("foolbox"), peer("torch")
    asked = []

    def counting(batch):
        asked.append(len(batch))
        with torch.inference_mode():
            return module(batch)

    module = torch_conv(torch)
    counted = torch.nn.Module()
    counted.forward = counting
    model = foolbox.PyTorchModel(counted.eval(), bounds=(0, 1), device="cpu")
    rival = getattr(foolbox.attacks, f"{type(attack).__name__}Attack")(**theirs)
    images, starts = nchw(torch, IMAGES), nchw(torch, STARTS)
    # Image by image: in a batch Foolbox's HopSkipJump normalises over all of it, and its
    # BoundaryAttack draws the same noise for every image.
    batches = [slice(row, row + 1) for row in range(NUM)]
    far = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found = [
            rival.run(
                model, images[rows], torch.tensor(LABELS[rows]), starting_points=starts[rows]
            )
            for rows in batches
        ]
        far.append(distances(nhwc(torch.cat(found)), attack.norm))
    queries = sum(asked) // (NUM * seeds)
    assert set(asked) == {1}
    assert 1000 < queries < 1500
    # Ours asks about the image and the pool as well.
    pool = GivenImages.of(POOL, num_halvings=0)
    budget = queries + 1 + len(POOL)
    near = ours(dataclasses.replace(attack, num_queries=budget, starts=pool), seeds)
    ratio = np.median(np.mean(near, 0)) / np.median(np.mean(far, 0))
    assert 0.9 < ratio < 1.1, ratio
