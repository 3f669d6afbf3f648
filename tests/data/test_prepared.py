"""Prepared sets: damage, absence and impossible labels are named; the commands; real pictures."""

import io
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from rainjax import data
from rainjax.data.__main__ import main
from rainjax.data.importing import import_pictures


def noise(num, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one prepared set, `grains`."""
    folder = tmp_path_factory.mktemp("made")
    # Large enough for several blocks of the record file, so that one of them can be damaged.
    np.savez(folder / "a.npz", images=noise(9, 160), labels=np.arange(9) % 3)
    np.savez(folder / "b.npz", images=noise(3, 160, 1), labels=np.arange(3))
    import_pictures({"train": folder / "a.npz", "test": folder / "b.npz"}, "grains", folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of `made` that a test may damage."""
    shutil.copytree(made / "grains", tmp_path / "grains")
    return tmp_path


def test_an_unknown_name_gets_the_closest_one_and_the_list(made, tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'grain'. Did you mean 'grains'\? Built in"):
        data.load("grain", "test", data_dir=made)
    with pytest.raises(ValueError, match=rf"Prepared in {tmp_path}: none\."):
        data.load("zzz", "test", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'grains' has no version '2.0.0'; it has 1.0.0"):
        data.load("grains:2.0.0", "test", data_dir=made)
    with pytest.raises(ValueError, match=r"'grains' has no split 'val'; it has .*train"):
        data.load("grains", "val", data_dir=made)


def test_the_default_folder_is_that_of_tfds(made, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(made))
    assert len(data.load("grains", "train")) == 9
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data.default_data_dir() == pathlib.Path.home() / "tensorflow_datasets"


def test_the_latest_version_and_configurations_are_found(copy):
    grains = copy / "grains"
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(grains / "1.0.0", grains / version)
    shutil.copytree(grains / "1.0.0", copy / "photos" / "small" / "2.0.0")
    shutil.copytree(grains / "1.0.0", copy / ".importing-x" / "grains" / "1.0.0")
    assert data.prepared_sets(copy) == {
        "grains": grains / "1.10.0",
        "photos/small": copy / "photos" / "small" / "2.0.0",
    }


def test_positions_outside_are_named(made):
    pictures = data.load("grains", "train", data_dir=made)
    message = (
        r"position 9 is outside 'grains', split 'train', whose 9 pictures are numbered 0 to 8"
    )
    for method in (pictures.get, pictures.labels, pictures.source_index):
        with pytest.raises(IndexError, match=message):
            method(np.array([0, 9]))
    with pytest.raises(IndexError, match=r"position -1 is outside"):
        pictures.image(-1)
    assert pictures.get(np.array([], np.int64))[1].shape == (0,)


def test_pictures_are_read_only_and_decoded_once(made):
    pictures = data.load("grains", "train", data_dir=made)
    assert pictures.image(3) is pictures.image(3)
    assert not pictures.image(3).flags.writeable
    assert pictures.get(np.array([3]))[0].flags.writeable


def test_damaged_records_are_named(copy):
    file = copy / "grains" / "1.0.0" / "grains-train.array_record-00000"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-100], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"'grains', split 'train', in .* is damaged or inc"):
            data.load("grains", "train", data_dir=copy)
    file.unlink()
    with pytest.raises(ValueError, match=r"is damaged or incomplete: .*No such file"):
        data.load("grains", "train", data_dir=copy)

    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    pictures = data.load("grains", "train", data_dir=copy)
    with pytest.raises(ValueError, match=r"picture \d of 'grains', split 'train', cannot be read"):
        pictures.get(np.arange(9))


def test_a_record_that_is_no_picture_is_named(copy, monkeypatch):
    pictures = data.load("grains", "test", data_dir=copy)
    monkeypatch.setattr(pictures, "_records", [{"image": b"no picture", "label": 0}] * 3)
    with pytest.raises(
        ValueError, match=r"picture 2 of 'grains', split 'test', cannot be decoded: it is no pic"
    ):
        pictures.image(2)


def test_damaged_descriptions_are_named(copy):
    info = copy / "grains" / "1.0.0" / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"is stored as tfrecord, .* --file_format=array_record"):
        data.load("grains", "train", data_dir=copy)
    info.write_text(text[:40])
    with pytest.raises(ValueError, match=r"grains/1.0.0 is not a readable TFDS data set"):
        data.load("grains", "train", data_dir=copy)


def test_features_that_cannot_be_used_are_named(copy):
    features = copy / "grains" / "1.0.0" / "features.json"
    text = features.read_text()
    features.write_text(
        text.replace('"image": {\n                "image"', '"photo": {\n                "image"')
    )
    with pytest.raises(
        ValueError, match=r"has no feature 'image' that is a picture; it has .*photo"
    ):
        data.load("grains", "train", data_dir=copy)
    features.write_text(text.replace('"index": {', '"position": {'))
    pictures = data.load("grains", "train", data_dir=copy)
    with pytest.raises(ValueError, match=r"does not say where its pictures were in its source"):
        pictures.source_index(np.array([0]))


def test_labels_outside_the_classes_are_named(copy):
    # Two classes where the pictures have three.
    (copy / "grains" / "1.0.0" / "label.labels.txt").write_text("0\n1\n")
    features = copy / "grains" / "1.0.0" / "features.json"
    features.write_text(features.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    pictures = data.load("grains", "train", data_dir=copy)
    message = r"picture 2 of 'grains', split 'train', has label 2, outside 0 to 1"
    with pytest.raises(ValueError, match=message):
        pictures.get(np.arange(9))
    with pytest.raises(ValueError, match=message):
        pictures.labels(np.arange(9))


def test_commands_import_list_and_show(tmp_path, capsys):
    images = noise(6)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(6) % 3)
    names = tmp_path / "names.txt"
    names.write_text("0\tn01\tant\n1\tn02\tbee\n2\tn03\tcat\n")
    folder = ["--data-dir", str(tmp_path)]
    splits = [f"--split={split}={tmp_path}/a.npz" for split in ("test", "train")]
    main(["import", "--name", "animals", *splits, "--classes", str(names), *folder])
    assert "imported into" in capsys.readouterr().out
    main(["list", *folder])
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == (
        "builtin 10 classes train 20000, validation 2000, test 4000"
    )
    assert " ".join(lines[1].split()) == "animals 3 classes test 6, train 6"
    sheet = tmp_path / "sheet.png"
    main(
        ["show", "animals", "test", "--out", str(sheet), "--columns", "2", "--zoom", "1", *folder]
    )
    assert "6 pictures in" in capsys.readouterr().out
    rows = [np.concatenate([images[i], images[i + 3]], 1) for i in range(3)]
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(sheet)), np.concatenate(rows))
    assert data.load("animals", "train", data_dir=tmp_path).class_names == ("ant", "bee", "cat")


def test_commands_end_with_one_sentence(tmp_path):
    folder = ["--data-dir", str(tmp_path)]
    for arguments, message in (
        (["show", "nosuch", "test"], r"error: there is no data set 'nosuch'"),
        (["show", "builtin", "test", "--zoom", "0"], r"--columns and --zoom must be at least 1"),
        (["import", "--name", "a", "--split", "x"], r"--split takes SPLIT=PATH, .*not 'x'"),
        (["import", "--name", "a", "--split", "x=/no", "--split", "x=/no"], r"names 'x' twice"),
        (["import", "--name", "a", "--split", "x=/no"], r"/no does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*arguments, *folder])


def test_real_photographs_survive_the_import(shared_data, tmp_path):
    source = np.load(shared_data / "cifar10_test.npz")
    images, labels, index = (source[name][:300] for name in ("images", "labels", "index"))
    np.savez(tmp_path / "a.npz", images=images, labels=labels, index=index)
    import_pictures({"test": tmp_path / "a.npz"}, "cifar", tmp_path)
    pictures = data.load("cifar", "test", data_dir=tmp_path)
    found, its_labels = pictures.get(np.arange(300))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(its_labels, labels)
    np.testing.assert_array_equal(pictures.source_index(np.arange(300)), index)


def test_real_encoded_files_survive_the_import(shared_data, tmp_path):
    import_pictures({"test": shared_data / "set5.npz"}, "set5", tmp_path)
    source = np.load(shared_data / "set5.npz")
    raw, offsets = source["data"].tobytes(), source["offsets"]
    pictures = data.load("set5", "test", data_dir=tmp_path)
    assert len(pictures) == len(offsets) - 1
    for i in range(len(pictures)):
        file = io.BytesIO(raw[offsets[i] : offsets[i + 1]])
        np.testing.assert_array_equal(
            pictures.image(i), np.asarray(PIL.Image.open(file).convert("RGB"))
        )
