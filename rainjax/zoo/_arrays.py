"""Files of named arrays, .npz and .safetensors, as anybody writes them. Nothing is unpickled."""

import pathlib
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
import safetensors

ENDINGS = (".safetensors", ".npz")

# What to do with weights that have no card, in the sentences that refuse them.
OTHERS = (
    "weights that others published are loaded by the name of their architecture, as in "
    "zoo.load_any(path, 'resnet20'), or --classifier-arch resnet20 for a program"
)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns what a `.npz` or `.safetensors` file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; it must be a .npz or .safetensors file, which "
            "numpy.savez(path, **{k: v.float().numpy() for k, v in state_dict.items()}) writes "
            "from PyTorch."
        )
    if ending == ".safetensors":
        return read_safetensors(path, path.read_bytes())
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file) as archive:
            return dict(archive)
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # What NumPy says of such a file is how to run the code in it.
        said = "it is damaged, or holds Python objects, such as a dict of arrays: store each array"
        if not zipfile.is_zipfile(path):
            said = "it is damaged, or no archive that numpy.savez wrote"
        raise ValueError(f"{path} is not a readable .npz file of plain arrays: {said}.") from error


def read_safetensors(path: pathlib.Path, content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays in the content of the file at `path`; raises ValueError if damaged."""
    try:
        parts = safetensors.deserialize(content)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}.") from None
    arrays = {}
    for name, part in parts:
        kind = part["dtype"]
        if kind not in _DTYPES:
            raise ValueError(
                f"{path} stores {name!r} as {kind}, which cannot be read: store it as F32."
            )
        arrays[name] = np.frombuffer(part["data"], _DTYPES[kind]).reshape(part["shape"])
    return arrays


# By hand, because safetensors.numpy has no bfloat16.
_DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "BOOL": np.dtype(bool),
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}
