"""Distortions by name, at five severities: the common-corruptions benchmark's, and three more."""

from rainjax.transforms.distortions.catalogue import (
    DISTORTIONS,
    SEVERITIES,
    Definition,
    Distortion,
    DistortionName,
    Scale,
    distort,
)

__all__ = [
    "DISTORTIONS",
    "SEVERITIES",
    "Definition",
    "Distortion",
    "DistortionName",
    "Scale",
    "distort",
]
