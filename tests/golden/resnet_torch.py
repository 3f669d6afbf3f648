"""Writes resnet_torch.npz: logits and input gradients of CIFAR ResNets written in PyTorch.

Run from the root of the repository, with torch 2.13 installed: python -m tests.golden.resnet_torch
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.golden import seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    def __init__(self, features_in, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.stride, self.extra = stride, (features - features_in) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.extra, self.extra)))


class ResNet(nn.Module):
    def __init__(self, depth):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(*(Block(32 if i else 16, 32, 1 if i else 2) for i in range(n)))
        self.layer3 = nn.Sequential(*(Block(64 if i else 32, 64, 1 if i else 2) for i in range(n)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def main():
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    arrays = {}
    for depth in (8, 20):
        model = ResNet(depth).eval()
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if "num" not in k}
        weights = seeded.weights(shapes, seed=depth)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
        x = torch.from_numpy(seeded.picture(32, 32, seed=depth)).permute(2, 0, 1).requires_grad_()
        logits = model(((x - mean) / std)[None])
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3])), x)
        arrays |= {
            f"{depth}/shapes": np.array(json.dumps(shapes)),
            f"{depth}/logits": logits[0].detach().numpy(),
            f"{depth}/gradient": gradient.permute(1, 2, 0).numpy(),
        }
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
