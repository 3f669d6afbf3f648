"""Twenty kills at random moments: whoever goes on comes to the records of an undisturbed run.

One process is killed, shares, processes of JAX's own, and merges.
"""

import random
import shutil
import time

import pytest

from rainjax.evaluation import Shard, evaluate
from tests.measured import NAME, content, finish, start, start_together, study

pytestmark = pytest.mark.slow


def kill(folder, processes, rng) -> int:
    """Kills processes once so many more files are there, and a moment later; returns how many.

    Those that ended before are not counted.
    """
    count = lambda: len(list(folder.rglob("*.npz"))) + len(list(folder.rglob("records/*.json")))
    began, more, pause = count(), rng.randrange(8), rng.choice([0, 0.01, 0.1, 1]) * rng.random()
    print(f"{folder}: {more} files after {began}, and {pause:.3f} s")
    deadline = time.monotonic() + 200
    running = lambda: any(process.poll() is None for process in processes)
    while running() and count() < began + more:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(pause)
    killed = 0
    for process in rng.sample(processes, len(processes)):  # the others may get a little further
        killed += process.poll() is None
        process.kill()
        time.sleep(0.1 * rng.random())
    finish(*processes)
    return killed


def until(num_kills, folder, begin, finished, check) -> None:
    """Kills what `begin` starts, again and again; what was `finished` is checked and done anew."""
    rng = random.Random(time.time_ns())
    killed = 0
    while killed < num_kills:
        killed += kill(folder, begin(), rng)
        if finished():
            check()
            shutil.rmtree(folder)
            folder.mkdir()
    said = finish(*begin())
    assert finished(), said
    check()


def recorded(out, expected) -> bool:
    return content(out).keys() == expected.keys()


def test_one_process(undisturbed, tmp_path):
    expected, out = content(undisturbed), tmp_path / "out"

    def check():
        assert content(out) == expected

    out.mkdir()
    until(6, out, lambda: [start(out)], lambda: recorded(out, expected), check)


@pytest.mark.parametrize("places", [("out", "out", "out"), ("a", "b", "c")])
def test_shares(places, undisturbed, tmp_path):
    """Three shares at once, in one folder and in a folder each."""
    outs = [tmp_path / "shares" / place for place in places]
    manifests = [out / NAME / "shards" / f"{i}-of-3.json" for i, out in enumerate(outs)]

    def check():
        folders = list(dict.fromkeys(out / NAME for out in outs))
        merged = tmp_path / f"merged-{time.time_ns()}"
        (said,) = finish(start(merged, "merge", *folders))
        assert content(merged) == content(undisturbed), said

    (tmp_path / "shares").mkdir()
    until(
        4,
        tmp_path / "shares",
        lambda: [start(out, f"{index}/3") for index, out in enumerate(outs)],
        lambda: all(path.exists() for path in manifests),
        check,
    )


def test_processes_of_jax(undisturbed, tmp_path):
    expected, out = content(undisturbed), tmp_path / "out"

    def check():
        assert content(out) == expected

    out.mkdir()
    until(4, out, lambda: start_together(out, out), lambda: recorded(out, expected), check)


def test_merges(undisturbed, tmp_path):
    for index in range(3):
        evaluate(study(), tmp_path / f"{index}", shard=Shard(index, 3), progress=False)
    folders = [tmp_path / f"{index}" / NAME for index in range(3)]
    expected, out = content(undisturbed), tmp_path / "out"

    def check():
        assert content(out) == expected

    out.mkdir()
    begin = lambda: [start(out, "merge", *folders)]
    until(2, out, begin, lambda: recorded(out, expected), check)
