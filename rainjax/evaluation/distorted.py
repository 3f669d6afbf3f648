"""Images that a camera, a file or a channel made worse, and perhaps somebody after it."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from rainjax.attacks import PGD, Attack
from rainjax.attacks._base import Goal
from rainjax.attacks.eot import EOT, Query
from rainjax.attacks.queries import LossOnly
from rainjax.transforms.distortions import Distortion, DistortionName, Scale
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistortedState:
    """The image after the distortion, and where the attack on it stands, if there is one.

    Outside of `vmap` it holds a batch.
    """

    image: Float[Array, "*n h w c"]
    attack: Any = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distorted(Attack):
    """Distorts an image by one of `rainjax.transforms.DISTORTIONS`, and asks nobody anything.

    In the place of a threat model's attack, with `Knowledge.NONE`, it makes a study of images of
    poor quality: `ThreatModel("pixelate 3", Distorted(distortion="pixelate", severity=3),
    ClassifierAlone(), Knowledge.NONE)`. Its draws are of the keys that an attack has.

    With PGD in `then`, somebody works on the poor image, around which lies the ball of that
    attack: `then=PGD(loss="acceptance")` makes it look fine to a detector. It is asked what that
    attack asks, of the draws of this one's `eot` where that is given and else of its own, and
    nothing leads back to the image before the distortion. A ladder doubles its draws alone.

    Raises:
        ValueError: there is no such distortion, severity or scale.
    """

    distortion: DistortionName
    severity: int = 3
    scale: Scale = "imagenet_c"
    then: PGD | None = None

    def __post_init__(self):
        super().__post_init__()
        Distortion(self.distortion, self.severity, self.scale)  # or says what it does not know
        if self.then is not None and self.then.eot != self.eot:
            average = self.then.eot if self.eot == EOT() else self.eot
            object.__setattr__(self, "eot", average)
            object.__setattr__(self, "then", dataclasses.replace(self.then, eot=average))

    @property
    def goal(self) -> Goal:
        """What the attack in `then` is for."""
        return super().goal if self.then is None else self.then.goal

    @property
    def sees_rejection(self) -> bool:
        """Whether the attack in `then` needs a pipeline that rejects."""
        return self.then is not None and self.then.sees_rejection

    @property
    def stops_early(self) -> bool:
        """Whether the attack in `then` leaves an image alone once it has succeeded."""
        return self.then is not None and self.then.stops_early

    @property
    def least_classes(self) -> int:
        """How many classes the attack in `then` needs."""
        return super().least_classes if self.then is None else self.then.least_classes

    @property
    def passes_per_draw(self) -> int:
        """What one draw of a question of the attack in `then` takes."""
        return super().passes_per_draw if self.then is None else self.then.passes_per_draw

    @property
    def norm(self) -> str:
        """How changes are measured in tables; there is no ball."""
        return "linf"

    @property
    def radius(self) -> None:
        """None: a distortion is as large as it is."""

    @property
    def num_calls(self) -> int:
        """It asks nothing, or what the attack in `then` asks."""
        return 0 if self.then is None else self.then.num_calls

    @property
    def query(self) -> Query:
        """What the attack in `then` asks; without one, nothing that is ever asked."""
        return LossOnly("margin") if self.then is None else self.then.query

    def init(self, key: PRNGKey, image: Image, label: Label) -> DistortedState:
        """Returns the image distorted, and the attack on it before its first question."""
        poor = Distortion(self.distortion, self.severity, self.scale).apply(key, image)
        if self.then is None:
            return DistortedState(poor)
        # The distortion keeps the key that it has alone, so that both show the same poor image.
        return DistortedState(poor, self.then.init(jax.random.fold_in(key, 1), poor, label))

    def ask(self, state: DistortedState) -> tuple[Image, Any]:
        """Returns what the attack in `then` asks; without one, an image that nobody asks about."""
        return (state.image, ()) if self.then is None else self.then.ask(state.attack)

    def update(self, key: PRNGKey, state: DistortedState, answer: Any) -> DistortedState:
        """Returns the state after the answer to the attack in `then`."""
        if self.then is None:
            return state
        return dataclasses.replace(state, attack=self.then.update(key, state.attack, answer))

    def result(self, state: DistortedState) -> Image:
        """Returns the distorted image, or what the attack in `then` has made of it."""
        return state.image if self.then is None else self.then.result(state.attack)
