"""Which examples make a step: the same ones on any number of processes, workers and restarts."""

import itertools

import jax
import numpy as np
import PIL.Image
import pytest

from rainjax import data
from rainjax.data import DamagedPicture, ImageSet, importing
from rainjax.data.splits import Data
from train.batches import Batches, Held, Patch, Pictures, ahead
from train.options import readable, training_source


class Painted(ImageSet):
    """Pictures of any sizes, the red of each its index; those in `damaged` cannot be decoded."""

    def __init__(self, sizes, damaged=()):
        self.name, self.split, self.class_names, self.fingerprint = "painted", "train", ("a",), "1"
        self._sizes, self._damaged = sizes, damaged

    def __len__(self):
        return len(self._sizes)

    def get(self, indices):
        return np.stack([self.image(int(i)) for i in indices]), self.labels(indices)

    def image(self, index):
        if index in self._damaged:
            raise DamagedPicture(f"picture {index} is damaged")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*self._sizes[index], 3), np.uint8)
        image[..., 0] = index
        return image

    def labels(self, indices):
        return np.zeros(len(indices), np.int32)

    def source_index(self, indices):
        return indices


SIZES = [(12 + i % 5, 14 + i % 3) for i in range(10)]
HELD = Held({"index": np.arange(10, dtype=np.int32), "image": np.arange(10) ** 2})


def indices(batches, number):
    return [batch["index"].tolist() for batch in itertools.islice(batches, number)]


def test_an_epoch_of_batches_holds_every_example_once_in_an_order_of_its_own():
    first, second, *later = itertools.islice(Batches(HELD, 3, 5)(0), 4)
    assert sorted([*first["index"], *second["index"]]) == list(range(10))
    assert sorted([*later[0]["index"], *later[1]["index"]]) == list(range(10))
    assert not np.array_equal(later[0]["index"], first["index"])
    assert np.array_equal(first["image"], first["index"] ** 2)
    assert indices(Batches(HELD, 4, 5)(0), 1) != [first["index"].tolist()]


def test_a_batch_may_be_one_example():
    assert sorted(indices(Batches(HELD, 3, 1)(0), 10)) == [[i] for i in range(10)]


@pytest.mark.parametrize("first_step", [1, 2, 7])
def test_batches_begin_at_any_step(first_step):
    batches = Batches(HELD, 3, 4)
    assert indices(batches(first_step), 3) == indices(batches(0), first_step + 3)[first_step:]


def test_processes_share_what_one_would_have_had(monkeypatch):
    whole = indices(Batches(HELD, 3, 4)(2), 5)
    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
        parts.append(indices(Batches(HELD, 3, 4)(2), 5))
    assert [len(part) for part in parts[0]] == [2] * 5
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(w) for w in whole]
    with pytest.raises(ValueError, match="batch_size=5 must be a multiple of the number"):
        Batches(HELD, 3, 5)


def test_patches_are_cut_from_their_pictures_and_repeat_for_a_step():
    source = Pictures(Painted(SIZES), np.arange(10))
    batches = Batches(source, 1, 20, Patch(12, seed=1))  # more than there are pictures
    batch, after = itertools.islice(batches(3), 2)
    assert batch["image"].shape == (20, 12, 12, 3)
    for patch, index in zip(batch["image"], batch["index"], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(
            Painted(SIZES).image(int(index)), (12, 12, 3)
        )
        assert (windows == patch).all((-3, -2, -1)).any()
    again = next(batches(4))
    assert np.array_equal(again["image"], after["image"])
    twice = [p for p, i in zip(batch["image"], batch["index"], strict=True) if i == 4]
    assert not np.array_equal(*twice)
    with pytest.raises(ValueError, match=r"Image \d+ is 12 x 1\d, smaller than patch=13"):
        list(itertools.islice(Batches(source, 1, 20, Patch(13, seed=1))(0), 1))


def test_a_damaged_picture_gives_way_to_the_next_and_is_named():
    source = Pictures(Painted(SIZES, damaged={4, 5, 9}), np.arange(10))
    found = [source[position] for position in range(10)]
    assert [int(example["index"]) for example in found] == [0, 1, 2, 3, 6, 6, 6, 7, 8, 0]
    assert [int(e["corrupt"]) for e in found] == [-1, -1, -1, -1, 4, 5, -1, -1, -1, 9]
    with pytest.raises(ValueError, match="No picture of 'painted' can be decoded and is at least"):
        Pictures(Painted(SIZES, damaged=set(range(10))), np.arange(10))[0]
    few = Pictures(Painted([(8, 9), (5, 9), (9, 4)]), np.arange(3), min_size=6)
    assert [(int(few[i]["index"]), int(few[i]["corrupt"])) for i in range(3)] == [
        (0, -1), (0, 1), (0, 2),
    ]  # fmt: skip


def test_damaged_validation_pictures_are_left_out_and_counted():
    with pytest.warns(UserWarning, match=r"2 of 6 validation pictures .* the first is 4"):
        kept = readable(Painted(SIZES, damaged={4, 5}), np.arange(6))
    assert kept.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="No validation picture of 'painted'"):
        readable(Painted(SIZES, damaged={0}), np.arange(1))


def test_pictures_to_be_of_one_size_are_named_where_they_are_not():
    source = Pictures(Painted([(8, 8), (8, 9)]), np.arange(2), (8, 8, 3))
    with pytest.raises(ValueError, match=r"Picture 1 of 'painted' has shape \(8, 9, 3\) where"):
        source[1]


def test_workers_give_what_threads_give(tmp_path):
    source, rng = tmp_path / "source", np.random.default_rng(0)
    source.mkdir()
    for i in range(12):
        picture = PIL.Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        picture.save(source / f"{i:02}.png")
    importing.import_pictures({"train": source}, "tiny", tmp_path / "sets")
    split = Data("tiny", data_dir=tmp_path / "sets", num_validation=2).load()
    source = training_source(split, one_size=False)
    threads, workers = (
        list(itertools.islice(Batches(source, 0, 4, Patch(8, 0), workers)(2), 4))
        for workers in (0, 2)
    )
    for a, b in zip(threads, workers, strict=True):
        assert {name: rows.tolist() for name, rows in a.items()} == {
            name: rows.tolist() for name, rows in b.items()
        }


def test_the_builtin_set_is_read_from_memory():
    split = Data(num_training=20, num_validation=5).load()
    batch = next(Batches(training_source(split), 0, 20)(0))
    images, labels = data.load("builtin", "train").get(batch["index"])
    assert np.array_equal(batch["image"], images)
    assert np.array_equal(batch["label"], labels)


def test_the_next_batch_is_on_its_way_before_the_last_is_used():
    placed = []
    stream = ahead(iter(range(10)), lambda n: placed.append(n) or n)
    assert next(stream) == 0
    assert placed == [0, 1]
