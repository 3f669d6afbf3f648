"""Local pictures become TFDS sets without loss, whole or not at all; mistakes are named."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from rainjax import data
from rainjax.data import importing
from rainjax.data.importing import import_pictures
from rainjax.data.sources import read_source


def noise(num, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), np.uint8)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def decoded(file):
    return np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"))


def container(path, files, **columns):
    lengths = [len(file) for file in files]
    whole = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, data=whole, offsets=np.cumsum([0, *lengths]), **columns)
    return path


def arrays(path, num=5, **columns):
    np.savez(path, **{"images": noise(num), "labels": np.arange(num) % 3, **columns})
    return path


def everything(pictures):
    return [pictures.image(i) for i in range(len(pictures))]


def test_plain_arrays_come_back_pixel_for_pixel(tmp_path):
    train, test = noise(300), noise(4, seed=1)
    np.savez(tmp_path / "train.npz", images=train, labels=np.arange(300) % 3)
    np.savez(tmp_path / "test.npz", images=test, labels=[2, 0, 1, 2], index=[7, 3, 9, 1])
    sources = {"train": tmp_path / "train.npz", "test": tmp_path / "test.npz"}
    folder = import_pictures(sources, "grains", tmp_path, class_names=("a", "b", "c"))
    assert folder == tmp_path / "grains" / "1.0.0"

    pictures = data.load("grains", "train", data_dir=tmp_path)
    images, labels = pictures.get(np.arange(300))
    np.testing.assert_array_equal(images, train)
    np.testing.assert_array_equal(labels, np.arange(300) % 3)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert (pictures.num_classes, pictures.class_names) == (3, ("a", "b", "c"))
    known = r"grains:1.0.0/train:300 pictures, sha256 [0-9a-f]{16}"
    assert re.fullmatch(known, pictures.fingerprint)

    pictures = data.load("grains:1.0.0", "test", data_dir=tmp_path)
    images, labels = pictures.get(np.array([3, 1]))
    np.testing.assert_array_equal(images, test[[3, 1]])
    np.testing.assert_array_equal(labels, [2, 0])
    np.testing.assert_array_equal(pictures.source_index(np.array([3, 1])), [1, 3])
    np.testing.assert_array_equal(pictures.labels(np.arange(4)), [2, 0, 1, 2])


def test_encoded_files_are_stored_as_they_are(tmp_path):
    import tensorflow_datasets as tfds

    shapes_and_kinds = ((9, 7, "JPEG"), (8, 8, "PNG"), (5, 11, "JPEG"))
    files = [encoded(noise(1, h, w)[0], kind) for h, w, kind in shapes_and_kinds]
    container(tmp_path / "photos.npz", files, labels=[-1, -1, -1], index=[4, 5, 9])
    folder = import_pictures({"test": tmp_path / "photos.npz"}, "photos", tmp_path)
    pictures = data.load("photos", "test", data_dir=tmp_path)
    assert (pictures.num_classes, len(pictures)) == (0, 3)
    for image, file in zip(everything(pictures), files, strict=True):
        np.testing.assert_array_equal(image, decoded(file))
    np.testing.assert_array_equal(pictures.labels(np.arange(3)), [-1, -1, -1])
    np.testing.assert_array_equal(pictures.get(np.array([1]))[1], [-1])
    with pytest.raises(ValueError, match=r"picture 2 of 'photos', split 'test', is 11x5 where"):
        pictures.get(np.array([1, 2]))
    # Somebody else's reader, and the very bytes.
    raw = tfds.builder_from_directory(folder).as_data_source(
        "test", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert [bytes(example["image"]) for example in raw] == files


def test_pixels_that_are_not_rgb_are_stored_as_pillow_converts_them(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    image = PIL.Image.fromarray(noise(1)[0])
    image.convert("L").save(folder / "a_grey.jpg")
    image.convert("P").save(folder / "b_palette.png")
    image.convert("RGBA").save(folder / "c_alpha.PNG")
    image.save(folder / "d_bitmap.bmp")
    (folder / "notes.txt").write_text("not a picture")
    import_pictures({"test": folder}, "mixed", tmp_path)
    pictures = data.load("mixed", "test", data_dir=tmp_path)
    files = sorted(folder.glob("?_*"))
    assert len(pictures) == len(files) == 4
    for found, file in zip(everything(pictures), files, strict=True):
        np.testing.assert_array_equal(found, decoded(file.read_bytes()))


def test_class_folders_are_numbered_alike_in_every_split(tmp_path):
    images = noise(6)
    places = [
        "train/ant/0",
        "train/bee/0",
        "train/bee/1",
        "train/cat/0",
        "test/cat/0",
        "test/bee/0",
    ]
    for image, place in zip(images, places, strict=True):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    sources = {"train": tmp_path / "train", "test": tmp_path / "test"}
    import_pictures(sources, "animals", tmp_path)
    train = data.load("animals", "train", data_dir=tmp_path)
    assert train.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(train.get(np.arange(4))[0], images[:4])
    np.testing.assert_array_equal(train.labels(np.arange(4)), [0, 1, 1, 2])
    test = data.load("animals", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(test.labels(np.arange(2)), [1, 2])


def test_class_names_follow_their_folders(tmp_path):
    images = noise(3)
    for image, name in zip(images, ("ant", "bee", "cat"), strict=True):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(encoded(image))

    def named(**options):
        sources = {"test": tmp_path / "set"}
        import_pictures(sources, "some", tmp_path, overwrite=True, **options)
        pictures = data.load("some", "test", data_dir=tmp_path)
        found, labels = pictures.get(np.arange(len(pictures)))
        names = [pictures.class_names[label] for label in labels]
        return {
            name: next(i for i in range(3) if np.array_equal(image, images[i]))
            for name, image in zip(names, found, strict=True)
        }, pictures.class_names

    assert named(keep_labels=(1, 0)) == ({"ant": 0, "bee": 1}, ("bee", "ant"))
    order = ("cat", "ant", "bee")
    assert named(class_names=order) == ({"ant": 0, "bee": 1, "cat": 2}, order)
    assert named(class_names=order, keep_labels=(0, 2)) == ({"cat": 2, "bee": 1}, ("cat", "bee"))
    with pytest.raises(ValueError, match="no class folder is called 'beee'"):
        named(class_names=("cat", "ant", "beee"))
    with pytest.raises(ValueError, match="no class folder is called 'Cat'"):
        named(class_names=("Cat", "Ant", "Bee"))
    new = ("a", "b", "c")
    assert named(class_names=new) == ({"a": 0, "b": 1, "c": 2}, new)


def test_difference_coded_planes_come_back(tmp_path):
    images = noise(3, 6, 5).astype(int)
    red, green, blue = np.moveaxis(images, -1, 0)
    residual = np.stack([green, red - green, blue - green], 1)
    for axis in (2, 3):
        residual = np.diff(residual, axis=axis, prepend=0)
    np.savez(tmp_path / "coded.npz", residual=(residual % 256).astype(np.uint8), labels=[0, 1, 0])
    import_pictures({"train": tmp_path / "coded.npz"}, "coded", tmp_path)
    found, _ = data.load("coded", "train", data_dir=tmp_path).get(np.arange(3))
    np.testing.assert_array_equal(found, images)


def test_size_fits_the_short_side_and_cuts_the_centre(tmp_path):
    wide, tall = noise(1, 20, 40)[0], noise(1, 24, 16)[0]
    container(tmp_path / "a.npz", [encoded(wide), encoded(tall)], labels=[0, 1])
    import_pictures({"test": tmp_path / "a.npz"}, "small", tmp_path, size=8)
    found, _ = data.load("small", "test", data_dir=tmp_path).get(np.arange(2))
    bicubic = PIL.Image.Resampling.BICUBIC
    wide = np.asarray(PIL.Image.fromarray(wide).resize((16, 8), bicubic))
    tall = np.asarray(PIL.Image.fromarray(tall).resize((8, 12), bicubic))
    np.testing.assert_array_equal(found, [wide[:, 4:12], tall[2:10]])


def test_kept_labels_are_renumbered_in_their_order(tmp_path, capsys):
    images, labels = noise(8), np.array([5, 0, 9, 5, 2, 9, 9, 1])
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    names = tuple(f"class {label}" for label in range(10))
    import_pictures(
        {"test": tmp_path / "a.npz"}, "some", tmp_path, keep_labels=(9, 5), class_names=names
    )
    assert "Kept 5 of 8 pictures by their labels" in capsys.readouterr().err
    pictures = data.load("some", "test", data_dir=tmp_path)
    assert pictures.class_names == ("class 9", "class 5")
    found, numbers = pictures.get(np.arange(5))
    np.testing.assert_array_equal(found, images[[0, 2, 3, 5, 6]])
    np.testing.assert_array_equal(numbers, [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(pictures.source_index(np.arange(5)), [0, 2, 3, 5, 6])


def test_shuffle_reorders_pictures_labels_and_index_together(tmp_path):
    images = noise(40)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) // 10)
    import_pictures({"test": tmp_path / "a.npz"}, "mixed", tmp_path, shuffle=True)
    pictures = data.load("mixed", "test", data_dir=tmp_path)
    found, labels = pictures.get(np.arange(40))
    index = pictures.source_index(np.arange(40))
    assert sorted(index) == list(range(40))
    assert len(set(labels[:10])) > 1
    np.testing.assert_array_equal(found, images[index])
    np.testing.assert_array_equal(labels, index // 10)


def test_fingerprints_tell_pictures_orders_and_labels_apart(tmp_path):
    images, labels = noise(12), np.arange(12) % 3
    columns = {
        "same": (images, labels),
        "turned": (images, np.roll(labels, 1)),
        "changed": (np.roll(images, 1, axis=0), labels),
    }
    for file, (pictures, numbers) in columns.items():
        np.savez(tmp_path / f"{file}.npz", images=pictures, labels=numbers)

    def fingerprint(file, **options):
        sources = {"test": tmp_path / f"{file}.npz"}
        import_pictures(sources, "some", tmp_path, overwrite=True, **options)
        return data.load("some", "test", data_dir=tmp_path).fingerprint

    first = fingerprint("same")
    others = {fingerprint("turned"), fingerprint("changed"), fingerprint("same", shuffle=True)}
    assert len({first, *others}) == 4
    assert fingerprint("same") == first


def test_a_killed_import_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    arrays(tmp_path / "a.npz", num=600)
    program = f"""
import os, pathlib, signal
from rainjax.data import importing
example = importing._example
def die_at_300(source, i, size):
    if i == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    return example(source, i, size)
importing._example = die_at_300
folder = pathlib.Path({str(tmp_path)!r})
importing.import_pictures({{"test": folder / "a.npz"}}, "killed", folder)
"""
    root = pathlib.Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = list(tmp_path.glob(".importing-killed-*"))
    assert len(left) == 1
    assert not (tmp_path / "killed").exists()
    assert data.prepared_sets(tmp_path) == {}
    with pytest.raises(ValueError, match=r"there is no data set 'killed'"):
        data.load("killed", "test", data_dir=tmp_path)
    for path in [*left[0].rglob("*"), left[0]]:
        os.utime(path, (0, 0))
    import_pictures({"test": tmp_path / "a.npz"}, "killed", tmp_path)
    assert len(data.load("killed", "test", data_dir=tmp_path)) == 600
    assert not list(tmp_path.glob(".importing-*"))


def test_an_interrupted_import_cleans_up_and_keeps_what_it_would_replace(tmp_path, monkeypatch):
    arrays(tmp_path / "a.npz")
    arrays(tmp_path / "b.npz", num=9)
    import_pictures({"test": tmp_path / "a.npz"}, "kept", tmp_path)

    def interrupt(source, i, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_example", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_pictures({"test": tmp_path / "b.npz"}, "kept", tmp_path, overwrite=True)
    monkeypatch.undo()
    assert len(data.load("kept", "test", data_dir=tmp_path)) == 5
    assert not list(tmp_path.glob(".importing-*"))
    with pytest.raises(FileExistsError, match=r"kept/1.0.0 exists; .*--overwrite .overwrite=True"):
        import_pictures({"test": tmp_path / "b.npz"}, "kept", tmp_path)
    import_pictures({"test": tmp_path / "b.npz"}, "kept", tmp_path, overwrite=True)
    assert len(data.load("kept", "test", data_dir=tmp_path)) == 9


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"images": noise(5)[..., 0]}, r"'images' must be uint8, n h w 3, not uint8 \(5, 8, 8\)"),
        ({"images": noise(5) / 255.0}, r"'images' must be uint8, n h w 3, not float64"),
        ({"images": noise(0), "labels": np.arange(0)}, r"holds no pictures"),
        ({"images": noise(5)[:, :0]}, r"'images' must be .* not uint8 \(5, 0, 8, 3\)"),
        ({"labels": np.arange(4)}, r"'labels' has shape \(4,\) for 5 pictures"),
        ({"labels": np.arange(5.0)}, r"'labels' must be integers, not float64"),
        ({"labels": np.array([0, 1, -2, 0, 1])}, r"picture 2 has label -2; labels count from 0"),
        ({"labels": np.array([0, 1, 2, 3, 1])}, r"picture 3 has label 3, but there are 3 class"),
        ({"index": np.array([0, 1, 2, 1, 4])}, r"'index' names position 1 twice"),
        ({"index": np.arange(6)}, r"'index' has shape \(6,\) for 5 pictures"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, columns, message):
    arrays(tmp_path / "a.npz", **columns)
    with pytest.raises(ValueError, match=message):
        import_pictures(
            {"test": tmp_path / "a.npz"}, "wrong", tmp_path, class_names=("a", "b", "c")
        )
    assert not (tmp_path / "wrong").exists()


def test_wrong_files_are_named(tmp_path):
    def refuse(path, message):
        with pytest.raises(ValueError, match=message):
            read_source(path)

    refuse(tmp_path / "none.npz", r"none.npz does not exist")
    (tmp_path / "a.txt").write_text("text")
    refuse(tmp_path / "a.txt", r"a.txt is neither a folder nor an .npz file")
    (tmp_path / "text.npz").write_text("text")
    refuse(tmp_path / "text.npz", r"text.npz is not a readable .npz file")
    arrays(tmp_path / "half.npz")
    whole = (tmp_path / "half.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "half.npz", r"half.npz is not a readable .npz file")
    np.save(tmp_path / "array.npy", noise(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    refuse(tmp_path / "array.npz", r"array.npz is not a readable .npz file")
    np.savez(tmp_path / "other.npz", pictures=noise(2))
    refuse(tmp_path / "other.npz", r"other.npz holds pictures; it needs 'images'")
    np.savez(tmp_path / "cut.npz", data=np.zeros(5, np.uint8), offsets=[0, 3, 9])
    refuse(tmp_path / "cut.npz", r"'offsets' must grow from 0 to the 5 bytes of 'data'")
    np.savez(tmp_path / "flat.npz", data=np.zeros((5, 1), np.uint8), offsets=[0, 3, 5])
    refuse(tmp_path / "flat.npz", r"'data' must be a line of uint8, not uint8 \(5, 1\)")
    (tmp_path / "folder" / "ant").mkdir(parents=True)
    refuse(tmp_path / "folder", r"class folder .*folder/ant holds no pictures")
    refuse(tmp_path / "folder" / "ant", r"ant holds no pictures \(.png, ")
    (tmp_path / "folder" / "a.png").write_bytes(encoded(noise(1)[0]))
    refuse(tmp_path / "folder", r"holds both pictures \(a.png\) and folders \(ant\)")


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    files = [encoded(image) for image in noise(3)]
    files[1] = files[1][:60]
    container(tmp_path / "a.npz", files, labels=[0, 1, 0], names=["x.png", "y.png", "z.png"])
    with pytest.raises(ValueError, match=r"a.npz: picture 1 \(y.png\) cannot be decoded"):
        import_pictures({"test": tmp_path / "a.npz"}, "wrong", tmp_path)
    files[2] = b"no picture"
    container(tmp_path / "b.npz", files[::2], names=["x.png", "z.png"])
    with pytest.raises(
        ValueError, match=r"picture 1 \(z.png\) .*: it is no picture that Pillow can"
    ):
        import_pictures({"test": tmp_path / "b.npz"}, "wrong", tmp_path)
    (tmp_path / "deep").mkdir()
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    PIL.Image.fromarray(deep).save(tmp_path / "deep" / "d.png")
    with pytest.raises(ValueError, match=r"d.png has pixels of kind 'I;16'.* 8 bits per channel"):
        import_pictures({"test": tmp_path / "deep"}, "wrong", tmp_path)
    assert not list(tmp_path.glob("wrong*"))
    assert not list(tmp_path.glob(".importing-*"))


def test_wrong_options_are_named(tmp_path):
    labelled = arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "bare.npz", images=noise(2))
    bare = tmp_path / "bare.npz"
    (tmp_path / "folder" / "ant").mkdir(parents=True)
    (tmp_path / "folder" / "ant" / "a.png").write_bytes(encoded(noise(1)[0]))

    def refuse(message, sources=None, name="wrong", **options):
        sources = {"test": labelled} if sources is None else sources
        with pytest.raises(ValueError, match=message):
            import_pictures(sources, name, tmp_path, **options)

    refuse(r"cannot be called 'My Set'", name="My Set")
    refuse(r"cannot be called 'builtin'", name="builtin")
    refuse(r"a split cannot be called 'all'", {"all": labelled})
    refuse(r"nothing to import", {})
    refuse(r"size must be at least 1 pixel, not 0", size=0)
    refuse(
        r"class_names was given, but the pictures have no labels",
        {"test": bare},
        class_names=("a",),
    )
    refuse(r"keep_labels was given, but", {"test": bare}, keep_labels=(1,))
    refuse(r"split 'test' has no labels and split 'train' has", {"train": labelled, "test": bare})
    refuse(r"keep_labels has 7, a label that no picture has", keep_labels=(0, 7))
    other = arrays(tmp_path / "b.npz", labels=np.full(5, 7))
    both = {"train": labelled, "test": other}
    refuse(r"b.npz has no picture with one of the labels \(1,\)", both, keep_labels=(1,))
    refuse(r"label 7 occurs and label 3 does not: name every class", both)
    folder = {"test": tmp_path / "folder"}
    refuse(r"1 class folders \(ant ...\) and 2 class names", folder, class_names=("a", "b"))
    (tmp_path / "taken" / "3.0.2").mkdir(parents=True)
    (tmp_path / "taken" / "3.0.2" / "dataset_info.json").write_text("{}")
    refuse(r"there is .*taken/3.0.2, which did not come from an import", name="taken")
    refuse(r"must be different and not negative: \(1, 1\)", keep_labels=(1, 1))
    refuse(
        r"keep_labels has 4, but there are 3 class names",
        keep_labels=(0, 4),
        class_names=("a", "b", "c"),
    )
    refuse(r"two classes are called 'a'", class_names=("a", "b", "a"))
    refuse(
        r"split 'train' is a folder of class folders",
        {"train": tmp_path / "folder", "test": labelled},
    )
