"""The picture of an iterative defense's steps: what is kept, what is drawn, what is refused."""

import io

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from rainjax import PGD, Defended, Identity, data, nets
from rainjax.defenses import NCIS, GaussianSmoothing
from rainjax.evaluation import (
    ClassifierAlone,
    Knowledge,
    Study,
    Subject,
    ThreatModel,
    evaluate,
    extras,
)
from rainjax.report import Iterates, Results, default_displays, write_report
from rainjax.report.iterates import iterates
from tests.tiny import BLIND_SPOT_TINY, blind_spot_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

RADIUS = 12 / 255


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = rng.integers(40, 216, (6, 9, 8, 3)).astype(np.uint8)
    kernel = rng.normal(size=(9 * 8 * 3, 3)).astype(np.float32)
    labels = np.argmax((images / 255).reshape(6, -1) @ kernel, -1)
    own = nets.from_function(lambda kernel, x: x.reshape(-1) @ kernel, jnp.asarray(kernel))
    subjects = [
        Subject(
            name, Defended(defense, own.network), {"defense": params, "classifier": own.params}
        )
        for name, defense, params in (
            ("bare", Identity(), ()),
            ("smooth", GaussianSmoothing(2, 0.7, 3), ()),
            ("contextual", NCIS(BLIND_SPOT_TINY, 9, 0.7, 3), blind_spot_params()),
        )
    ]
    measured = Study(
        "steps",
        data.from_arrays(images, labels, name="few", class_names="abc"),
        subjects,
        [
            ThreatModel(
                "blind", PGD(radius=RADIUS, num_steps=3), ClassifierAlone(), Knowledge.CLASSIFIER
            ),
            ThreatModel("unseen", PGD(num_steps=1), ClassifierAlone(), tags=("other",)),
        ],
        batch_size=3,
        extras=[extras.Iterates(num_images=2)],
    )
    out = tmp_path_factory.mktemp("results")
    evaluate(measured, out, progress=False)
    return out / "steps", images, labels, kernel


def _kept(folder, name):
    (path,) = (folder / "iterates").glob(f"{name}--*.npz")
    with np.load(path) as file:
        return path, dict(file)


def test_steps_of_every_iterative_defense_are_kept(study):
    folder, images, labels, kernel = study
    names = sorted(path.name.split("--")[0] for path in (folder / "iterates").glob("*.npz"))
    assert names == ["contextual", "smooth"]  # none of the bare one, none of the other tag
    _, kept = _kept(folder, "smooth")
    original, attacked, *steps = np.moveaxis(kept["images"].astype(float), 1, 0)
    np.testing.assert_allclose(original, images[:2] / 255, atol=1e-3)
    reach = np.abs(attacked - images[:2] / 255).max()
    assert 0.9 * RADIUS < reach <= RADIUS + 1e-3
    before = attacked
    assert len(steps) == 2
    for after in steps:
        options = {"sigma": 0.7, "radius": 1, "mode": "mirror", "axes": (1, 2)}
        smooth = scipy.ndimage.gaussian_filter(before, **options)
        np.testing.assert_allclose(after, smooth, atol=2e-3)
        before = after
    np.testing.assert_array_equal(kept["labels"], labels[:2])
    logits = kept["images"].astype(float).reshape(2, 4, -1) @ kernel
    np.testing.assert_array_equal(kept["predicted"], logits.argmax(-1))
    assert kept["class_names"].tolist() == ["a", "b", "c"]


def test_the_report_draws_them(study):
    folder = study[0]
    (path, kept) = _kept(folder, "contextual")
    assert Iterates("table") in default_displays(Results.read(folder))
    drawn = {drawing.name: drawing for drawing in Iterates().drawings(Results.read(folder))}
    assert set(drawn) == {f"iterates-{_kept(folder, n)[0].stem}" for n in ("contextual", "smooth")}
    drawing = drawn[f"iterates-{path.stem}"]
    # Of nine steps eight, the last among them.
    right = (kept["predicted"] == kept["labels"][:, None]).sum(0)
    assert drawing.alt.startswith(
        "2 images in rows: original, attacked, step 1, step 2, step 3, step 4, step 6,"
    )
    assert drawing.alt.endswith(f"{right[10]} step 9.")
    with PIL.Image.open(io.BytesIO(drawing.png)) as picture:
        assert picture.width > picture.height
    written = {path.name for path in write_report(folder, [Iterates()])}
    assert f"iterates-{path.stem}.png" in written


def test_damaged_files_are_named(study, tmp_path):
    _, kept = _kept(study[0], "smooth")
    path = tmp_path / "one.npz"
    np.savez(path, **(kept | {"predicted": kept["predicted"][:, 1:]}))
    with pytest.raises(ValueError, match=r"one.npz must hold images .* and \(2, 3\)"):
        iterates(path, "title")
    del kept["labels"]
    np.savez(path, **kept)
    with pytest.raises(ValueError, match=r"one.npz lacks the array 'labels'"):
        iterates(path, "title")


def test_without_steps_there_is_a_sentence(study):
    assert Iterates("other").drawings(Results.read(study[0])) == []
    assert "No steps of a defense were kept" in Iterates().absent
