"""Detectors and images to fit them on that cannot be, refused in one sentence."""

import dataclasses

import numpy as np
import pytest

from rainjax.defenses import BitDepth, GaussianNoise, Identity
from rainjax.detectors import (
    Disagreement,
    DrawDisagreement,
    Energy,
    LocalIntrinsicDimensionality,
    Mahalanobis,
    MaxSoftmax,
    NaturalStatistics,
    feature_squeezing,
)
from tests.detectors.test_baselines import IMAGES, KEY, LABELS, Mean
from tests.tiny import RESNET_TINY, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Energy(Mean(), 0.0), r"^temperature=0.0 must be positive and finite"),
        (lambda: Energy(Mean(), np.inf), r"^temperature=inf must be positive and finite"),
        (lambda: Disagreement(Mean(), ()), r"^defenses=\(\) has nothing to disagree with: give"),
        (lambda: Disagreement(Mean(), BitDepth()), r"^defenses=BitDepth\(.* must be a tuple"),
        (lambda: feature_squeezing(Mean(), "medium"), "^images='medium' is none of 'small', 'l"),
        (lambda: DrawDisagreement(Mean(), BitDepth()), "^DrawDisagreement takes a random defense,"
         r" and BitDepth always does the same: give Disagreement\(network, \(BitDepth\(\.\.\."),
        (lambda: DrawDisagreement(Mean(), GaussianNoise(), 1), "^num_draws=1 must be at least 2"),
        (lambda: NaturalStatistics("mirror"), "^border='mirror' is none of 'zeros', 'edge'"),
        (lambda: NaturalStatistics(shrinkage=0.0), r"^shrinkage=0.0 must lie in \(0, 1\]"),
        (lambda: Mahalanobis(Mean()), "^Features cannot look into Mean"),
        (lambda: Mahalanobis(RESNET_TINY, 0), "^num_classes=0 and num_features=None must be at"),
        (lambda: Mahalanobis(RESNET_TINY, num_features=-2), "num_features=-2 must be at least 1"),
        (lambda: Mahalanobis(RESNET_TINY, shrinkage=2.0), r"^shrinkage=2.0 must lie in \(0, 1\]"),
        (lambda: LocalIntrinsicDimensionality(RESNET_TINY, 1), "^num_neighbours=1 must be at le"),
        (lambda: LocalIntrinsicDimensionality(RESNET_TINY, 20, 20), "^num_references=20 must be "
         "above num_neighbours=20"),
        (lambda: LocalIntrinsicDimensionality(Mean()), "^Features cannot look into Mean"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES, None, r"^Mahalanobis.fit needs the class of every image: give labels"),
        (IMAGES, LABELS[:5], r"^labels must be 12 whole numbers, one for each image, got int64 "),
        (IMAGES, LABELS / 2, r"^labels must be 12 whole numbers, .* got float64 of shape"),
        (IMAGES, LABELS + 8, r"^labels hold 10, and num_classes=10 has classes 0 to 9: give num"),
        (IMAGES, LABELS - 1, r"^labels hold -1, and num_classes=10 has classes 0 to 9"),
        (IMAGES[:1], LABELS[:1], r"^Mahalanobis.fit takes at least 2 clean images, got 1: give"),
        (IMAGES[0], LABELS, r"^labels must be 16 whole numbers, one for each image"),
        ((255 * IMAGES).astype(np.uint8), LABELS, r"of floats in \[0, 1\], got uint8 of shape"),
        (np.where(np.arange(12)[:, None, None, None] == 3, np.nan, IMAGES).astype(np.float32),
         LABELS, r"^Mahalanobis.fit: image 3 has features that are not finite: look for NaN"),
    ],
)  # fmt: skip
def test_what_cannot_be_fit_is_refused(images, labels, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        Mahalanobis(RESNET_TINY).fit({"network": RESNET_TINY.init(KEY)}, images, labels)


def test_wrong_numbers_of_features_references_and_parameters_are_refused():
    params = {"network": RESNET_TINY.init(KEY)}
    with unchecked():
        with pytest.raises(ValueError, match="num_features=5, and its network 32 features: give"):
            Mahalanobis(RESNET_TINY, num_features=5).fit(params, IMAGES, LABELS)
        with pytest.raises(ValueError, match="takes at least 500 clean images, got 12: give more"):
            LocalIntrinsicDimensionality(RESNET_TINY).fit(params, IMAGES)
        one = MaxSoftmax(dataclasses.replace(RESNET_TINY, num_classes=1))
        with pytest.raises(ValueError, match=r"^ResNet returns 1 logit for an image"):
            one.score(one.init(KEY), KEY, IMAGES[0])
        detector = Disagreement(Mean(), (Identity(), BitDepth()))
        with pytest.raises(ValueError, match="has 1 entries for 2 defenses: give one for each"):
            detector.score({"network": Mean().init(KEY), "defenses": ((),)}, KEY, IMAGES[0])
