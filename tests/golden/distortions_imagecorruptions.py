"""Writes distortions_imagecorruptions.npz: what imagecorruptions makes of one picture.

Run from the root of the repository, with imagecorruptions 1.1.2 installed (and setuptools below
81, which it imports): python -m tests.golden.distortions_imagecorruptions

Stored per distortion: at severities 1 to 5, every third pixel along each side, in 256ths of a
grey level, as its functions return them, before they are cut to whole ones; and the angles that
NumPy drew for motion blur, in degrees.
"""

import pathlib

import imagecorruptions.corruptions
import numpy as np
import PIL.Image
import skimage.filters

from tests.golden import seeded

NAMES = (
    "gaussian_blur",
    "motion_blur",
    "defocus_blur",
    "jpeg_compression",
    "pixelate",
    "contrast",
    "brightness",
    "saturate",
)


def picture() -> np.ndarray:
    """Returns uint8 [48 44 3], with a black, a grey and a white corner."""
    image = np.uint8(255 * seeded.picture(48, 44, seed=0))
    for level, corner in ((0, image[:6, :6]), (99, image[:6, -6:]), (255, image[-6:, :6])):
        corner[:] = level
    return image


def gaussian(image, sigma, multichannel):
    """Calls scikit-image's, whose newer releases have another name for the option."""
    return skimage.filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None)


def main():
    imagecorruptions.corruptions.gaussian = gaussian
    arrays, angles = {}, []
    for name in NAMES:
        distort = getattr(imagecorruptions.corruptions, name)
        results = []
        for severity in range(1, 6):
            np.random.seed(severity)  # noqa: NPY002  # whence imagecorruptions draws
            results.append(np.asarray(distort(PIL.Image.fromarray(picture()), severity), float))
            if name == "motion_blur":
                angles.append(np.random.RandomState(severity).uniform(-45, 45))
        arrays[name] = np.uint16(np.rint(256 * np.stack(results)[:, ::3, ::3]))
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, angles=np.array(angles), **arrays)


if __name__ == "__main__":
    main()
