"""Writes quality_piq.npz: MS-SSIM, GMSD and BRISQUE's features, as piq measures them.

Run from the root of the repository, with torch 2.13 and piq 0.8.0 installed:
python -m tests.golden.quality_piq
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np

from tests.golden import seeded

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")
WEIGHTS = (0.0448, 0.2856, 0.3001)  # of the scales for which a small picture has room
WINDOW = 7


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns pictures and their references, of two sizes; the large one is for five scales.

    No side is odd at any scale: piq halves odd ones in another way than the authors.
    """
    small, large = seeded.picture(48, 40, seed=5), seeded.picture(176, 192, seed=6)
    rng = np.random.default_rng(7)

    def noisy(picture, deviation):
        noise = rng.normal(0, deviation, picture.shape)
        return np.clip(picture + noise, 0, 1).astype(np.float32)

    blurred = np.mean([np.roll(small, s, (0, 1)) for s in np.ndindex(3, 3)], axis=0)
    return {
        "noise": (noisy(small, 0.1), small),
        "much_noise": (noisy(small, 0.4), small),
        "blur": (blurred.astype(np.float32), small),
        "negative": (1 - small, small),
        "large": (noisy(large, 0.1), large),
    }


def halved(luminance: np.ndarray) -> np.ndarray:
    """Halves an image as MATLAB's imresize does: Keys' kernel, twice as wide, mirrored ends."""

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    for _ in range(2):
        size, rows = len(luminance), []
        for row in range((size + 1) // 2):
            centre, total, weights = 2 * row + 0.5, 0.0, 0.0
            for place in range(2 * row - 6, 2 * row + 8):
                weight = cubic((place - centre) / 2)
                inside = place % (2 * size)
                total = total + weight * luminance[min(inside, 2 * size - 1 - inside)]
                weights += weight
            rows.append(total / weights)
        luminance = np.array(rows).T
    return luminance


def measured() -> dict[str, np.ndarray]:
    """Returns what piq measures of the pairs."""
    import torch

    # piq's own __init__ imports torchvision, which PyPI has for one build of PyTorch alone, and
    # which these modules of it do without.
    package = types.ModuleType("piq")
    package.__path__ = list(importlib.util.find_spec("piq").submodule_search_locations)
    sys.modules["piq"] = package
    from piq.brisque import _natural_scene_statistics
    from piq.functional import rgb2yiq
    from piq.gmsd import gmsd
    from piq.ms_ssim import multi_scale_ssim

    arrays = {}
    for name, pictures in pairs().items():
        given = [torch.from_numpy(x).double().permute(2, 0, 1)[None] for x in pictures]
        options = {}
        if name != "large":
            options = {"scale_weights": torch.tensor(WEIGHTS), "kernel_size": WINDOW}
        arrays[f"{name}/ms_ssim"] = multi_scale_ssim(*given, **options).numpy()
        arrays[f"{name}/gmsd"] = gmsd(*given).numpy()
        luminance = 255 * rgb2yiq(given[0])[:, :1]
        half = torch.from_numpy(halved(luminance[0, 0].numpy()))[None, None]
        scales = [_natural_scene_statistics(values) for values in (luminance, half)]
        arrays[f"{name}/brisque"] = torch.cat(scales, -1)[0].numpy()
    return arrays


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **measured())
