"""Images of one channel and of two, from arrays to the report's pictures."""

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import Defended, Identity, data, nets
from rainjax.attacks import EOT
from rainjax.defenses import GaussianNoise
from rainjax.evaluation import Study, Subject, adaptive, evaluate, extras
from rainjax.report import Gallery, Panels, ResultsTable, Spectrum, write_report

pytestmark = pytest.mark.usefixtures("quick_compilation")


def linear(kernel, image):
    return image.reshape(-1) @ kernel


@pytest.mark.parametrize("channels", [1, 2])
def test_images_of_few_channels_are_measured_and_shown(tmp_path, channels):
    rng = np.random.default_rng(channels)
    images = rng.integers(40, 216, (8, 8, 8, channels)).astype(np.uint8)
    kernel = rng.normal(size=(64 * channels, 3)).astype(np.float32)
    labels = np.argmax((images / 255).reshape(8, -1) @ kernel, -1)
    own = nets.from_function(linear, jnp.asarray(kernel))
    params = {"defense": (), "classifier": own.params}
    subjects = [
        Subject(name, Defended(defense, own.network), params)
        for name, defense in (("bare", Identity()), ("noise", GaussianNoise(0.05)))
    ]
    study = Study(
        "few",
        data.from_arrays(images, labels, name="few", class_names="abc"),
        subjects,
        adaptive(0.1, num_steps=2, eot=EOT(2), num_queries=4, num_examples=4),
        num_score_draws=2,
        batch_size=4,
        displays=[ResultsTable(), Panels(), Gallery(), Spectrum()],
        extras=[extras.Panels(), extras.Gallery(), extras.Spectrum(("noise",))],
    )
    records = evaluate(study, tmp_path, progress=False)
    accuracy = {(r.subject, r.threat): r.score().accuracy for r in records}
    assert accuracy["bare", "clean"] == 1
    assert accuracy["bare", "own gradient"] < 1
    assert ("noise", "BPDA, identity") in accuracy
    drawn = {path.name for path in write_report(tmp_path / "few", study.displays)}
    assert {"report.html", "gallery.png", "spectrum.png"} <= drawn
    assert any(name.startswith("panel-") for name in drawn)
