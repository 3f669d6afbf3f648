"""A classifier behind a defense."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from rainjax.defenses._base import Defense
from rainjax.nets._network import Network
from rainjax.typing import Draw, Image, Logits, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Defended:
    """An unchanged `classifier` that sees images only through `defense`.

    Its parameters are `{"defense": ..., "classifier": ...}`. The pipeline that is scored and
    the surrogate that an attacker differentiates are two such values over one set of them.
    """

    defense: Defense
    classifier: Network

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of both parts."""
        defense_key, classifier_key = jax.random.split(key)
        return {
            "defense": self.defense.init(defense_key),
            "classifier": self.classifier.init(classifier_key),
        }

    def logits(self, params: Params, key: Draw, image: Image) -> Logits:
        """Returns the classifier's logits for the image purified with one draw.

        They are NaN where the image or the purified one holds a NaN, whatever a draw leaves out
        and whatever the classifier makes of it.
        """
        purified = self.defense.apply(params["defense"], key, image)
        logits = self.classifier.apply(params["classifier"], purified)
        broken = jnp.isnan(image).any() | jnp.isnan(purified).any()
        return jnp.where(broken, jnp.nan, logits)

    def predict(self, params: Params, key: Draw, image: Image) -> Int[Array, ""]:
        """Returns the most likely class under one draw."""
        return jnp.argmax(self.logits(params, key, image))

    def vote(self, params: Params, keys: Key[Array, "votes"], image: Image) -> Int[Array, ""]:
        """Returns the class that most draws choose; of several, the one with least number.

        A different thing from averaging gradients (EOT): this is the defender's.
        """
        logits = jax.vmap(lambda key: self.logits(params, key, image))(keys)
        return majority(jnp.argmax(logits, axis=-1), logits.shape[-1])


def majority(votes: Int[Array, "votes"], num_classes: int) -> Int[Array, ""]:
    """Returns the most frequent class; of several, the one with the least number."""
    return jnp.argmax(jnp.bincount(votes, length=num_classes))
