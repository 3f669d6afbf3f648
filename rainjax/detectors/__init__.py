"""Detectors: functions of one image that say how suspicious it is, without changing it.

`rainjax.Guarded` puts one in front of a pipeline, which then answers or rejects.
"""

from rainjax.detectors._base import Detector, calibrate, score_images

__all__ = ["Detector", "calibrate", "score_images"]
