"""Writes squeezenet_darknet_torch.npz: logits and input gradients of SqueezeNet and Tiny Darknet.

Both are written in PyTorch, at their published sizes, with Caffe's and Keras's names of their
arrays, in PyTorch's order of axes. Run from the root of the repository, with torch 2.13 installed:
python -m tests.golden.squeezenet_darknet_torch
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.golden import seeded

# SqueezeNet resizes its pictures to 64 squared. Tiny Darknet's is odd behind the first pool.
SIZE = 64
PICTURES = {
    "squeezenet": {"enlarged": (46, 56), "shrunk": (80, 107)},
    "tinydarknet": {"as_it_is": (46, 54)},
}


class Fire(nn.Module):
    def __init__(self, features_in, squeezed, expanded):
        super().__init__()
        self.conv1x1_1 = nn.Conv2d(features_in, squeezed, 1)
        self.conv1x1_2 = nn.Conv2d(squeezed, expanded, 1)
        self.conv3x3_2 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.conv1x1_1(x))
        return torch.cat([F.relu(self.conv1x1_2(x)), F.relu(self.conv3x3_2(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.fire2, self.fire3 = Fire(96, 16, 64), Fire(128, 16, 64)
        self.fire4, self.fire5 = Fire(128, 32, 128), Fire(256, 32, 128)
        self.fire6, self.fire7 = Fire(256, 48, 192), Fire(384, 48, 192)
        self.fire8, self.fire9 = Fire(384, 64, 256), Fire(512, 64, 256)
        self.conv10 = nn.Conv2d(512, 1000, 1)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = 255 * x.flip(1) - torch.tensor([104.0, 117.0, 123.0])[:, None, None]
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(self.fire4(self.fire3(self.fire2(x))))
        x = self.pool(self.fire8(self.fire7(self.fire6(self.fire5(x)))))
        return F.relu(self.conv10(self.fire9(x))).mean((2, 3))

    def named(self):
        """Returns the network's arrays by Caffe's names."""
        return {
            name.replace(".conv", "/conv"): array
            for name, array in self.state_dict(keep_vars=True).items()
        }


class TinyDarknet(nn.Module):
    def __init__(self):
        super().__init__()
        features = [3, 16, 32, 16, 128, 16, 128, 32, 256, 32, 256, 64, 512, 64, 512, 128, 1000]
        sizes = [3, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(features[i], features[i + 1], size, padding=size // 2, bias=i == 15)
            for i, size in enumerate(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in features[1:-1])

    def forward(self, x):
        for number, (conv, norm) in enumerate(zip(self.convs[:-1], self.norms, strict=True), 1):
            x = F.leaky_relu(norm(conv(x)), 0.1)
            if number in (1, 2, 6, 10):
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return self.convs[-1](x).mean((2, 3))

    def named(self):
        """Returns the network's arrays by Keras's names."""
        arrays = {f"conv2d_{i}/kernel": conv.weight for i, conv in enumerate(self.convs, 1)}
        arrays["conv2d_16/bias"] = self.convs[-1].bias
        for i, norm in enumerate(self.norms, 1):
            leaves = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            for name, leaf in zip(names, leaves, strict=True):
                arrays[f"batch_normalization_{i}/{name}"] = leaf
        return arrays


def main():
    arrays = {}
    for seed, (name, model) in enumerate(
        {"squeezenet": SqueezeNet(), "tinydarknet": TinyDarknet()}.items()
    ):
        named = model.eval().named()
        shapes = {key: tuple(array.shape) for key, array in named.items()}
        arrays[f"{name}/shapes"] = np.array(json.dumps(shapes))
        arrays[f"{name}/seed"] = np.array(seed)
        with torch.no_grad():
            for key, array in seeded.weights(shapes, seed=seed).items():
                named[key].copy_(torch.from_numpy(array))
        for kind, size in PICTURES[name].items():
            x = torch.from_numpy(seeded.picture(*size, seed=seed)).permute(2, 0, 1)
            x = x[None].requires_grad_()
            logits = model(x)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3])), x)
            arrays[f"{name}/{kind}/logits"] = logits[0].detach().numpy()
            arrays[f"{name}/{kind}/gradient"] = gradient[0].permute(1, 2, 0).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
