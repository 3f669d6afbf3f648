"""What is scored or differentiated: a function of parameters, a key and one image to logits."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rainjax._arrays import check_key
from rainjax._checks import check_fields, check_image, check_num_classes
from rainjax._values import Value
from rainjax.defenses._base import (
    Defense,
    Identity,
    apply_draw,
    is_number,
    num_outcomes,
    stratifies,
)
from rainjax.nets._network import Network
from rainjax.typing import Draw, Image, Label, Logits, Params, PRNGKey, Stratum

# What the rounding of a defense's arithmetic may add to a border of [0, 1].
RANGE_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Pipeline(Value):
    """All that a threat model needs to know of what it attacks; a value, without its parameters.

    Subclass it for a pipeline that is no classifier behind a defense: implement `init` and
    `logits`, and say whether it is random, and whether it has a gradient.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters."""

    @abc.abstractmethod
    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the logits for one image, under the randomness of `key`."""

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns the logits under a key, or under another draw that an attacker may ask for.

        Where nothing is random, every draw of an even set is the same one.

        Raises:
            TypeError: the pipeline is random and the draw is no key, or it is an outcome's number.
        """
        if isinstance(draw, Stratum) and not self.is_random:
            draw = draw.key
        if isinstance(draw, Stratum) or is_number(draw):
            raise TypeError(f"{type(self).__name__} knows no draws but keys, not {draw}.")
        check_key(draw, type(self).__name__)
        return self.logits(params, draw, image)

    def checked_logits(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns `logits_of_draw` for a score; NaN where a part breaks its promises for `image`.

        What is broken must not look robust, on whichever image. Randomized smoothing has no use
        for it: its noise leaves [0, 1], and any function may follow it.

        Raises:
            TypeError: as `logits_of_draw`.
        """
        return self.logits_of_draw(params, draw, image)

    @property
    def is_random(self) -> bool:
        """Whether another key may give other logits: how many draws a score takes."""
        return True

    @property
    def differentiable(self) -> bool:
        """Whether `jax.grad` through `logits` means anything; False for a service, say."""
        return True

    @property
    def num_parts(self) -> int:
        """How many parts an attack asks about one by one, each a `rainjax.typing.Part`."""
        return 1

    @property
    def defended(self) -> bool:
        """Whether there is anything beside the classifier that an attacker may be blind to."""
        return True

    @property
    def rejection(self) -> str | None:
        """What an attacker has gained with a rejected image, "safe" (nothing) or "error" (all).

        None where every image is answered. Elsewhere the last logit is the rejection's: see
        `Guarded` and `fold_rejection`.
        """
        return None

    def map_defense(self, change: Callable[[Defense], Defense]) -> "Pipeline | None":
        """Returns this pipeline with `change(defense)` for its defense, None where it has none.

        That is how a surrogate looks inside, whatever stands around the defense. The parameters
        are the same.
        """
        del change
        return None

    def undefended(self) -> "Pipeline | None":
        """Returns what is left without a defense, for who is blind to it; None where all is."""
        return self.map_defense(lambda defense: Identity())

    def purify(self, params: Params, draw: Draw, image: Image) -> Image | None:
        """Returns the image that the classifier sees, to be looked at; None if there is none."""
        del params, draw, image
        return None

    def num_outcomes(self, height: int) -> int | None:
        """Returns how many outcomes can be asked for by number; None where there is no list."""
        del height
        return None

    @property
    def stratifies(self) -> bool:
        """Whether stratified draws are spread evenly; by default if nothing is random."""
        return not self.is_random

    def check_params(self, params: Params) -> None:
        """Raises ValueError where `params` cannot be this pipeline's; by default never."""
        del params

    def used(self, params: Params) -> Params:
        """Returns the part of `params` that decides the logits: by default all of it."""
        return params

    def predict(self, params: Params, key: PRNGKey, image: Image) -> Int[Array, ""]:
        """Returns the most likely class under one draw; of a rejection the number of classes."""
        return jnp.argmax(self.logits(params, key, image))

    def vote(self, params: Params, keys: Key[Array, "votes"], image: Image) -> Int[Array, ""]:
        """Returns the class that most draws choose; of several, the one with least number.

        A different thing from averaging gradients (EOT): this is the defender's.
        """
        logits = jax.vmap(lambda key: self.logits(params, key, image))(keys)
        return majority(jnp.argmax(logits, axis=-1), logits.shape[-1])

    def num_classes(self, params: Params, image: Any) -> int:
        """Returns the number of classes, without computing anything; `image` may be a shape."""
        shape = jax.ShapeDtypeStruct(image.shape, jnp.float32)
        return jax.eval_shape(self.logits, params, jax.random.key(0), shape).shape[0]


@dataclasses.dataclass(frozen=True)
class Defended(Pipeline):
    """An unchanged `classifier` that sees images only through `defense`.

    Its parameters are `{"defense": ..., "classifier": ...}`. The pipeline that is scored and
    the surrogate that an attacker differentiates are two such values over one set of them.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import Defended, nets
    >>> from rainjax.defenses import BitDepth
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jnp.ones((192, 10)))
    >>> pipeline = Defended(BitDepth(3), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> pipeline.logits(params, jax.random.key(0), jnp.ones((8, 8, 3))).shape
    (10,)

    Raises:
        ValueError: a part is something else, or the two are swapped; says what to make of it.
    """

    defense: Defense
    classifier: Network

    def __post_init__(self):
        if isinstance(self.defense, Network) and isinstance(self.classifier, Defense):
            network, defense = type(self.defense).__name__, type(self.classifier).__name__
            raise ValueError(
                f"Defended takes the defense first, and {network} is a network: write "
                f"Defended(defense={defense}(...), classifier={network}(...))."
            )
        check_fields(self)

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of both parts."""
        defense_key, classifier_key = jax.random.split(key)
        return {
            "defense": self.defense.init(defense_key),
            "classifier": self.classifier.init(classifier_key),
        }

    @property
    def is_random(self) -> bool:
        """Whether the defense is."""
        return self.defense.is_random

    @property
    def defended(self) -> bool:
        """Whether the defense does anything."""
        return not isinstance(self.defense, Identity)

    def map_defense(self, change: Callable[[Defense], Defense]) -> "Defended":
        """Returns the classifier behind `change(defense)`."""
        return dataclasses.replace(self, defense=change(self.defense))

    def purify(self, params: Params, draw: Draw, image: Image) -> Image:
        """Returns the purified image.

        Raises:
            ValueError: the defense returns something else than an image like the one that came.
        """
        purified = apply_draw(self.defense, params["defense"], draw, image)
        wanted, given = (_shape_and_type(x) for x in (image, purified))
        if given != wanted:
            raise ValueError(
                f"{type(self.defense).__name__} returned {given} for an image of {wanted}: a "
                "defense returns an image of the shape and type that came in."
            )
        return purified

    def num_outcomes(self, height: int) -> int | None:
        """Returns the number of the defense's outcomes, None where it lists none."""
        return num_outcomes(self.defense, height)

    @property
    def stratifies(self) -> bool:
        """Whether the defense's are."""
        return stratifies(self.defense)

    def check_params(self, params: Params) -> None:
        """Raises ValueError unless `params` are a dict of both parts'."""
        if not isinstance(params, dict) or set(params) != {"defense", "classifier"}:
            raise ValueError('Parameters must be {"defense": ..., "classifier": ...}.')

    def used(self, params: Params) -> Params:
        """Returns both parts, or the classifier's alone where there is no defense."""
        return params if self.defended else {"classifier": params["classifier"]}

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        """Returns the classifier's logits for the purified image; see `logits_of_draw`."""
        return self.logits_of_draw(params, key, image)

    def logits_of_draw(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns the classifier's logits for the image purified with one draw.

        They are NaN where the image or the purified one holds a NaN, whatever a draw leaves out
        and whatever the classifier makes of it.

        Raises:
            ValueError: the defense returns another shape or type, or the classifier no logits, or
                a single one; or the parameters are no pair, or a swapped one.
        """
        return self._seen_and_logits(params, draw, image)[1]

    def checked_logits(self, params: Params, draw: Draw, image: Image) -> Logits:
        """Returns `logits_of_draw`, and NaN where the purified image leaves [0, 1].

        Raises:
            ValueError: as `logits_of_draw`.
        """
        seen, logits = self._seen_and_logits(params, draw, image)
        within = (seen >= -RANGE_TOLERANCE) & (seen <= 1 + RANGE_TOLERANCE)
        return jnp.where(within.all(), logits, jnp.nan)

    def _seen_and_logits(self, params: Params, draw: Draw, image: Image) -> tuple[Image, Logits]:
        check_image(image, type(self).__name__)
        try:
            purified = self.purify(params, draw, image)
            logits = self.classifier.apply(params["classifier"], purified)
        except Exception as error:
            self._explain(params, error)
            raise
        kind, shape = getattr(logits, "dtype", None), getattr(logits, "shape", ())
        if kind is None or len(shape) != 1 or not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(
                f"{type(self.classifier).__name__} returned {_shape_and_type(logits)} for one "
                "image: a classifier returns its logits, floats of shape (classes,)."
            )
        check_num_classes(shape[0], type(self.classifier).__name__)
        broken = jnp.isnan(image).any() | jnp.isnan(purified).any()
        return purified, jnp.where(broken, jnp.nan, logits)

    def _explain(self, params: Params, error: Exception) -> None:
        """Raises ValueError if parameters that are no pair, or a swapped one, are the reason."""
        try:
            self.check_params(params)
        except ValueError as problem:
            raise problem from error
        try:
            own = jax.eval_shape(self.init, jax.random.key(0))
        except Exception:  # then there is nothing to compare them with
            return
        swapped = {"defense": own["classifier"], "classifier": own["defense"]}
        if _shapes(params) == _shapes(swapped) != _shapes(own):
            raise ValueError(
                "The parameters of the defense and of the classifier are swapped: give "
                '{"defense": params["classifier"], "classifier": params["defense"]}.'
            ) from error


def _shapes(params: Any) -> Any:
    leaves, structure = jax.tree.flatten(params)
    return [jnp.shape(leaf) for leaf in leaves], structure


def _shape_and_type(image: Any) -> str:
    if not hasattr(image, "dtype"):
        return f"a {type(image).__name__}"
    return f"{image.dtype} of shape {image.shape}"


def majority(votes: Int[Array, "votes"], num_classes: int) -> Int[Array, ""]:
    """Returns the most frequent class; of several, the one with the least number."""
    return jnp.argmax(jnp.bincount(votes, length=num_classes))


def fold_rejection(
    logits: Float[Array, "classes_and_rejection"],
    label: Label,
    *,
    is_label: Bool[Array, ""] | bool,
) -> Logits:
    """Returns the classes' logits, with that of the rejection, the last one, folded into them.

    It counts as the label, or as another class: the logit of the label, or the largest of the
    others, becomes the larger of its own and the rejection's. So the largest of what is returned
    is the label's exactly where a pipeline is right, or rejects and `is_label`; which takes a
    rejection that no class ties with, such as `Guarded`'s.
    """
    classes, rejection = logits[:-1], logits[-1]
    own = jnp.arange(len(classes)) == label
    other = jnp.arange(len(classes)) == jnp.argmax(jnp.where(own, -jnp.inf, classes))
    folded = jnp.where(is_label, own, other)
    return jnp.where(folded, jnp.maximum(classes, rejection), classes)
