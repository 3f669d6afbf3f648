"""A pipeline with its parameters: what is tested, or what an attacker has of his own."""

import dataclasses

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.evaluation.names import check_name
from rainjax.pipeline import Pipeline
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(metaclass=Named):
    """A pipeline under test, with the parameters that it is tested with.

    `sources` says where parts of the parameters came from, by the names that `params` has at its
    top: `{"classifier": "builtin_resnet"}`. It is shown, and decides nothing: parameters are told
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
