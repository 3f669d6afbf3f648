"""A pipeline that answers or rejects: a detector in front of what it protects."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rainjax._arrays import as_array, is_traced
from rainjax._checks import check_fields
from rainjax.defenses._base import Defense, is_number
from rainjax.detectors._base import Detector
from rainjax.pipeline import Pipeline
from rainjax.typing import Draw, Image, Logits, Params, PRNGKey, Stratum

_PARTS = ("pipeline", "detector", "threshold", "scale")
# The detector's draws are apart from those of the defense, whose draws are as without it.
_DETECTOR = 0x64657463


@dataclasses.dataclass(frozen=True)
class Guarded(Pipeline):
    """A `pipeline` that answers only where `detector` finds an image unsuspicious.

    Its parameters are `{"pipeline": ..., "detector": ..., "threshold": ..., "scale": ...}`, and
    `{"pipeline": params, **rainjax.detectors.calibrate(...)}` makes them. The detector sees the
    image that comes in; with a `Defended` pipeline this is a purifier and a detector in one.

    `logits` has one entry more than there are classes: the last one, the rejection, is the
    largest logit plus `scale` times what the score is above the threshold. So it is the largest
    exactly where an image is rejected (after Carlini and Wagner, 2017), and is differentiable
    wherever the detector and the pipeline are. `predict` returns the number of classes there.

    `rejected` says what an attacker has gained with a rejected image. `"safe"`: nothing, he has
    to be wrong *and* pass (Tramer, 2022). `"error"`: what he wanted, for the image got no right
    answer. Every attack and ladder follows it: a rejection counts as the label, or as another
    class. Of an image that nobody has moved a rejection is never right: an attacker who finds one
    rejected, or wrong, has nothing left to do. Where a score is steep the label's logit is far
    above all others, and a cross-entropy is flat: climb a margin.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import Defended, Guarded, Identity, data, zoo
    >>> from rainjax.detectors import MaxSoftmax, calibrate
    >>> entry = zoo.load("builtin_resnet")
    >>> pipeline = Defended(Identity(), entry.network)
    >>> detector = MaxSoftmax(entry.network)
    >>> clean, _ = data.load("builtin", "validation").get(np.arange(40))
    >>> threshold = calibrate(
    ...     detector, {"network": entry.params}, clean / np.float32(255), false_positive_rate=0.1
    ... )
    >>> guarded = Guarded(pipeline, detector)
    >>> params = {"pipeline": {"defense": (), "classifier": entry.params}, **threshold}
    >>> guarded.logits(params, jax.random.key(0), jnp.full((32, 32, 3), 0.5)).shape
    (11,)

    Raises:
        ValueError: a part is of another kind.
    """

    pipeline: Pipeline
    detector: Detector
    rejected: Literal["safe", "error"] = "safe"

    def __post_init__(self):
        check_fields(self)
        if self.pipeline.rejection is not None:
            raise ValueError(
                f"{type(self.pipeline).__name__} rejects images already: guard what it guards, "
                "with one detector."
            )

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters, with a threshold of zero."""
        pipeline_key, detector_key = jax.random.split(key)
        return {
            "pipeline": self.pipeline.init(pipeline_key),
            "detector": self.detector.init(detector_key),
            "threshold": jnp.zeros(()),
            "scale": jnp.ones(()),
        }

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the pipeline's logits and the rejection's; see `logits_of_draw`."""
        return self.logits_of_draw(params, key, image)

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns the pipeline's logits for one draw, and behind them that of the rejection.

        They are all NaN where the score is, or one of the pipeline's.

        Raises:
            ValueError: the pipeline refuses the image or the parameters.
            TypeError: the pipeline does not know such draws, or the detector is random and the
                draw is an outcome's number.
        """
        return self._joined(params, draw, image, self.pipeline.logits_of_draw)

    def checked_logits(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns `logits_of_draw`, and NaN where the pipeline breaks its promises for `image`.

        Raises:
            ValueError: as `logits_of_draw`.
            TypeError: as `logits_of_draw`.
        """
        return self._joined(params, draw, image, self.pipeline.checked_logits)

    @property
    def rejection(self) -> str:
        """What an attacker has gained with a rejected image."""
        return self.rejected

    @property
    def is_random(self) -> bool:
        """Whether the pipeline or the detector is."""
        return self.pipeline.is_random or self.detector.is_random

    @property
    def differentiable(self) -> bool:
        """Whether the pipeline and the detector are."""
        return self.pipeline.differentiable and self.detector.differentiable

    def map_defense(self, change: Callable[[Defense], Defense]) -> Pipeline | None:
        """Returns this with `change(defense)` for the pipeline's defense, None without one.

        A detector's gradient is its own, whatever stands in for that of the defense.
        """
        inner = self.pipeline.map_defense(change) if self.pipeline.defended else None
        return None if inner is None else dataclasses.replace(self, pipeline=inner)

    def undefended(self) -> Pipeline:
        """Returns the pipeline without a detector and without its defense."""
        return _Unguarded(self.pipeline.undefended() or self.pipeline)

    def unguarded(self) -> Pipeline:
        """Returns the pipeline without the detector, over the parameters of both."""
        return _Unguarded(self.pipeline)

    def purify(self, params: Params, draw: Draw, image: Image) -> Image | None:
        """Returns the image that the classifier sees."""
        return self.pipeline.purify(params["pipeline"], draw, image)

    def num_outcomes(self, height: int) -> int | None:
        """Returns the number of the pipeline's outcomes; None where the detector is random."""
        return None if self.detector.is_random else self.pipeline.num_outcomes(height)

    @property
    def stratifies(self) -> bool:
        """Whether the pipeline's draws are spread evenly."""
        return self.pipeline.stratifies

    def check_params(self, params: Params) -> None:
        """Raises ValueError unless `params` are a dict of all four parts."""
        if not isinstance(params, dict) or set(params) != set(_PARTS):
            raise ValueError(
                'Parameters of Guarded must be {"pipeline": ..., "detector": ..., "threshold": '
                '..., "scale": ...}: make them of {"pipeline": params, '
                "**rainjax.detectors.calibrate(detector, ...)}."
            )
        self.pipeline.check_params(params["pipeline"])
        for name in ("threshold", "scale"):
            _check_number(name, params[name])

    def used(self, params: Params) -> Params:
        """Returns all four parts, of the pipeline's what it uses."""
        return {**params, "pipeline": self.pipeline.used(params["pipeline"])}

    def num_classes(self, params: Params, image) -> int:
        """Returns the number of the pipeline's classes: the rejection is none."""
        return self.pipeline.num_classes(params["pipeline"], image)

    def score(self, params: Params, key: PRNGKey, image: Image):
        """Returns the detector's score of an image; rejected where it is above the threshold."""
        return self.detector.score(params["detector"], key, image)

    def _joined(self, params: Params, draw: Draw, image: Image, answer: Callable) -> Logits:
        logits = answer(params["pipeline"], draw, image)
        score = self.score(params, self._key(draw), image)
        if jnp.shape(score) != ():
            raise ValueError(
                f"{type(self.detector).__name__}.score returned shape {jnp.shape(score)} for one "
                "image: return one number, of shape ()."
            )
        above = params["scale"] * (score - params["threshold"])
        highest = jnp.max(logits)
        rejection = highest + above
        # No class ties with it, whatever the sum is rounded to: a tie would be no verdict.
        still, found = jax.lax.stop_gradient((highest, rejection))
        least, most = (jnp.nextafter(still, jnp.full_like(still, x)) for x in (jnp.inf, -jnp.inf))
        apart = jnp.where(above > 0, jnp.maximum(found, least), jnp.minimum(found, most))
        rejection += jax.lax.stop_gradient(apart - found)
        # XLA's maximum of many values passes over NaN on CPU.
        broken = jnp.isnan(logits).any() | jnp.isnan(above)
        return jnp.where(broken, jnp.nan, jnp.append(logits, rejection))

    def _key(self, draw: Draw) -> PRNGKey:
        if is_number(draw):
            if self.detector.is_random:
                raise TypeError(
                    f"{type(self.detector).__name__} is random and lists no outcomes: ask for "
                    f"keys, not for outcome {draw}."
                )
            return jax.random.key(0)
        if isinstance(draw, Stratum):
            draw = jax.random.fold_in(draw.key, draw.number)
        return jax.random.fold_in(draw, _DETECTOR)


def _check_number(name: str, given: Any) -> None:
    """Refuses a threshold or a scale that would reject nothing, or the wrong images."""
    array = as_array(name, given)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"params[{name!r}] must be one float, not {array.dtype} of shape {array.shape}: take "
            "what rainjax.detectors.calibrate returns."
        )
    if is_traced(array):
        return
    value = float(array)
    if not math.isfinite(value) or (name == "scale" and value <= 0):
        wanted = "finite and positive" if name == "scale" else "finite"
        raise ValueError(f"params[{name!r}]={value} must be {wanted}.")


@dataclasses.dataclass(frozen=True)
class _Unguarded(Pipeline):
    """What a guarded pipeline protects, over the same parameters: for who is blind to detectors.

    Detectors that protect the same pipeline share it, and so the attacks on it.
    """

    pipeline: Pipeline

    def init(self, key: PRNGKey) -> Params:
        return {"pipeline": self.pipeline.init(key)}

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        return self.pipeline.logits(params["pipeline"], key, image)

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        return self.pipeline.logits_of_draw(params["pipeline"], draw, image)

    def checked_logits(self, params: Params, draw: Draw, image: Image) -> Logits:
        return self.pipeline.checked_logits(params["pipeline"], draw, image)

    @property
    def is_random(self) -> bool:
        return self.pipeline.is_random

    @property
    def differentiable(self) -> bool:
        return self.pipeline.differentiable

    @property
    def defended(self) -> bool:
        return self.pipeline.defended

    @property
    def stratifies(self) -> bool:
        return self.pipeline.stratifies

    def num_outcomes(self, height: int) -> int | None:
        return self.pipeline.num_outcomes(height)

    def map_defense(self, change: Callable[[Defense], Defense]) -> Pipeline | None:
        inner = self.pipeline.map_defense(change)
        return None if inner is None else _Unguarded(inner)

    def purify(self, params: Params, draw: Draw, image: Image) -> Image | None:
        return self.pipeline.purify(params["pipeline"], draw, image)

    def check_params(self, params: Params) -> None:
        self.pipeline.check_params(params["pipeline"])
        for name in ("threshold", "scale"):
            _check_number(name, params[name])

    def used(self, params: Params) -> Params:
        return {"pipeline": self.pipeline.used(params["pipeline"])}

    def num_classes(self, params: Params, image) -> int:
        return self.pipeline.num_classes(params["pipeline"], image)
