"""The boundary attack: a random walk along the boundary (Brendel et al., 2018)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks.labels import LabelAttack
from rainjax.typing import Image, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recent:
    """The latest verdicts of a kind, as many as there is room for; cleared where a step changed.

    Outside of `vmap` it holds a batch.
    """

    verdicts: Bool[Array, "*n room"]
    count: Int[Array, "*n"]

    @classmethod
    def none(cls, room: int) -> "Recent":
        """Returns an empty one."""
        return cls(jnp.zeros(room, bool), jnp.array(0))

    def after(self, success: Bool[Array, ""]) -> "Recent":
        """Returns the same with one more verdict, for which the oldest may go."""
        verdicts = jnp.concatenate([self.verdicts[1:], success[None]])
        return Recent(verdicts, jnp.minimum(self.count + 1, self.verdicts.shape[-1]))

    def judged(self, low: float, high: float) -> tuple[Bool[Array, ""], Bool[Array, ""], "Recent"]:
        """Returns whether too many are successes, or too few; cleared then. Both wait for all."""
        full, share = self.count == self.verdicts.shape[-1], jnp.mean(self.verdicts)
        many, few = full & (share > high), full & (share < low)
        return many, few, Recent(self.verdicts, jnp.where(many | few, 0, self.count))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Walk:
    """Where a walk stands, and its two step sizes, as shares of the distance to the image.

    `on_sphere` is the point from which the one that is asked about steps towards the image;
    with `probing` it is the one that is asked about. Outside of `vmap` it holds a batch.
    """

    image: Float[Array, "*n h w c"]
    on_sphere: Float[Array, "*n h w c"]
    probing: Bool[Array, "*n"]
    stepped: Bool[Array, "*n"]
    proposals: Int[Array, "*n"]
    spherical_step: Float[Array, "*n"]
    source_step: Float[Array, "*n"]
    spheres: Recent
    steps: Recent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary(LabelAttack):
    """Walks along the boundary, closer to the image with every step that stays beyond it.

    A proposal is a random step on the sphere around the image, of `spherical_step` times the
    distance, and from there one towards it, of `source_step` times the distance (Brendel et al.,
    2018, section 2.2). It is accepted where it is a success. With every `probe_every`th the point
    on the sphere is asked about too: both steps grow by `step_adaptation` while more than half of
    the last hundred of these were successes, and shrink below a fifth; the one towards the image
    grows alone while more than a quarter of the last thirty proposals were, and shrinks below a
    tenth. The walk has converged where that step is below `source_step_convergence`. The numbers
    are those of the authors' own implementation, in Foolbox.
    """

    norm: Literal["l2"] = "l2"
    spherical_step: float = 0.01
    source_step: float = 0.01
    source_step_convergence: float = 1e-7
    step_adaptation: float = 1.5
    probe_every: int = 10

    def __post_init__(self):
        super().__post_init__()
        for name in ("spherical_step", "source_step"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} must lie in (0, 1): it is a share of the "
                    "distance to the image."
                )
        if not 0 <= self.source_step_convergence < 1:
            raise ValueError(
                f"source_step_convergence={self.source_step_convergence} must lie in [0, 1)."
            )
        if not 1 < self.step_adaptation < float("inf"):
            raise ValueError(f"step_adaptation={self.step_adaptation} must be finite and above 1.")
        if self.probe_every < 1:
            raise ValueError(f"probe_every={self.probe_every} must be at least 1.")

    def begin(self, origin: Image, point: Image) -> Walk:
        """Returns the walk at its start."""
        no = jnp.array(False)
        one = jnp.ones((), origin.dtype)
        return Walk(
            image=point,
            on_sphere=point,
            probing=no,
            stepped=no,
            proposals=jnp.array(0),
            spherical_step=self.spherical_step * one,
            source_step=self.source_step * one,
            spheres=Recent.none(100),
            steps=Recent.none(30),
        )

    def move(
        self,
        origin: Image,
        search: Walk,
        asked: Image,
        success: Bool[Array, ""],
        share: Float[Array, ""],
    ) -> Walk:
        """Returns the walk after a proposal was judged, or the point on the sphere below it."""
        del share
        closer = jnp.linalg.norm(asked - origin) < jnp.linalg.norm(search.image - origin)
        accepts = ~search.probing & success & closer
        image = jnp.where(accepts, asked, search.image)
        proposals = search.proposals + ~search.probing
        probes = ~search.probing & (proposals % self.probe_every == 0)
        stepped = jnp.where(search.probing, search.stepped, success)
        walk = dataclasses.replace(
            search, image=image, probing=probes, stepped=stepped, proposals=proposals
        )
        adapted = self._adapted(walk, success)
        return jax.tree.map(lambda a, b: jnp.where(search.probing, a, b), adapted, walk)

    def pose(self, key: PRNGKey, origin: Image, search: Walk) -> tuple[Walk, Image]:
        """Returns the walk with another proposal, or with the point on the sphere of its last."""
        on_sphere, proposal = self._propose(key, origin, search)
        on_sphere = jnp.where(search.probing, search.on_sphere, on_sphere)
        point = jnp.where(search.probing, on_sphere, proposal)
        return dataclasses.replace(search, on_sphere=on_sphere), point

    def rests(self, search: Walk) -> Bool[Array, ""]:
        """Returns whether the walk has converged."""
        return search.source_step < self.source_step_convergence

    def _adapted(self, walk: Walk, on_sphere: Bool[Array, ""]) -> Walk:
        """Returns the walk with the steps that the latest verdicts ask for."""
        grown = lambda step, many, few: jnp.where(
            many,
            step * self.step_adaptation,
            jnp.where(few, step / self.step_adaptation, step),
        )
        many, few, spheres = walk.spheres.after(on_sphere).judged(0.2, 0.5)
        spherical, source = (grown(s, many, few) for s in (walk.spherical_step, walk.source_step))
        many, few, steps = walk.steps.after(walk.stepped).judged(0.1, 0.25)
        return dataclasses.replace(
            walk,
            spherical_step=spherical,
            source_step=grown(source, many, few),
            spheres=spheres,
            steps=steps,
        )

    def _propose(self, key: PRNGKey, origin: Image, walk: Walk) -> tuple[Image, Image]:
        """Returns a random point on the sphere, and the step from there."""
        inward = origin - walk.image
        distance = jnp.linalg.norm(inward)
        unit = inward / jnp.maximum(distance, jnp.finfo(inward.dtype).tiny)
        noise = jax.random.normal(key, origin.shape, origin.dtype)
        noise -= jnp.sum(noise * unit) * unit
        noise *= walk.spherical_step * distance / jnp.linalg.norm(noise)
        # On the tangent, and from there back to the sphere.
        shrunk = jnp.sqrt(walk.spherical_step**2 + 1)
        on_sphere = jnp.clip(origin + (noise - inward) / shrunk, 0.0, 1.0)
        left = origin - on_sphere
        reach = jnp.linalg.norm(left)
        step = jnp.maximum(walk.source_step * distance + reach - distance, 0.0)
        proposal = on_sphere + step / jnp.maximum(reach, jnp.finfo(left.dtype).tiny) * left
        return on_sphere, jnp.clip(proposal, 0.0, 1.0)
