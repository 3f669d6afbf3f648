"""What a published protocol fixes, and where a measurement under its name deviates from it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax._values import Value
from rainjax.attacks import EOT, Attack
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.knowledge import Knowledge

_WORDS = {"": "attack", "eot.num_samples.": "draws a step"}
_MEMORY = (EOT, "chunk_size")  # how many draws are held at once, which is no result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published(metaclass=Named):
    """One threat model as a protocol publishes it: what a number under its name is held against.

    `attack` is the published attack as this library has it, `surrogate` what it differentiates
    and `knowledge` what it takes to know; `data` (by its TFDS name), `num_examples` and `network`
    are what it was measured on, `num_score_draws` under how many draws an image is scored, and
    `shots` how the protocol counts them; None where it fixes nothing. `differs` says what is done
    otherwise here whatever the options. With `most_propagations` an attack that costs an image
    more is refused.

    Raises:
        ValueError: a part is of another kind, or the attack costs more than the protocol allows.
    """

    protocol: str
    source: str
    attack: Attack | AutoAttack
    surrogate: Value
    knowledge: Knowledge
    data: str | None = None
    num_examples: int | None = None
    num_score_draws: int | None = None
    network: str | None = None
    shots: str = "one-shot"
    differs: tuple[str, ...] = ()
    most_propagations: int | None = None

    def __post_init__(self):
        check_fields(self)
        self.check(self.attack)

    def check(self, attack: Any) -> None:
        """Refuses an attack that the protocol has no room for.

        Raises:
            ValueError: it costs more propagations than the protocol allows; names both numbers.
        """
        if self.most_propagations is None:
            return
        forward, backward = propagations(attack)
        if forward + backward > self.most_propagations:
            raise ValueError(
                f"{type(attack).__name__} costs {forward + backward} propagations an image "
                f"({forward} forward, {backward} backward), and {self.protocol} allows "
                f"{self.most_propagations}: take fewer steps, draws, restarts or queries."
            )

    def deviations(
        self,
        *,
        attack: Any,
        surrogate: Value,
        knowledge: Knowledge,
        data: str,
        num_examples: int,
        num_score_draws: int,
        network: str,
    ) -> tuple[str, ...]:
        """Returns in words what a measurement does otherwise than published, empty if nothing.

        Args:
            attack: The attack that was run.
            surrogate: What it differentiated.
            knowledge: What the attacker knew.
            data: The name of the data set.
            num_examples: On how many images.
            num_score_draws: Under how many draws each was scored.
            network: The name of the classifier.
        """
        found = _differences(attack, self.attack)
        for name, is_here, was in (
            ("surrogate", surrogate, self.surrogate),
            ("knowledge", knowledge.name.lower(), self.knowledge.name.lower()),
            ("data", data, self.data),
            ("n", num_examples, self.num_examples),
            ("scoring draws", num_score_draws, self.num_score_draws),
            ("network", network, self.network),
        ):
            if was is not None and is_here != was:
                found.append(f"{name} {_text(is_here)} (published: {_text(was)})")
        return (*found, *self.differs)


def propagations(attack: Any) -> tuple[int, int]:
    """Returns how many forward and backward passes an attack makes per image, at most.

    As AttackBench counts them (Cinà et al., 2024): every call of the network is one, every
    differentiation of one of its outputs another, so a step of PGD costs two for each draw, and a
    query without gradient one. What stops early may have cost less.

    Raises:
        ValueError: it is no attack whose cost is known beforehand.
    """
    members = getattr(attack, "members", None)
    if members is not None:
        each = [propagations(member.attack) for member in members]
        return sum(forward for forward, _ in each), sum(backward for _, backward in each)
    if not isinstance(attack, Attack):
        raise ValueError(
            f"Of {type(attack).__name__} nobody knows beforehand how many propagations it costs: "
            "give an Attack, or an AutoAttack."
        )
    if _takes_gradients(attack):
        return attack.eot.num_parts * attack.eot.total(attack.num_calls), attack.num_gradients
    return attack.num_gradients, 0


@functools.cache
def _takes_gradients(attack: Attack) -> bool:
    """Whether what the attack is told has a gradient in it: found by tracing, at no cost."""

    def answer(image):
        label = jnp.array(0)
        state = attack.init(jax.random.key(0), image, label)
        point, about = attack.ask(state)
        logits_fn = lambda draw, image: image.ravel()[:10]
        asked = attack.query(logits_fn, jax.random.key(0), point, about)
        return jax.tree.leaves(asked)

    shape = getattr(attack, "image_shape", (32, 32, 3))
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    leaves = jax.eval_shape(answer, image)
    return any(leaf.shape[-3:] == image.shape for leaf in leaves)


def _differences(value: Any, was: Any, prefix: str = "") -> list[str]:
    """Returns in words the fields in which a value is another one than `was`."""
    if value == was:
        return []
    if type(value) is not type(was) or not dataclasses.is_dataclass(was):
        name = _WORDS.get(prefix, prefix.removesuffix(".").replace("num_", "").replace("_", " "))
        return [f"{name} {_text(value)} (published: {_text(was)})"]
    found = []
    for field in dataclasses.fields(was):
        if (type(was), field.name) != _MEMORY:
            parts = getattr(value, field.name), getattr(was, field.name)
            found += _differences(*parts, f"{prefix}{field.name}.")
    return found


def _text(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if not isinstance(value, float):
        return str(value)
    levels = value * 255
    whole = abs(levels - round(levels)) < 1e-6 and 0 < levels <= 32
    return f"{round(levels)}/255" if whole else f"{value:.4g}"
