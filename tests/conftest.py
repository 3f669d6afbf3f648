"""Strict settings for every test, and the data that some of them measure on."""

import collections
import os
import pathlib
import time
from importlib.metadata import version

import hypothesis
import jax
import jaxtyping._typeguard
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")  # figures are files, with or without a screen

# With quick_compilation these two halve and halve again the time to compile: 1.0 to 0.2 s for
# APGD on a linear classifier. Programs compiled with optimizations run as fast as without them.
# A release that does not know a flag ends the process, so others than this one get none.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and dtypes in signatures are checked at every call, in tests only. jaxtyping asks a type
# checker of its own about every leaf of a tree, a quarter of a test's time; of a class, isinstance
# says the same.
_check_leaf = jaxtyping._typeguard.typechecked


def _check_class(accepts):
    kind = accepts.__annotations__["x"]
    if not isinstance(kind, type):
        return _check_leaf(accepts)

    def accepts_class(leaf):
        if not isinstance(leaf, kind):
            raise TypeError  # which jaxtyping catches, of a tree's every branch

    return accepts_class


jaxtyping._typeguard.typechecked = _check_class
install_import_hook("rainjax", "beartype.beartype")

from rainjax.compilation_cache import use_compilation_cache  # noqa: E402  # after the hook

# Workers share what they compile, with the programs that tests start as well, however little it
# is: the same small operations are wanted in every file.
_CACHE = use_compilation_cache(quiet=True)
if _CACHE is not None:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# The same examples in every run, and none is too slow: its first one compiles.
hypothesis.settings.register_profile(
    "rainjax", deadline=None, derandomize=True, max_examples=25, database=None
)
hypothesis.settings.load_profile("rainjax")


def pytest_report_header() -> str:
    """Says where compiled programs are kept."""
    return f"compiled programs: {_CACHE or 'not kept'}"


# What `make test-fast` leaves out is written by `make test ARGS=--write-slow`, on a machine that
# does nothing else. A fixture counts for every test that wants it: without the others, each of
# them would be the one to wait for it.
_SLOW = pathlib.Path(__file__).with_name("slow.txt")
_SLOW_SECONDS = 0.5
_seconds: collections.Counter[str] = collections.Counter()
_fixture_seconds: dict[str, float] = {}  # of the latest fixture of a name


def pytest_addoption(parser):
    """Adds the option that writes slow.txt."""
    text = f"write tests of {_SLOW_SECONDS} s or more to {_SLOW.name}; those not run stay there"
    parser.addoption("--write-slow", action="store_true", help=text)


def _slow() -> set[str]:
    """Returns the tests of slow.txt: a file and a name, for a test with all its parameters."""
    lines = _SLOW.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def pytest_collection_modifyitems(items):
    """Marks as slow the tests that slow.txt lists."""
    slow = _slow()
    for item in items:
        if item.nodeid.split("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Measures a fixture, without those that it wants itself."""
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        _fixture_seconds[fixturedef.argname] = time.perf_counter() - start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Says in a test's report what it took, with all its fixtures."""
    if call.when == "call":
        waited = sum(_fixture_seconds.get(name, 0.0) for name in item.fixturenames)
        item.user_properties.append(("seconds", call.duration + waited))
    return (yield)


def pytest_runtest_logreport(report):
    """Adds up what the reports of a test say, over all its parameters."""
    if report.when == "call":
        _seconds[report.nodeid.split("[")[0]] += dict(report.user_properties)["seconds"]


def pytest_sessionfinish(session):
    """Writes slow.txt, if asked to; of several processes, the one that the others report to."""
    if not session.config.option.write_slow or hasattr(session.config, "workerinput"):
        return
    slow = {name for name in _slow() if name not in _seconds}
    slow |= {name for name, seconds in _seconds.items() if seconds >= _SLOW_SECONDS}
    head = "# Written by `make test ARGS=--write-slow`; tests/conftest.py says how."
    _SLOW.write_text("\n".join([head, *sorted(slow), ""]), encoding="utf-8")


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


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Has XLA compile in a quarter of the time, here and in programs that tests start.

    Most files run small programs once. Those that run large ones carry the mark `optimized`.
    """
    if request.node.get_closest_marker("optimized"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Forgets a file's compiled programs: thousands of them exhaust a process's memory maps."""
    yield
    jax.clear_caches()
