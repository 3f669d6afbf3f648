"""Arrays of one's own as a data set."""

import numpy as np
import pytest

from rainjax import data
from rainjax.data import from_arrays
from tests.tiny import unchecked

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_pictures_and_labels_are_those_that_were_given():
    mine = from_arrays(IMAGES, LABELS, name="mine", class_names=["a", "b", "c"])
    images, labels = mine.get(np.array([4, 1]))
    np.testing.assert_array_equal(images, IMAGES[[4, 1]])
    np.testing.assert_array_equal(labels, [1, 1])
    assert (len(mine), mine.num_classes, mine.split) == (6, 3, "test")
    np.testing.assert_array_equal(mine.image(3), IMAGES[3])
    np.testing.assert_array_equal(mine.source_index(np.array([2])), [2])
    assert isinstance(mine, data.ImageSet)
    with pytest.raises(IndexError, match="position 6 is outside 'mine'"):
        mine.get(np.array([6]))


def test_the_arrays_are_copied():
    images = IMAGES.copy()
    mine = from_arrays(images, LABELS, name="mine")
    images[:] = 0
    np.testing.assert_array_equal(mine.image(0), IMAGES[0])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_of_a_file_are_grey_levels_again(kind):
    mine = from_arrays(IMAGES.astype(kind) / 255, LABELS.tolist(), name="mine")
    np.testing.assert_array_equal(mine.get(np.arange(6))[0], IMAGES)
    same = from_arrays(IMAGES, LABELS, name="other")
    assert mine.fingerprint == same.fingerprint


def test_a_rounding_error_beyond_one_is_a_grey_level():
    floats = IMAGES.astype(np.float32) / 255
    floats[0, 0, 0, :2] = np.float32(1.0000001), -1e-7
    mine = from_arrays(floats, LABELS, name="mine")
    assert mine.image(0)[0, 0, :2].tolist() == [255, 0]
    floats[0, 0, 0, 0] = 1.00001
    with pytest.raises(ValueError, match=r"these in \[.*, 1.00001\]"):
        from_arrays(floats, LABELS, name="mine")


def test_fingerprints_are_of_the_content():
    other, labels = IMAGES.copy(), LABELS.copy()
    other[5, 3, 4, 2] ^= 1
    labels[0] = 1
    found = {
        from_arrays(images, those, name="mine").fingerprint
        for images, those in (
            (IMAGES, LABELS),
            (other, LABELS),
            (IMAGES, labels),
            (IMAGES.reshape(6, 5, 4, 3), LABELS),
        )
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES[0], LABELS, "must be a batch `n h w c`, and hold one, not of shape"),
        (IMAGES[:0], LABELS[:0], "must be a batch `n h w c`, and hold one, not of shape"),
        (np.moveaxis(IMAGES, -1, 1), LABELS, "channels first: give np.moveaxis"),
        (IMAGES.astype(np.int64), LABELS, r"not int64 in 0\.\.255: use .astype"),
        (IMAGES.astype(np.int64) - 5, LABELS, r"not int64 in -5\.\..*: shift and scale them to"),
        (IMAGES.astype(np.int64) + 5, LABELS, r"in 5\.\.260: scale them to 0..255 first"),
        (IMAGES.astype(np.uint16) * 257, LABELS, r"in 0\.\.65535: .*np.round\(images / 257\)"),
        (IMAGES > 5, LABELS, "not bool in False..True: use 255 *"),
        (IMAGES.astype(object), LABELS, r"not object\."),
        (IMAGES.astype(complex), LABELS, r"not complex128\."),
        ([IMAGES[0], IMAGES[1, 1:]], LABELS[:2], "images must all be of one size"),
        (IMAGES.astype(float), LABELS, "must lie in .0, 1., these in .*: divide them by 255"),
        (IMAGES - 300.0, LABELS, "must lie in .0, 1., these in .*: bring them back"),
        (np.full((6, 4, 5, 3), np.nan), LABELS, "must lie in"),
        (IMAGES / 300, LABELS, "must be multiples of 1/255"),
        (IMAGES, LABELS[:5], "6 pictures came with 5 labels"),
        (IMAGES, LABELS - 1, "labels lie in -1..1, and there are 2 classes"),
        (IMAGES, LABELS.astype(float), "one whole number for each picture, not float64"),
        (IMAGES, np.eye(3)[LABELS], r"labels.argmax\(1\) of these one-hot"),
        (IMAGES, LABELS[:, None], r"of shape \(6, 1\): .*labels\[:, 0\]"),
        (IMAGES, LABELS[:, None].astype(float), r"labels\[:, 0\]"),
        (IMAGES, np.ones((6, 3)), r"of shape \(6, 3\): give one class number for each picture\.$"),
        (IMAGES, [[0], [1, 2]], "labels must all be of one kind"),
        (IMAGES, [0, 1, 2, 0, 1, 2**40], r"labels reach 1099511627776: leave out"),
        (IMAGES, (LABELS - 1).astype(np.uint64), r"reach 1844\d*, the highest uint64, .*what -1"),
        (IMAGES, (LABELS - 1).astype(np.uint16), r"reach 65535, the highest uint16, .*what -1"),
        (IMAGES, (LABELS - 1).astype(np.uint8), r"reach 255, the highest uint8, .*what -1"),
        (IMAGES, 0 * LABELS, "All labels are 0: give class_names"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        from_arrays(images, labels, name="mine")


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"labels lie in 0\.\.2, and there are 2 classes"):
        from_arrays(IMAGES, LABELS, name="mine", class_names=["a", "b"])
    with pytest.raises(ValueError, match="Two classes are called 'a'"):
        from_arrays(IMAGES, LABELS, name="mine", class_names=["a", "b", "a"])
    with pytest.raises(ValueError, match="must be a plain name"):
        from_arrays(IMAGES, LABELS, name="")
    with unchecked():
        with pytest.raises(ValueError, match="name=5 must be a plain name"):
            from_arrays(IMAGES, LABELS, name=5)
        with pytest.raises(ValueError, match="class_names=4 must be a list of names"):
            from_arrays(IMAGES, LABELS, name="mine", class_names=4)


def test_mends_that_are_named_give_the_pictures_and_labels_that_were_meant():
    column = LABELS[:, None]
    mine = from_arrays(IMAGES, column[:, 0], name="mine")
    np.testing.assert_array_equal(mine.labels(np.arange(6)), LABELS)
    wide = IMAGES.astype(np.uint16) * 257
    mine = from_arrays(np.round(wide / 257).astype(np.uint8), LABELS, name="mine")
    np.testing.assert_array_equal(mine.get(np.arange(6))[0], IMAGES)
    names = [f"class {i}" for i in range(256)]
    mine = from_arrays(IMAGES, (LABELS - 1).astype(np.uint8), name="mine", class_names=names)
    assert mine.num_classes == 256
