"""Training a blind-spot network: what it is given, what it should return, and what is left."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from rainjax import data, zoo
from rainjax.nets import BlindSpot
from train import blind_spot
from train.options import Output

SMOKE = blind_spot.PRESETS["smoke"][1]
TINY = BlindSpot(num_layers=3, num_features=4)


@dataclasses.dataclass(frozen=True)
class Same:
    """In the place of a network: what it is given, in its own size."""

    def apply(self, params, image):
        return image


def picture(size=16):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def smoothed(image, sigma=1.0):
    """SciPy's truncated Gaussian, along both axes."""
    image = np.asarray(image, np.float64)
    for axis in (0, 1):
        image = scipy.ndimage.gaussian_filter1d(image, sigma, axis, mode="mirror", radius=2)
    return image


@pytest.mark.parametrize("distance", ["l2", "l1"])
@pytest.mark.parametrize(("given", "wanted"), [("smoothed", "raw"), ("raw", "smoothed")])
def test_the_loss_is_the_distance_of_two_views_in_grey_levels(given, wanted, distance):
    options = dataclasses.replace(SMOKE, given=given, wanted=wanted, distance=distance)
    object.__setattr__(options, "network", Same())
    image = picture()
    error = smoothed(image) - image
    expected = np.square(error).mean() if distance == "l2" else np.abs(error).mean()
    # Smoothing commutes with turning, so the random symmetry changes nothing.
    value, _ = blind_spot.loss((), (), jax.random.key(0), {"image": image}, options=options)
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_a_score_is_that_of_the_prediction_beside_the_smoothed_image():
    image = picture()
    params = TINY.init(jax.random.key(0))
    options = dataclasses.replace(SMOKE, network=TINY)
    found = blind_spot.score(params, jax.random.key(1), {"image": image}, options=options)
    given = jnp.asarray(smoothed(image) / 255, jnp.float32)
    predicted = 255 * np.clip(np.asarray(TINY.apply(params, given), np.float64), 0, 1)
    for name, of in (("psnr", predicted), ("smoothed_psnr", smoothed(image))):
        expected = 10 * np.log10(255**2 / np.square(of - image).mean())
        assert float(found[name]) == pytest.approx(expected, abs=1e-3)


def test_neither_label_nor_attack_decides_anything(tmp_path):
    image = picture()
    losses = [
        blind_spot.loss(
            TINY.init(jax.random.key(0)), (), jax.random.key(2), example,
            options=dataclasses.replace(SMOKE, network=TINY),
        )[0]
        for example in ({"image": image}, {"image": image, "label": 3})
    ]  # fmt: skip
    assert losses[0] == losses[1]


def test_a_run_improves_on_smoothing_and_leaves_an_entry_and_a_picture(tmp_path, capsys):
    options = dataclasses.replace(
        SMOKE, run=Output("tiny", tmp_path), network=BlindSpot(num_layers=3, num_features=8),
        num_epochs=2, steps_per_epoch=20,
    )  # fmt: skip
    blind_spot.train(options)
    entry = zoo.load(tmp_path / "tiny")
    assert entry.network == options.network
    metrics = entry.card["metrics"]["validation"]
    assert metrics["metric"] == "psnr"
    images, _ = data.load("builtin", "validation").get(np.arange(20))
    score = lambda params: np.mean(
        [
            float(blind_spot.score(params, None, {"image": image}, options=options)["psnr"])
            for image in images
        ]
    )
    assert score(entry.params) > score(options.network.init(jax.random.key(0))) + 2
    with PIL.Image.open(tmp_path / "tiny" / "tiny.png") as panel:
        assert panel.width > 300
    assert "what is given, what the network makes of it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 4}, "patch=4 is smaller than smoothing.kernel_size=5"),
        ({"smoothing": blind_spot.Smoothing(kernel_size=4)}, "4"),
        ({"smoothing": blind_spot.Smoothing(sigma=0.0)}, "sigma=0.0"),
        ({"network": BlindSpot(num_layers=4, out_channels=1)}, "makes 1 channels of 3"),
        ({"num_epochs": 0}, "num_epochs=0"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **changes)
