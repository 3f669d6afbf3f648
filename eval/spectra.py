"""What a purifier does to the frequencies of images: the ingredients of the report's figure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eval import study as st
from eval.config import Robustness
from rainjax import transforms
from rainjax.data import ImageSet
from rainjax.defenses import Defense
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import radial_frequencies, radial_spectrum

_NUM_IMAGES = 64


def spectra(config: Robustness, image_set: ImageSet, found: list[st.Row]) -> dict:
    """Returns the mean radial spectrum of the images, down-sampled, and behind RAIN."""
    count = min(_NUM_IMAGES, config.num_examples)
    rows = np.arange(count)
    images = image_set.get(rows)[0].astype(np.float32) / 255
    keys = example_keys(config.seed, Purpose.SCORE, jnp.asarray(rows))
    height, width = images.shape[1:3]

    def down_up(key, image):
        small = transforms.random_pixel_downsample(key, image)
        return transforms.resize_bicubic(small, height, width)

    curves = {"original": images, "down-sampled, bicubic up": jax.vmap(down_up)(keys, images)}
    names = {"rain_pretrained": "RAIN before fine-tuning", "rain_finetuned": "RAIN fine-tuned"}
    for row in found:
        if row.key in names:
            defense, params = row.target.defense, row.params["defense"]
            curves[names[row.key]] = purify(defense, params, keys, images)
    mean = {
        name: np.asarray(jax.vmap(radial_spectrum)(jnp.asarray(x)).mean(0), float).tolist()
        for name, x in curves.items()
    }
    return {
        "kind": "spectrum",
        "study": config.name,
        "num_examples": count,
        "frequency": radial_frequencies(height, width).tolist(),
        "curves": mean,
    }


@functools.partial(jax.jit, static_argnums=0)
def purify(defense: Defense, params, keys, images):
    """Returns a batch purified, each image with its own key."""
    return jax.vmap(defense.apply, (None, 0, 0))(params, keys, images)
