"""A labelling service as a pipeline: a black box that studies and attacks by scores can ask."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Float

from rainjax._checks import check_image
from rainjax.defenses import Defense, Identity
from rainjax.defenses._base import apply_draw
from rainjax.pipeline import Pipeline
from rainjax.services._labeller import Labeller
from rainjax.services._pictures import Picture
from rainjax.services.words import fold, meanings
from rainjax.typing import Draw, Image, Logits, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Labelled(Pipeline):
    """A service behind a `defense`, as a classifier whose classes are the words of `vocabulary`.

    A logit is the logarithm of the confidence in the first label that means the word, by
    `services.words`, and that of `floor` where no label does. Where no word of the vocabulary is
    named all are equal, and the first counts as the answer: let that be one for everything else,
    which is no image's label. There is no gradient. Images are sent as whole grey levels. Every
    image that is not in the labeller's cache is a request, and an attack by queries sends
    thousands, so that the labeller of a service with a price needs `max_requests`. Two pipelines
    are equal where they hold the same labeller. Its parameters are the defense's.

    Raises:
        ValueError: `vocabulary` has fewer than two words or two that mean the same, `floor` does
            not lie in (0, 1), or nothing bounds what a service with a price is asked.
    """

    labeller: Labeller
    vocabulary: tuple[str, ...]
    defense: Defense = Identity()
    floor: float = 1e-4

    def __post_init__(self):
        super().__post_init__()
        if len({*map(fold, self.vocabulary)}) < max(2, len(self.vocabulary)):
            raise ValueError(
                f"vocabulary={self.vocabulary} must name two things or more, each once."
            )
        asked = self.labeller.service
        paid = asked.price > 0 and not asked.anonymous
        if paid and self.labeller.max_requests is None:
            raise ValueError(
                f"{asked.title} is paid for each picture, and an attack shows thousands: give the "
                "Labeller max_requests."
            )
        if not 0 < self.floor < 1:
            raise ValueError(f"floor={self.floor} must lie in (0, 1).")

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the defense."""
        return self.defense.init(key)

    @property
    def is_random(self) -> bool:
        """Whether the defense is: a service is taken to answer one picture in one way."""
        return self.defense.is_random

    @property
    def differentiable(self) -> bool:
        """No: nobody has a service's gradient."""
        return False

    @property
    def defended(self) -> bool:
        """Whether the defense does anything."""
        return not isinstance(self.defense, Identity)

    def map_defense(self, change: Callable[[Defense], Defense]) -> "Labelled":
        """Returns the service behind `change(defense)`."""
        return dataclasses.replace(self, defense=change(self.defense))

    def purify(self, params: Params, draw: Draw, image: Image) -> Image:
        """Returns the image that is sent, before it is rounded."""
        return apply_draw(self.defense, params, draw, image)

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the logarithms of confidences, one for each word of the vocabulary."""
        return self.logits_of_draw(params, key, image)

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns `logits` for the image purified with one draw."""
        check_image(image, type(self).__name__)
        seen = self.purify(params, draw, image)
        result = jax.ShapeDtypeStruct((len(self.vocabulary),), jnp.float32)
        ask = _OnHost(self)
        if jax.default_backend() == "cpu":  # pure_callback hangs there; see adapters/_foreign.py
            call = buffer_callback(functools.partial(_in_place, ask), result,
                                   vmap_method="sequential")  # fmt: skip
            return call(seen)
        return jax.pure_callback(ask, result, seen, vmap_method="sequential")

    def host_logits(self, image: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "classes"]:
        """Returns the logits of what the service answers about an image."""
        answer = self.labeller(Picture.of(image))
        logits = np.full(len(self.vocabulary), np.log(self.floor), np.float32)
        words = {fold(word): place for place, word in enumerate(self.vocabulary)}
        for label in reversed(answer):  # so that of two labels the more confident one counts
            for meaning in meanings(label) & words.keys():
                logits[words[meaning]] = np.log(max(label.confidence, self.floor))
        return logits


@dataclasses.dataclass(frozen=True)
class _OnHost:
    pipeline: Labelled

    def __call__(self, image: Any) -> np.ndarray:
        return self.pipeline.host_logits(np.asarray(image))


def _in_place(ask: _OnHost, context: Any, out: Any, image: Any) -> None:
    del context
    np.asarray(out)[...] = ask(image)
