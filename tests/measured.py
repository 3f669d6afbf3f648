"""A study that is measured in a blink, in any number of processes; also a program.

`python -m tests.measured OUT` measures it; with `INDEX/COUNT` it makes this share, with `together`
it joins the other processes that the environment speaks of, and `merge OUT FOLDER...` puts shares
together.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from rainjax import Defended, Identity
from rainjax.attacks import EOT, PGD
from rainjax.data import ImageSet
from rainjax.defenses import GaussianNoise
from rainjax.devices import join_processes
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Itself,
    Study,
    Subject,
    ThreatModel,
    When,
    evaluate,
    merge,
    parse_shard,
    shards,
)
from tests.tiny import Linear

ROOT = pathlib.Path(__file__).parents[1]
NAME, SIZE = "shared", 6


class Pictures(ImageSet):
    """Nine pictures of noise."""

    name, split, class_names, fingerprint = "pictures", "test", tuple("abc"), "none"

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self._images = rng.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
        self._labels = np.arange(9) % 3

    def __len__(self):
        return len(self._images)

    def get(self, indices):
        return self._images[indices], self.labels(indices)

    def image(self, index):
        return self._images[index]

    def labels(self, indices):
        return self._labels[indices]

    def source_index(self, indices):
        return indices


def study(*, images: int = 0, kernel: int = 0, sigma: float = 0.2, **options) -> Study:
    """Returns a study of two subjects under three threat models; the seeds change its values."""
    rng = np.random.default_rng(kernel)
    network = Linear(SIZE * SIZE * 3, 3)
    weights = jnp.asarray(rng.normal(size=(network.size, 3)), jnp.float32)
    params = {"defense": (), "classifier": {"kernel": weights}}
    pgd = PGD(radius=0.1, step_size=0.05, num_steps=2)
    averaged = PGD(radius=0.1, step_size=0.05, num_steps=2, eot=EOT(2))
    chosen = {
        "num_score_draws": 2,
        "batch_size": 4,
        "subjects": (
            Subject("bare", Defended(Identity(), network), params),
            Subject("noise", Defended(GaussianNoise(sigma), network), params),
        ),
        "threats": (
            CLEAN,
            ThreatModel("blind", pgd, ClassifierAlone()),
            ThreatModel("averaged", averaged, When(Itself(), random=True), num_examples=8),
        ),
        **options,
    }
    return Study(NAME, Pictures(images), **chosen)


def start(*words, **environment) -> subprocess.Popen:
    """Runs this program in a process of its own, compiled alike whoever starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.measured", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_together(*folders) -> list[subprocess.Popen]:
    """Starts a process for each folder; they find each other on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        start(
            folder,
            "together",
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES=str(len(folders)),
            JAX_PROCESS_ID=str(rank),
        )
        for rank, folder in enumerate(folders)
    ]


def finish(*processes) -> list[str]:
    """Returns what processes said, when all have ended."""
    try:
        return [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def content(out) -> dict:
    """Returns the records of a study as they are, but for the run that made them."""
    found = {}
    for path in (pathlib.Path(out) / NAME).glob("records/*.json"):
        found[path.stem] = json.loads(path.read_text())
        assert found[path.stem].pop("run")["seconds"] > 0
    return found


def main() -> None:
    """Does what the arguments say."""
    jax.config.update("jax_num_cpu_devices", 2)
    shards._PATIENCE = 3  # there is no network between these processes
    out, *words = sys.argv[1:]
    if words[:1] == ["merge"]:
        merge([pathlib.Path(word) for word in words[1:]], out)
        return
    if words == ["together"]:
        join_processes()
        assert jax.process_count() > 1
        words = []
    shard = parse_shard(words[0]) if words else None
    try:
        evaluate(study(), out, shard=shard, progress=False)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
