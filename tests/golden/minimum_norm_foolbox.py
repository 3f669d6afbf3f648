"""Writes minimum_norm_foolbox.npz: the norms that Foolbox's minimum-norm attacks need on CIFAR-10.

The first test images, on the two networks of `apgd_torchattacks`. Infinite where an attack fails.
Run from the root of the repository, with torch 2.13 and foolbox 3.3.4 installed, giving the
folder of real images and weights: python -m tests.golden.minimum_norm_foolbox ../shared/data
"""

import pathlib
import sys

import numpy as np

NUM_IMAGES, NUM_ELASTIC = 256, 16
CANDIDATES = 5  # with all ten classes a step costs twice as much, and norms are 1 % smaller
SEARCH = {"num_search_steps": 3, "num_steps": 30, "step_size": 0.01, "initial_const": 1.0}
BETA = 1e-2


def main(folder: pathlib.Path):
    import foolbox
    import torch

    from tests.golden.apgd_torchattacks import load

    with np.load(folder / "cifar10_test.npz") as data:
        pixels, targets = data["images"][:NUM_IMAGES], data["labels"][:NUM_IMAGES]
    images = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    labels, arrays, attacks = torch.from_numpy(targets), {}, foolbox.attacks
    search = {
        "binary_search_steps": SEARCH["num_search_steps"],
        "steps": SEARCH["num_steps"],
        "initial_const": SEARCH["initial_const"],
        "abort_early": False,
    }
    deepfool = {"steps": 50, "candidates": CANDIDATES, "overshoot": 0.02}
    elastic = attacks.EADAttack(
        initial_stepsize=SEARCH["step_size"], regularization=BETA, decision_rule="L1", **search
    )
    cases = {
        "deepfool_l2": (attacks.L2DeepFoolAttack(**deepfool), NUM_IMAGES, 2),
        "deepfool_linf": (attacks.LinfDeepFoolAttack(**deepfool), NUM_IMAGES, np.inf),
        "carlini_wagner": (
            attacks.L2CarliniWagnerAttack(stepsize=SEARCH["step_size"], **search), NUM_IMAGES, 2
        ),
        "elastic_net": (elastic, NUM_ELASTIC, 1),
    }  # fmt: skip
    for network in ("resnet20", "resnet4b_adv2"):
        model = foolbox.PyTorchModel(load(network, folder), bounds=(0, 1), device="cpu")
        for name, (attack, count, order) in cases.items():
            x, y = images[:count], labels[:count]
            _, found, success = attack(model, x, y, epsilons=None)
            size = torch.linalg.vector_norm((found - x).flatten(1), ord=order, dim=1)
            print(network, name, size.median().item(), success.float().mean().item())
            size = torch.where(success, size, torch.inf)
            arrays[f"{network}/{name}"] = size.numpy().astype(np.float32)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
