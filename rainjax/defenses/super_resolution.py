"""Super-resolution as a defense: wavelet denoising, then an image twice as large.

Mustafa et al., IEEE TIP 2019 (arXiv 1901.01677); where the paper leaves a detail open, the
authors' published code decides.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Defense
from rainjax.defenses.wavelet_denoising import WaveletDenoising
from rainjax.nets._network import Network, check_doubles
from rainjax.nets.edsr import EDSR
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class SuperResolution(Defense):
    """Denoises an image, doubles it by an EDSR, and brings it back to its size.

    1. `denoiser` thresholds wavelet details; the authors' code offers sigmas from 0 to 0.04,
       the smaller the perturbation the smaller, and takes 0.01;
    2. `network`, an EDSR x2 or any other with a `scale` of 2, enlarges the result, clipped to
       [0, 1];
    3. `transforms.resize_bicubic` shrinks it, anti-aliased, clipped once more.

    The last step is where this differs from the authors, whose classifier takes the large image:
    a defense keeps the shape. Nor is anything rounded or compressed between the steps; their
    programs pass a JPEG file from the first to the second. Nothing is random, and the gradient
    is exact. Parameters are those of `network`.

    Raises:
        ValueError: the network does not double.
    """

    network: Network = EDSR()
    denoiser: WaveletDenoising = WaveletDenoising(sigma=0.01)

    def __post_init__(self):
        super().__post_init__()
        check_doubles(self.network, "SuperResolution")

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network."""
        return self.network.init(key)

    @property
    def is_random(self) -> bool:
        """False, whatever the key."""
        return False

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the denoised and super-resolved image, in the size that came in."""
        del key
        check_image(image, type(self).__name__)
        height, width, _ = image.shape
        large = self.enlarge(params, image)
        return jnp.clip(transforms.resize_bicubic(large, height, width), 0.0, 1.0)

    def enlarge(self, params: Params, image: Image) -> Float[Array, "2*h 2*w c"]:
        """Returns the image that the authors' classifier takes, of twice the size."""
        return jnp.clip(self.network.apply(params, self.denoiser.purify(image)), 0.0, 1.0)
