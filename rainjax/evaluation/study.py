"""A study: pipelines, threat models and images, from which every measurement follows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rainjax._arguments import Named
from rainjax._checks import check_fields, check_kind, check_kind_of
from rainjax.attacks import Attack
from rainjax.data import ImageSet
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.compatibility import check_known_key, check_losses, check_outcomes
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.measures import Measure, Robustness
from rainjax.evaluation.names import check_apart, check_folder_name
from rainjax.evaluation.records import record_id
from rainjax.evaluation.rounding_certificate import RoundingCertificate
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.threats import ThreatModel, enumerated
from rainjax.pipeline import Pipeline
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Study(metaclass=Named):
    """What is measured: every subject under every threat model that applies to it.

    A value: `rainjax.evaluation.evaluate(study, out)` measures it, and whatever it has measured
    before is not measured again. All measurements are on the first `num_examples` of `images`
    (all of them for None), or on fewer where a threat model says so; one that has more gets as
    many as the study. Every image is scored
    under `num_score_draws` draws that no attack saw, where the pipeline is random. `seed` is the
    root of every draw; `batch_size` changes speed and memory, and no result. `displays` are
    shown by `rainjax.report`; `extras` write files that they need beside the records.

    Raises:
        ValueError: a part is of another kind, or the parts do not fit each other; says which.
    """

    name: str
    images: ImageSet
    subjects: Sequence[Subject]
    threats: Sequence[ThreatModel]
    num_examples: int | None = None
    num_score_draws: int = 5
    batch_size: int = 64
    seed: int = 0
    measure: Measure = Robustness()
    displays: Sequence[Any] = ()
    extras: Sequence[Any] = ()

    def __post_init__(self):
        check_folder_name(self.name)
        check_fields(self)
        for display in self.displays:
            check_kind_of(display, "rainjax.report", "Display", "Study(displays=...)")
        for extra in self.extras:
            check_kind_of(extra, "rainjax.evaluation", "Extra", "Study(extras=...)")
        for field in ("subjects", "threats"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty: a study measures at least one.")
        for field in ("num_examples", "num_score_draws", "batch_size"):
            given = getattr(self, field)
            if given is not None and given < 1:
                raise ValueError(f"{field}={given} must be at least 1.")
        self.measure.check(self.images.num_classes)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2**32-1.")
        if self.count > len(self.images):
            raise ValueError(
                f"num_examples={self.count}, but {self.images.name!r} has {len(self.images)} "
                f"images in its split {self.images.split!r}."
            )
        names = [subject.name for subject in self.subjects]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"Two subjects are called {twice[0]!r}: give each its own name.")
        check_apart(names, "subjects")
        check_apart([threat.name for threat in self.threats], "threat models")

    @property
    def count(self) -> int:
        """How many images there are to be measured on."""
        return len(self.images) if self.num_examples is None else self.num_examples


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One number of a study: a subject under a threat model, resolved for the study's images.

    `surrogate` and `attack` are None where nobody attacks; a `proof` says what nobody can change.
    """

    subject: Subject
    threat: ThreatModel
    surrogate: Pipeline | None
    attack: Attack | AutoAttack | Ladder | None
    num_examples: int
    proof: RoundingCertificate | None = None

    @property
    def norm(self) -> str | None:
        """The norm of the ball of the attack, or of the proof."""
        return getattr(self.proof or self.attack, "norm", None)

    @property
    def radius(self) -> float | None:
        """The radius of that ball; None where an attack looks for the nearest success."""
        return getattr(self.proof or self.attack, "radius", None)

    @property
    def attack_params(self) -> Params:
        """The parameters of the surrogate: the subject's, or those that the attacker has."""
        return self.threat.surrogate.params(self.subject.params)

    @property
    def num_draws(self) -> int:
        """How many draws the attack averages over."""
        return 1 if self.attack is None else self.attack.num_draws

    @property
    def num_steps(self) -> int:
        """How many steps the attack takes; of an attack without steps, how often it asks."""
        asks = self.attack.num_calls if isinstance(self.attack, Attack) else 0
        return getattr(self.attack, "num_steps", asks)

    @property
    def num_gradients(self) -> int:
        """What the attack costs per image."""
        return 0 if self.attack is None else self.attack.num_gradients

    @property
    def attacked(self) -> bool:
        """Whether somebody attacks, and not nobody, or bad quality alone."""
        return self.threat.knowledge is not Knowledge.NONE

    @property
    def rejection(self) -> str | None:
        """What the attacker has gained with a rejected image; None where nothing is rejected."""
        own = self.subject.pipeline.rejection
        if own is None or self.surrogate is None or self.threat.knowledge is Knowledge.TRANSFER:
            return own
        return self.surrogate.rejection or own

    @property
    def known_key(self) -> bool:
        """Whether the attacker holds the scoring draws."""
        return self.threat.knowledge is Knowledge.KEYS

    def deviations(self, data: str, num_score_draws: int) -> tuple[str, ...]:
        """Returns in words where it deviates from its published protocol, if it has one.

        `data` is the name of the data set that it is measured on.
        """
        published = self.threat.protocol
        if published is None:
            return ()
        published.check(self.attack)  # a surrogate may have fitted it to its outcomes
        classifier = getattr(self.subject.pipeline, "classifier", self.subject.pipeline)
        return published.deviations(
            attack=self.attack,
            surrogate=self.threat.surrogate,
            knowledge=self.threat.knowledge,
            data=data,
            num_examples=self.num_examples,
            num_score_draws=num_score_draws,
            network=type(classifier).__name__,
        )

    @property
    def id(self) -> str:
        """The name of the cell's record: unique within the study."""
        return record_id(
            self.subject.name,
            self.threat.name,
            norm=self.norm,
            radius=self.radius,
            num_draws=self.num_draws,
            num=self.num_examples,
        )


def cells(study: Study) -> list[Cell]:
    """Returns the cells of a study, cheap ones first.

    What two threat models would measure alike is one cell, with the tags of both.

    Raises:
        ValueError: a pipeline does not take these images, has another number of classes than
            they have, or two cells would be recorded under one name.
    """
    first = study.images.get(np.arange(1))[0][0]
    for threat in study.threats:
        if threat.source is not None:
            _check_fits(study, threat.source, first, f"The source of {threat.name!r},")
    found: dict[str, Cell] = {}
    for subject in study.subjects:
        _check_subject(study, subject, first)
        for threat in study.threats:
            cell = _cell(study, subject, threat, first.shape)
            if cell is None:
                continue
            other = found.get(cell.id)
            if other is not None:
                cell = _joined(other, cell)
            found[cell.id] = cell
    if not found:
        raise ValueError("No threat model applies to any subject: there is nothing to measure.")
    return sorted(found.values(), key=_cost)


def chosen(study: Study, names: Sequence[str] | None) -> list[Subject]:
    """Returns the subjects of these names, all of them for None.

    Raises:
        ValueError: the study has none of a name, or no name is given.
    """
    check_kind(study, Study, "study=...")
    there = {subject.name: subject for subject in study.subjects}
    if names is None:
        return list(study.subjects)
    if not names:
        raise ValueError("subjects is empty: name some of the study's, or leave it out for all.")
    for name in names:
        if name not in there:
            raise ValueError(f"subjects={name!r} is none of {', '.join(map(repr, there))}.")
    return [there[name] for name in dict.fromkeys(names)]


def check_classes(study: Study) -> None:
    """Refuses a set whose first images are of few of its classes.

    Raises:
        ValueError: it is sorted.
    """
    num = study.count
    classes = len(np.unique(study.images.labels(np.arange(num))))
    if num < 4 * study.images.num_classes or 2 * classes > study.images.num_classes:
        return
    everywhere = len(np.unique(study.images.labels(np.arange(len(study.images)))))
    if 2 * classes <= everywhere:  # a set may hold fewer classes than it has names
        raise ValueError(
            f"The first {num} images of {study.images.name!r} are of {classes} of its "
            f"{everywhere} classes: the set is sorted; shuffle it, for instance "
            "where it is imported with --shuffle."
        )


def _cell(
    study: Study, subject: Subject, threat: ThreatModel, shape: tuple[int, ...]
) -> Cell | None:
    num = min(study.count, threat.num_examples or study.count)
    if threat.attack is None:
        return Cell(subject, threat, None, None, num)
    if isinstance(threat.attack, RoundingCertificate):
        proof = threat.attack if threat.attack.applies(subject.pipeline, shape) else None
        return proof and Cell(subject, threat, None, None, num, proof)
    surrogate = threat.surrogate.of(subject.pipeline)
    if surrogate is None:
        return None
    where = f"{type(threat.surrogate).__name__}.of(pipeline), of {threat.name!r},"
    check_kind(surrogate, Pipeline, where, verb="returns")
    surrogate.check_params(threat.surrogate.params(subject.params))
    if threat.knowledge > Knowledge.SCORES and not surrogate.differentiable:
        return None
    attack = _fitted(threat, surrogate, shape[0])
    if isinstance(attack, Attack) and attack.sees_rejection and surrogate.rejection is None:
        return None
    if threat.knowledge is Knowledge.KEYS:
        if not subject.pipeline.is_random:
            return None
        draws = enumerated(attack.eot, study.num_score_draws)
        attack = dataclasses.replace(attack, eot=draws)
        check_known_key(attack, study.num_score_draws, True)
    if not isinstance(attack, AutoAttack):
        first = attack.attack if isinstance(attack, Ladder) else attack
        try:
            check_losses(first, study.images.num_classes)
            if threat.knowledge is not Knowledge.KEYS:
                check_outcomes(surrogate, first.eot, shape[0])
        except ValueError as error:
            raise ValueError(f"{threat.name!r} on {subject.name!r}: {error}") from error
    return Cell(subject, threat, surrogate, attack, num)


def _fitted(threat: ThreatModel, surrogate: Pipeline, height: int) -> Any:
    """Returns the attack as it fits the surrogate; of a ladder every rung does."""
    fitted, attack = threat.surrogate.fitted, threat.attack
    if not isinstance(attack, Ladder):
        return fitted(attack, surrogate, height)
    ladder = dataclasses.replace(attack, attack=fitted(attack.attack, surrogate, height))
    return ladder.on(is_random=surrogate.is_random)


def _joined(first: Cell, second: Cell) -> Cell:
    """Returns one cell for two of one name, or refuses them.

    They are one if only tags tell them apart: a record says what its attacker knows and does.
    """

    def says(cell: Cell) -> tuple[Any, ...]:
        threat = cell.threat
        known = threat.knowledge, threat.description, threat.protocol
        return cell.surrogate, cell.attack, cell.proof, *known

    if first.subject is not second.subject or says(first) != says(second):
        raise ValueError(
            f"Two measurements of one study would both be recorded as {first.id}: give the threat "
            "models names of their own."
        )
    tags = tuple(dict.fromkeys((*first.threat.tags, *second.threat.tags)))
    return dataclasses.replace(first, threat=dataclasses.replace(first.threat, tags=tags))


def _check_subject(study: Study, subject: Subject, first: np.ndarray) -> None:
    """Refuses a pipeline that these images do not fit, before hours are spent on the others."""
    _check_fits(study, subject, first, "The subject")
    measure = study.measure
    if measure.takes_rejections and subject.pipeline.rejection is None:
        raise ValueError(
            f"{type(measure).__name__} measures what a detector rejects, and the subject "
            f"{subject.name!r} rejects nothing: put its pipeline into rainjax.Guarded."
        )


def _check_fits(study: Study, subject: Subject, first: np.ndarray, what: str) -> None:
    height, width, channels = first.shape
    shape = jax.ShapeDtypeStruct(first.shape, jnp.float32)
    try:
        num = subject.pipeline.num_classes(subject.params, shape)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        why = f"its parameters have no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{what} {subject.name!r} does not fit {study.images.name!r}, images of {height} "
            f"x {width} x {channels}: {why}"
        ) from error
    if num != study.images.num_classes:
        raise ValueError(
            f"{what} {subject.name!r} tells {num} classes apart, but {study.images.name!r} "
            f"has {study.images.num_classes}: choose a classifier of this data set."
        )


def _cost(cell: Cell) -> tuple[bool, int, str]:
    return "table" not in cell.threat.tags, cell.num_gradients * cell.num_examples, cell.id
