"""Writes blind_spot_torch.npz: outputs and input gradients of an FBI-Net written in PyTorch.

The form for grey images, of one channel to two coefficients, with the one slope that the authors'
first PReLU has there. Run from the root of the repository, with torch 2.13 installed:
python -m tests.golden.blind_spot_torch
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.golden import seeded

# Kept taps, row by row, for the first layer, the second, and all others.
MASKS = ("111 101 111", "01010 10001 00100 10001 01010", "101 010 101")
CASES = {"small": (5, 8, 24, 20), "published": (17, 64, 13, 11)}  # layers, features, image


class Masked(nn.Module):
    def __init__(self, features_in, features, kind):
        super().__init__()
        rows = [[int(tap) for tap in row] for row in MASKS[kind].split()]
        self.register_buffer("mask", torch.tensor(rows, dtype=torch.float32), persistent=False)
        self.conv1 = nn.Conv2d(features_in, features, len(rows))
        self.dilation = (1, 1, 3)[kind]

    def forward(self, x):
        weight = self.conv1.weight * self.mask
        padding = self.dilation * (len(self.mask) // 2)
        return F.conv2d(x, weight, self.conv1.bias, padding=padding, dilation=self.dilation)


class Residual(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv1_1by1 = nn.Conv2d(features, features, 1)
        self.conv2_1by1 = nn.Conv2d(features, features, 1)
        self.activation1, self.activation2 = nn.PReLU(features, 0), nn.PReLU(features, 0)

    def forward(self, x):
        y = self.conv2_1by1(self.activation1(self.conv1_1by1(x)))
        return self.activation2((x + y) / 2)


class Layer(nn.Module):
    def __init__(self, features_in, features, kind):
        super().__init__()
        self.kind = kind
        self.add_module(f"new{kind + 1}", Masked(features_in, features, kind))
        self.activation_new1 = nn.PReLU(features_in, 0)
        if kind:
            self.activation_new2 = nn.PReLU(features, 0)
        self.residual_module = Residual(features)

    def forward(self, between, within):
        between = self.activation_new1(self.get_submodule(f"new{self.kind + 1}")(between))
        if within is None:
            return between, self.residual_module(between)
        return between, self.residual_module(self.activation_new2((between + within) / 2))


class FBINet(nn.Module):
    """Maps `n 1 h w` to two coefficients for each pixel."""

    def __init__(self, layers, features):
        super().__init__()
        self.names = ["new1", "new2", *(f"new_{i}" for i in range(layers - 2))]
        for i, name in enumerate(self.names):
            self.add_module(name, Layer(features if i else 1, features, min(i, 2)))
        self.activation, self.residual_module = nn.PReLU(features, 0), Residual(features)
        self.output_layer = nn.Conv2d(features, 2, 1)

    def forward(self, x):
        between, within, total = x, None, 0
        for name in self.names:
            between, within = self.get_submodule(name)(between, within)
            total = total + within
        return self.output_layer(self.residual_module(self.activation(total / len(self.names))))


def main():
    arrays = {}
    for seed, (name, (layers, features, height, width)) in enumerate(CASES.items()):
        model = FBINet(layers, features)
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        weights = seeded.weights(shapes, seed=seed)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        image = torch.from_numpy(seeded.picture(height, width, seed=seed)[..., :1])
        x = image.permute(2, 0, 1)[None].requires_grad_()
        y = model(x)
        (gradient,) = torch.autograd.grad(0.5 * (y**2).sum(), x)
        arrays |= {
            f"{name}/shapes": np.array(json.dumps(shapes)),
            f"{name}/num_params": np.array(sum(p.numel() for p in model.parameters())),
            f"{name}/output": y[0].permute(1, 2, 0).detach().numpy(),
            f"{name}/gradient": gradient[0].permute(1, 2, 0).numpy(),
        }
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
