"""What stands below a table of accuracies: how each column came about, and what its marks mean."""

from collections.abc import Sequence

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.report.bounds import bound_notes
from rainjax.report.brackets import bracket_notes
from rainjax.report.marks import doubt_note, zero_gradient_notes
from rainjax.report.published import protocol_notes
from rainjax.report.results import Ball, Results, strongest, subjects_of
from rainjax.report.text import attack_text, num_text, percent, unique

Column = dict[str, Record]


def equals_white_box(results: Results, subject: str, column: Column) -> bool:
    """Whether a column is empty because there is no defense that its attacker does not know."""
    blind = all(record.knowledge is Knowledge.CLASSIFIER for record in column.values())
    return results.is_bare(subject) and subject not in column and blind


def table_notes(
    results: Results,
    shown: list[Record],
    columns: Sequence[tuple[str, Column]],
    ball: Ball | None,
) -> tuple[str, ...]:
    """Returns what stands below a table of records, by subject and by column."""
    draws = sorted({record.num_score_draws for record in shown})
    random = [str(num) for num in draws if num > 1] or ["1"]
    once = " (one where nothing is random)" if draws[0] == 1 < draws[-1] else ""
    data = shown[0].content["data"]
    notes: list[str] = []
    if any(record.scored for record in shown):
        notes.append(
            f"Accuracy on {data['name']} ({data['split']} split), mean over {' or '.join(random)} "
            f"random draws that the attacker never saw{once}; in brackets the 95 % Wilson "
            "interval for the choice of images."
        )
    notes += rejection_notes(shown)
    for name in unique(record.measure for record in shown if not record.scored):
        titles = unique(next(iter(r.shown), "") for r in shown if r.measure == name)
        what = f"**{' or '.join(filter(None, titles))}**, as {name} measures it,"
        where = f"on {data['name']} ({data['split']} split)"
        notes.append(f"{what} {where}, under {' or '.join(random)} random draws{once}.")
    subjects = subjects_of(results, shown)
    for title, column in columns:
        own = [column[subject] for subject in subjects if subject in column]
        notes.append(_column_note(title, own))
    if any(
        equals_white_box(results, subject, column) for subject in subjects for _, column in columns
    ):
        notes.append("**= white box**: without a defense there is nothing to be blind to.")
    attacks = [record for record in shown if record.attack is not None and record.scored]
    if attacks:
        rivals = [r for r in attacks if r.knowledge is not Knowledge.KEYS]
        known = len(rivals) < len(attacks)
        leave = " The known key, a diagnosis, does not compete." if known else ""
        uneven = len({record.num_examples for record in rivals}) > 1
        where = "; those with another n are compared on the images they share" if uneven else ""
        notes.append(f"**strongest attack**: the lowest of the attacked columns{where}.{leave}")
    if ball is not None:
        best = (strongest([r for r in shown if r.scored], name, ball) for name in subjects)
        claims = [record for record in best if record is not None]
        falling = [record for record in attacks if record.still_falling and record not in claims]
        notes += bound_notes(results, [(record, ball) for record in claims], also=falling)
        notes += bracket_notes(results, [(record, ball) for record in claims])
    notes += protocol_notes(shown)
    if any(subject in subjects for subject, _ in results.doubts):
        notes += doubt_note(name for found in results.doubts.values() for name in found)
    return (*notes, *zero_gradient_notes(shown))


def rejection_notes(shown: Sequence[Record]) -> list[str]:
    """Says of accuracies of detectors what a rejected image counts for."""
    words = {
        "safe": "as right if somebody moved it and its original is answered right, for an "
        "attacker has to be wrong and pass; else as an error",
        "error": "as an error, which is what an attacker wants",
    }
    found = []
    for rejected, how in words.items():
        own = [r.subject for r in shown if r.scored and _rejected(r) == rejected]
        if own:
            found.append(f"A rejected image counts for {' and '.join(unique(own))} {how}.")
    return found


def _rejected(record: Record) -> str | None:
    target = record.content["subject"].get("target")
    return target.get("rejected") if isinstance(target, dict) else None


def _column_note(title: str, column: list[Record]) -> str:
    """Says of a column what the attacker knows, his settings, and on how many images he was."""
    threats = " / ".join(unique(record.description for record in column if record.description))
    if column[0].attack is None:
        parts = [threats or "no attack"]
    else:
        rules = unique(record.attack["class"] for record in column if record.attack)
        # Subjects with and without randomness may be attacked by rules of their own.
        rule = [" or ".join(sorted(rules))] if len(rules) > 1 else []
        settings = ", or ".join(unique(map(attack_text, column)))
        parts = [part for part in (threats, *rule, settings) if part]
    told = [
        f"{record.subject} {percent(record.result['rounded']['accuracy'])}"
        for record in column
        if "rounded" in record.result
    ]
    rounded = f" Rounded to 8 bits: {', '.join(told)}." if told else ""
    return f"**{title}**: {'; '.join([*parts, num_text(column)])}.{rounded}"
