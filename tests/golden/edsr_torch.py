"""Writes edsr_torch.npz: outputs and input gradients of an EDSR written in PyTorch.

Run from the root of the repository, with torch 2.13 installed: python -m tests.golden.edsr_torch
"""

import json
import pathlib

import numpy as np
import torch
from torch import nn

from tests.golden import seeded

MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Conv2d):
    """Adds `sign` times the mean colour; a 1x1 convolution, so that it has a place in the file."""

    def __init__(self, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * 255 * torch.tensor(MEAN)
        self.requires_grad_(False)


class Block(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x):
        return x + self.body(x)


class EDSR(nn.Module):
    """Maps `n 3 h w` in 0..255 to the same range at `scale` times the size."""

    def __init__(self, blocks, features, scale):
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, features, 3, padding=1))
        end = nn.Conv2d(features, features, 3, padding=1)
        self.body = nn.Sequential(*(Block(features) for _ in range(blocks)), end)
        stages = []
        for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
            stages += [
                nn.Conv2d(features, features * factor**2, 3, padding=1),
                nn.PixelShuffle(factor),
            ]
        self.tail = nn.Sequential(nn.Sequential(*stages), nn.Conv2d(features, 3, 3, padding=1))

    def forward(self, x):
        x = self.head(self.sub_mean(x))
        x = x + self.body(x)
        return self.add_mean(self.tail(x))


def run(model, image):
    """Returns the output and the gradient of half its squared norm, both in units of [0, 1]."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].requires_grad_()
    y = model(255 * x) / 255
    (gradient,) = torch.autograd.grad(0.5 * (y**2).sum(), x)
    return y[0].permute(1, 2, 0).detach().numpy(), gradient[0].permute(1, 2, 0).numpy()


def main():
    torch.manual_seed(0)
    arrays = {}
    for scale in (2, 3, 4):
        model = EDSR(blocks=2, features=8, scale=scale)
        image = seeded.picture(11, 14, seed=scale)
        output, gradient = run(model, image)
        arrays |= {f"x{scale}/weights/{k}": v.numpy() for k, v in model.state_dict().items()}
        arrays |= {f"x{scale}/image": image}
        arrays |= {f"x{scale}/output": output, f"x{scale}/gradient": gradient}

    model = EDSR(blocks=16, features=64, scale=2)
    learned = {k: v.shape for k, v in model.state_dict().items() if "mean" not in k}
    weights = seeded.weights(learned, seed=0)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    output, gradient = run(model, seeded.picture(12, 12, seed=0))
    arrays |= {"baseline/output": output, "baseline/gradient": gradient}
    arrays["baseline/shapes"] = np.array(json.dumps(learned))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    arrays["baseline/num_params"] = np.array(trainable)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
