"""Writes imagenet_torch.npz: logits and input gradients of torchvision's and timm's classifiers.

Beside them the names and shapes of the published sizes. Run from the root of the repository, with
torch 2.13, torchvision 0.28 and timm 1.0 installed: python -m tests.golden.imagenet_torch
"""

import json
import pathlib

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torchvision.models import mobilenet_v2, resnet
from torchvision.transforms.functional import normalize

from tests.golden import seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# After the first convolution 23 rows, which "same" and "torch" pad alike, and 28 columns, which
# they do not.
SIZE = (46, 56)

SMALL = {
    "mobilenetv2_torchvision": lambda: mobilenet_v2(
        num_classes=5, inverted_residual_setting=[[1, 8, 1, 1], [6, 16, 2, 2]]
    ),
    "mobilenetv2_timm": lambda: EfficientNet(
        decode_arch_def([["ds_r1_k3_s1_c8"], ["ir_r2_k3_s2_e6_c16"]]),
        num_classes=5,
        num_features=1280,
        act_layer=torch.nn.ReLU6,
    ),
    "resnet_basic": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5),
    "resnet_bottleneck": lambda: resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=5),
}

PUBLISHED = {
    "mobilenetv2_torchvision": mobilenet_v2,
    "mobilenetv2_timm": lambda: timm.create_model("mobilenetv2_100"),
    "resnet18_torchvision": resnet.resnet18,
    "resnet34_torchvision": resnet.resnet34,
    "resnet50_torchvision": resnet.resnet50,
    "resnet50_timm": lambda: timm.create_model("resnet50"),
}


def shapes_of(model):
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def main():
    arrays = {}
    for seed, (name, make) in enumerate(SMALL.items()):
        model = make().eval()
        shapes = {k: v for k, v in shapes_of(model).items() if "num_batches" not in k}
        weights = seeded.weights(shapes, seed=seed)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
        x = (
            torch.from_numpy(seeded.picture(*SIZE, seed=seed))
            .permute(2, 0, 1)[None]
            .requires_grad_()
        )
        logits = model(normalize(x, MEAN, STD))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3])), x)
        arrays |= {
            f"{name}/shapes": np.array(json.dumps(shapes)),
            f"{name}/seed": np.array(seed),
            f"{name}/logits": logits[0].detach().numpy(),
            f"{name}/gradient": gradient[0].permute(1, 2, 0).numpy(),
        }
    for name, make in PUBLISHED.items():
        arrays[f"published/{name}"] = np.array(json.dumps(shapes_of(make())))
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
