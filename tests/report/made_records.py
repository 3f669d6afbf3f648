"""Evaluations made up for tests: every number in them is known before it is reported."""

import json

import numpy as np
import scipy.stats

from rainjax.evaluation.packing import pack_counts, pack_indices
from rainjax.evaluation.records import Record
from rainjax.metrics import wilson_interval
from rainjax.report import Results, verdict

TITLES = {
    "undefended": "Undefended",
    "rain_pretrained": "RAIN, before fine-tuning",
    "rain_finetuned": "RAIN, fine-tuned",
}
THREATS = {
    "clean": ("clean", "no attack", "none"),
    "blind": ("purifier-blind PGD", "gradients of the bare classifier", "classifier"),
    "white_box": ("white-box PGD", "white box, one draw per step", "defense"),
    "eot": ("EOT-PGD", "white box, gradients averaged over 16 draws", "defense"),
    "mean_field": ("mean-field PGD", "white box, random pick replaced by its mean", "defense"),
    "known_key": ("known key", "white box that holds the scoring draws", "keys"),
    "black_box": ("Square", "black box, by scores", "scores"),
}
DRAWS = {"eot": 16, "mean_field": 9, "known_key": 5}


def make_record(row, column, correct_draws, **changes):
    """A record's content; its scores follow from the number of right draws, of 5, of each image.

    `row` is a key of TITLES, or the name of another subject; `column` a key of THREATS.
    """
    radius = changes.get("radius", 8 / 255)
    num_eot = changes.get("num_eot", DRAWS.get(column, 1))
    num, counts = len(correct_draws), np.asarray(correct_draws)
    mean = counts.sum() / 5
    scores = {"mean": mean, "worst": int((counts == 5).sum()), "vote": int((counts >= 3).sum())}
    result = {
        name: dict(zip(("low", "high"), wilson_interval(float(k), num), strict=True))
        | {"accuracy": float(k) / num}
        for name, k in scores.items()
    }
    draws = "enumerated" if column in ("mean_field", "known_key") else "independent"
    steps = changes.get("num_steps", 40)
    attack = {
        "class": "PGD",
        "norm": changes.get("norm", "linf"),
        "radius": radius,
        "step_size": None if radius is None else radius / 4,
        "num_steps": steps,
        "eot": {"class": "EOT", "num_samples": num_eot, "draws": draws},
    } | changes.get("options", {})
    name, description, knowledge = THREATS[column]
    clean = column == "clean"
    size = "nearest" if radius is None else f"{radius * 255:g}"
    return {
        "schema": 2,
        "kind": "robustness",
        "id": f"{row}--{column}--r{size}--k{num_eot}",
        "study": "quick",
        "subject": {
            "name": TITLES.get(row, row),
            "is_random": True,
            "defended": row != "undefended",
            "target": {"class": "Defended", "defense": {"class": "RAIN", "shift_fraction": 0.05}},
            "params": {"classifier": {"name": "builtin_resnet", "sha256": "ab"}, "defense": None},
        },
        "threat": {
            "name": changes.get("name", name),
            "description": description,
            "knowledge": knowledge,
            "tags": list(changes.get("tags", ["table"])),
            "surrogate": None,
            "differentiates": None,
            "attack": None if clean else attack,
        },
        "axes": {
            "norm": None if clean else attack["norm"],
            "radius": None if clean else radius,
            "num_draws": 1 if clean else num_eot,
            "num_steps": 0 if clean else steps,
        },
        "data": {
            "name": "builtin",
            "split": "test",
            "fingerprint": "builtin-v1",
            "indices": pack_indices(range(num)),
        },
        "seed": 0,
        "num_score_draws": 5,
        "batch_size": 64,
        "result": {
            "num_examples": num,
            **result,
            "correct_draws": pack_counts(counts),
            "linf_max": 0.0 if clean or radius is None else radius,
            "l2_mean": 1.2,
            "mean_loss": 2.3,
        },
        "run": {
            "seconds": 61.5,
            "started": "2026-01-05T10:00:00+00:00",
            "versions": {"rainjax": "0.1.0", "jax": "0.10.2", "python": "3.11.9"},
            "backend": "cpu",
            "device": "cpu",
            "num_devices": 2,
            "revision": None,
            "command": "python -m eval quick --out runs/quick",
        },
    }


def results_of(contents):
    """What a report is made from, of records that are in no folder."""
    return Results.of([Record(content) for content in contents])


def share(percent, num=200):
    """Right draws per image that add up to `percent`; one image in five is undecided."""
    total = round(percent / 100 * num * 5)
    undecided = min(num // 5, total // 3, (num * 5 - total) // 3)
    whole, rest = divmod(total - 3 * undecided, 5)
    counts = [5] * whole + [3] * undecided + ([rest] if rest else [])
    return counts + [0] * (num - len(counts))


def full_study():
    """Records for every display: both RAINs, all threat models, both sweeps."""
    table = {
        "undefended": {"clean": 93.5, "white_box": 0.5},
        "rain_pretrained": {
            "clean": 71.2, "blind": 48.1, "white_box": 21.3, "eot": 12.4, "mean_field": 14.9,
            "known_key": 6.1,
        },
        "rain_finetuned": {
            "clean": 88.3, "blind": 71.4, "white_box": 33.2, "eot": 19.7, "mean_field": 22.8,
            "known_key": 9.2,
        },
    }  # fmt: skip
    records = []
    for row, cells in table.items():
        for column, percent in cells.items():
            tags = ["table"] if column in ("clean", "known_key") else ["table", "radius"]
            if column in ("eot", "mean_field"):
                tags.append("draws")
            num = 100 if column == "known_key" else 200
            records.append(make_record(row, column, share(percent, num), tags=tags))
            if column in ("blind", "white_box", "eot"):
                for radius in (1, 2, 4, 12, 16):
                    clean = cells["clean"]
                    level = clean * np.exp(np.log(percent / clean) * (radius / 8) ** 1.2)
                    records.append(
                        make_record(
                            row, column, share(level), radius=radius / 255, tags=["radius"]
                        )
                    )
        if "eot" in cells:
            for samples in (1, 2, 4, 8, 32):
                level = cells["eot"] + 12 * (1 / samples - 1 / 16)
                records.append(
                    make_record(row, "eot", share(level), num_eot=samples, tags=["draws"])
                )
    return records


def write_study(folder, records):
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for record in records:
        path = folder / "records" / f"{record['id'].replace('/', '-')}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_extras(folder):
    """Panels with an attack of known size, and a spectrum."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    waves = [np.sin(2 * np.pi * (x * (i + 2) + y * i)) for i in range(6)]
    original = np.stack([np.stack([w, np.roll(w, 5), -w], -1) * 0.3 + 0.5 for w in waves])
    signs = rng.choice([-1.0, 1.0], original.shape)
    original = np.round(original * 255)
    attacked = np.clip(original / 255 + 8 / 255 * signs, 0, 1)
    names = ["disc", "ring", "square", "cross", "stripes", "a longer class name"]
    (folder / "panels").mkdir(exist_ok=True)
    np.savez_compressed(
        folder / "panels" / "rain_finetuned--eot--r8--k16.npz",
        original=original.astype(np.uint8),
        change=(attacked - original / 255).astype(np.float16),
        purified=(0.7 * attacked + 0.3 * np.roll(attacked, 1, 1)).astype(np.float32),
        labels=np.arange(6),
        predicted_original=np.array([0, 1, 2, 3, 4, 0]),
        predicted_attacked=np.array([1, 1, 0, 5, 4, 2]),
        class_names=np.array(names),
    )
    frequency = np.linspace(0, 0.5, 17)
    power = 0.4 / (1 + 300 * frequency**2)
    cut = 1 / (1 + np.exp((frequency - 0.25) * 40))
    curves = {
        "original": power,
        "down-sampled, bicubic up": power * (0.02 + 0.98 * cut) ** 2,
        "RAIN, before fine-tuning": power * (0.3 + 0.7 * cut),
        "RAIN, fine-tuned": power * (0.6 + 0.4 * cut),
    }
    text = {
        "kind": "spectrum",
        "study": "quick",
        "num_examples": 256,
        "frequency": frequency.tolist(),
        "curves": {name: curve.tolist() for name, curve in curves.items()},
    }
    (folder / "spectrum.json").write_text(json.dumps(text), encoding="utf-8")


def small_study():
    """Ten images each: 9 right when clean, 6 blind, 3 under EOT, 2 with the known key."""
    return [
        make_record("undefended", "clean", [5] * 10),
        make_record("undefended", "white_box", [0] * 10),
        make_record("rain_finetuned", "clean", [5] * 9 + [0]),
        make_record("rain_finetuned", "blind", [5] * 6 + [0] * 4),
        make_record("rain_finetuned", "eot", [5, 5, 2, 2, 1] + [0] * 5),
        make_record("rain_finetuned", "known_key", [5, 5] + [0] * 6),
    ]


def cells(table):
    """The cells of a Markdown table, row by row."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def expected_cell(successes, total):
    ends = scipy.stats.binomtest(successes, total).proportion_ci(method="wilson")
    return f"{100 * successes / total:.1f} % [{100 * ends.low:.1f}, {100 * ends.high:.1f}]"


def findings(contents):
    """What the verdict says that is no reason for doubt."""
    return [finding.text for finding in verdict(results_of(contents)) if not finding.flag]


def flags(contents):
    """What the verdict says that is a reason for doubt."""
    return [finding.text for finding in verdict(results_of(contents)) if finding.flag]
