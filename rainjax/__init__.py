"""Defenses that purify an image before an unchanged classifier, and honest attacks on them.

A table of contents; the modules hold more.

    pipeline     Defended, Pipeline      a classifier behind a defense, and what is like it
    guarded      Guarded                 a pipeline that a detector lets answer, or not
    ensemble     Ensemble                several pipelines that an attack differentiates together
    detectors    Detector, calibrate, ...
    defenses     RAIN, FeatureDistillation, JPEG, many more: values with pure functions
    attacks      PGD, EOT, many more     what is mounted against them
    gradients    expectation, BPDA, straight_through
    evaluation   run_attack, keep_worst, score, attack_batch, round_to_8bit
    run_ensemble, Member                 several attacks on the same images
    autoattack   AutoAttack              the usual ensembles
    universal    universal_perturbation  one perturbation for many images
    smoothing    Smoothed, certify       randomized smoothing: radii that no attack crosses
    contracts    check_defense, ...      for tests of your own defenses, attacks and detectors
    adapters     PyTorch, TensorFlow, Foolbox and ART, in both directions
    keys         example_keys, Purpose   every random draw has a path from its seed
    residuals    image_moments, ...      what attacks change: mean, symmetry, spectrum
    metrics      psnr, ssim, mscn, ...   quality of images; intervals for counted successes
    transforms, nets, data, zoo
"""

__version__ = "0.1.0.dev0"

from rainjax import (
    attacks,
    data,
    defenses,
    detectors,
    evaluation,
    metrics,
    nets,
    transforms,
    zoo,
)
from rainjax.attacks import EOT, PGD, Attack, fgsm
from rainjax.contracts import check_attack, check_defense, check_detector
from rainjax.defenses import (
    JPEG,
    RAIN,
    SHIELD,
    Chain,
    Defense,
    FeatureDistillation,
    Identity,
    MeanFieldRAIN,
)
from rainjax.ensemble import Ensemble
from rainjax.evaluation import attack_batch, keep_worst, run_attack, score, smoothing
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.smoothing import Smoothed, certify
from rainjax.gradients import BPDA, expectation, straight_through
from rainjax.guarded import Guarded
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended, Pipeline

__all__ = [
    "BPDA",
    "EOT",
    "JPEG",
    "PGD",
    "RAIN",
    "SHIELD",
    "Attack",
    "AutoAttack",
    "Chain",
    "Defended",
    "Defense",
    "Ensemble",
    "FeatureDistillation",
    "Guarded",
    "Identity",
    "MeanFieldRAIN",
    "Member",
    "Pipeline",
    "Purpose",
    "Smoothed",
    "attack_batch",
    "attacks",
    "certify",
    "check_attack",
    "check_defense",
    "check_detector",
    "data",
    "defenses",
    "detectors",
    "evaluation",
    "example_keys",
    "expectation",
    "fgsm",
    "keep_worst",
    "metrics",
    "nets",
    "run_attack",
    "run_ensemble",
    "score",
    "smoothing",
    "straight_through",
    "transforms",
    "zoo",
]
