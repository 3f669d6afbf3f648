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
from rainjax.evaluation import (
    CLEAN,
    Study,
    Subject,
    Surrogate,
    ThreatModel,
    evaluate,
)
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
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
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
