"""Checks a built wheel: it holds the package and its weights, nothing else, and they load."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

PAGE = ("report.css", "tables.js", "charts.js", "uplot/uPlot.iife.min.js", "uplot/LICENSE")
LOAD_ALL = """
import pathlib, sys
import rainjax
from rainjax import zoo
assert pathlib.Path(rainjax.__file__).is_relative_to(sys.argv[1]), rainjax.__file__
for name in zoo.names():
    print("loads", zoo.load(name).name)
"""


def main(wheel: pathlib.Path) -> None:
    """Exits with a sentence that names the first thing wrong with `wheel`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
        stray = {top for top in tops if top != "rainjax" and not top.endswith(".dist-info")}
        if stray:
            sys.exit(f"{wheel.name} holds {sorted(stray)} beside the package.")
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            sys.exit(f"{wheel.name} holds no LICENSE.")
        page = {f"rainjax/report/static/{name}" for name in PAGE}
        if not page <= set(names):
            sys.exit(f"{wheel.name} lacks {sorted(page - set(names))}, of which pages are made.")
        weights = {name.removesuffix(".safetensors") for name in _ending(names, ".safetensors")}
        cards = {name.removesuffix(".json") for name in _ending(names, ".json")}
        if not weights or weights != cards:
            sys.exit(
                f"{wheel.name}: weights {sorted(weights)} do not match cards {sorted(cards)}."
            )
        with tempfile.TemporaryDirectory() as folder:
            archive.extractall(folder)
            command = [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, sys.argv[1])\n{LOAD_ALL}",
            ]
            subprocess.run([*command, folder], cwd=folder, check=True)
    size = wheel.stat().st_size / 2**20
    print(f"{wheel.name}: {len(names)} files, {len(weights)} sets of weights, {size:.1f} MiB")


def _ending(names: list[str], suffix: str) -> list[str]:
    return [name for name in names if name.startswith("rainjax/zoo/") and name.endswith(suffix)]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
