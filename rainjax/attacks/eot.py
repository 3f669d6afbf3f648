"""Expectation over transformation: how an attack averages what it asks over a defense's draws."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rainjax import gradients
from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.attacks.directions import Direction, JointDirection, OfAll, OfDraw
from rainjax.gradients import Draws
from rainjax.typing import Draw, Image, LogitsFn, Part, PRNGKey

Query = Callable[[LogitsFn, Draw, Image, Any], Any]
"""What is asked of one draw: `query(logits_fn, draw, image, query_args)`, a tree of numbers."""


@dataclasses.dataclass(frozen=True)
class EOT(metaclass=Named):
    """Averages every answer that an attack asks for over `num_samples` draws.

    One value for every attack (`PGD(eot=EOT(16))`, `CarliniWagner(eot=EOT(16))`), because an
    attack only ever sees means (expectation over transformation, Athalye et al., 2018).

    `chunk_size` draws are held in memory at once, all of them for None; it changes nothing
    else. `draws` are `"independent"`; or `"enumerated"`, the outcomes `0..num_samples-1` of a
    surrogate that lists them, whose mean is exact; or `"stratified"`, for a defense that can
    spread its draws evenly (RAIN: each pixel of a cell once in four draws, no shift twice
    before all were taken), which has the same mean and less variance.
    With `first` the number of draws grows evenly from it, at the first call, to
    `num_samples`, at the last; within one program they are then held one by one. With `common`
    every call sees the same draws. `average="logits"` differentiates the loss of the mean
    logits, another objective than the mean loss: that of an attacker of a classifier that
    averages its logits, and a success is one of the mean logits. It holds its draws' inputs,
    not one chunk. A `direction` makes something else of the draws' gradients than their mean.
    Every draw asks about `num_parts` parts of the pipeline, one after the other, and averages over
    them too: see `rainjax.Ensemble`, whose `fitted` sets it.

    >>> from rainjax import EOT
    >>> EOT(16).total(num_calls=10)
    160
    >>> EOT(16, first=2).total(num_calls=10)  # few draws at first, where any direction helps
    86

    Raises:
        ValueError: an option is of another kind, `chunk_size` does not divide the draws, or the
            options exclude each other.
    """

    num_samples: int = 1
    chunk_size: int | None = None
    draws: Draws = "independent"
    first: int | None = None
    common: bool = False
    average: Literal["gradients", "logits"] = "gradients"
    direction: Direction | JointDirection | None = None
    num_parts: int = 1

    def __post_init__(self):
        check_fields(self)
        gradients.check_chunk(self.num_samples, self.chunk_size)
        if self.num_parts < 1:
            raise ValueError(f"num_parts={self.num_parts} must be at least 1.")
        if self.direction is not None and self.average == "logits":
            raise ValueError(
                f"average='logits' has one gradient, and direction={self.direction} is made of "
                "those of all draws: leave either out."
            )
        if self.first is None:
            return
        if isinstance(self.direction, JointDirection):
            raise ValueError(
                f"first={self.first} lets the draws grow, and direction={self.direction} needs "
                "all of them together: leave either out."
            )
        if not 1 <= self.first <= self.num_samples:
            raise ValueError(
                f"first={self.first} must lie in 1..num_samples={self.num_samples}: draws grow."
            )
        if self.draws == "enumerated" or self.average == "logits":
            raise ValueError(
                f"first={self.first} lets the draws grow, which draws={self.draws!r} with "
                f"average={self.average!r} does not allow."
            )

    def count(self, call: int, num_calls: int) -> int:
        """Returns the number of draws at call `call` of `num_calls`."""
        if self.first is None or num_calls == 1:
            return self.num_samples
        return self.first + (self.num_samples - self.first) * call // (num_calls - 1)

    def total(self, num_calls: int, made: int | None = None) -> int:
        """Returns the number of draws of an attack, or of the first `made` of its calls."""
        made = num_calls if made is None else made
        return sum(self.count(call, num_calls) for call in range(made))

    def query(self, query: Query) -> Query:
        """Returns what is asked of one *outer* draw: see `outer`."""
        if self.average == "logits":
            query = _OfMeanLogits(query, self)
        if isinstance(self.direction, Direction):
            query = OfDraw(query, self.direction)
        if self.num_parts > 1:
            query = _OfParts(query, self.num_parts)
        if isinstance(self.direction, JointDirection):
            chunk = gradients.check_chunk(self.num_samples, self.chunk_size)
            return OfAll(query, self.direction, self.num_samples, chunk, self.draws)
        return query

    @property
    def outer(self) -> "EOT":
        """How the query's answers are averaged: what all draws make together is one answer."""
        inside = self.average == "logits" or isinstance(self.direction, JointDirection)
        return EOT(1, common=self.common) if inside else self

    def mean(
        self,
        query: Query,
        logits_fn: LogitsFn,
        key: PRNGKey,
        call: int | Int[Array, ""],
        num_calls: int,
        image: Image,
        query_args: Any,
    ) -> Any:
        """Returns the mean answer at call `call`, which may be traced.

        Args:
            query: What is asked of one draw.
            logits_fn: The pipeline, from a draw and an image `h w c` to logits.
            key: The root of the draws of this call.
            call: The number of the call, from 0; it decides how many draws there are.
            num_calls: How many calls the attack makes.
            image: The point that is asked about, `h w c` in [0, 1].
            query_args: What the attack says beside it, such as the label.
        """
        asked, outer = self.query(query), self.outer
        ask = lambda draw, image, query_args: asked(logits_fn, draw, image, query_args)
        if outer.first is None:
            mean = gradients.expectation(
                ask, outer.num_samples, chunk_size=outer.chunk_size, draws=outer.draws
            )
            return mean(key, image, query_args)
        counts = jnp.array([outer.count(c, num_calls) for c in range(num_calls)])
        count = counts[call]
        one = gradients.draw(key, 0, outer.draws)
        zeros = gradients.zeros_of(ask, one, image, query_args)

        def add(i, total):
            value = ask(gradients.draw(key, i, outer.draws), image, query_args)
            return jax.tree.map(jnp.add, total, value)

        total = jax.lax.fori_loop(0, count, add, zeros)
        return jax.tree.map(lambda t: t / count, total)


@dataclasses.dataclass(frozen=True)
class _OfParts:
    """Asks about each part of a pipeline under one draw, and averages the answers."""

    asked: Query
    num_parts: int

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Any) -> Any:
        asks: Any = logits_fn

        def of(number: int) -> Any:
            part_fn = lambda draw, image: asks(Part(draw, number), image)
            return self.asked(part_fn, draw, image, query_args)

        each = [of(number) for number in range(self.num_parts)]
        return jax.tree.map(lambda *values: sum(values) / self.num_parts, *each)


@dataclasses.dataclass(frozen=True)
class _OfMeanLogits:
    """Asks about the mean of the logits over the draws grown from one outer draw."""

    asked: Query
    eot: EOT

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Any) -> Any:
        def mean_logits(key, image):
            one = jax.checkpoint(lambda draw, image: logits_fn(draw, image))
            eot = self.eot
            mean = gradients.expectation(
                one, eot.num_samples, chunk_size=eot.chunk_size, draws=eot.draws
            )
            return mean(key, image)

        return self.asked(mean_logits, draw, image, query_args)
