"""Named parameters: saved and loaded bit for bit, and one clear sentence for every mishap."""

import functools
import hashlib
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rainjax import RAIN, Defended, Purpose, example_keys, zoo
from rainjax.nets import (
    EDSR,
    FBI_MASKS,
    BlindSpot,
    ImageNetResNet,
    Mask,
    MobileNetV2,
    ResNet,
    ResNet4b,
    SqueezeNet,
    TinyDarknet,
    num_params,
    to_torch,
)
from rainjax.zoo import _store
from rainjax.zoo.__main__ import main, table
from tests.tiny import unchecked

NETWORK = EDSR(num_blocks=11, num_features=2)  # more than ten blocks: "10" sorts before "2"
CARD = {
    "data": {"name": "builtin", "split": "train"},
    "command": "python -m train.super_resolution tiny",
    "seed": 3,
    "metrics": {"psnr_db": 31.25, "note": "none", "curve": [1.0, 2.0]},
}


def _numbers(network):
    """Numbers in the network's tree, all different, and without compiling an `init`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), network.shapes()
    )


@functools.cache
def zoo_params():
    return _numbers(NETWORK)


@pytest.fixture(scope="module")
def params():
    return zoo_params()


@pytest.fixture
def path(tmp_path, params):
    return zoo.save(tmp_path, "tiny_edsr", NETWORK, params, CARD)


def _edit(path, change):
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text())
    change(card)
    card_path.write_text(json.dumps(card))


def _rewrite(path, arrays):
    """Replaces the numbers and makes the card agree with the new file."""
    content = safetensors.numpy.save(arrays)
    path.write_bytes(content)
    _edit(path, lambda card: card.update(sha256=hashlib.sha256(content).hexdigest()))


def test_what_is_saved_is_loaded_bit_for_bit(path, params):
    entry = zoo.load(path)
    assert entry.network == NETWORK
    assert entry.name == "tiny_edsr"
    assert entry.sha256 == entry.card["sha256"]
    assert f"{num_params(params):,} parameters" in repr(entry)
    assert len(repr(entry)) < 300
    assert {key: entry.card[key] for key in CARD} == CARD
    assert entry.card["licence"] == "Apache-2.0"
    assert jax.tree.structure(entry.params) == jax.tree.structure(params)
    assert all(map(np.array_equal, jax.tree.leaves(entry.params), jax.tree.leaves(params)))


def test_a_folder_and_a_path_without_ending_work_too(path):
    assert zoo.load(path.parent).sha256 == zoo.load(str(path.with_suffix(""))).sha256


def test_the_same_parameters_make_the_same_file(path, params, tmp_path):
    again = zoo.save(tmp_path / "again", "tiny_edsr", NETWORK, params, CARD)
    assert again.read_bytes() == path.read_bytes()


def test_half_precision_is_stored_and_loaded_as_float32(params, tmp_path, path):
    half = zoo.save(tmp_path / "half", "half", NETWORK, params, {**CARD, "dtype": "float16"})
    entry = zoo.load(half)
    assert half.stat().st_size < path.stat().st_size
    for loaded, original in zip(
        jax.tree.leaves(entry.params), jax.tree.leaves(params), strict=True
    ):
        assert loaded.dtype == jnp.float32
        np.testing.assert_array_equal(loaded, np.asarray(original).astype(np.float16))


@pytest.mark.parametrize(
    "network",
    [
        ResNet(depth=8, norm="group", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        MobileNetV2(num_classes=5, class_subset=(4, 0), stages=((1, 4, 1, 1),), padding="torch"),
        ImageNetResNet(blocks=(2, 1), bottleneck=False, class_subset=(4, 0), width=2),
        ResNet4b(size=8, width=2, hidden=3),
        SqueezeNet(num_classes=5, class_subset=(4, 0), width=2, groups=(((1, 2), (1, 2)),)),
        TinyDarknet(num_classes=5, class_subset=(4, 0), groups=(((3, 2),), ((1, 2),))),
        BlindSpot(num_layers=2, num_features=2, masks=(FBI_MASKS[0], Mask(((1,),)))),
    ],
    ids=repr,
)
def test_every_class_of_network_can_be_described(tmp_path, network):
    path = zoo.save(tmp_path, "net", network, _numbers(network), CARD)
    assert zoo.load(path).network == network


def test_cards_from_before_a_network_had_these_fields_still_load(tmp_path):
    network = MobileNetV2(num_classes=5, stages=((1, 4, 1, 1),))
    path = zoo.save(tmp_path, "net", network, _numbers(network), CARD)
    fields = ("padding", "mean", "std")
    _edit(path, lambda card: [card["architecture"]["fields"].pop(field) for field in fields])
    assert zoo.load(path).network == network


def test_every_shipped_entry_loads():
    for name in zoo.names():
        entry = zoo.load(name)
        assert entry.name == name
        assert num_params(entry.params) == num_params(entry.network.shapes())


def test_unknown_name_lists_what_there_is(path, monkeypatch):
    monkeypatch.setattr(_store, "WEIGHTS", path.parent)
    assert zoo.names() == ["tiny_edsr"]
    assert zoo.load("tiny_edsr").name == "tiny_edsr"
    with pytest.raises(
        ValueError, match=r"no 'tiny_esdr'. Did you mean 'tiny_edsr'\? It has tiny"
    ):
        zoo.load("tiny_esdr")


def test_missing_file_folder_and_card(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no parameters at .*other.safetensors"):
        zoo.load(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds 0 .safetensors files, not one"):
        zoo.load(tmp_path / "empty")
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"The card .*tiny_edsr.json is missing"):
        zoo.load(path)


def test_damaged_file_and_damaged_card(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sha256 .* its card says .* damaged or was replaced"):
        zoo.load(path)
    path.with_suffix(".json").write_text('{"name": ')
    with pytest.raises(ValueError, match="is not valid JSON"):
        zoo.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("seed"), "lacks 'seed'"),
        (lambda c: c.update(metrics=3), "'metrics' = 3; it must be a dict"),
        (lambda c: c.update(dtype="int8"), "dtype 'int8'"),
        (
            lambda c: c["architecture"].update({"class": "VGG"}),
            "class 'VGG'; known are BlindSpot, EDSR",
        ),
        (lambda c: c.update(architecture={}), "'architecture' with 'class' = None; .* a str"),
        (lambda c: c.update(architecture=[]), r"'architecture' = \[\]; it must be a dict"),
        (lambda c: c["architecture"].update({"class": ["EDSR"]}), r"'class' = \['EDSR'\]; it"),
        (lambda c: c["architecture"].update(fields=[1]), r"'fields' = \[1\]; it must be a dict"),
        (lambda c: c["architecture"].pop("fields"), "'fields' = None; it must be a dict"),
        (lambda c: c["architecture"]["fields"].update(depth=3), "EDSR the field 'depth'; it has"),
        (lambda c: c["architecture"]["fields"].update(scale=7), "cannot be built: .*scale=7"),
        (
            lambda c: c["architecture"]["fields"].update(num_features=3),
            r"array 'blocks/0/conv1/bias' has shape \(2,\), the network needs \(3,\)",
        ),
        (
            lambda c: c["architecture"]["fields"].update(num_blocks=12),
            r"array 'blocks/11/conv1/bias' of shape \(2,\) is missing",
        ),
    ],
)
def test_card_that_does_not_fit(path, change, message):
    _edit(path, change)
    with pytest.raises(ValueError, match=message):
        zoo.load(path)
    (verdict,) = zoo.verify(path)
    assert not verdict.is_well
    assert "None(" not in str(verdict)
    # One bad card hides neither the others of its folder nor what is wrong with it.
    zoo.save(path.parent, "well", NETWORK, zoo_params(), CARD)
    assert "\nwell " in table(path.parent)


def test_file_that_does_not_fit_its_card(path):
    arrays = safetensors.numpy.load_file(path)
    _rewrite(path, {**arrays, "surprise": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match="no place for array 'surprise'"):
        zoo.load(path)
    _rewrite(path, {**arrays, "tail/bias": np.zeros(3, np.float16)})
    with pytest.raises(ValueError, match="stores 'tail/bias' as float16, its card says float32"):
        zoo.load(path)
    _rewrite(path, {**arrays, "tail/bias": np.full(3, np.inf, np.float32)})
    with pytest.raises(ValueError, match="'tail/bias' holds values that are not finite"):
        zoo.load(path)


def test_nothing_unfit_is_saved(tmp_path, params):
    def save(name="x", network=NETWORK, params=params, **extra):
        zoo.save(tmp_path, name, network, params, {**CARD, **extra})

    with pytest.raises(ValueError, match=r"'tail/bias' of shape .* is missing"):
        save(params={**params, "tail": {"kernel": params["tail"]["kernel"]}})
    large = jax.tree.map(lambda leaf: leaf * 1e6, params)
    with pytest.raises(ValueError, match="too large for float16"):
        save(params=large, dtype="float16")
    with pytest.raises(ValueError, match="letters, digits"):
        save(name="../x")
    with pytest.raises(ValueError, match=r"'sha256' is written by zoo.save"):
        save(sha256="0")
    with pytest.raises(ValueError, match="not plain JSON"):
        save(metrics={"loss": float("nan")})
    with pytest.raises(ValueError, match="lacks 'data'"):
        zoo.save(tmp_path, "x", NETWORK, params, {})
    with unchecked():
        with pytest.raises(ValueError, match="The card of 'x' must be a dict with 'command', 'da"):
            zoo.save(tmp_path, "x", NETWORK, params, None)
        with pytest.raises(ValueError, match=r"letters, digits, .* got None"):
            save(name=None)
    for kind in (jnp.int32, bool):
        whole = jax.tree.map(lambda leaf, kind=kind: leaf.astype(kind), params)
        with pytest.raises(ValueError, match=r"is (int32|bool), and float32 is what is kept"):
            save(params=whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_with_the_names_of_pytorch(tmp_path, params, ending):
    arrays = to_torch(NETWORK, params)
    path = tmp_path / f"torch{ending}"
    if ending == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    loaded = zoo.load_torch(path, NETWORK)
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(params)))
    for content in (path.read_bytes()[:100], b"garbage", b""):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"is not a readable {ending.lstrip('.')}|readable .n"
        ):
            zoo.load_torch(path, NETWORK)
    if ending == ".npz":
        np.savez(path, tail=np.array([{}], object))
        with pytest.raises(ValueError, match=r"\.npz file of plain arrays: .* Python objects"):
            zoo.load_torch(path, NETWORK)
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.write_bytes(path.with_suffix(".npy").read_bytes())
        with pytest.raises(ValueError, match=r"no archive that numpy.savez wrote"):
            zoo.load_torch(path, NETWORK)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none.npz"):
        zoo.load_torch(tmp_path / "none.npz", NETWORK)
    (tmp_path / "model.pth").touch()
    with pytest.raises(ValueError, match=r"ends in '.pth'; it must be a .npz or .safetensors"):
        zoo.load_torch(tmp_path / "model.pth", NETWORK)


def test_table_shows_what_the_cards_say(path):
    header, _, line = table(path.parent).splitlines()
    assert header.split() == ["name", "network", "parameters", "size", "data", "metrics"]
    assert f"{num_params(NETWORK.shapes()):,}" in line
    assert "builtin" in line
    assert line.endswith("psnr_db 31.25, note none")


def test_table_names_what_it_cannot_read(path):
    card = json.loads(path.with_suffix(".json").read_text())
    fields = {"mean": [], "num_blocks": 0, "value_range": -1.0, "scale": 5}
    for name, value in fields.items():
        (path.parent / f"bad_{name}.safetensors").write_bytes(path.read_bytes())
        bad = {"class": "EDSR", "fields": {name: value}}
        text = json.dumps({**card, "architecture": bad})
        (path.parent / f"bad_{name}.json").write_text(text)
    lines = table(path.parent).splitlines()
    assert len(lines) == 3 + len(fields)
    for line in lines[3:]:
        assert re.match(r"bad_\w+: unreadable: .* describes a EDSR that cannot be built", line)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        table(path.parent / "none")


def test_command_prints_the_table(path):
    command = [sys.executable, "-m", "rainjax.zoo", "--folder", str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == table(path.parent)


def test_a_card_is_shown_with_its_licence_seed_and_command(path, capsys):
    main(["show", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name: tiny_edsr"
    for said in ("licence: Apache-2.0", "seed: 3", f"command: {CARD['command']}", "  scale: 2"):
        assert said in lines
    assert lines[lines.index("metrics:") + 1 :][:3] == [
        "  psnr_db: 31.25",
        "  note: none",
        "  curve: 1.0, 2.0",
    ]


ALL_WELL = "well (card, network, sha256, file, dtype, shapes, values)"


def _verified(*arguments, capsys):
    """Returns the status of `python -m rainjax.zoo verify` and the lines it printed."""
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *map(str, arguments)])
    return stopped.value.code, capsys.readouterr().out.splitlines()


def test_all_that_ships_is_verified(capsys):
    status, lines = _verified(capsys=capsys)
    assert status == 0
    assert lines == [f"{name}: {ALL_WELL}" for name in zoo.names()]


def _damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a bit of a number, far from any that is not finite
    path.write_bytes(content)


def _replace(name, array):
    return lambda path: _rewrite(path, {**safetensors.numpy.load_file(path), name: array})


@pytest.mark.parametrize(
    ("mishap", "wrong", "unchecked"),
    [
        (_damage, {"sha256": "damaged or was replaced"}, ()),
        (
            lambda path: _edit(path, lambda card: card.pop("licence")),
            {"card": "lacks 'licence'"},
            ("network", "sha256", "dtype", "shapes"),
        ),
        (
            lambda path: _edit(path, lambda c: c["architecture"].update({"class": "VGG"})),
            {"network": "class 'VGG'; known are"},
            ("shapes",),
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:100]),
            {"sha256": "damaged or was", "file": "not a readable safetensors file"},
            ("dtype", "shapes", "values"),
        ),
        (
            _replace("tail/bias", np.zeros(3, np.float16)),
            {"dtype": "stores 'tail/bias' as float16, its card says float32"},
            (),
        ),
        (
            _replace("tail/bias", np.array([0, np.nan, 0, 0], np.float32)),
            {"shapes": r"'tail/bias' has shape (4,)", "values": "'tail/bias' holds values that"},
            (),
        ),
    ],
)
def test_verify_names_each_point_that_is_wrong(path, mishap, wrong, unchecked, capsys):
    (before,) = zoo.verify(path)
    assert before.is_well
    mishap(path)
    (verdict,) = zoo.verify(path.parent)
    assert verdict.wrong.keys() == wrong.keys()
    assert all(said in verdict.wrong[point] for point, said in wrong.items())
    assert verdict.unchecked == unchecked
    assert {*verdict.well, *wrong, *unchecked} == {*before.well}
    with pytest.raises(ValueError, match=re.escape(next(iter(wrong.values())))):
        zoo.load(path)  # which stops at the first
    status, (first, second) = _verified(path, "builtin_resnet", capsys=capsys)
    assert status == 1
    assert first == str(verdict)
    assert all(f"{point}: " in first for point in wrong)
    assert second == f"builtin_resnet: {ALL_WELL}"


def test_verify_refuses_what_is_not_there(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no parameters in"):
        zoo.verify(tmp_path)
    with pytest.raises(FileNotFoundError, match="no parameters at"):
        zoo.verify(tmp_path / "none")
    with pytest.raises(SystemExit, match=r"no 'builtin_resnt'. Did you mean 'builtin_resnet'"):
        main(["verify", "builtin_resnt"])
    status, lines = _verified("builtin_resnet", "builtin_resnt", "builtin_resnet", capsys=capsys)
    assert "no 'builtin_resnt'" in str(status)
    assert lines == [f"builtin_resnet: {ALL_WELL}"] * 2


def test_shipped_tuning_helps_a_published_classifier(shared_data):
    classifier = zoo.load_any(shared_data / "weights" / "cifar10_resnet20.npz", "resnet20")
    with np.load(shared_data / "cifar10_test.npz") as file:
        images, labels = file["images"][:500].astype(np.float32) / 255, file["labels"][:500]
    keys = example_keys(0, Purpose.SCORE, jnp.arange(500))
    share = {}
    for name in ("cifar10_edsr", "cifar10_edsr_rain"):
        entry = zoo.load(name)
        pipeline = Defended(RAIN(entry.network, shift_fraction=0.0625), classifier.network)
        params = {"defense": entry.params, "classifier": classifier.params}
        predict = jax.jit(jax.vmap(pipeline.predict, (None, 0, 0)))
        share[name] = np.mean(predict(params, keys, images) == labels)
    # Measured on 2,000 images: 50 % and 70 %; three standard errors of 500 are 7 points.
    assert share["cifar10_edsr"] == pytest.approx(0.5, abs=0.07)
    assert share["cifar10_edsr_rain"] == pytest.approx(0.7, abs=0.07)
