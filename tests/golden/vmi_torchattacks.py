"""Writes vmi_torchattacks.npz: what torchattacks' VMI and VNI make of images, on our draws.

Run from the root of the repository, with torch 2.13 and torchattacks 3.5.1 installed:
python -m tests.golden.vmi_torchattacks
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rainjax.attacks import VMI

RNG = np.random.default_rng(21)
SHAPE, HIDDEN, NUM_CLASSES = (6, 6, 3), 9, 5
FIRST = RNG.normal(size=(int(np.prod(SHAPE)), HIDDEN)).astype(np.float32)
SECOND = RNG.normal(size=(HIDDEN, NUM_CLASSES)).astype(np.float32)
IMAGES = RNG.uniform(size=(3, *SHAPE)).astype(np.float32)
LABELS = np.array([0, 3, 1])
OPTIONS = {"radius": 16 / 255, "step_size": 1.6 / 255, "num_steps": 6, "num_neighbors": 4}
CASES = {"vmi": False, "vni": True}


def logits_fn(draw, image):
    """A small network whose gradient changes its signs within the ball."""
    del draw
    hidden = jnp.sin(image.ravel() @ jnp.asarray(FIRST) * 2)
    return hidden @ jnp.asarray(SECOND)


def ours(case):
    """Returns the adversarial images of our attack, and its neighbours' distances by step."""
    attack, num = VMI(nesterov=CASES[case], **OPTIONS), OPTIONS["num_neighbors"]
    step = jax.jit(lambda key, t, run: attack.step(key, t, logits_fn, run))
    attacked, drawn = [], []
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        init_key, loop_key = jax.random.split(jax.random.key(number))
        run, away = attack.start(init_key, jnp.asarray(image), jnp.array(label)), []
        for call in range(attack.num_calls):
            if call % (num + 1):
                away.append(np.asarray(run.state.point - run.state.image))
            run = step(loop_key, jnp.array(call), run)
        attacked.append(np.asarray(attack.finish(run)))
        drawn.append(np.stack(away))
    return np.stack(attacked), np.stack(drawn, 1)


def main():
    """Runs torchattacks with our draws in the place of its own."""
    import torch
    import torchattacks

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((), 2.0))  # tells the device

        def forward(self, images):
            flat = images.permute(0, 2, 3, 1).reshape(len(images), -1)
            return torch.sin(flat @ torch.from_numpy(FIRST) * self.scale) @ torch.from_numpy(
                SECOND
            )

    first_channels = lambda array: torch.from_numpy(np.moveaxis(array, -1, -3).copy())
    kinds = {"vmi": torchattacks.VMIFGSM, "vni": torchattacks.VNIFGSM}
    arrays = {}
    for case, kind in kinds.items():
        found, drawn = ours(case)
        # Theirs draws once more, after its last step, for nothing.
        queue = [*first_channels(drawn), *[torch.zeros(3, 3, 6, 6)] * OPTIONS["num_neighbors"]]
        attack = kind(
            Network().eval(), eps=OPTIONS["radius"], alpha=OPTIONS["step_size"],
            steps=OPTIONS["num_steps"], decay=1.0, N=OPTIONS["num_neighbors"], beta=1.5,
        )  # fmt: skip
        own = torch.Tensor.uniform_
        torch.Tensor.uniform_ = lambda self, *bounds, queue=queue: self.copy_(queue.pop(0))
        try:
            attacked = attack(first_channels(IMAGES), torch.from_numpy(LABELS))
        finally:
            torch.Tensor.uniform_ = own
        assert not queue
        arrays[case] = np.moveaxis(attacked.numpy(), 1, -1)
        arrays[f"{case}/drawn"] = drawn
        print(case, "largest difference", np.abs(arrays[case] - found).max())
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
