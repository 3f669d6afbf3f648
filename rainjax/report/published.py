"""What tables say of numbers that bear the name of a published protocol: where they deviate."""

from collections.abc import Iterable

from rainjax.evaluation.records import Record

MARK = "§"


def mark(record: Record) -> str:
    """Returns the mark of a number that was not measured as its protocol says, or nothing."""
    return f" {MARK}" if record.protocol and record.protocol["deviations"] else ""


def protocol_notes(shown: Iterable[Record]) -> list[str]:
    """Returns what stands below a table of such numbers: each one's source and deviations.

    Records that deviate alike share a note.
    """
    notes: dict[tuple[str, ...], list[Record]] = {}
    for record in shown:
        if record.protocol:
            said = record.threat, *record.protocol["deviations"]
            notes.setdefault(said, []).append(record)
    texts = []
    several = {threat for threat, *_ in notes if sum(t == threat for t, *_ in notes) > 1}
    for (threat, *deviations), records in notes.items():
        protocol = records[0].protocol or {}
        subjects = ", ".join(dict.fromkeys(record.subject for record in records))
        of = f", of {subjects}" if threat in several else ""
        head = f"**{threat}**{of}: the protocol {protocol['name']} ({protocol['source']})"
        head += f", which counts {protocol['shots']}"
        if not deviations:
            texts.append(f"{head}, as published.")
        else:
            texts.append(f"**{MARK}** {head}; deviates: {'; '.join(deviations)}.")
    return texts
