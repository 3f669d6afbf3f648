"""Weights as other people's programs write them: wrappers, prefixes, precisions, other classes."""

import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rainjax import nets, zoo
from rainjax.nets import ImageNetResNet, MobileNetV2, ResNet, to_torch
from rainjax.nets.convert import fitting
from rainjax.zoo import _published
from tests.tiny import unchecked

SMALL, DEEPER = ResNet(depth=8, width=4), ResNet(depth=14, width=4)
MOBILE = MobileNetV2(stages=((1, 4, 1, 1), (2, 8, 1, 2)), num_classes=3, padding="torch")


def made(network):
    """Parameters that differ in every number, and their arrays outside."""
    shapes = network.shapes()
    params = jax.tree.map(lambda leaf: jnp.linspace(0.1, 1, leaf.size).reshape(leaf.shape), shapes)
    return params, to_torch(network, params)


@pytest.fixture(autouse=True)
def _architectures(monkeypatch):
    """Small ones alone, which take no time to try."""
    monkeypatch.setattr(_published, "PUBLISHED", {"small": SMALL, "deeper": DEEPER})


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "state_dict.", "1.", "net/"])
def test_a_prefix_before_every_name_is_passed_over(tmp_path, prefix):
    for network in (SMALL, MOBILE):
        params, arrays = made(network)
        arrays = {f"{prefix}{name}": array for name, array in arrays.items()}
        assert equal(nets.from_torch(network, arrays), nets.from_torch(network, made(network)[1]))
    params, arrays = made(SMALL)
    arrays["bn1.num_batches_tracked"] = np.array(7)
    np.savez(tmp_path / "m.npz", **{f"{prefix}{name}": array for name, array in arrays.items()})
    assert equal(zoo.load_any(tmp_path / "m.npz", "small").params, params)


def test_what_lies_beside_the_network_is_not_dropped():
    _, arrays = made(SMALL)
    arrays = {f"1.{name}": array for name, array in arrays.items()} | {"0.mean": np.zeros(3)}
    with pytest.raises(ValueError, match=r"no place for array '0\.mean'"):
        nets.from_torch(SMALL, arrays)
    _, arrays = made(SMALL)
    arrays |= {"module.conv1.weight": arrays["conv1.weight"] + 1}
    with pytest.raises(ValueError, match=r"no place for array 'module\.conv1\.weight'"):
        nets.from_torch(SMALL, arrays)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params", "whatever"])
def test_the_state_dict_of_a_checkpoint_is_found(wrapper):
    params, arrays = made(SMALL)
    moments = {"step": np.array(3), "exp_avg": arrays["conv1.weight"]}
    checkpoint = {
        wrapper: {f"module.{name}": array for name, array in arrays.items()},
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.1}]},
        "scheduler": {"last_epoch": 3},
        "best_acc": 0.9,
    }
    assert equal(nets.from_torch(SMALL, checkpoint), params)
    assert equal(nets.from_torch(SMALL, {"checkpoint": checkpoint}), params)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda sd: {"params": sd, "params_ema": sd}, "2 state dicts, checkpoint['params'], "),
        (lambda sd: {"optimizer": {"lr": 0.1}}, "0 state dicts, none: give the one of the"),
        (lambda sd: list(sd.values()), "a dict from names to arrays, not as a list"),
    ],
)
def test_what_is_no_state_dict_is_one_sentence(given, sentence):
    with unchecked(), pytest.raises(ValueError, match=re.escape(sentence)):
        nets.from_torch(SMALL, given(made(SMALL)[1]))


def write_by_hand(path, arrays, kind, dtype):
    """Writes a safetensors file in a precision that NumPy does not have."""
    head, body = {}, b""
    for name, array in arrays.items():
        content = np.asarray(array).astype(dtype).tobytes()
        place = [len(body), len(body) + len(content)]
        head[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        body += content
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("BF16", jnp.bfloat16), ("F8_E4M3", jnp.float8_e4m3fn), ("F16", np.float16), ("F64", "f8")],
)
def test_other_precisions_are_read(tmp_path, kind, dtype):
    params, arrays = made(SMALL)
    write_by_hand(tmp_path / "a.safetensors", arrays, kind, dtype)
    found = zoo.load_any(tmp_path / "a.safetensors", "small").params
    rounded = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype), jnp.float32), params
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    assert equal(found, rounded)


def test_precisions_that_cannot_be_read_say_so(tmp_path):
    _, arrays = made(SMALL)
    write_by_hand(tmp_path / "a.safetensors", arrays, "F8_E8M0", np.uint8)
    with pytest.raises(ValueError, match=r"as F8_E8M0, which cannot be read: store it as F32"):
        zoo.load_any(tmp_path / "a.safetensors", "small")
    halves = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
    np.savez(tmp_path / "b.npz", **halves)  # which NumPy writes as bytes without a kind
    with pytest.raises(ValueError, match=r"not real numbers: store it as float32"):
        zoo.load_any(tmp_path / "b.npz", "small")


def test_endings_may_be_in_capitals(tmp_path):
    params, arrays = made(SMALL)
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "a.npz").rename(tmp_path / "A.NPZ")
    safetensors.numpy.save_file(arrays, tmp_path / "B.SAFETENSORS")
    for name in ("A.NPZ", "B.SAFETENSORS"):
        assert equal(zoo.load_any(tmp_path / name, "small").params, params)


def test_a_network_has_as_many_classes_as_its_file(tmp_path):
    hundred = ResNet(depth=8, width=4, num_classes=100)
    params, arrays = made(hundred)
    np.savez(tmp_path / "a.npz", **arrays)
    entry = zoo.load_any(tmp_path / "a.npz", "small")
    assert entry.network == hundred
    assert equal(entry.params, params)
    with pytest.raises(ValueError, match=r"of 100 classes, .*: give it num_classes=100"):
        zoo.load_torch(tmp_path / "a.npz", SMALL)
    subset = ImageNetResNet(blocks=(1,), width=2, num_classes=5, class_subset=(4, 1))
    _, arrays = made(ImageNetResNet(blocks=(1,), width=2, num_classes=3))
    assert fitting(subset, arrays) is None  # class 4 is none of three
    for network in (MOBILE, MobileNetV2(stages=MOBILE.stages, num_classes=3)):
        other = MobileNetV2(stages=MOBILE.stages, num_classes=7, padding=network.padding)
        assert fitting(network, made(other)[1]) == other


def test_a_file_says_which_architecture_it_fits(tmp_path):
    np.savez(tmp_path / "deep.npz", **made(DEEPER)[1])
    safetensors.numpy.save_file(made(DEEPER)[1], tmp_path / "deep.safetensors")
    for name in ("deep.npz", "deep.safetensors"):
        path = tmp_path / name
        fits = r"it fits 'deeper': give the architecture, as in .*--classifier-arch deeper"
        with pytest.raises(ValueError, match=f"deep.* does not fit the architecture 's.*{fits}"):
            zoo.load_any(path, "small")
        with pytest.raises(ValueError, match=f"does not fit this ResNet: .*{fits}"):
            zoo.load_torch(path, SMALL)
        with pytest.raises(ValueError, match=f"has no card that says what network .*{fits}"):
            zoo.load_any(path)
    with pytest.raises(ValueError, match=r"no .safetensors file that zoo.save wrote: .*load_any"):
        zoo.load(tmp_path / "deep.npz")
    with pytest.raises(FileNotFoundError, match=r"card .* is missing: .*load_any"):
        zoo.load(tmp_path / "deep.safetensors")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"'small': .* array .* is missing\.$"):
        zoo.load_any(tmp_path / "other.npz", "small")
    with pytest.raises(ValueError, match=r"other.npz is no .safetensors file"):
        zoo.load_any(tmp_path / "other.npz")


def test_entries_with_a_card_need_no_architecture(tmp_path):
    card = {"data": {}, "command": "none", "seed": 0, "metrics": {}}
    path = zoo.save(tmp_path, "mine", SMALL, made(SMALL)[0], card)
    with pytest.raises(ValueError, match=r"its card says what network it is of: load it without"):
        zoo.load_any(path, "small")
    with pytest.raises(ValueError, match=r"'builtin_resnet' ships with a card .*: leave the arch"):
        zoo.load_any("builtin_resnet", "small")


def test_files_of_python_objects_say_what_to_store(tmp_path):
    _, arrays = made(SMALL)
    np.savez(tmp_path / "a.npz", state_dict=np.array(arrays, object))
    with pytest.raises(ValueError, match=r"Python objects, such as a dict .*: store each array"):
        zoo.load_any(tmp_path / "a.npz", "small")
    (tmp_path / "model.pth").touch()
    with pytest.raises(ValueError, match=r"ends in '.pth'; .*numpy.savez\(.* from PyTorch"):
        zoo.load_any(tmp_path / "model.pth")
