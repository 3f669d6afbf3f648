"""Writes apgd_torchattacks.npz: what torchattacks' APGD reaches on two CIFAR-10 networks.

Run from the root of the repository, with torch 2.13 and torchattacks 3.5.1 installed, and the
folder of images and weights given: python -m tests.golden.apgd_torchattacks ../shared/data

Stored per case and image: whether no visited point of the one run was misclassified, the
highest loss visited, and (`clean/<network>`) the predictions on the images themselves.
"""

import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from torch import nn

from tests.golden import resnet_torch

NUM_STEPS, SEED = 20, 0
# Network, norm, radius, loss, number of images.
CASES = {
    "adv2-linf2-ce": ("resnet4b_adv2", "Linf", 2 / 255, "ce", 256),
    "adv2-linf2-dlr": ("resnet4b_adv2", "Linf", 2 / 255, "dlr", 256),
    "adv2-linf8-ce": ("resnet4b_adv2", "Linf", 8 / 255, "ce", 256),
    "adv2-linf8-dlr": ("resnet4b_adv2", "Linf", 8 / 255, "dlr", 256),
    "adv2-l2-ce": ("resnet4b_adv2", "L2", 0.25, "ce", 256),
    "adv2-l2-dlr": ("resnet4b_adv2", "L2", 0.25, "dlr", 256),
    "resnet20-linf1-ce": ("resnet20", "Linf", 1 / 255, "ce", 256),
    "resnet20-linf1-dlr": ("resnet20", "Linf", 1 / 255, "dlr", 256),
}


class Block(nn.Module):
    def __init__(self, features_in, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, 1)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(features_in, features, 1, stride))

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet4b(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 32, 2), Block(32, 32, 1))
        self.linear1, self.linear2 = nn.Linear(512, 100), nn.Linear(100, 10)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.conv1(x))))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


class OfPixels(nn.Module):
    """A network of standardised images, given images in [0, 1]."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network = network
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (mean, std))

    def forward(self, x):
        return self.network((x - self.mean) / self.std)


def load(name, folder):
    network, mean, std = {
        "resnet20": (resnet_torch.ResNet(20), resnet_torch.MEAN, resnet_torch.STD),
        "resnet4b_adv2": (ResNet4b(), (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    }[name]
    with np.load(folder / "weights" / f"cifar10_{name}.npz") as arrays:
        network.load_state_dict({k: torch.from_numpy(arrays[k]) for k in arrays}, strict=False)
    return OfPixels(network, mean, std).eval()


def main(folder):
    with np.load(folder / "cifar10_test.npz") as data:
        images, labels = data["images"], torch.from_numpy(data["labels"])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    arrays = {"num_steps": np.array(NUM_STEPS)}
    for network in ("resnet4b_adv2", "resnet20"):
        model = load(network, folder)
        with torch.no_grad():
            arrays[f"clean/{network}"] = model(images[:256]).argmax(1).numpy().astype(np.int8)
    model = load("resnet4b_adv2", folder)
    with torch.no_grad():
        arrays["num_right"] = np.array((model(images).argmax(1) == labels).sum().item())
        arrays["logits"] = model(images[:2]).numpy()
    for case, (network, norm, radius, loss, number) in CASES.items():
        attack = torchattacks.APGD(
            load(network, folder), norm=norm, eps=radius, steps=NUM_STEPS, loss=loss
        )
        torch.manual_seed(SEED)
        _, right, value, _ = attack.attack_single_run(images[:number], labels[:number])
        arrays[f"{case}/robust"] = right.numpy().astype(bool)
        arrays[f"{case}/loss"] = value.numpy()
        print(f"{case}: robust {right.float().mean():.4f}, mean best loss {value.mean():.4f}")
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
