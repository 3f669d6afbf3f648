"""What attacks ask of a pipeline, one draw at a time."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import losses
from rainjax.typing import Draw, Image, Label, Logits, LogitsFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelAndTarget:
    """The label of an image, and the class that a loss with two of them aims at.

    Outside of `vmap` it holds a batch.
    """

    label: Int[Array, "*n"]
    target: Int[Array, "*n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossGradient:
    """The mean loss at a point, its gradient, and the share of draws that were a success.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    gradient: Float[Array, "*n h w c"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossValue:
    """The mean loss at a point, and the share of draws that were a success.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CWLossValue:
    """The mean margin at a point, the mean of the hinges on it, and the share of successes.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    hinge: Float[Array, "*n"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CandidateClasses:
    """The label of an image, and the classes it is compared with: any without a logit is none.

    Outside of `vmap` it holds a batch.
    """

    label: Int[Array, "*n"]
    classes: Int[Array, "*n k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitDifferences:
    """The mean logits and margin at a point, and the gradient of each rival's lead.

    `gradients[i]` is that of the logit of `rivals.classes[i]` minus the label's, zero where
    there is no such class. Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    gradients: Float[Array, "*n k h w c"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@dataclasses.dataclass(frozen=True)
class LossAndGradient:
    """Asks for the loss and its gradient: what every gradient attack climbs.

    A value of its own, so that attacks that differ in radius or step size alone share one
    compiled gradient. With `targeted` the label is a class to be reached, and what is climbed
    the loss with its sign turned.
    """

    loss: str
    targeted: bool = False

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> LossGradient:
        """Returns the answer of one draw."""

        def climbed(image):
            logits = logits_fn(draw, image)
            value = losses.evaluate(self.loss, logits, query_args.label, query_args.target)
            return -value if self.targeted else value, logits

        (value, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        return LossGradient(
            value, gradient, succeeds(logits, query_args.label, self.targeted), logits
        )


@dataclasses.dataclass(frozen=True)
class LossOnly:
    """Asks for the loss alone, without a gradient: what a black-box attack is given."""

    loss: str
    targeted: bool = False

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> LossValue:
        """Returns the answer of one draw."""
        logits = logits_fn(draw, image)
        value = losses.evaluate(self.loss, logits, query_args.label, query_args.target)
        value = -value if self.targeted else value
        return LossValue(value, succeeds(logits, query_args.label, self.targeted), logits)


@dataclasses.dataclass(frozen=True)
class CWLossOnly:
    """Asks for the margin, and for minus what it lacks to `confidence`, without a gradient.

    Each draw has its own hinge (the `f_6` of Carlini and Wagner, 2017), so a mean of them goes
    on rising until the last draw is beaten, where a hinge on the mean margin would rest at the
    first half of them. `value` is the mean margin itself, and a draw is a success where its
    margin exceeds `confidence`. With `targeted` the label is a class to be reached.
    """

    confidence: float = 0.0
    targeted: bool = False

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> CWLossValue:
        """Returns the answer of one draw."""
        logits = logits_fn(draw, image)
        margin = losses.margin(logits, query_args.label)
        margin = -margin if self.targeted else margin
        lead = -self.confidence if self.targeted else self.confidence
        handicapped = logits.at[query_args.label].add(lead)
        success = succeeds(handicapped, query_args.label, self.targeted)
        return CWLossValue(margin, jnp.minimum(margin - self.confidence, 0.0), success, logits)


@dataclasses.dataclass(frozen=True)
class CWLoss:
    """Asks for what `CWLossOnly` does, and for the gradient of the hinge."""

    confidence: float = 0.0
    targeted: bool = False

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> LossGradient:
        """Returns the answer of one draw."""
        level = CWLossOnly(self.confidence, self.targeted)

        def climbed(image):
            answer = level(logits_fn, draw, image, query_args)
            return answer.hinge, answer

        gradient, answer = jax.grad(climbed, has_aux=True)(image)
        return LossGradient(answer.value, gradient, answer.success, answer.logits)


@dataclasses.dataclass(frozen=True)
class LogitGradients:
    """Asks for the logits, and how `num_classes` rivals of the label gain on it.

    One forward pass and `num_classes` backward passes side by side: memory grows with the
    rivals asked about, never with all the classes there are. Which they are the caller says,
    so that every draw of a mean is asked about the same.
    """

    num_classes: int

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: CandidateClasses
    ) -> LogitDifferences:
        """Returns the answer of one draw.

        Raises:
            ValueError: `query_args` names another number of rivals.
        """
        if query_args.classes.shape != (self.num_classes,):
            raise ValueError(
                f"LogitGradients({self.num_classes}) was asked about "
                f"{query_args.classes.shape[0]} classes: pad them with -1."
            )
        logits, pull = jax.vjp(lambda x: logits_fn(draw, x), image)
        num = logits.shape[0]
        exists = (query_args.classes >= 0) & (query_args.classes < num)
        ahead = (
            jax.nn.one_hot(query_args.classes, num) - jax.nn.one_hot(query_args.label, num)[None]
        )
        ahead = jnp.where(exists[:, None], ahead, 0.0).astype(logits.dtype)
        gradients = jax.vmap(lambda cotangent: pull(cotangent)[0])(ahead)
        margin = losses.margin(logits, query_args.label)
        return LogitDifferences(
            margin, gradients, succeeds(logits, query_args.label, False), logits
        )


def succeeds(logits: Logits, label: Label, targeted: bool) -> Float[Array, ""]:
    """Returns 1 where the attacker has what he wants, 0 where not, NaN where logits are."""
    reached = (jnp.argmax(logits) == label) == targeted
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, reached.astype(logits.dtype))


def highest_wrong(num: int, logits: Logits, label: Label) -> Int[Array, "num"]:
    """Returns the `num` wrong classes with the highest logits, over again where there are fewer.

    Raises:
        ValueError: there is no class beside the label.
    """
    count = min(num, logits.shape[0] - 1)
    if count < 1:
        raise ValueError(f"{num} wrong classes are to be aimed at, and there is only one class.")
    wrong = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    highest = jax.lax.top_k(wrong, count)[1].astype(label.dtype)
    return highest[jnp.arange(num) % count]
