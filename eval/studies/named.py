"""This repository's studies by name, with some of their subjects by short names."""

import dataclasses
from collections.abc import Sequence

from eval.studies import rain, transformations
from eval.studies.defenses import MAKERS
from eval.studies.rain import RAINStudy
from eval.studies.transformations import Transformations
from rainjax.evaluation import Study

_STUDIES = rain.STUDIES | transformations.STUDIES
_OF_RAIN = {
    "undefended": "no defense",
    "rain_pretrained": "RAIN, before fine-tuning",
    "rain_finetuned": "RAIN, fine-tuned",
}


def named(name: str) -> RAINStudy | Transformations:
    """Returns the options of the study of a name, of RAIN or of transformations side by side.

    Raises:
        ValueError: there is none.
    """
    if name not in _STUDIES:
        raise ValueError(f"No study is called {name!r}; there are {', '.join(_STUDIES)}.")
    return _STUDIES[name][0]


def with_rows(
    options: RAINStudy | Transformations,
    rows: Sequence[str],
    *,
    num_examples: int | None = None,
    finetuned: str | None = None,
) -> tuple[Study, tuple[str, ...]]:
    """Returns a study that has the subjects of these short names, and the names that it has.

    A study of transformations loads no others. `num_examples` is that of every threat model, and
    `finetuned` RAIN's EDSR after fine-tuning, instead of the study's own.

    Raises:
        ValueError: there is no subject of a name, or the parts do not fit each other.
    """
    titles = {name: maker.title for name, maker in MAKERS.items()}
    titles = titles if isinstance(options, Transformations) else _OF_RAIN
    for name in rows:
        if name not in titles:
            raise ValueError(f"rows={name!r} is none of {', '.join(titles)}.")
    changes = {}
    if num_examples is not None:
        changes = {"num_examples": num_examples, "num_eot_examples": num_examples}
    if isinstance(options, Transformations):
        rain_of = finetuned or options.rain
        options = dataclasses.replace(options, rows=tuple(rows), rain=rain_of, **changes)
    else:
        if num_examples is not None:
            changes["num_sweep_examples"] = num_examples
        finetuned = finetuned or options.finetuned
        options = dataclasses.replace(options, finetuned=finetuned, **changes)
    return options.study(), tuple(titles[name] for name in rows)
