"""`python -m eval super_resolution` from end to end, on tiny networks and made-up pictures."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import skimage.color

import eval.__main__ as program
from eval import report
from eval.benchmarks import _super_resolution_figures, super_resolution
from eval.benchmarks.super_resolution import SuperResolution
from rainjax import data, metrics, zoo
from rainjax.data.importing import import_pictures
from rainjax.nets import EDSR, IMDN, to_torch
from tests.golden import seeded
from tests.saved_networks import CARD
from tests.tiny import EDSR_TINY, edsr_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = {"one": [(24, 20), (17, 31)], "two": [(24, 20)], "small": [(24, 14)]}
IMDN_TINY = IMDN(num_blocks=1, num_features=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sets of PNG files without labels, and three networks."""
    place = tmp_path_factory.mktemp("super_resolution")
    for name, sizes in SIZES.items():
        pictures = place / f"{name}_pictures"
        pictures.mkdir()
        for seed, (height, width) in enumerate(sizes):
            pixels = np.uint8(255 * seeded.picture(height, width, seed=seed))
            PIL.Image.fromarray(pixels).save(pictures / f"{seed}.png")
        import_pictures({"test": pictures}, name, place / "sets")
    for seed in (1, 2):
        zoo.save(place, f"edsr{seed}", EDSR_TINY, edsr_params(seed), CARD)
    larger = EDSR(num_blocks=1, num_features=4, scale=3)
    zoo.save(place, "thrice", larger, larger.init(jax.random.key(0)), CARD)
    grey = EDSR(num_blocks=1, num_features=4, mean=(0.5,))
    zoo.save(place, "grey", grey, grey.init(jax.random.key(0)), CARD)
    np.savez(place / "imdn.npz", **to_torch(IMDN_TINY, IMDN_TINY.init(jax.random.key(0))))
    return place


@pytest.fixture
def command(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(zoo.PUBLISHED, "imdn_tiny", IMDN_TINY)

    def make(**changes):
        options = {
            "data": ("one/test", "two/test"),
            "networks": (str(folder / "edsr1"), f"{folder / 'imdn.npz'}:imdn_tiny"),
            "data_dir": folder / "sets",
            "out": tmp_path,
        }
        return SuperResolution(**{**options, **changes})

    return make


def _luma(image):
    """ITU-R BT.601 of values in 0..255, as MATLAB's rgb2ycbcr writes it."""
    return 16 + image @ np.array([65.481, 128.553, 24.966]) / 255


def _pillow(image, height, width):
    planes = [PIL.Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, -1, 0)]
    resized = [p.resize((width, height), PIL.Image.Resampling.BICUBIC) for p in planes]
    return np.clip(np.rint(np.stack([np.asarray(p) for p in resized], -1)), 0, 255)


def test_the_luma_is_that_of_the_formula():
    image = np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8)
    found = super_resolution._Judge().luma(image)
    np.testing.assert_allclose(found, _luma(image)[2:-2, 2:-2], rtol=1e-6)
    np.testing.assert_allclose(found, skimage.color.rgb2ycbcr(image)[2:-2, 2:-2, 0])


def test_the_record_holds_what_is_computed_by_hand(command, folder):
    path = super_resolution.run(command())
    record = super_resolution.RECORD.load(path)
    assert record == json.loads(path.read_text())
    assert str(folder) not in path.read_text()
    assert [row["title"] for row in record["rows"]] == ["bicubic", "edsr1", "imdn"]
    assert [images["sizes"] for images in record["sets"]] == [[[24, 20], [16, 30]], [[24, 20]]]
    entry = zoo.load(folder / "edsr1")
    assert record["rows"][1]["params"] == {"name": "edsr1", "sha256": entry.sha256}
    assert [row.get("trained_on") for row in record["rows"]] == [None, "builtin", None]
    images = data.load("one", "test", data_dir=folder / "sets")
    assert record["sets"][0]["fingerprint"] == images.fingerprint
    for index, (height, width) in enumerate(record["sets"][0]["sizes"]):
        original = images.image(index)[:height, :width].astype(float)
        low = _pillow(original, height // 2, width // 2)
        large = {"bicubic": _pillow(low, height, width)}
        restored = 255 * np.asarray(entry.network.apply(entry.params, jnp.float32(low / 255)))
        large["edsr1"] = np.clip(np.rint(restored), 0, 255)
        for row in record["rows"][:2]:
            ours, theirs = (_luma(image)[2:-2, 2:-2] for image in (large[row["title"]], original))
            psnr = 10 * np.log10(255**2 / np.mean((ours - theirs) ** 2))
            scaled = (jnp.float32(image[..., None] / 255) for image in (ours, theirs))
            found = {name: row["results"][0][name]["each"][index] for name in ("psnr", "ssim")}
            # Pillow's sums may round the other way, a level here and there.
            assert found["psnr"] == pytest.approx(psnr, abs=0.02)
            assert found["ssim"] == pytest.approx(float(metrics.ssim(*scaled)), abs=1e-3)


def test_equal_images_have_a_finite_score():
    image = np.full((20, 16, 3), 100, np.uint8)
    assert super_resolution._Judge()(image, image) == (100.0, 1.0)


def test_table_and_figures_say_what_the_record_says(command, capsys):
    path = super_resolution.run(command())
    record = super_resolution.RECORD.load(path)
    lines = report.record_text(path, "markdown").splitlines()
    _, _, _, first, *_ = (line.split("|") for line in lines if line.startswith("| "))
    means = [np.mean(r["psnr"]["each"]) for r in record["rows"][1]["results"]]
    plain = [np.mean(r["psnr"]["each"]) for r in record["rows"][0]["results"]]
    assert first[1].strip() == "edsr1"
    # Kernels and biases by hand: head, block, the body's end, upsampling, tail.
    by_hand = 112 + 2 * 148 + 148 + 592 + 111
    assert first[2].strip() == f"EDSR, {by_hand:,}"
    for cell, mean, interpolated in zip(first[3:], means, plain, strict=False):
        assert cell.strip().startswith(f"{mean:.2f} dB ")
        assert f", {mean - interpolated:+.2f} ± " in cell
    assert "37.99" not in "\n".join(lines)  # a claim about Set5 alone
    drawing = _super_resolution_figures.figure(record)
    assert drawing.png == path.with_suffix(".png").read_bytes()
    assert f"edsr1 on one: {means[0] - plain[0]:+.2f} dB" in drawing.alt
    panel = path.with_name("super_resolution_panel.png")
    assert panel.read_bytes().startswith(b"\x89PNG")
    program._report(program.Report(path))
    assert "Super-resolution × 2" in capsys.readouterr().out


def test_the_claim_is_for_all_of_set5(command):
    record = super_resolution.RECORD.load(super_resolution.run(command(data=("two/test",))))
    result = {"mean": 37.5, "spread": 0.0, "each": [37.5] * 5}
    record["sets"][0] |= {"name": "set5", "sizes": [[24, 20]] * 5}
    for row in record["rows"]:
        row["results"] = [{"psnr": result, "ssim": result}]
    assert super_resolution._problem(record) == ""
    table = super_resolution.RECORD.text(record, "markdown")
    assert "| -0.49 dB |" in table.replace("  ", "")


def test_the_panel_shows_the_square_with_most_detail():
    image = np.zeros((40, 50, 3), np.uint8)
    image[13:20:2, 22:30] = 255
    top, left = _super_resolution_figures._detail(image, 8)
    assert (top, left) == (12, 22)
    assert _super_resolution_figures._detail(image[:8, :8], 8) == (0, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(kind="speed"), "another kind"),
        (lambda r: r["rows"].pop(0), "its first row is not interpolation"),
        (lambda r: r["rows"][1]["results"].pop(), "ValueError"),
        (
            lambda r: r["rows"][1]["results"][0]["psnr"]["each"].pop(),
            "psnr of edsr1 is not of all",
        ),
        (
            lambda r: r["rows"][2]["results"][0]["ssim"].update(mean=0.5),
            "the mean ssim of imdn on one does not follow",
        ),
    ],
)
def test_unusable_records_are_refused(command, change, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(super_resolution, "_Judge", _Constant)
    path = super_resolution.run(command())
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=sentence):
        super_resolution.RECORD.load(path)


class _Constant:
    """A judge to whom everything is alike."""

    version = "no judge"

    def __call__(self, image, original):
        return 30.0, 0.9


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": ()}, r"data=\(\) must name one"),
        ({"data": ("one",)}, "data has 'one': write NAME/SPLIT"),
        ({"data": ("one/test", "one/test")}, "holds one twice"),
        ({"data": ("on/test",)}, "there is no data set 'on'. Did you mean 'one'"),
        ({"data": ("one/train",)}, "'one' has no split 'train'; it has test"),
        ({"data": ("small/test",)}, "picture 0 of 'small', split 'test', is 14x24: .* of 16x16"),
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"num_examples": 2}, "num_examples=2, but 'two' has 1 images in its split 'test'"),
        ({"networks": ()}, r"networks=\(\) must name one"),
        ({"networks": ("nothing",)}, "The zoo has no 'nothing'"),
        ({"networks": ("builtin_resnet",)}, "a ResNet, which does not enlarge images: give one"),
        ({"networks": ("no.npz:imdn_x2",)}, "There is no file no.npz"),
        (
            {"networks": ("imdn.npz:imdn",)},
            "No architecture is called 'imdn'; there are .*imdn_x2",
        ),
        ({"networks": ("imdn.npz",)}, "say of what, such as imdn.npz:imdn_x2"),
    ],
)
def test_bad_options_are_one_sentence(command, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        super_resolution.run(command(**changes))


def test_unsuitable_networks_are_one_sentence(command, folder):
    for name, sentence in (
        ("thrice", "an? EDSR, which enlarges them 3 times: give one that does twice"),
        ("grey", "grey', which takes no RGB images: The network takes images of 1 channels"),
        ("imdn.npz:imdn_x2", "imdn.npz does not fit|for IMDN does not fit this network"),
    ):
        with pytest.raises(ValueError, match=sentence):
            super_resolution.run(command(networks=(str(folder / name),)))
    (folder / "again").mkdir(exist_ok=True)
    zoo.save(folder / "again", "edsr1", EDSR_TINY, edsr_params(2), CARD)
    twice = (str(folder / "edsr1"), str(folder / "again" / "edsr1"))
    with pytest.raises(ValueError, match="Two of the networks are called 'edsr1': rename"):
        super_resolution.run(command(networks=twice))


def test_a_missing_judge_is_named_before_anything_runs(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ValueError, match=r"not installed: `pip install -e \"\.\[test\]\"`"):
        super_resolution.run(command(data=("absent/test",)))


def test_the_command_line_runs_it(folder, monkeypatch, tmp_path, capsys):
    words = ["eval", "super_resolution", "--data", "two/test", "--networks", str(folder / "edsr2")]
    words += [f"--data-dir={folder / 'sets'}", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", *words])
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    program.main()
    assert "Super-resolution × 2" in capsys.readouterr().out
    record = super_resolution.RECORD.load(tmp_path / "super_resolution.json")
    assert record["run"]["command"].endswith(
        "--networks edsr2 --data-dir=sets --out=" + tmp_path.name
    )
    monkeypatch.setattr("sys.argv", [*words, "--num-examples=3"])
    with pytest.raises(SystemExit, match="error: num_examples=3, but 'two' has 1 images"):
        program.main()


def test_networks_reach_the_scores_that_others_measured(shared_data, tmp_path):
    import_pictures({"test": shared_data / "set5.npz"}, "set5", tmp_path)
    weights = shared_data / "weights"
    files = (
        f"{weights / 'sr_carn_m.npz'}:carn_m_x2",
        f"{weights / 'sr_imdn_x2.npz'}:imdn_x2",
        "natural_edsr",
    )
    path = super_resolution.run(
        SuperResolution(("set5/test",), files, data_dir=tmp_path, out=tmp_path)
    )
    rows = super_resolution.RECORD.load(path)["rows"]
    found = [row["results"][0]["psnr"]["mean"] for row in rows]
    # Of low-resolution images that MATLAB made; 38.00 dB is also what IMDN's authors publish.
    np.testing.assert_allclose(found[:3], [33.67, 37.68, 38.00], atol=0.025)
    assert found[3] > found[0] + 3.6  # our own, of 180 photographs
