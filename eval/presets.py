"""The studies that have a name."""

import pathlib

from eval.config import Robustness, Transformations

QUICK = Robustness(
    name="quick",
    num_examples=256,
    num_eot_examples=64,
    num_sweep_examples=64,
    num_steps=10,
    num_eot=8,
    eot_sweep=(1, 4, 8, 16),
    radius_sweep=(4 / 255, 8 / 255),
    autoattack="rand",
    eight_bit=True,
    batch_size=64,
)

CIFAR10 = Robustness(
    name="cifar10",
    data="cifar10",
    classifier="cifar10_resnet20.npz",
    classifier_arch="resnet20",
    pretrained="cifar10_edsr",
    finetuned="cifar10_edsr_rain",
    batch_size=50,
)

IMAGENETTE96 = Robustness(
    name="imagenette96",
    data="imagenette96",
    split="validation",
    classifier=str(pathlib.Path("runs") / "imagenette96_mobilenet"),
    pretrained="imagenette96_edsr",
    finetuned="imagenette96_edsr_rain",
    shift_fraction=0.05,
    num_examples=300,
    num_eot_examples=64,
    num_sweep_examples=64,
    eot_sweep=(1, 4, 16),
    batch_size=32,
)

STUDIES = {
    "quick": (QUICK, "The built-in set with the shipped networks, in minutes on two cores."),
    "cifar10": (
        CIFAR10,
        "CIFAR-10 and a published ResNet-20: import the data first, give --classifier FILE.npz. "
        "80 minutes on two busy cores, 2.3 million gradients.",
    ),
    "imagenette96": (
        IMAGENETTE96,
        "Photographs at 96 pixels: import Imagenette and train the classifier first. 41 minutes "
        "on two busy cores, 270 thousand gradients.",
    ),
}


TRANSFORMATIONS = {
    "transformations": (
        Transformations(name="transformations"),
        "Every transformation side by side, on the built-in set.",
    ),
    "cifar10_transformations": (
        Transformations(
            name="cifar10_transformations",
            data="cifar10",
            classifier="cifar10_resnet20.npz",
            classifier_arch="resnet20",
            enhancer="cifar10_edsr",
            rain="cifar10_edsr_rain",
        ),
        "Every transformation in front of a published ResNet-20: import the data first, give "
        "--classifier FILE.npz. The README's options make it 45 minutes on two busy cores.",
    ),
    "nips2017_transformations": (
        Transformations(
            name="nips2017_transformations",
            data="nips2017",
            classifier="mobilenetv2.npz",
            classifier_arch="mobilenetv2",
            enhancer="imagenette96_edsr",
            rain="imagenette96_edsr_rain",
            shift_fraction=0.05,
            bank_data="imagenette224",
            num_steps=10,
            num_eot=4,
            num_examples=48,
            num_eot_examples=24,
            cw_steps=30,
            batch_size=24,
        ),
        "Every transformation of photographs at 224 pixels, not stored as JPEG: import the "
        "pictures of the NIPS 2017 competition and Imagenette (for quilting's patches) first, "
        "give --classifier FILE.npz of MobileNetV2's. Its blind attacks take half an hour on two "
        "cores, those that know the transformation longer.",
    ),
}


def any_study(name: str) -> Robustness | Transformations:
    """Returns the study of a name, of RAIN or of transformations side by side.

    Raises:
        ValueError: there is none.
    """
    if name not in STUDIES | TRANSFORMATIONS:
        known = ", ".join(STUDIES | TRANSFORMATIONS)
        raise ValueError(f"No study is called {name!r}; there are {known}.")
    return (STUDIES | TRANSFORMATIONS)[name][0]
