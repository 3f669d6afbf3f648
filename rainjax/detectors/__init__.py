"""Detectors: functions of one image that say how suspicious it is, without changing it.

`rainjax.Guarded` puts one in front of a pipeline, which then answers or rejects.
"""

from rainjax.detectors._base import Detector, calibrate, score_images
from rainjax.detectors.disagreement import Disagreement, feature_squeezing
from rainjax.detectors.draw_disagreement import DrawDisagreement
from rainjax.detectors.energy import Energy
from rainjax.detectors.local_dimensionality import LocalIntrinsicDimensionality
from rainjax.detectors.mahalanobis import Mahalanobis
from rainjax.detectors.max_softmax import MaxSoftmax
from rainjax.detectors.natural_statistics import NaturalStatistics
from rainjax.detectors.quality import ImageQuality
from rainjax.detectors.teacher import TeacherSignals, full_reference_quality, teacher_signals

__all__ = [
    "Detector",
    "Disagreement",
    "DrawDisagreement",
    "Energy",
    "ImageQuality",
    "LocalIntrinsicDimensionality",
    "Mahalanobis",
    "MaxSoftmax",
    "NaturalStatistics",
    "TeacherSignals",
    "calibrate",
    "feature_squeezing",
    "full_reference_quality",
    "score_images",
    "teacher_signals",
]
