"""A small run of super-resolution on the devices and processes there are; also a program.

`python -m tests.scaled DEVICES FOLDER...` gives this process so many CPU devices, joins the
others that the environment speaks of, and trains in each folder.
"""

import functools
import pathlib
import sys

import jax
import numpy as np

from rainjax.devices import join_processes
from rainjax.nets import EDSR
from train import loop
from train.batches import Batches, Held, Patch
from train.compute import Compute
from train.measure import mean_over
from train.optimizers import Optimizer
from train.run import Run
from train.super_resolution import loss, score

NETWORK = EDSR(num_blocks=1, num_features=16)
STEPS_PER_EPOCH = 4


def examples(number: int, size: int) -> dict[str, np.ndarray]:
    """Returns pictures of blurred noise."""
    rng = np.random.default_rng(number)
    noise = rng.normal(size=(number, size, size, 3))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))
    images = np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)
    return {"image": images, "index": np.arange(number, dtype=np.int32)}


def train(folder: pathlib.Path, num_epochs: int, compute: Compute) -> loop.Outcome:
    """Trains for `num_epochs` in all; what `folder` holds of them is not done again."""
    choices = {"network": NETWORK, "degradation": "random"}
    task = loop.Task(
        loss=functools.partial(loss, compute=compute, **choices),
        batches=Batches(Held(examples(40, 20)), 0, 16, Patch(16, 0)),
        evaluate=mean_over(
            functools.partial(score, **choices), examples(9, 16), seed=0, batch_size=4
        ),
        select="psnr",
        batch_size=16,
        num_epochs=num_epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    optimizer = Optimizer(learning_rate=2e-3, schedule="constant", clip_norm=1.0)
    params = NETWORK.init(jax.random.key(1))
    with Run(folder, {"task": "scaled"}) as run:
        return loop.fit(
            task, params, optimizer.build(num_epochs=1, steps_per_epoch=1), run,
            seed=0, compute=compute,
        )  # fmt: skip


def main() -> None:
    devices, *jobs = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    join_processes()
    assert jax.device_count() == 8
    for job in jobs:  # FOLDER:EPOCHS:SHARDS
        folder, num_epochs, shards = job.rsplit(":", 2)
        train(pathlib.Path(folder), int(num_epochs), Compute(shards=int(shards)))


if __name__ == "__main__":
    main()
