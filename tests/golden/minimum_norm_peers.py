"""Writes minimum_norm_peers.npz: the norms that Foolbox's minimum-norm attacks need on CIFAR-10.

The published ResNet-20 and the first test images, as the tests find them; see `SETTINGS` for
what both sides run. Infinite where an attack fails. Run from the root of the repository, with
torch 2.13 and foolbox 3.3.4 installed, giving the folder of real images and weights:
python -m tests.golden.minimum_norm_peers ../shared/data
"""

import pathlib
import sys

import numpy as np

NUM_DEEPFOOL, NUM_OPTIMIZED = 256, 16
CANDIDATES = 5  # with all ten classes a step costs twice as much, and norms are 1 % smaller
SEARCH = {"num_search_steps": 4, "num_steps": 40, "step_size": 0.01, "initial_const": 1.0}
BETA = 1e-2


def main(folder: pathlib.Path):
    import foolbox
    import torch

    from tests.golden.resnet_torch import MEAN, STD, ResNet

    torch.set_num_threads(1)
    weights = np.load(folder / "weights" / "cifar10_resnet20.npz")
    model = ResNet(20).eval()
    state = {k: torch.from_numpy(v) for k, v in weights.items()}
    model.load_state_dict(state, strict=False)
    scale = {"mean": MEAN, "std": STD, "axis": -3}
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), preprocessing=scale, device="cpu")
    with np.load(folder / "cifar10_test.npz") as data:
        pixels, targets = data["images"][:NUM_DEEPFOOL], data["labels"][:NUM_DEEPFOOL]
    images = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    labels = torch.from_numpy(targets)

    def norms(attack, count, order):
        x, y = images[:count], labels[:count]
        _, found, success = attack(fmodel, x, y, epsilons=None)
        size = torch.linalg.vector_norm((found - x).flatten(1), ord=order, dim=1)
        print(type(attack).__name__, size.median().item(), success.float().mean().item())
        return torch.where(success, size, torch.inf).numpy().astype(np.float32)

    attacks = foolbox.attacks
    search = {
        "binary_search_steps": SEARCH["num_search_steps"],
        "steps": SEARCH["num_steps"],
        "initial_const": SEARCH["initial_const"],
        "abort_early": False,
    }
    carlini = attacks.L2CarliniWagnerAttack(stepsize=SEARCH["step_size"], **search)
    elastic = attacks.EADAttack(
        initial_stepsize=SEARCH["step_size"], regularization=BETA, decision_rule="L1", **search
    )
    deepfool = {"steps": 50, "candidates": CANDIDATES, "overshoot": 0.02}
    arrays = {
        "deepfool_l2": norms(attacks.L2DeepFoolAttack(**deepfool), NUM_DEEPFOOL, 2),
        "deepfool_linf": norms(attacks.LinfDeepFoolAttack(**deepfool), NUM_DEEPFOOL, np.inf),
        "carlini_wagner": norms(carlini, NUM_OPTIMIZED, 2),
        "elastic_net": norms(elastic, NUM_OPTIMIZED, 1),
    }
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
