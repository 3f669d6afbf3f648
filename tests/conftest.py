"""Strict settings for every test, and the data that some of them measure on."""

import os
import pathlib

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")  # figures are files, with or without a screen

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and dtypes in signatures are checked at every call, in tests only.
install_import_hook("rainjax", "beartype.beartype")

from rainjax.compilation_cache import use_compilation_cache  # noqa: E402  # after the hook

# Workers share what they compile; the controller says where it is.
_CACHE = use_compilation_cache(quiet=True)

# The same examples in every run, and none is too slow: its first one compiles.
hypothesis.settings.register_profile(
    "rainjax", deadline=None, derandomize=True, max_examples=25, database=None
)
hypothesis.settings.load_profile("rainjax")


def pytest_report_header() -> str:
    """Says where compiled programs are kept."""
    return f"compiled programs: {_CACHE or 'not kept'}"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real images and published weights; skips where it is absent."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RAINJAX_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs real images and weights in {folder}; set RAINJAX_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> pathlib.Path:
    """The folder in which one process made the whole of the study of `tests.measured`."""
    from tests import measured

    out = tmp_path_factory.mktemp("undisturbed")
    (said,) = measured.finish(measured.start(out))
    assert len(measured.content(out)) == 5, said
    return out


@pytest.fixture(scope="module")
def quick_compilation():
    """Has XLA compile in a quarter of the time, for modules that run small programs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Forgets a file's compiled programs: thousands of them exhaust a process's memory maps."""
    yield
    jax.clear_caches()
