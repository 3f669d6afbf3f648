"""Commands about pretrained parameters: `python -m rainjax.zoo [list] | show | verify`.

Without a word it lists what ships with the package, with `--folder` what a folder holds.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from rainjax._output import until_closed
from rainjax.nets import num_params
from rainjax.zoo import _card, _store, _verify
from rainjax.zoo._arrays import read_safetensors

_HEADER = ("name", "network", "parameters", "size", "data", "metrics")


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the entries: name, network, parameters, size, data, metrics."""

    folder: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where to look; the parameters that ship with the package if left out."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Prints the card of an entry: network, licence, data, command, seed, versions, and so on."""

    name_or_path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME_OR_PATH")]
    """A name that `list` lists, or the path of a .safetensors file or of a folder with one."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Checks entries, and says in one line each what is well and what is not.

    Looked at are the card, the network it describes, the file's sha256, whether it can be read,
    and its arrays' dtype, shapes and values. The exit status is 1 if anything is not well.
    """

    names_or_paths: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME_OR_PATH ...]")
    ] = ()
    """Names, or paths of .safetensors files or of folders; all that ship if left out."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def table(folder: pathlib.Path) -> str:
    """Returns one line per entry in `folder`, columns aligned; parameters are not read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    rows, unreadable = [], []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            card = _card.read_card(path.with_suffix(".json"))
            count = _num_params(path, card)
        except (OSError, ValueError) as error:
            unreadable.append(f"{path.stem}: unreadable: {error}")
            continue
        data = card["data"].get("name", "")
        metrics = [f"{k} {_short(v)}" for k, v in card["metrics"].items() if _is_short(v)]
        kept = card["metrics"].get("validation")  # what the training programs chose the epoch by
        if isinstance(kept, dict):
            metrics = [f"validation {kept.get('metric')} {_short(kept.get('value'))}"]
        rows.append(
            (
                card["name"],
                card["architecture"]["class"],
                f"{count:,}",
                f"{path.stat().st_size / 1e6:.1f} MB",
                str(data),
                ", ".join(metrics),
            )
        )
    if not rows:
        return "\n".join(unreadable) or f"There are no parameters in {folder}."
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    numeric = (2, 3)
    lines = []
    for row in (_HEADER, tuple("-" * width for width in widths), *rows):
        cells = (
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *unreadable])


def _num_params(path: pathlib.Path, card: dict) -> int:
    """Returns how many numbers the network has; for one of somebody's own, how many the file."""
    if _card.is_known(card["architecture"]["class"]):
        return num_params(_card.build(card, where=f"The card of {path}").shapes())
    return num_params(read_safetensors(path, path.read_bytes()))


def describe(card: dict, path: pathlib.Path) -> str:
    """Returns a card as indented lines, what is asked for most often first."""
    cls, fields = card["architecture"]["class"], card["architecture"]["fields"]
    shown = {"name": card["name"], "network": {"class": cls, **fields}, "file": str(path)}
    for key in ("licence", "seed", "command", "data", "metrics"):
        shown[key] = card[key]
    rest = {key: value for key, value in card.items() if key != "architecture"}
    return "\n".join(_lines(shown | rest))


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a mistake in it ends the program with one sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("--folder"):
        arguments = ["list", *arguments]
    command = tyro.cli(Command, args=arguments, prog="rainjax zoo", description=__doc__)
    try:
        with until_closed():
            match command:
                case List(folder):
                    print(table(_store.WEIGHTS if folder is None else folder))
                case Show(name_or_path):
                    path = _store.find(name_or_path)
                    print(describe(_card.read_card(path.with_suffix(".json")), path))
                case Verify(names_or_paths):
                    _verify_all(names_or_paths or (None,))
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def _verify_all(wanted: tuple[str | None, ...]) -> None:
    """Prints a line for every entry, and exits with what is missing, or whether all is well."""
    all_well, missing = True, []
    for name in wanted:
        try:
            verdicts = _verify.verify(name)
        except (OSError, ValueError) as error:
            missing.append(str(error))
            continue
        print(*verdicts, sep="\n")
        all_well &= all(verdict.is_well for verdict in verdicts)
    sys.exit("\n".join(missing) or int(not all_well))


def _lines(value: dict, indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list):
            lines.append(f"{indent}{key}: {', '.join(map(str, item)) or 'none'}")
        else:
            lines.append(f"{indent}{key}: {'none' if item is None else item}")
    return lines


def _is_short(value) -> bool:
    return isinstance(value, (int, float, str))


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
