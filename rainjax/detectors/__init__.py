"""Detectors: functions of one image that say how suspicious it is, without changing it.

`rainjax.Guarded` puts one in front of a pipeline, which then answers or rejects.
"""

from rainjax.detectors._base import Detector, calibrate, score_images
from rainjax.detectors.quality import ImageQuality
from rainjax.detectors.teacher import TeacherSignals, full_reference_quality, teacher_signals

__all__ = [
    "Detector",
    "ImageQuality",
    "TeacherSignals",
    "calibrate",
    "full_reference_quality",
    "score_images",
    "teacher_signals",
]
