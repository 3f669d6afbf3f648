"""What the adapters' tests share: images, small pipelines, and a classifier of every framework."""

import dataclasses
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.defenses import Identity
from rainjax.keys import Purpose, purpose_key
from rainjax.nets._network import Network
from rainjax.pipeline import Defended
from tests.tiny import Linear, Mask

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.1, 0.9, size=(12, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(12) % 10
SIZE = IMAGES[0].size
MARKS = [
    pytest.mark.usefixtures("quick_compilation"),
    # What other people's code warns of is theirs to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def peer(name, module=None):
    """Returns another framework, or skips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says on import
        try:
            return importlib.import_module(module or name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    how = 'pip install -e ".[tensorflow]"' if name == "tensorflow" else "make test-peers"
    pytest.skip(f"needs {name}: {how}")


def masked(num_draws=1):
    """A pipeline whose logits are the pixels that its draw keeps, and its parameters."""
    return Defended(Mask(), Linear(SIZE, SIZE)), {
        "defense": (),
        "classifier": {"kernel": jnp.eye(SIZE)},
    }


def linear(num_classes=4):
    pipeline = Defended(Identity(), Linear(SIZE, num_classes))
    kernel = RNG.normal(size=(SIZE, num_classes)).astype(np.float32)
    return pipeline, {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}


def nchw(torch, images):
    return torch.from_numpy(np.array(np.moveaxis(images, -1, 1), order="C"))


def nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def keys_of(seed, call, count):
    """The keys that the adapters promise: functions of seed, call and row."""
    key = jax.random.fold_in(purpose_key(seed, Purpose.ATTACK), call)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


@dataclasses.dataclass(frozen=True)
class Conv(Network):
    """A convolution, tanh and a linear layer: small enough to write in every framework."""

    def init(self, key):
        return CONV

    def apply(self, params, *inputs):
        (image,) = inputs
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            image[None], params["kernel"], (2, 2), "VALID", dimension_numbers=numbers
        )
        return jnp.tanh(x[0] + params["bias"].reshape(1, 1, -1)).ravel() @ params["head"]


CONV = {
    "kernel": RNG.normal(0, 0.4, size=(2, 2, 3, 6)).astype(np.float32),
    "bias": RNG.normal(0, 0.1, size=6).astype(np.float32),
    "head": RNG.normal(0, 0.3, size=(4 * 4 * 6, 10)).astype(np.float32),
}


def torch_conv(torch):
    """Returns the same network of PyTorch, of images `n c h w`."""
    conv, head = torch.nn.Conv2d(3, 6, 2, stride=2), torch.nn.Linear(96, 10, bias=False)
    model = torch.nn.Sequential(conv, torch.nn.Tanh(), torch.nn.Flatten(), head)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(CONV["kernel"].transpose(3, 2, 0, 1)))
        conv.bias.copy_(torch.tensor(CONV["bias"]))
        rows = CONV["head"].reshape(4, 4, 6, 10).transpose(2, 0, 1, 3)  # flattened c h w there
        head.weight.copy_(torch.tensor(rows.reshape(96, 10).T))
    return model.eval()
