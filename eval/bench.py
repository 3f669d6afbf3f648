"""Attacks, scores and records the cells of a study, and picks up where it was."""

import datetime
import functools
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import study as st
from eval.config import Study
from eval.spectra import purify
from rainjax import evaluation
from rainjax._files import read_array, read_json, write_arrays, write_json
from rainjax.data import ImageSet
from rainjax.defenses import Identity
from rainjax.devices import data_mesh, padded
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import run_ensemble
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.pipeline import majority

_NUM_PANELS = 6
_MEMBER = ("num_attacked", "num_broken", "num_best", "num_gradients", "seconds")


def measure(config: Study, images: ImageSet, cells: list[st.Cell]) -> int:
    """Makes the records that are missing from the study's folder; returns how many were.

    Adversarial images are kept batch by batch in `work/`, so a run that is killed at any
    moment loses at most one batch, and ends with the records of an undisturbed run (but for
    what `run` says of seconds and machines). A record or batch made by other code, from other
    images or parameters, or on another kind of device, is made again.

    Raises:
        ValueError: an attack or a network fails on some images; says which.
    """
    bench = Bench(config, images)
    cells = [cell for cell in cells if not bench.is_recorded(cell)]
    total = bench.gradients_missing(cells)
    with tqdm(total=total, unit="grad", unit_scale=True, smoothing=0.02, mininterval=1) as bar:
        for cell in cells:
            bar.set_description(f"{cell.row.title}, {cell.title}")
            write_json(bench.record_path(cell), bench.record(cell, bar))
    return len(cells)


class Bench:
    """The images, the devices and the work folder that every cell of one run shares."""

    def __init__(self, config: Study, images: ImageSet):
        self._config, self._images = config, images
        self._mesh = data_mesh(batch_size=config.batch_size)
        self._code = code_digest()
        self._contents: dict[tuple[int, int], str] = {}
        self._clean: dict[tuple[str, int], np.ndarray] = {}

    def record(self, cell: st.Cell, bar: tqdm) -> dict:
        """Attacks and scores one cell's images; returns its record and keeps its panel."""
        config, began = self._config, time.perf_counter()
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        right, voted, distances, losses, rounded = [], [], [], [], []
        for rows, images, labels in self._batches(cell.num_examples):
            attacked = images
            if cell.attack is not None:
                attacked = self._attacked(cell, rows, images, labels, bar)
            logits = self._logits(cell.row, rows, attacked)
            predicted = logits.argmax(-1)
            right.append(predicted == labels[:, None])
            voted.append(_majority(predicted, logits.shape[-1]) == labels)
            log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
            losses.append(-log_p[np.arange(len(labels)), :, labels].mean(1))
            distances.append(_distances(images, attacked))
            if config.eight_bit and cell.attack is not None and cell.attack.radius is not None:
                radius = cell.attack.radius
                few = evaluation.round_to_8bit(attacked, images, cell.attack.norm, radius)
                few = self._logits(cell.row, rows, np.asarray(few)).argmax(-1)
                rounded.append(few == labels[:, None])
            if len(right) == 1 and cell.panel:
                self._keep_panel(cell, rows, images, labels, attacked, predicted)
        right, losses = np.concatenate(right), np.concatenate(losses)
        linf, l2 = np.concatenate(distances, axis=1)
        return {
            "schema": 1,
            "kind": "robustness",
            "id": cell.id,
            "decides": self._record_digest(cell),
            "study": config.name,
            "roles": list(cell.roles),
            "row": {
                "key": cell.row.key,
                "title": cell.row.title,
                "target": st.describe(cell.row.target),
                "params": cell.row.sources,
            },
            "column": {
                "key": cell.column,
                "title": cell.title,
                "threat_model": cell.threat_model,
                "surrogate": st.describe(cell.surrogate),
                "attack": cell.attack and st.describe(cell.attack) | {"norm": cell.attack.norm},
            },
            "data": {
                "name": self._images.name,
                "split": self._images.split,
                "fingerprint": self._images.fingerprint,
                "indices": list(range(cell.num_examples)),
            },
            "seed": config.seed,
            "num_score_draws": right.shape[1],
            "batch_size": config.batch_size,
            "result": {
                "num_examples": len(right),
                "mean": _share(right.mean(1)),
                "worst": _share(np.asarray(right.all(1))),
                "vote": _share(np.concatenate(voted)),
                "correct_draws": right.sum(1).tolist(),
                "linf_max": float(linf.max()),
                "l2_mean": float(l2.mean()),
                "mean_loss": float(losses.mean()),
                **(
                    {"members": self._members(cell, cell.attack)}
                    if isinstance(cell.attack, AutoAttack)
                    else {}
                ),
                **({"rounded": _share(np.concatenate(rounded).mean(1))} if rounded else {}),
            },
            "run": {
                "seconds": round(time.perf_counter() - began, 2),
                "started": started,
                **provenance(),
            },
        }

    def record_path(self, cell: st.Cell) -> pathlib.Path:
        """Returns where the cell's record lies, or will."""
        return self._config.folder / "records" / f"{cell.id}.json"

    def is_recorded(self, cell: st.Cell) -> bool:
        """Returns whether the cell's record is there, and is what would be recorded now."""
        path = self.record_path(cell)
        return path.exists() and read_json(path).get("decides") == self._record_digest(cell)

    def gradients_missing(self, cells: list[st.Cell]) -> int:
        """Returns how many image gradients the cells still need, to size the progress bar."""
        missing = {}
        for cell in cells:
            if cell.attack is None:
                continue
            for rows, _, _ in self._batches(cell.num_examples):
                path = self._work_path(cell, rows)
                if not path.exists():  # several cells may need the same images
                    missing[path] = cell.attack.num_gradients
        return self._config.batch_size * sum(missing.values())

    def _batches(self, num_examples: int):
        """Yields positions, images and labels of the first `num_examples`, batch by batch."""
        size = self._config.batch_size
        for start in range(0, num_examples, size):
            rows = np.arange(start, min(start + size, num_examples))
            yield rows, *self._read(rows)

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._images.get(rows)
        return images.astype(np.float32) / 255, labels

    def _attacked(self, cell, rows, images, labels, bar) -> np.ndarray:
        path = self._work_path(cell, rows)
        if path.exists():
            return read_array(path, "attacked")
        made = self._by_ensemble if isinstance(cell.attack, AutoAttack) else self._by_attack
        try:
            kept = made(cell, rows, images, labels, bar)
        except ValueError as error:
            raise ValueError(f"{cell.id}, images {rows[0]}..{rows[-1]}: {error}") from error
        write_arrays(path, kept)
        return kept["attacked"]

    def _by_attack(self, cell, rows, images, labels, bar) -> dict[str, np.ndarray]:
        seed, full = self._config.seed, padded(rows, self._config.batch_size)
        known = cell.known_key
        attacked = evaluation.run_attack(
            cell.surrogate,
            cell.attack,
            cell.row.params,
            example_keys(seed, Purpose.ATTACK, jnp.asarray(full)),
            jnp.asarray(images[full - rows[0]]),
            jnp.asarray(labels[full - rows[0]]),
            score_keys=example_keys(seed, Purpose.SCORE, jnp.asarray(full)) if known else None,
            mesh=self._mesh,
            on_gradient=lambda n: bar.update(n * len(full)),
        )
        if not known:  # who knows the scoring keys needs no other draws to choose by
            attacked = evaluation.keep_worse(
                cell.surrogate,
                cell.row.params,
                example_keys(seed, Purpose.SELECT, jnp.asarray(full)),
                jnp.asarray(images[full - rows[0]]),
                attacked,
                labels[full - rows[0]],
                num_draws=self._select_draws(cell),
                mesh=self._mesh,
            )
        return {"attacked": np.asarray(attacked)[: len(rows)]}

    def _select_draws(self, cell: st.Cell) -> int:
        """Returns under how many draws of its own an attacker chooses what to hand out."""
        if isinstance(cell.attack, AutoAttack):
            return cell.attack.num_select_draws
        assert cell.surrogate is not None
        return 8 if cell.surrogate.defense.is_random else 1

    def _by_ensemble(self, cell, rows, images, labels, bar) -> dict[str, np.ndarray]:
        result = run_ensemble(
            cell.row.target,
            cell.attack.members,
            cell.row.params,
            self._config.seed,
            rows,
            images,
            labels,
            batch_size=self._config.batch_size,
            num_select_draws=self._select_draws(cell),
            mesh=self._mesh,
            on_gradient=bar.update,
        )
        counts = [[getattr(m, name) for name in _MEMBER] for m in result.members]
        return {"attacked": np.asarray(result.images), "members": np.array(counts, float)}

    def _members(self, cell: st.Cell, attack: AutoAttack) -> list[dict]:
        """Adds up what an ensemble's members did over the batches."""
        counts = np.sum(
            [
                read_array(self._work_path(cell, rows), "members")
                for rows, _, _ in self._batches(cell.num_examples)
            ],
            axis=0,
        )
        return [
            {"name": member.name}
            | {k: n if k == "seconds" else int(n) for k, n in zip(_MEMBER, count, strict=True)}
            for member, count in zip(attack.members, counts.tolist(), strict=True)
        ]

    def _logits(self, row: st.Row, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        full = padded(rows, self._config.batch_size)
        draws = self._config.num_score_draws if row.target.defense.is_random else 1
        logits = evaluation.score(
            row.target,
            row.params,
            example_keys(self._config.seed, Purpose.SCORE, jnp.asarray(full)),
            jnp.asarray(images[full - rows[0]]),
            num_draws=draws,
            mesh=self._mesh,
        )
        logits = np.asarray(logits)[: len(rows)]
        if not np.isfinite(logits).all():
            raise ValueError(
                f"The logits of {row.title!r} are not finite on images {rows[0]}..{rows[-1]}: "
                "look at the parameters of its networks."
            )
        return logits

    def _work_path(self, cell: st.Cell, rows: np.ndarray) -> pathlib.Path:
        """Names a batch after all that decides its adversarial images, and nothing else."""
        assert cell.surrogate is not None
        blind = isinstance(cell.surrogate.defense, Identity)
        attack = st.describe(cell.attack)
        attack["eot"].pop("chunk_size")  # changes memory, not results
        decides = {
            "surrogate": st.describe(cell.surrogate),
            "params": cell.row.sources["classifier"] if blind else cell.row.sources,
            "attack": attack,
            "known_draws": self._config.num_score_draws if cell.known_key else 0,
            "select_draws": self._select_draws(cell),
        }
        return self._config.folder / "work" / f"{self._digest(decides, rows)}.npz"

    def _record_digest(self, cell: st.Cell) -> str:
        attack = st.describe(cell.attack)
        if attack:
            attack["eot"].pop("chunk_size")
        decides = {
            "target": st.describe(cell.row.target),
            "surrogate": st.describe(cell.surrogate),
            "params": cell.row.sources,
            "attack": attack,
            "known_key": cell.known_key,
            "select_draws": self._select_draws(cell) if cell.attack else 0,
            "draws": self._config.num_score_draws,
            "eight_bit": self._config.eight_bit,
            "roles": cell.roles,
        }
        return self._digest(decides, np.arange(cell.num_examples))

    def _digest(self, decides: dict, rows: np.ndarray) -> str:
        """Digests a configuration with the seed, the code, the device and the images."""
        span = int(rows[0]), len(rows)
        if span not in self._contents:
            images, labels = self._images.get(rows)
            self._contents[span] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        everything = {
            **decides,
            "seed": self._config.seed,
            "code": self._code,
            "backend": jax.default_backend(),
            "images": [*span, self._contents[span]],
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:24]

    def _keep_panel(self, cell, rows, images, labels, attacked, predicted) -> None:
        few = slice(0, _NUM_PANELS)
        keys = example_keys(self._config.seed, Purpose.SCORE, jnp.asarray(rows[few]))
        draws = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
        defense, params = cell.row.target.defense, cell.row.params["defense"]
        purified = purify(defense, params, draws, jnp.asarray(attacked[few]))
        place = cell.row.key, len(rows)
        if place not in self._clean:
            self._clean[place] = self._logits(cell.row, rows, images)[:, 0].argmax(-1)
        panel = {
            # Small enough for a repository, and exact to the eye.
            "original": np.round(images[few] * 255).astype(np.uint8),
            "change": (attacked[few] - images[few]).astype(np.float16),
            "purified": np.asarray(purified, np.float16),
            "labels": labels[few],
            "predicted_original": self._clean[place][few],
            "predicted_attacked": predicted[few, 0],
            "class_names": np.array(self._images.class_names),
        }
        path = self._config.folder / "panels" / f"{cell.id}.npz"
        write_arrays(path, panel)


def _share(successes: np.ndarray) -> dict[str, float]:
    low, high = wilson_interval(float(successes.sum()), len(successes))
    return {"accuracy": float(successes.mean()), "low": low, "high": high}


def _majority(predicted: np.ndarray, num_classes: int) -> np.ndarray:
    return np.asarray(_majorities(jnp.asarray(predicted), num_classes))


@functools.partial(jax.jit, static_argnums=1)
def _majorities(predicted, num_classes: int):
    return jax.vmap(lambda votes: majority(votes, num_classes))(predicted)


def _distances(images: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    delta = (attacked - images).reshape(len(images), -1)
    return np.stack([np.abs(delta).max(1), np.linalg.norm(delta, axis=1)])
