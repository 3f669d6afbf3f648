"""Checks what `make dist` built, and tries the wheel as somebody who has nothing else.

The wheel holds the package and its weights, nothing else, and so does the source archive beside
what the repository has. The wheel is installed into a bare environment: the parameters that ship
are verified there, the README's first example runs, and its own study is measured on two pictures,
with fewer steps.
"""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ("report.css", "tables.js", "charts.js", "uplot/uPlot.iife.min.js", "uplot/LICENSE")
QUICK = "adaptive(8 / 255, num_steps=2, num_queries=8, eot=EOT(2))"


def main(folder: pathlib.Path) -> None:
    """Exits with a sentence that names the first thing wrong with what lies in `folder`."""
    (wheel,), (archive,) = folder.glob("rainjax-*.whl"), folder.glob("rainjax-*.tar.gz")
    _check_wheel(wheel)
    _check_archive(archive, wheel)
    with tempfile.TemporaryDirectory() as place:
        _try(wheel, pathlib.Path(place))


def _check_wheel(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    tops = {name.split("/")[0] for name in names}
    stray = {top for top in tops if top != "rainjax" and not top.endswith(".dist-info")}
    if stray:
        sys.exit(f"{wheel.name} holds {sorted(stray)} beside the package.")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name} holds no LICENSE.")
    page = {f"rainjax/report/static/{name}" for name in PAGE}
    if missing := sorted(page - set(names)):
        sys.exit(f"{wheel.name} lacks {missing}, of which pages are made.")
    weights = {name.removesuffix(".safetensors") for name in _ending(names, ".safetensors")}
    cards = {name.removesuffix(".json") for name in _ending(names, ".json")}
    if not weights or weights != cards:
        sys.exit(f"{wheel.name}: weights {sorted(weights)} do not match cards {sorted(cards)}.")
    size = wheel.stat().st_size / 2**20
    print(f"{wheel.name}: {len(names)} files, {len(weights)} sets of weights, {size:.1f} MiB")


def _check_archive(archive: pathlib.Path, wheel: pathlib.Path) -> None:
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    with zipfile.ZipFile(wheel) as opened:
        package = {name for name in opened.namelist() if name.startswith("rainjax/")}
    wanted = package | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    if missing := sorted(wanted - held):
        sys.exit(f"{archive.name} lacks {missing}.")
    print(f"{archive.name}: {archive.stat().st_size / 2**20:.1f} MiB")


def _try(wheel: pathlib.Path, place: pathlib.Path) -> None:
    venv.create(place / "bare", with_pip=True)
    binaries = place / "bare" / "bin"
    python, rainjax = str(binaries / "python"), str(binaries / "rainjax")
    pip = [python, "-m", "pip", "install", "--quiet", "--quiet"]
    _run([*pip, f"{wheel.resolve()}[report]"], place)
    first, mine = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[
        :2
    ]
    (place / "first.py").write_text(first)
    # As it stands it averages sixteen draws at each of forty steps, which takes minutes.
    quick = mine.replace("adaptive(8 / 255, eot=EOT(16))", QUICK)
    if quick == mine:
        sys.exit("README's own study is another than the one that is made quick here.")
    (place / "mine.py").write_text(quick)
    _run([rainjax, "zoo", "verify"], place)
    _run([python, "first.py"], place)
    _run([rainjax, "evaluate", "mine.py", "--num-examples", "2"], place)
    report = place / "results" / "mine" / "report.html"
    if not report.exists():
        sys.exit(f"rainjax evaluate of {wheel.name} left no {report.name}.")


def _run(command: list[str], place: pathlib.Path) -> None:
    """Runs a command where the repository cannot be imported by accident."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=place, env=environment, check=False)
    if done.returncode:
        sys.exit(
            f"In a bare environment {' '.join(command[:3])} ... ended with {done.returncode}."
        )


def _ending(names: list[str], suffix: str) -> list[str]:
    return [name for name in names if name.startswith("rainjax/zoo/") and name.endswith(suffix)]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
