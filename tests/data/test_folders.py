"""What an import makes of the folders that people have: all of it is taken, said or refused."""

import io
import os
import pathlib
import struct
import unicodedata
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from rainjax import data
from rainjax.data.__main__ import main
from rainjax.data.class_names import check_names, read_names
from rainjax.data.folders import find_pictures
from rainjax.data.importing import import_pictures
from rainjax.data.pictures import decode, to_store
from rainjax.data.sources import read_source
from tests.tiny import unchecked

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def encoded(image=PIXELS, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURE = encoded()


def tree(root, *files, content=PICTURE):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content)
    return root


def names_and_labels(found):
    return [(file.name, label) for file, label in zip(found.files, found.labels, strict=True)]


def test_hidden_files_and_folders_are_no_classes_and_no_pictures(tmp_path, capsys):
    root = tree(tmp_path / "set", "cat/0.png", "dog/0.png", ".ipynb_checkpoints/0.png")
    tree(root, "__MACOSX/cat/0.png", "cat/.thumbs/0.png", ".DS_Store")
    tree(root, "cat/._0.png", content=b"\0\5\x16\7Mac OS X")
    import_pictures({"test": root}, "some", tmp_path)
    pictures = data.load("some", "test", data_dir=tmp_path)
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels(np.arange(2)).tolist() == [0, 1]
    assert len(pictures) == 2
    assert "left out 5 hidden files or folders (such as .DS_Store)" in capsys.readouterr().err


def test_nothing_is_said_where_nothing_is_left_out_or_changed(tmp_path, capsys):
    import_pictures({"test": tree(tmp_path / "set", "cat/0.png", "dog/0.png")}, "some", tmp_path)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_a_class_has_the_pictures_of_the_folders_in_its_own(tmp_path):
    root = tree(tmp_path, "cat/b.png", "cat/a/1.png", "cat/a/deep/2.jfif", "dog/c.JPG")
    found = find_pictures(root)
    assert names_and_labels(found) == [("b.png", 0), ("1.png", 0), ("2.jfif", 0), ("c.JPG", 1)]
    assert found.class_names == ("cat", "dog")
    (note,) = found.notes
    assert "took 2 pictures from folders inside class folders, such as cat/a/1.png" in note


def test_splits_that_lie_side_by_side_are_not_taken_for_classes(tmp_path):
    root = tree(tmp_path, "train/cat/0.png", "train/dog/0.png", "val/cat/0.png")
    with pytest.raises(ValueError, match=r"train holds pictures in folders of its own only \(cat"):
        find_pictures(root)


def test_other_files_are_counted_by_their_endings(tmp_path):
    root = tree(tmp_path, "cat/0.png", "cat/1.heic", "cat/2.heic", "labels.csv", "cat/README")
    found = find_pictures(root)
    assert len(found.files) == 1
    (note,) = found.notes
    assert "4 files without the ending of a picture (" in note
    assert ".heic: 2" in note
    assert "none: 1" in note


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPEG", "pgm", "apng", "avif", "dib", "jp2"])
def test_every_ending_of_a_picture_is_known(tmp_path, ending):
    kind = PIL.Image.registered_extensions()[f".{ending.lower()}"]
    tree(tmp_path, f"0.{ending}", content=encoded(kind=kind))
    source = read_source(tmp_path)
    stored, _ = to_store(source.encoded(0), None)
    assert decode(stored).shape[2] == 3


def test_one_class_in_two_unicode_forms_is_one_class(tmp_path, capsys):
    for split, form in {"train": "NFD", "test": "NFC"}.items():
        for name in ("été", "hiver"):
            tree(tmp_path / split, f"{unicodedata.normalize(form, name)}/0.png")
    splits = {split: tmp_path / split for split in ("train", "test")}
    import_pictures(splits, "seasons", tmp_path, class_names=("hiver", "e\u0301te\u0301"))
    for split in splits:
        pictures = data.load("seasons", split, data_dir=tmp_path)
        assert pictures.class_names == ("hiver", "été")
        assert sorted(pictures.labels(np.arange(2)).tolist()) == [0, 1]
    said = capsys.readouterr().err
    assert said.count("one Unicode form (NFC)") == 1
    assert r"'e\u0301te\u0301' became '\xe9t\xe9'" in said


def test_files_have_one_order_in_every_unicode_form(tmp_path):
    names = ["ea", "éb", "ez"]
    orders = []
    for form in ("NFC", "NFD"):
        files = [f"{unicodedata.normalize(form, name)}.png" for name in names]
        found = find_pictures(tree(tmp_path / form, *files)).files
        orders.append([unicodedata.normalize("NFC", file.stem) for file in found])
    assert orders[0] == orders[1]


def test_folders_that_look_like_one_class_are_refused(tmp_path):
    same = tree(tmp_path / "same", "e\u0301/0.png", "é/0.png")
    with pytest.raises(ValueError, match=r"'e\\u0301' and '\\xe9' .* put them together"):
        find_pictures(same)
    spaces = tree(tmp_path / "spaces", "cat/0.png", "cat /0.png")
    with pytest.raises(ValueError, match=r"'cat' and 'cat ' .* put them together"):
        find_pictures(spaces)
    splits = {
        "train": tree(tmp_path / "train", "Cat/0.png", "dog/0.png"),
        "test": tree(tmp_path / "test", "cat/0.png", "dog/0.png"),
    }
    with pytest.raises(ValueError, match=r"'Cat' \(train\), 'cat' \(test\) look alike"):
        import_pictures(splits, "some", tmp_path)


def test_letters_may_differ_in_case_and_a_split_may_lack_a_class_and_both_are_said(
    tmp_path, capsys
):
    splits = {
        "train": tree(tmp_path / "train", "A/0.png", "a/0.png", "b/0.png"),
        "test": tree(tmp_path / "test", "a/0.png"),
    }
    import_pictures(splits, "letters", tmp_path)
    test = data.load("letters", "test", data_dir=tmp_path)
    assert test.class_names == ("A", "a", "b")
    assert test.labels(np.arange(1)).tolist() == [1]
    said = capsys.readouterr().err
    assert "'A' (train), 'a' (test, train) look alike; each is a class of its own" in said
    assert "Split 'test' has no folder for 2 of the 3 classes (A, b)" in said


def test_spaces_at_the_ends_of_a_name_are_cut(tmp_path):
    found = find_pictures(tree(tmp_path, "cat /0.png", "hot dog/0.png"))
    assert found.class_names == ("cat", "hot dog")
    assert any("wrote 1 class name without spaces" in note for note in found.notes)


def test_links(tmp_path):
    root = tree(tmp_path / "set", "cat/0.png", "dog/0.png")
    elsewhere = tree(tmp_path / "elsewhere", "1.png")
    (root / "emu").symlink_to(elsewhere)
    assert names_and_labels(find_pictures(root)) == [("0.png", 0), ("0.png", 1), ("1.png", 2)]
    (root / "emu2").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"'emu' and 'emu2' .* are one folder by a link"):
        find_pictures(root)
    (root / "emu2").unlink()
    (root / "cat" / "up").symlink_to(root)
    with pytest.raises(ValueError, match="link to a folder that holds it: delete"):
        find_pictures(root)
    (root / "cat" / "up").unlink()
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"gone.png is a link to nowhere.png, which cannot be"):
        find_pictures(root)


def test_what_holds_no_pictures_is_refused_with_what_is_there(tmp_path):
    tree(tmp_path / "a", "cat/0.png", "dog/0.heic")
    with pytest.raises(ValueError, match=r"dog holds no pictures; left out 1 file .*0.heic"):
        find_pictures(tmp_path / "a")
    tree(tmp_path / "b", ".cat/0.png")
    with pytest.raises(
        ValueError, match=r"b holds no pictures .*; left out 1 hidden file or folder"
    ):
        find_pictures(tmp_path / "b")
    tree(tmp_path / "c", "cat/0.png")
    tree(tmp_path / "c", "cat/1.png", "dog/0.png", content=b"")
    with pytest.raises(ValueError, match=r"2 pictures of no bytes, such as cat/1.png: fetch"):
        find_pictures(tmp_path / "c")
    tree(tmp_path / "d", "cat\nkin/0.png")
    with pytest.raises(ValueError, match=r"'cat\\nkin' .*has '\\n' in its name: rename it"):
        find_pictures(tmp_path / "d")
    odd = os.fsdecode(b"caf\xe9")  # no UTF-8
    tree(tmp_path / "e", f"{odd}/0.png")
    with pytest.raises(ValueError, match=r"'caf\\udce9' .*in its name: rename it"):
        find_pictures(tmp_path / "e")


def upright(kind, orientation, **options):
    """A picture with that orientation, and how a viewer shows it."""
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    file = encoded(kind=kind, exif=exif, **options)
    with PIL.Image.open(io.BytesIO(file)) as image:
        return file, np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_stored_upright(kind):
    for orientation in range(1, 9):
        options = {"lossless": True} if kind == "WEBP" else {}
        file, expected = upright(kind, orientation, **options)
        stored, changes = to_store(file, None)
        np.testing.assert_array_equal(decode(stored), expected)
        assert PIL.Image.open(io.BytesIO(stored)).getexif().get(0x112, 1) == 1
        assert (stored == file) == (orientation == 1 and kind in ("JPEG", "PNG"))
        assert any("turned upright" in change for change in changes) == (orientation > 1)
    file, expected = upright(kind, 6)
    small, _ = to_store(file, 2)
    plain, _ = to_store(encoded(expected), 2)
    np.testing.assert_array_equal(decode(small), decode(plain))


def test_an_orientation_that_means_nothing_is_none():
    for orientation in (0, 9, 999):
        file, _ = upright("JPEG", orientation)
        assert to_store(file, None) == (file, [])


def test_turned_pictures_are_counted(tmp_path, capsys):
    turned, expected = upright("JPEG", 6)
    root = tree(tmp_path / "set", "0.jpg", "2.jpg", content=turned)
    tree(root, "1.png")
    import_pictures({"test": root}, "some", tmp_path)
    pictures = data.load("some", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(pictures.image(2), expected)
    np.testing.assert_array_equal(pictures.image(1), PIXELS)
    said = capsys.readouterr().err
    assert "2 of 3 pictures were turned upright" in said
    assert "0.jpg" in said


def several_frames(kind):
    frames = [PIL.Image.fromarray(PIXELS), PIL.Image.fromarray(255 - PIXELS)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def transparent(kind, mode="RGBA"):
    image = PIL.Image.fromarray(PIXELS).convert("RGBA")
    image.putpixel((0, 0), (10, 20, 30, 0))
    if mode == "P":
        image = image.quantize(16)
    return encoded(image, kind)


@pytest.mark.parametrize(
    ("file", "phrase"),
    [
        (several_frames("GIF"), "first was taken"),
        (several_frames("PNG"), "first was taken"),
        (several_frames("WEBP"), "first was taken"),
        (several_frames("TIFF"), "first was taken"),
        (transparent("PNG"), "lost their transparency"),
        (transparent("PNG", "P"), "lost their transparency"),
        (encoded(PIL.Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), "CMYK to RGB"),
        (encoded(PIL.Image.fromarray(PIXELS).convert("YCbCr"), "TIFF"), "YCbCr to RGB"),
    ],
    ids=["gif", "apng", "webp", "tiff", "alpha", "palette", "cmyk", "ycbcr"],
)
def test_what_changes_in_a_picture_is_named(file, phrase):
    stored, (change,) = to_store(file, None)
    assert phrase in change
    with PIL.Image.open(io.BytesIO(file)) as image:
        mode = "RGBA" if image.mode == "P" else "RGB"
        np.testing.assert_array_equal(decode(stored), np.asarray(image.convert(mode))[..., :3])


def test_what_does_not_change_is_not_named():
    image = PIL.Image.fromarray(PIXELS)
    # Sixteen bits per pixel: 5, 6 and 5 of a channel.
    header = struct.pack("<2s3I I2i2H6I", b"BM", 70, 0, 66, 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    bitmap = header + struct.pack("<3I2H", 0xF800, 0x7E0, 0x1F, 0xFFFF, 0x1F)
    for file in (
        *(encoded(image.convert("RGBA")), encoded(image.quantize(8)), encoded(kind="BMP")),
        bitmap,
    ):
        assert to_store(file, None)[1] == []
    assert decode(to_store(bitmap, None)[0]).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def deep_rgb(kind):
    """Sixteen bits for each of three colours, which Pillow reads but does not write."""
    if kind == "PPM":
        return b"P6 2 1 65535\n" + np.arange(6, dtype=">u2").tobytes()
    chunk = lambda name, body: (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    )
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = b"\0" + np.arange(6, dtype=">u2").tobytes()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(
    "file",
    [
        encoded(np.arange(24, dtype=np.uint16).reshape(4, 6)),
        encoded(np.ones((4, 6), np.float32), "TIFF"),
        deep_rgb("PNG"),
        deep_rgb("PPM"),
    ],
    ids=["grey", "float", "png", "ppm"],
)
def test_more_than_eight_bits_are_refused(file):
    with pytest.raises(ValueError, match="must have 8 bits per channel: save it as 8-bit RGB"):
        to_store(file, None)


def test_what_is_no_picture_is_refused_without_an_address():
    with pytest.raises(ValueError, match=r"cannot be decoded: it is no picture that .* b'<html>'"):
        to_store(b"<html>", None)
    with pytest.raises(ValueError, match="cannot be decoded: it is empty"):
        to_store(b"", None)
    for wrong in (b"<html>", b""):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are looked at next)
            decode(wrong)
        assert "0x" not in str(caught.value)


def test_class_names_from_a_file(tmp_path):
    file = tmp_path / "names.txt"

    def read(content):
        file.write_bytes(content)
        return read_names(str(file))

    assert read("\ufeffcat\r\ndog\r\n\r\n".encode()) == ("cat", "dog")
    assert read("0\tn01\té t \n1\tn02\tdog".encode()) == ("é t", "dog")
    assert read("a\xa0b\ncat".encode()) == ("a\xa0b", "cat")
    for content, message in (
        ("cat\ndog".encode("utf-16"), "names.txt is not UTF-8 .*: save it as UTF-8"),
        ("été\ndog".encode("latin-1"), "names.txt is not UTF-8"),
        (b"\n \n", "names.txt names no class"),
        (b"cat\n\ndog\n", "line 2 of .*names.txt is empty"),
        (b"cat\ndog\ncat\n", "two classes are called 'cat', class 0 and class 2"),
        (b"0\tcat\n1\t\n", "class 1 has an empty name"),
        ("a\u2028b\ncat".encode(), r"has '\\u2028' in its name"),
    ):
        with pytest.raises(ValueError, match=message):
            read(content)


def test_class_names_from_a_line():
    assert read_names("cat, e\u0301,dog") == ("cat", "é", "dog")
    with pytest.raises(ValueError, match="class 1 has an empty name"):
        read_names("cat,,dog")
    with pytest.raises(ValueError, match="or a file, not 'cat'"):
        read_names("cat")
    for wrong in ("cat", ("cat", 1)):
        with pytest.raises(ValueError, match="must be a tuple of names, each of them text"):
            check_names(wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": "photos"}, "sources='photos' must be a dict of paths by split"),
        ({"name": 3}, "a data set cannot be called 3"),
        ({"size": "96"}, "size must be at least 1 pixel, not '96'"),
        ({"size": 1.5}, r"size must be at least 1 pixel, not 1\.5"),
        ({"keep_labels": (0.5,)}, r"keep_labels must be different .*\(0\.5,\)"),
        ({"keep_labels": ("cat",)}, r"keep_labels must be different .*\('cat',\)"),
    ],
)
def test_options_of_another_kind_are_named(tmp_path, changed, message):
    tree(tmp_path / "set", "cat/0.png")
    options = {"sources": {"test": tmp_path / "set"}, "name": "some", "data_dir": tmp_path}
    with unchecked(), pytest.raises(ValueError, match=message):
        import_pictures(**{**options, **changed})


def test_a_set_that_exists_is_replaced_by_the_option_that_is_named(tmp_path):
    options = ({"test": str(tree(tmp_path / "set", "0.png"))}, "some", str(tmp_path))
    with unchecked():
        import_pictures(*options)
        with pytest.raises(FileExistsError, match=r"--overwrite \(overwrite=True\)"):
            import_pictures(*options)
        import_pictures(*options, overwrite=True)


def test_the_command_says_what_it_left_out(tmp_path, capsys):
    root = tree(tmp_path / "set", "cat/0.png", "dog/0.png", "dog/notes.txt", ".git/0.png")
    names = tmp_path / "names.txt"
    names.write_text("\ufeffdog\ncat\n", encoding="utf-8")
    folder = ["--data-dir", str(tmp_path)]
    split = ["--split", f"test={root}", "--classes", str(names)]
    main(["import", "--name", "pets", *split, *folder])
    printed = capsys.readouterr()
    assert "left out 1 hidden file or folder" in printed.err
    assert "1 file without the ending of a picture (.txt: 1; such as dog/notes.txt)" in printed.err
    assert " ".join(printed.out.splitlines()[-1].split()) == "pets 2 classes test 2"
    assert data.load("pets", "test", data_dir=tmp_path).class_names == ("dog", "cat")


def test_a_home_folder_is_found_after_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "pics", "0.png")
    main(["import", "--name", "mine", "--split", "test=~/pics", "--data-dir", str(tmp_path)])
    assert len(data.load("mine", "test", data_dir=tmp_path)) == 1
    assert pathlib.Path(tmp_path, "mine").is_dir()
