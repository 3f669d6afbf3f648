"""A pipeline with its parameters: what is tested, or what an attacker has of his own."""

import dataclasses
from collections.abc import Sequence

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.ensemble import Combine, Ensemble
from rainjax.evaluation.names import check_name
from rainjax.pipeline import Pipeline
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(metaclass=Named):
    """A pipeline under test, with the parameters that it is tested with.

    `sources` says where parts of the parameters came from, by the names that `params` has at its
    top: `{"classifier": "builtin_resnet"}`; of several subjects that are `joined`, by their names.
    It is shown, and decides nothing: parameters are told
    apart by their content.
    """

    name: str
    pipeline: Pipeline
    params: Params = dataclasses.field(metadata={"by_content": True})
    sources: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_name(self.name)
        check_fields(self)
        self.pipeline.check_params(self.params)


def joined(name: str, subjects: Sequence[Subject], *, combine: Combine = "logits") -> Subject:
    """Returns several subjects as one: an `Ensemble` of their pipelines, with their parameters.

    As the source of a `Transfer` it is an attacker with several classifiers, all of whom a record
    names in its `sources`; as a subject it is a classifier that averages, where `combine` is
    "logits" or "probabilities".

    Raises:
        ValueError: there are fewer than two, two have one name, or they make no `Ensemble`.
    """
    names = [subject.name for subject in subjects]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"Two subjects to be joined are called {twice[0]!r}: give each its own.")
    pipeline = Ensemble(tuple(subject.pipeline for subject in subjects), combine)
    params = tuple(subject.params for subject in subjects)
    sources = {s.name: ", ".join(s.sources.values()) or s.name for s in subjects}
    return Subject(name, pipeline, params, sources)
