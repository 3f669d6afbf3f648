"""Reads the sanity checks of a study: what they found, and which accuracies they put in doubt."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rainjax._files import read_json
from rainjax.evaluation.records import SCHEMA, Record, load_study_file
from rainjax.report.text import Finding

Checked = dict[str, Any]
_FIELDS = {"subject", "checks", "surfaces", "target", "params"}
_CHECK = {"name", "expected", "found", "passed", "doubts"}


def load(folder: pathlib.Path | str, records: Sequence[Record] = ()) -> Checked | None:
    """Returns a folder's sanity record, or None where none was made.

    Its "rows" are those of subjects that are still what was checked; "stale" says of each of the
    others what has changed.

    Raises:
        ValueError: it is damaged, another kind of record, or of another study than `records`.
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
    changed = stale(checked, records, code=load_study_file(folder).get("code"))
    current = [row for row in checked["rows"] if row["subject"] not in changed]
    return {**checked, "rows": current, "stale": changed}


def stale(
    checked: Checked, records: Sequence[Record], *, code: str | None = None
) -> dict[str, str]:
    """Returns what has changed since subjects were checked, by their names.

    `code` is the digest of the library's code that made the records, where it is known.
    """
    found, radii = {}, {record.radius for record in records}
    radius = checked["options"].get("radius")
    for row in checked["rows"]:
        own = [record for record in records if record.subject == row["subject"]]
        if own and code is not None and checked.get("code", code) != code:
            found[row["subject"]] = "other code of the library"
        elif own and radius is not None and radius not in radii:
            found[row["subject"]] = f"radius {radius:.4g}, which no attack of the study has"
        elif why := _change(checked, row, own):
            found[row["subject"]] = why
    return found


def findings(checked: Checked | None) -> list[Finding]:
    """Returns a sentence for every check that failed, or one that says how many passed.

    Checks of what is another thing by now are named, and what they found is not.
    """
    if checked is None:
        return []
    rows = checked["rows"]
    failed = [(row, c) for row in rows for c in row["checks"] if c["passed"] is False]
    judged = sum(c["passed"] is not None for row in rows for c in row["checks"])
    found = [
        Finding(
            f'**{row["subject"]}**: the sanity check "{check["name"]}" failed. '
            f"{check['found']} Expected: {check['expected']}. The accuracies marked † may "
            "measure the attack's weakness.",
            flag=True,
        )
        for row, check in failed
    ]
    if rows and not failed:
        names = "; ".join(row["subject"] for row in rows)
        found = [Finding(f"All {judged} sanity checks of the attacks passed ({names}).")]
    return found + [
        Finding(
            f"**{subject}**: the sanity checks were made of {why}, and say nothing of these "
            "numbers: run `rainjax sanity` again."
        )
        for subject, why in checked.get("stale", {}).items()
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


def _change(checked: Checked, row: dict[str, Any], records: Sequence[Record]) -> str | None:
    """Says of what else than a subject's records its checks were made, or None."""
    for record in records:
        subject = record.content["subject"]
        if subject["target"] != row["target"]:
            return "another pipeline"
        if _digests(subject["params"]) != _digests(row["params"]):
            return "other parameters"
        if record.content["data"]["fingerprint"] != checked["data"]["fingerprint"]:
            return "other images"
    measured = row.get("measured")
    same = [record for record in records if record.threat == row.get("threat")]
    same = [record for record in same if measured in (None, record.attack)]
    if records and measured is not None and not same:
        return f"other settings of {row['threat']}"
    followed = [record.content["threat"].get("differentiates") for record in same]
    if followed and row.get("differentiates") not in (None, *followed):
        return f"another surrogate of {row['threat']}"
    return None


def _digests(params: dict[str, Any]) -> dict[str, Any]:
    """Returns what parameters are, whatever their files are called."""
    return {part: source and source["sha256"] for part, source in params.items()}
