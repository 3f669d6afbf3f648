"""What a teacher knows of an image and its reference, for a student that sees the image alone.

The signals are ours, in the spirit of the abstract of Feng and Cai's "Towards Robust
Classification with Image Quality Assessment" (arXiv 2004.06288), which is all of that paper that
is public.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rainjax._checks import check_option
from rainjax.metrics import gmsd, ms_ssim, ssim
from rainjax.nets import Features, Network
from rainjax.typing import Image, Label, Params

QualityMeasure = Literal["ssim", "ms_ssim", "gmsd"]

# GMSD's of a ruined photograph is about a third; there the quality made of it ends.
_WORST_GMSD = 0.35


class TeacherSignals(NamedTuple):
    """What `teacher_signals` says of one image beside its reference.

    Attributes:
        quality: How like the reference the image is, from 0 to 1.
        probs: The protected network's distribution on the reference, at a temperature.
        change: How far its features have moved: one minus the cosine of the angle between those
            on the reference and those on the image.
        errs: Whether it is wrong on the image.
    """

    quality: Float[Array, ""]
    probs: Float[Array, "classes"]
    change: Float[Array, ""]
    errs: Bool[Array, ""]


def full_reference_quality(
    image: Image, reference: Image, measure: QualityMeasure
) -> Float[Array, ""]:
    """Returns how like its reference an image is, from 0 to 1 for equal images.

    SSIM and MS-SSIM are taken as they are, where they are positive; GMSD `d` counts as
    `1 - d / 0.35`. MS-SSIM needs images of 161 pixels a side, SSIM of 11.

    Raises:
        ValueError: there is no such measure, or the images do not fit it.
    """
    check_option("measure", measure, QualityMeasure)
    if measure == "gmsd":
        quality = 1 - gmsd(image, reference) / _WORST_GMSD
    else:
        quality = (ssim if measure == "ssim" else ms_ssim)(image, reference)
    return jnp.clip(quality, 0.0, 1.0)


def teacher_signals(
    network: Network,
    params: Params,
    reference: Image,
    image: Image,
    label: Label | int,
    *,
    temperature: float = 4.0,
    measure: QualityMeasure = "ssim",
) -> TeacherSignals:
    """Returns what a teacher who has the reference, the label and the network says of an image.

    Args:
        network: The protected classifier, with its parameters.
        params: Its parameters.
        reference: The image before anybody changed it.
        image: What the student will see: the reference, distorted or attacked, or itself.
        label: The true class.
        temperature: What logits are divided by before the softmax.
        measure: The full-reference measure that quality is made of.

    Raises:
        ValueError: the temperature is not positive and finite, or as `nets.Features` and
            `full_reference_quality`.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{temperature=} must be positive and finite.")
    whole = Features(network)
    before, logits = whole.features_and_logits(params, reference)
    after, answer = whole.features_and_logits(params, image)
    cosine = jnp.vdot(before, after) / (jnp.linalg.norm(before) * jnp.linalg.norm(after) + 1e-12)
    return TeacherSignals(
        quality=full_reference_quality(image, reference, measure),
        probs=jax.nn.softmax(logits / temperature),
        change=jnp.maximum(1 - cosine, 0.0),
        errs=jnp.argmax(answer) != label,
    )


@functools.partial(jax.jit, static_argnames=("network", "temperature", "measure"))
def batch_signals(network, params, references, images, labels, *, temperature, measure):
    """Returns `teacher_signals` of a batch, compiled once for its shape.

    Args:
        network: The protected network.
        params: Its parameters.
        references: The images as they were, `n h w c` in [0, 1].
        images: The same images, distorted or attacked.
        labels: The right classes, of shape `n`.
        temperature: What logits are divided by before the softmax.
        measure: The full-reference quality measure.
    """
    one = functools.partial(teacher_signals, network, temperature=temperature, measure=measure)
    return jax.vmap(one, (None, 0, 0, 0))(params, references, images, labels)
