"""Writes square_fab_torchattacks.npz: what torchattacks reaches on a published ResNet-20.

Run from the root of the repository, with torch 2.13 and torchattacks 3.5.1 installed, and the
folder of real images and weights: python -m tests.golden.square_fab_torchattacks FOLDER
"""

import pathlib
import sys

import numpy as np
import torch
import torchattacks
from torch import nn

from tests.golden.resnet_torch import MEAN, STD, ResNet

NUM_IMAGES, NUM_FAB = 256, 64  # the first of the test images that the network gets right
QUERIES, SQUARE_RADIUS = 60, 8 / 255
STEPS, TARGETS = 10, 2


class Normalised(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))

    def forward(self, x):
        return self.model((x - self.mean) / self.std)


def main(folder: pathlib.Path):
    model = ResNet(20)
    with np.load(folder / "weights" / "cifar10_resnet20.npz") as stored:
        model.load_state_dict({k: torch.from_numpy(stored[k]) for k in stored}, strict=False)
    model = Normalised(model).eval()
    with np.load(folder / "cifar10_test.npz") as data:
        images, labels = data["images"][: 2 * NUM_IMAGES], data["labels"][: 2 * NUM_IMAGES]
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 255
    y = torch.from_numpy(labels)
    right = torch.nonzero(predicted(model, x) == y)[:NUM_IMAGES, 0]
    x, y = x[right], y[right]
    arrays = {"rows": right.numpy()}

    attack = torchattacks.Square(model, eps=SQUARE_RADIUS, n_queries=QUERIES)
    arrays["square_stands"] = (predicted(model, attack(x, y)) == y).numpy()
    print("square", arrays["square_stands"].mean())

    x, y = x[:NUM_FAB], y[:NUM_FAB]
    for norm, order in (("Linf", np.inf), ("L2", 2)):
        attack = torchattacks.FAB(model, norm, steps=STEPS, multi_targeted=True)
        nearest = torch.full((len(x),), torch.inf)
        for attack.target_class in range(2, TARGETS + 2):  # the label has rank 1
            found = attack.attack_single_run_targeted(x, y)
            lengths = torch.linalg.vector_norm((found - x).flatten(1), ord=order, dim=1)
            lengths[predicted(model, found) == y] = torch.inf
            nearest = torch.minimum(nearest, lengths)
        arrays[f"fab_{norm.lower()}"] = nearest.numpy()
        print(norm, np.quantile(nearest, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]))
        attack = torchattacks.FAB(model, norm, steps=STEPS, multi_targeted=False)
        found = attack.attack_single_run(x, y)
        lengths = torch.linalg.vector_norm((found - x).flatten(1), ord=order, dim=1)
        lengths[predicted(model, found) == y] = torch.inf
        arrays[f"fab_together_{norm.lower()}"] = lengths.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


@torch.no_grad()
def predicted(model, x):
    return torch.cat([model(part).argmax(1) for part in x.split(64)])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
