"""Weights from the Hugging Face Hub, without one: a stand-in, and the library when offline."""

import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants, errors

from rainjax import zoo
from rainjax.nets import ImageNetResNet, to_torch
from rainjax.zoo import _published

NETWORK = ImageNetResNet(blocks=(1,), width=2, num_classes=3)
REPO = "somebody/resnet"


@pytest.fixture(autouse=True)
def _architecture(monkeypatch):
    monkeypatch.setitem(zoo.PUBLISHED, "tiny", NETWORK)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands in for the Hub: files by repository, name and revision; or an error to raise."""
    files = {}

    def fetch(repo, filename, *, revision=None):
        found = files[repo, filename, revision]
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return files


def _write(path):
    params = jax.tree.map(
        lambda leaf: jnp.linspace(0.1, 1, leaf.size).reshape(leaf.shape), NETWORK.shapes()
    )
    safetensors.numpy.save_file(to_torch(NETWORK, params), path)
    return params


def test_a_download_is_what_load_any_makes_of_the_file(hub, tmp_path):
    path = tmp_path / "blob.safetensors"
    params = _write(path)
    hub[REPO, "model.safetensors", None] = path
    entry, local = zoo.download(REPO, architecture="tiny"), zoo.load_any(path, "tiny")
    assert (entry.name, entry.network, entry.card) == (REPO, NETWORK, {})
    assert entry.sha256 == local.sha256
    assert all(map(np.array_equal, jax.tree.leaves(entry.params), jax.tree.leaves(params)))

    hub[REPO, "other.safetensors", "v2"] = path
    again = zoo.download(REPO, "other.safetensors", architecture="tiny", revision="v2")
    assert again.sha256 == entry.sha256


def _answer(cls):
    """An error of the library's, as an answer of the Hub's would raise it."""
    error = cls.__new__(cls)
    Exception.__init__(error, "404 Client Error.\nNot found")
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.RepositoryNotFoundError, FileNotFoundError, "no repository 'somebody/resnet'"),
        (errors.GatedRepoError, FileNotFoundError, "'somebody/resnet' is shown only to those"),
        (errors.RevisionNotFoundError, FileNotFoundError, "'somebody/resnet' has no revision 'v'"),
        (
            errors.RemoteEntryNotFoundError,
            FileNotFoundError,
            "'somebody/resnet' has no file 'model.safetensors'",
        ),
        (
            errors.HfHubHTTPError,
            ConnectionError,
            r"failed \(404 Client Error\): .* zoo.load_any\(path, 'tiny'\)",
        ),
    ],
)
def test_what_the_hub_has_not_is_said_in_one_sentence(hub, error, kind, message):
    hub[REPO, "model.safetensors", "v"] = _answer(error)
    with pytest.raises(kind, match=message) as raised:
        zoo.download(REPO, architecture="tiny", revision="v")
    assert "\n" not in str(raised.value)


def test_without_a_network_the_way_round_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"cannot be reached \(HF_HUB_OFFLINE is set\), and 'model.safetensors' of "
        r"'somebody/resnet' is not in the cache: .* zoo.load_any\(path, 'tiny'\)"
    )
    with pytest.raises(ConnectionError, match=message):
        zoo.download(REPO, architecture="tiny")


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "rainjax\[hub\]", or load a file'):
        zoo.download(REPO, architecture="tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo": "a/b/c"}, "'a/b/c' cannot be a repository"),
        ({"filename": "model.bin"}, "'model.bin' cannot be read, which must end in .safetensors"),
        ({"architecture": "vgg"}, "No architecture is called 'vgg'; there are resnet20,"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fetched(monkeypatch, arguments, message):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message):
        zoo.download(**{"repo": REPO, "architecture": "tiny", **arguments})


def test_files_of_another_network_and_damaged_ones_are_refused(hub, tmp_path, monkeypatch):
    small = {name: zoo.PUBLISHED[name] for name in ("resnet20", "tiny")}  # the others take time
    monkeypatch.setattr(_published, "PUBLISHED", small)
    path = tmp_path / "blob.safetensors"
    _write(path)
    hub[REPO, "model.safetensors", None] = path
    with pytest.raises(ValueError, match=r"'resnet20': .*'layer1.1.conv1.weight'.*fits 'tiny'"):
        zoo.download(REPO, architecture="resnet20")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        zoo.download(REPO, architecture="tiny")
