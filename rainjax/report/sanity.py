"""Reads the sanity checks of a study: what they found, and which accuracies they put in doubt."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rainjax._files import read_json
from rainjax.evaluation.records import SCHEMA, Record
from rainjax.report.text import Finding

Checked = dict[str, Any]
_FIELDS = {"subject", "checks", "surfaces", "params"}
_CHECK = {"name", "expected", "found", "passed", "doubts"}


def load(folder: pathlib.Path | str, records: Sequence[Record] = ()) -> Checked | None:
    """Returns a folder's sanity record, or None where none was made.

    Raises:
        ValueError: it is damaged, another kind of record, or made of other things than `records`.
    """
    path = pathlib.Path(folder) / "sanity.json"
    if not path.exists():
        return None
    checked = read_json(path)
    if not _is_whole(checked):
        raise ValueError(
            f"{path} is no usable record of sanity checks: make it again with `rainjax sanity`, "
            "or delete it."
        )
    if records and checked["study"] != records[0].content["study"]:
        raise ValueError(
            f"{path} is of the study {checked['study']!r}, the records are of "
            f"{records[0].content['study']!r}: keep each study in a folder of its own."
        )
    if records and (why := stale(checked, records)):
        raise ValueError(f"{path} was made of {why}: run `rainjax sanity` again, or delete it.")
    return checked


def stale(checked: Checked, records: Sequence[Record]) -> str | None:
    """Says what in a study's records the checks were not made of, or None."""
    for row in checked["rows"]:
        for record in records:
            if record.subject != row["subject"]:
                continue
            if _digests(record.content["subject"]["params"]) != _digests(row["params"]):
                return f"other parameters of {row['subject']!r}"
            if record.content["data"]["fingerprint"] != checked["data"]["fingerprint"]:
                return "other images"
    radius = checked["options"].get("radius")
    if radius is None or radius in {record.radius for record in records}:
        return None
    return f"radius {radius:.4g}, which no attack of the study has"


def findings(checked: Checked | None) -> list[Finding]:
    """Returns a sentence for every check that failed, or one that says how many passed."""
    if checked is None:
        return []
    rows = checked["rows"]
    failed = [(row, c) for row in rows for c in row["checks"] if c["passed"] is False]
    judged = sum(c["passed"] is not None for row in rows for c in row["checks"])
    if not failed:
        names = "; ".join(row["subject"] for row in rows)
        return [Finding(f"All {judged} sanity checks of the attacks passed ({names}).")]
    return [
        Finding(
            f'**{row["subject"]}**: the sanity check "{check["name"]}" failed. '
            f"{check['found']} Expected: {check['expected']}. The accuracies marked † may "
            "measure the attack's weakness.",
            flag=True,
        )
        for row, check in failed
    ]


def doubts(checked: Checked | None) -> dict[tuple[str, str], list[str]]:
    """Returns the names of failed checks, by the subject and the threat model they doubt."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in checked["rows"] if checked else ():
        for check in row["checks"]:
            for threat in check["doubts"] if check["passed"] is False else ():
                found.setdefault((row["subject"], threat), []).append(check["name"])
    return found


def verdict_text(check: dict[str, Any]) -> str:
    """Returns a check's verdict in one word; one that judges nothing is informational."""
    return {True: "passed", False: "FAILED", None: "informational"}[check["passed"]]


def _is_whole(checked: Checked) -> bool:
    rows, data, options = (checked.get(name) for name in ("rows", "data", "options"))
    return (
        checked.get("kind") == "sanity"
        and checked.get("schema") == SCHEMA
        and isinstance(checked.get("study"), str)
        and isinstance(data, dict)
        and {"num_examples", "fingerprint"} <= set(data)
        and isinstance(options, dict)
        and isinstance(options.get("radius"), int | float | None)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and set(row) >= _FIELDS for row in rows)
        and all(set(check) >= _CHECK for row in rows for check in row["checks"])
    )


def _digests(params: dict[str, Any]) -> dict[str, Any]:
    """Returns what parameters are, whatever their files are called."""
    return {part: source and source["sha256"] for part, source in params.items()}
