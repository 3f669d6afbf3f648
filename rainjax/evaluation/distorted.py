"""Images that nobody attacked, and that a camera, a file or a channel made worse."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from rainjax.attacks import Attack
from rainjax.attacks.queries import Level
from rainjax.transforms.distortions import Distortion, DistortionName, Scale
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistortedState:
    """The image after the distortion. Outside of `vmap` it holds a batch."""

    image: Float[Array, "*n h w c"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distorted(Attack):
    """Distorts an image by one of `rainjax.transforms.DISTORTIONS`, and asks nobody anything.

    In the place of a threat model's attack, with `Knowledge.NONE`, it makes a study of images of
    poor quality: `ThreatModel("pixelate 3", Distorted(distortion="pixelate", severity=3),
    ClassifierAlone(), Knowledge.NONE)`. Its draws are of the keys that an attack has.

    Raises:
        ValueError: there is no such distortion, severity or scale.
    """

    distortion: DistortionName
    severity: int = 3
    scale: Scale = "imagenet_c"

    def __post_init__(self):
        super().__post_init__()
        Distortion(self.distortion, self.severity, self.scale)  # or says what it does not know

    @property
    def norm(self) -> str:
        """How changes are measured in tables; there is no ball."""
        return "linf"

    @property
    def radius(self) -> None:
        """None: a distortion is as large as it is."""

    @property
    def num_calls(self) -> int:
        """It asks nothing."""
        return 0

    @property
    def query(self) -> Level:
        """Nothing that is ever asked."""
        return Level("margin")

    def init(self, key: PRNGKey, image: Image, label: Label) -> DistortedState:
        """Returns the image distorted."""
        del label
        transform = Distortion(self.distortion, self.severity, self.scale)
        return DistortedState(transform.apply(key, image))

    def ask(self, state: DistortedState) -> tuple[Image, Any]:
        """Returns the distorted image, for nobody to ask about."""
        return state.image, ()

    def update(self, key: PRNGKey, state: DistortedState, answer: Any) -> DistortedState:
        """Returns the state unchanged."""
        del key, answer
        return state

    def result(self, state: DistortedState) -> Image:
        """Returns the distorted image."""
        return state.image
