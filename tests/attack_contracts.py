"""Every public attack, with the promises that the contract tests hold it to."""

import dataclasses

import numpy as np

from rainjax.attacks import (
    APGD,
    EOT,
    FAB,
    NES,
    PGD,
    SPSA,
    VMI,
    ZOO,
    Admix,
    Attack,
    Boundary,
    CarliniWagner,
    CarliniWagnerLinf,
    DeepFool,
    ElasticNet,
    HopSkipJump,
    ImagePool,
    NoisyAPGD,
    RayS,
    ReachableOutputs,
    SelectivePGD,
    SequentialTest,
    SimBA,
    Square,
    SurFree,
    fgsm,
)
from rainjax.defenses import BitDepth, FeatureDistillation


@dataclasses.dataclass(frozen=True)
class AttackCase:
    """An attack, and the norm and the radius that it promises to keep to.

    `moves` says whether it moves every image, wherever its key leads it to: one that looks for
    the nearest success leaves those that are beaten already, and one that keeps the best it met
    those where a lucky draw was best.
    """

    name: str
    attack: Attack
    norm: str
    radius: float
    random: bool = True
    moves: bool = True


_POOL = ImagePool.of(
    np.random.default_rng(2).uniform(size=(8, 8, 8, 3)), np.array([0, 1, 2, 3, 0, 1, 2, 3])
)

ATTACKS = [
    AttackCase("fgsm", fgsm(8 / 255), "linf", 8 / 255),
    AttackCase("pgd", PGD(radius=0.6, step_size=0.5, num_steps=3), "linf", 0.6),
    AttackCase(
        "pgd_eot", PGD(num_steps=3, eot=EOT(4, chunk_size=2), random_start=False), "linf", 8 / 255
    ),
    AttackCase("pgd_best", PGD(num_steps=3, loss="margin", best_iterate=True), "linf", 8 / 255),
    AttackCase(
        "pgd_l2",
        PGD(norm="l2", radius=0.7, step_size=0.3, num_steps=2, num_restarts=2, momentum=0.9),
        "l2",
        0.7,
    ),
    AttackCase("vmi", VMI(num_steps=3, num_neighbors=3), "linf", 8 / 255),
    AttackCase(
        "vni_l2",
        VMI(
            norm="l2",
            radius=0.7,
            step_size=0.3,
            num_steps=2,
            num_neighbors=2,
            nesterov=True,
            eot=EOT(2),
        ),
        "l2",
        0.7,
    ),
    AttackCase(
        "admix",
        Admix(pool=_POOL, radius=0.1, step_size=0.05, num_steps=2, num_mixed=2, num_scales=2),
        "linf",
        0.1,
    ),
    AttackCase(
        "admix_l1",
        Admix(pool=_POOL, norm="l1", radius=3.0, step_size=1.0, num_steps=2, num_scales=1),
        "l1",
        3.0,
    ),
    AttackCase("noisy_apgd", NoisyAPGD(num_steps=5, eot=EOT(2)), "linf", 8 / 255),
    AttackCase(
        "noisy_apgd_l2", NoisyAPGD(norm="l2", radius=0.1, num_steps=4, num_restarts=2), "l2", 0.1
    ),
    AttackCase(
        "reachable",
        ReachableOutputs(defense=FeatureDistillation(), num_steps=3, num_restarts=2),
        "linf",
        8 / 255,
        moves=False,
    ),
    AttackCase(
        "reachable_l2",
        ReachableOutputs(
            defense=BitDepth(4), norm="l2", radius=0.7, num_steps=3, num_restarts=2, eot=EOT(2)
        ),
        "l2",
        0.7,
        moves=False,
    ),
    AttackCase(
        "reachable_undefended",
        ReachableOutputs(num_steps=3),
        "linf",
        8 / 255,
        moves=False,
    ),
    AttackCase("square", Square(num_queries=8, num_restarts=2), "linf", 8 / 255),
    AttackCase(
        "square_l2",
        Square(norm="l2", radius=0.7, num_queries=12, eot=EOT(2, common=True)),
        "l2",
        0.7,
    ),
    AttackCase("nes", NES(num_queries=65, num_pairs=16, step_size=0.02), "linf", 8 / 255),
    AttackCase(
        "nes_l2",
        NES(
            norm="l2",
            radius=0.7,
            loss="margin",
            num_queries=130,
            num_pairs=16,
            probe_size=0.1,
            step_size=0.3,
            eot=EOT(2),
        ),
        "l2",
        0.7,
    ),
    AttackCase(
        "spsa",
        SPSA(num_queries=70, num_pairs=16, probe_size=0.1, paired=False),
        "linf",
        8 / 255,
    ),
    AttackCase("simba", SimBA(num_queries=24), "linf", 8 / 255),
    AttackCase(
        "simba_dct",
        SimBA(norm="l2", radius=0.5, num_queries=30, basis="dct", low_frequencies=4),
        "l2",
        0.5,
    ),
    AttackCase(
        "zoo",
        ZOO(
            radius=0.5,
            confidence=100.0,
            initial_const=10.0,
            num_queries=80,
            num_search_steps=2,
            num_coordinates=8,
            probe_size=0.1,
            step_size=0.2,
            attack_sizes=((0, 2), (1, 4)),
            importance=True,
        ),
        "l2",
        0.5,
    ),
    # By labels alone; an image that every draw gets wrong already stays as it is.
    AttackCase(
        "boundary",
        Boundary(
            radius=3.0,
            num_queries=30,
            spherical_step=0.1,
            source_step=0.1,
            probe_every=2,
            success_share=1.0,
            eot=EOT(4),
        ),
        "l2",
        3.0,
        moves=False,
    ),
    AttackCase(
        "hop_skip_jump",
        HopSkipJump(
            radius=0.5,
            num_queries=40,
            initial_votes=4,
            gamma=500.0,
            success_share=1.0,
            eot=EOT(4, chunk_size=2),
        ),
        "l2",
        0.5,
        moves=False,
    ),
    AttackCase(
        "hop_skip_jump_linf",
        HopSkipJump(
            norm="linf",
            radius=0.15,
            num_queries=80,
            initial_votes=4,
            gamma=5000.0,
            success_share=0.8,  # of three draws all
            test=SequentialTest(margin=0.15, max_draws=3),
        ),
        "linf",
        0.15,
        moves=False,
    ),
    AttackCase(
        "rays",
        RayS(radius=0.05, num_queries=40, success_share=1.0, eot=EOT(4)),
        "linf",
        0.05,
        moves=False,
    ),
    AttackCase(
        "surfree",
        SurFree(radius=0.5, num_queries=40, num_orthogonal=3, success_share=1.0, eot=EOT(4)),
        "l2",
        0.5,
        moves=False,
    ),
    AttackCase("fab", FAB(radius=0.004, num_steps=3, num_targets=2), "linf", 0.004),
    AttackCase(
        "fab_together",
        FAB(radius=0.004, num_steps=3, num_targets=3, num_restarts=2, together=True, eot=EOT(2)),
        "linf",
        0.004,
    ),
    AttackCase(
        "fab_l2",
        FAB(norm="l2", radius=0.03, num_steps=2, num_targets=3, num_restarts=2, eot=EOT(2)),
        "l2",
        0.03,
    ),
    AttackCase("apgd", APGD(num_steps=5), "linf", 8 / 255),
    AttackCase(
        "apgd_l2", APGD(norm="l2", radius=0.1, loss="dlr", num_steps=4, num_restarts=2), "l2", 0.1
    ),
    AttackCase("apgd_l1", APGD(norm="l1", radius=3.0, loss="margin", num_steps=4), "l1", 3.0),
    AttackCase(
        "apgd_targets", APGD(num_targets=5, num_steps=3, eot=EOT(4, chunk_size=2)), "linf", 8 / 255
    ),
    AttackCase(
        "apgd_to_class", APGD(targeted=True, early_stop=True, num_steps=4), "linf", 8 / 255
    ),
    # Confidences that no image has at the start: all three have to go somewhere.
    AttackCase(
        "carlini_wagner",
        CarliniWagner(
            radius=0.5, confidence=100.0, num_search_steps=2, num_steps=4, step_size=0.1
        ),
        "l2",
        0.5,
    ),
    AttackCase(
        "carlini_wagner_linf",
        CarliniWagnerLinf(
            radius=0.04, confidence=100.0, num_search_steps=3, num_steps=5, eot=EOT(2)
        ),
        "linf",
        0.04,
    ),
    AttackCase(
        "elastic_net",
        ElasticNet(
            radius=2.0, confidence=100.0, num_search_steps=2, num_steps=3, initial_const=10.0
        ),
        "l1",
        2.0,
    ),
    AttackCase(
        "deepfool", DeepFool(radius=0.05, num_steps=3, eot=EOT(4)), "l2", 0.05, moves=False
    ),
    AttackCase(
        "deepfool_linf",
        DeepFool(norm="linf", radius=0.01, num_steps=3, success_share=0.8, eot=EOT(8)),
        "linf",
        0.01,
        moves=False,
    ),
]

# They need a pipeline that rejects.
ATTACKS_ON_DETECTORS = [
    AttackCase("selective", SelectivePGD(num_steps=4), "linf", 8 / 255, moves=False),
    AttackCase(
        "selective_l2",
        SelectivePGD(
            norm="l2", radius=0.7, step_size=0.2, num_steps=3, num_restarts=2, orthogonal=False
        ),
        "l2",
        0.7,
        moves=False,
    ),
    AttackCase(
        "pgd_rejection", PGD(num_steps=3, loss="rejection", best_iterate=True), "linf", 8 / 255
    ),
    AttackCase("pgd_acceptance", PGD(num_steps=3, loss="acceptance"), "linf", 8 / 255),
]
