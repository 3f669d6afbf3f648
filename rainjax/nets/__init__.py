"""Networks: super-resolution, blind spots and classification, the only home of Flax."""

from rainjax.nets._layers import num_params
from rainjax.nets._network import FlaxNetwork, Network
from rainjax.nets.blind_spot import BLIND_SPOT, BLIND_SPOT_SMALL, FBI_MASKS, BlindSpot, Mask
from rainjax.nets.carn_m import CARNM
from rainjax.nets.convert import from_torch, to_torch
from rainjax.nets.edsr import EDSR, EDSR_BASELINE, EDSR_SMALL
from rainjax.nets.features import Features
from rainjax.nets.imagenet_resnet import ImageNetResNet
from rainjax.nets.imdn import IMDN
from rainjax.nets.mobilenet import IMAGENETTE_CLASSES, MobileNetV2
from rainjax.nets.own import Model, from_flax, from_function, from_linen
from rainjax.nets.quality import QualityNet, QualityOutputs
from rainjax.nets.resnet import ResNet
from rainjax.nets.resnet4b import ResNet4b
from rainjax.nets.squeezenet import SqueezeNet
from rainjax.nets.tiny_darknet import TinyDarknet

__all__ = [
    "BLIND_SPOT",
    "BLIND_SPOT_SMALL",
    "CARNM",
    "EDSR",
    "EDSR_BASELINE",
    "EDSR_SMALL",
    "FBI_MASKS",
    "IMAGENETTE_CLASSES",
    "IMDN",
    "BlindSpot",
    "Features",
    "FlaxNetwork",
    "ImageNetResNet",
    "Mask",
    "MobileNetV2",
    "Model",
    "Network",
    "QualityNet",
    "QualityOutputs",
    "ResNet",
    "ResNet4b",
    "SqueezeNet",
    "TinyDarknet",
    "from_flax",
    "from_function",
    "from_linen",
    "from_torch",
    "num_params",
    "to_torch",
]
