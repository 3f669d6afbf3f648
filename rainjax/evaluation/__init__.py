"""Attacking, scoring and recording: from one batch to a whole study."""

from rainjax.evaluation import protocols
from rainjax.evaluation.batteries import adaptive, ladders
from rainjax.evaluation.certification import CertifyOptions, certify_study
from rainjax.evaluation.detection import Detection
from rainjax.evaluation.distorted import Distorted
from rainjax.evaluation.driver import run_attack
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.measures import Measure, Robustness, TopK
from rainjax.evaluation.merge import merge
from rainjax.evaluation.records import Record, Score, load_records
from rainjax.evaluation.rounding_certificate import (
    RoundingCertificate,
    RoundingCertificates,
    certify_rounding,
)
from rainjax.evaluation.run import evaluate
from rainjax.evaluation.sanity import SanityOptions, check_study
from rainjax.evaluation.scoring import attack_batch, keep_worst, round_to_8bit, score
from rainjax.evaluation.seeds import OverSeeds, SeedSpread, over_seeds
from rainjax.evaluation.shards import Shard, parse_shard, shard_of_array
from rainjax.evaluation.study import Study
from rainjax.evaluation.subject import Subject, joined
from rainjax.evaluation.threats import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Itself,
    MeanField,
    OwnGradient,
    RoundedOutputs,
    SoftRounding,
    Surrogate,
    ThreatModel,
    Transfer,
    WantsRejection,
    When,
    proved,
)

__all__ = [
    "CLEAN",
    "CertifyOptions",
    "ClassifierAlone",
    "Detection",
    "Distorted",
    "GradientOf",
    "IdentityGradient",
    "Itself",
    "Knowledge",
    "Ladder",
    "MeanField",
    "Measure",
    "OverSeeds",
    "OwnGradient",
    "Record",
    "Robustness",
    "RoundedOutputs",
    "RoundingCertificate",
    "RoundingCertificates",
    "SanityOptions",
    "Score",
    "SeedSpread",
    "Shard",
    "SoftRounding",
    "Study",
    "Subject",
    "Surrogate",
    "ThreatModel",
    "TopK",
    "Transfer",
    "WantsRejection",
    "When",
    "adaptive",
    "attack_batch",
    "certify_rounding",
    "certify_study",
    "check_study",
    "evaluate",
    "joined",
    "keep_worst",
    "ladders",
    "load_records",
    "merge",
    "over_seeds",
    "parse_shard",
    "protocols",
    "proved",
    "round_to_8bit",
    "run_attack",
    "score",
    "shard_of_array",
]
