"""Numbers follow the code that made them, in one process and from one to the next."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import PGD
from rainjax.defenses import Defense
from rainjax.devices import data_mesh
from rainjax.evaluation import (
    CLEAN,
    SanityOptions,
    Study,
    Subject,
    Surrogate,
    ThreatModel,
    check_study,
    evaluate,
    score,
)
from rainjax.evaluation import describe as describing
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended, Pipeline
from tests.small_studies import KERNEL, RIGHT, SIZE, SMALL, Arrays
from tests.tiny import Linear

PARAMS = {"defense": (), "classifier": {"kernel": KERNEL, "bias": jnp.zeros(10)}}
IMAGES = Arrays(SMALL, RIGHT)


def accuracies(folder, *subjects, threats=(CLEAN,)):
    """Returns each subject's accuracy under the last of the threat models."""
    study = Study("small", IMAGES, subjects, threats, num_score_draws=1, batch_size=16)
    records = evaluate(study, folder, progress=False)
    return {record.subject: record.score().accuracy for record in records}


def test_a_helper_that_is_defined_anew_is_used(tmp_path):
    """As in a notebook: the helper's cell runs again, that of the class does not."""
    names = {"Defense": Defense, "dataclasses": dataclasses, "__name__": "__main__"}
    exec("def helper(image):\n    return image", names)
    exec(
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Defense):\n"
        "    def apply(self, params, key, image):\n        return helper(image)\n",
        names,
    )
    subject = Subject("mine", Defended(names["Mine"](), Linear(SIZE, 10)), PARAMS)
    assert accuracies(tmp_path, subject) == {"mine": 1.0}
    exec("def helper(image):\n    return 1 - image", names)
    expected = np.mean(np.argmax((1 - SMALL.reshape(16, -1) / 255) @ KERNEL, -1) == RIGHT)
    assert expected < 1
    assert accuracies(tmp_path, subject) == {"mine": expected}
    assert accuracies(tmp_path / "fresh", subject) == {"mine": expected}


def as_in_a_notebook():
    """Returns a pipeline, and a function that runs the cell of what its defense calls anew."""
    names = {"Defense": Defense, "dataclasses": dataclasses, "__name__": "__main__", "jnp": jnp}

    def define(body):
        exec(f"def helper(image):\n    return {body}", names)

    define("image")
    exec(
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Defense):\n"
        "    is_random = False\n"
        "    def apply(self, params, key, image):\n        return helper(image)\n",
        names,
    )
    return Defended(names["Mine"](), Linear(SIZE, 10)), define


def test_checks_follow_the_code_that_they_name(tmp_path):
    pipeline, define = as_in_a_notebook()
    threat = ThreatModel("whole", PGD(radius=8 / 255, step_size=2 / 255, num_steps=2))
    study = Study("small", IMAGES, [Subject("mine", pipeline, PARAMS)], [CLEAN, threat])
    few = SanityOptions(num_queries=4, num_surface=0, more=2, num_examples=8)

    def gradients():
        (row,) = check_study(study, tmp_path, options=few, progress=False)["rows"]
        (check,) = [c for c in row["checks"] if c["name"] == "gradients are there"]
        return row["target"], check["passed"]

    target, passed = gradients()
    assert passed
    define("jnp.round(image * 15) / 15")
    rounded, passed = gradients()
    assert rounded != target
    assert not passed


def test_what_ran_by_hand_in_a_notebook_is_forgotten(tmp_path, monkeypatch):
    """Before its first record nobody asked what the code was."""
    monkeypatch.setattr(describing, "_is_interactive", lambda: True)
    pipeline, define = as_in_a_notebook()
    study = Study("small", IMAGES, [Subject("mine", pipeline, PARAMS)], [CLEAN], batch_size=16)
    keys = example_keys(study.seed, Purpose.SCORE, np.arange(16))
    mesh = data_mesh(batch_size=16)  # as `evaluate` has it
    images = (SMALL / 255).astype(np.float32)
    before = score(pipeline, PARAMS, keys, images, num_draws=1, mesh=mesh)
    define("1 - image")
    (record,) = evaluate(study, tmp_path, progress=False)
    expected = np.mean(np.argmax((1 - SMALL.reshape(16, -1) / 255) @ KERNEL, -1) == RIGHT)
    assert np.mean(np.argmax(before, -1)[:, 0] == RIGHT) == 1
    assert record.score().accuracy == expected


def test_classes_of_one_name_are_measured_apart(tmp_path):
    def made(sign):
        @dataclasses.dataclass(frozen=True)
        class Mine(Defense):
            def apply(self, params, key, image):
                return image if sign > 0 else 1 - image

        return Mine()

    subjects = [
        Subject(name, Defended(made(sign), Linear(SIZE, 10)), PARAMS)
        for name, sign in (("plus", 1), ("minus", -1))
    ]
    found = accuracies(tmp_path, *subjects)
    assert found["plus"] == 1.0
    assert found["minus"] < 1.0


@dataclasses.dataclass(frozen=True)
class Two(Pipeline):
    """A classifier, and one that the attacker takes for it; each knows its own parameters."""

    which: str = "target"
    is_random = False

    def init(self, key):
        return {"target": KERNEL, "substitute": KERNEL}

    def logits(self, params, key, image):
        return image.reshape(-1) @ params[self.which]

    def used(self, params):
        return {self.which: params[self.which]}


@dataclasses.dataclass(frozen=True)
class Substitute(Surrogate):
    def of(self, pipeline):
        return dataclasses.replace(pipeline, which="substitute")


def test_the_targets_parameters_decide_under_any_surrogate(tmp_path):
    transfer = [ThreatModel("transfer", PGD(radius=1e-6, num_steps=1), Substitute())]
    for kernel, folder in ((KERNEL, "a"), (-KERNEL, "a"), (-KERNEL, "b")):
        subject = Subject("two", Two(), {"target": kernel, "substitute": KERNEL})
        found = accuracies(tmp_path / folder, subject, threats=transfer)["two"]
        logits = SMALL.reshape(16, -1) / 255 @ np.asarray(kernel)
        assert found == pytest.approx(np.mean(np.argmax(logits, -1) == RIGHT), abs=0.1)


STUDY = """
import dataclasses, jax, jax.numpy as jnp, numpy as np
from rainjax import Defended, Defense, Identity, data, nets
from rainjax.evaluation import Study, Subject, adaptive
from helper import soften

@dataclasses.dataclass(frozen=True)
class Mine(Defense):
    def apply(self, params, key, image):
        return soften(image)

def study():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(12, 6, 6, 3)).astype(np.uint8)
    model = nets.from_function(lambda kernel, image: image.reshape(-1) @ kernel,
                               jnp.asarray(rng.normal(size=(108, 3)), jnp.float32))
    params = {"defense": (), "classifier": model.params}
    subjects = [Subject("bare", Defended(Identity(), model.network), params),
                Subject("mine", Defended(Mine(), model.network), params)]
    threats = adaptive(8 / 255, num_steps=1, num_queries=2)[:THREATS]
    return Study("mine", data.from_arrays(images, np.arange(12) % 3, name="random"), subjects,
                 threats, batch_size=12)
"""


def test_a_study_in_a_file_makes_anew_what_changed_and_nothing_else(tmp_path):
    """What the file says beside the class, as another threat model, is no change of the class."""

    def run(body, num_threats):
        (tmp_path / "helper.py").write_text(f"def soften(image):\n    return {body}\n")
        (tmp_path / "mine.py").write_text(STUDY.replace("THREATS", str(num_threats)))
        done = subprocess.run(
            [sys.executable, "-m", "rainjax", "evaluate", "mine.py", "--out", "out"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        )  # fmt: skip
        files = {path.name for path in (tmp_path / "out/mine/work").glob("s-*")}
        return done.stdout, files

    _, before = run("image", 1)
    assert len(before) == 2
    _, more = run("image", 2)
    assert len(more) == 3  # the second attack differs from the first where there is a defense
    assert before < more
    _, other = run("1 - image", 2)
    assert more < other
    assert len(other) == 5
