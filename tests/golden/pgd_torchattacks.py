"""Writes pgd_torchattacks.npz: which images of CIFAR-10 stand against torchattacks' PGD.

Run from the root of the repository, with torch 2.13 and torchattacks 3.5.1 installed, and the
folder of images and weights given: python -m tests.golden.pgd_torchattacks ../shared/data
"""

import pathlib
import sys

import numpy as np
import torch
import torchattacks

from tests.golden.apgd_torchattacks import load

NUM_IMAGES, NUM_STEPS, SEED = 256, 20, 0
CASES = {
    "adv2-2": ("resnet4b_adv2", 2 / 255),
    "adv2-8": ("resnet4b_adv2", 8 / 255),
    "resnet20-1": ("resnet20", 1 / 255),
}


def main(folder):
    with np.load(folder / "cifar10_test.npz") as data:
        images, labels = data["images"][:NUM_IMAGES], torch.from_numpy(data["labels"][:NUM_IMAGES])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    arrays = {"num_steps": np.array(NUM_STEPS)}
    for case, (network, radius) in CASES.items():
        model = load(network, folder)
        attack = torchattacks.PGD(model, eps=radius, alpha=radius / 4, steps=NUM_STEPS)
        torch.manual_seed(SEED)
        attacked = attack(images, labels)
        with torch.no_grad():
            robust = model(attacked).argmax(1) == labels
        arrays[f"{case}/robust"] = robust.numpy()
        print(f"{case}: robust {robust.float().mean():.4f}")
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
