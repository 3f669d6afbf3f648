"""Compiled programs are kept between processes, where the user wants it, and change no number."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from rainjax import compilation_cache
from rainjax.compilation_cache import VARIABLE, use_compilation_cache

ROOT = pathlib.Path(__file__).parents[1]

# Prints the hits, and every bit of a gradient through two convolutions.
PROGRAM = """
import sys, jax, jax.numpy as jnp, numpy as np
from rainjax.compilation_cache import use_compilation_cache
print("folder", use_compilation_cache())
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None
)
def loss(image, kernel):
    for _ in range(2):
        image = jnp.tanh(jax.lax.conv(image, kernel, (1, 1), "SAME"))
    return (image**2).sum()
image = np.random.default_rng(0).random((1, 4, 16, 16), np.float32)
kernel = np.random.default_rng(1).normal(size=(4, 4, 3, 3)).astype(np.float32)
gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(image, kernel)
print("hits", len(hits))
print("bits", *(np.asarray(array).tobytes().hex() for array in gradient))
"""


def _started(folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment[VARIABLE] = str(folder)
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def _said(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return dict(line.split(" ", 1) for line in out.splitlines()), error


def test_a_second_process_compiles_nothing_and_computes_the_same(tmp_path):
    folder = tmp_path / "kept"
    # Two at a time: they may write to one folder together.
    first, other, without = map(_said, map(_started, (folder, folder, "off")))
    second, _ = _said(_started(folder))

    assert int(second["hits"]) > 0
    assert first[0]["bits"] == other[0]["bits"] == without[0]["bits"] == second["bits"]
    assert first[1] == f"Compiled programs are kept in {folder}; {VARIABLE}=off keeps none.\n"
    assert without == ({**without[0], "folder": "None", "hits": "0"}, "")
    assert folder.stat().st_mode & 0o077 == 0  # whoever writes here decides what runs

    entries = sorted(folder.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    damaged, error = _said(_started(folder))
    assert damaged["bits"] == first[0]["bits"]
    assert damaged["hits"] == "0"
    assert error == first[1]


@pytest.fixture
def options(monkeypatch):
    """Has JAX told nothing of a cache, and gives it back what it was told."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    kept = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    for name, value in kept.items():
        jax.config.update(name, value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another folder")
def test_the_folder_is_the_users_own(options, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert use_compilation_cache(quiet=True) == tmp_path / "rainjax" / "xla"
    assert (tmp_path / "rainjax" / "xla").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "rainjax" / "xla")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another folder")
def test_without_a_variable_it_is_in_the_home(options, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use_compilation_cache(quiet=True) == tmp_path / ".cache" / "rainjax" / "xla"


def test_an_argument_comes_before_the_variable(options, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "variable"))
    assert use_compilation_cache(tmp_path / "argument") == tmp_path / "argument"
    assert not (tmp_path / "variable").exists()


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_off_keeps_nothing(options, monkeypatch, word):
    monkeypatch.setenv(VARIABLE, word)
    assert use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_what_jax_was_told_stands(options, tmp_path, capsys):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert use_compilation_cache(tmp_path / "another") == tmp_path
    assert not (tmp_path / "another").exists()
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_done_without(options, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert use_compilation_cache(tmp_path / "file" / "xla") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err == ""


def test_old_entries_and_too_many_are_deleted(options, monkeypatch, tmp_path):
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 250)
    now = time.time()
    ages = {"a": 10, "b": 20, "c": 30, "d": compilation_cache.MAX_AGE + 60}
    for name, age in ages.items():
        path = tmp_path / f"jit_{name}-{name * 64}-cache"
        path.write_bytes(b"0" * (10 if name == "d" else 100))
        os.utime(path, (now - age, now - age))
    (tmp_path / "mine.txt").write_bytes(b"0" * 1000)
    os.utime(tmp_path / "mine.txt", (0, 0))

    use_compilation_cache(tmp_path, quiet=True)
    left = {path.name[4] for path in tmp_path.glob("jit_*")}
    assert left == {"a", "b"}
    assert (tmp_path / "mine.txt").exists()
