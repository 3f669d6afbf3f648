"""The PyTorch side of `peers`: torchattacks, Foolbox and ART on one random pipeline."""

# PyTorch is no requirement of rainjax's: it is here to be compared with.
# pyright: reportMissingImports=false

import abc

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from eval.benchmarks._peers_worker import Case, Library, foolbox_pgd


class PickAndShift(nn.Module):
    """Keeps one pixel in four at random, moves them by up to one, and resizes to the old size.

    Own picks and an own shift for every image, in one gather. Without `random`, the cells are
    averaged and nothing moves.
    """

    def __init__(self, random: bool = True):
        super().__init__()
        self.random = random

    def forward(self, images):
        """Returns the purified images `n c h w`."""
        # With antialias PyTorch's kernel is Keys' own (a = -0.5), as Pillow's and JAX's are.
        small = self.shrink(images) if self.random else F.avg_pool2d(images, 2)
        return F.interpolate(small, size=images.shape[2:], mode="bicubic", antialias=True)

    def shrink(self, images):
        """Returns the picked and shifted pixels, half as many along each axis."""
        n, c, height, width = images.shape
        h, w, device = height // 2, width // 2, images.device
        pick = torch.randint(4, (n, c, h, w), device=device)
        shift = torch.randint(-1, 2, (2, n, 1, 1, 1), device=device)
        rows = (torch.arange(h, device=device)[:, None] - shift[0]) % h
        columns = (torch.arange(w, device=device) - shift[1]) % w
        places = (2 * rows + pick // 2) * width + 2 * columns + pick % 2
        return images.flatten(2).gather(2, places.flatten(2)).view(n, c, h, w)


class Block(nn.Module):
    """Two convolutions and a shortcut that pads with zero channels."""

    def __init__(self, features_in, features, norm):
        super().__init__()
        self.stride = 1 if features_in == features else 2
        self.extra = (features - features_in) // 2
        self.conv1 = nn.Conv2d(features_in, features, 3, self.stride, 1, bias=False)
        self.bn1 = norm(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = norm(features)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.extra:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(y + x)


class ResNet(nn.Module):
    """The network of `rainjax.nets.ResNet`, whose fields it is made from."""

    def __init__(self, *, depth, num_classes, width, norm, num_groups, mean, std):
        super().__init__()
        norm = nn.BatchNorm2d if norm == "batch" else lambda c: nn.GroupNorm(num_groups, c)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.conv1 = nn.Conv2d(len(mean), width, 3, 1, 1, bias=False)
        self.bn1 = norm(width)
        features_in = width
        for group in range(3):
            features, blocks = width * 2**group, []
            for _ in range((depth - 2) // 6):
                blocks.append(Block(features_in, features, norm))
                features_in = features
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(features_in, num_classes)

    def forward(self, x):
        """Returns the logits of images `n c h w` in [0, 1]."""
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def make(name: str, case: Case) -> Library:
    """Returns the library called `name`."""
    return {"torchattacks": TorchAttacks, "foolbox_torch": FoolboxTorch, "art": ART}[name](case)


class _OnTorch(abc.ABC):
    def __init__(self, case: Case):
        self._options = case.options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        classifier = ResNet(**case.network)
        weights = {  # this module calls its norms alike, whichever they are
            name.replace("gn", "bn"): torch.tensor(array) for name, array in case.weights.items()
        }
        missing, unexpected = classifier.load_state_dict(weights, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"The classifier's arrays do not fit: {missing}, {unexpected}.")
        # Without requires_grad_(False), backward() would also work out the weights' gradients.
        classifier = classifier.eval().requires_grad_(False).to(self.device)
        self._plain = nn.Sequential(PickAndShift(random=False), classifier)
        self._model = nn.Sequential(PickAndShift(), classifier).eval()
        self._images = torch.from_numpy(case.images).permute(0, 3, 1, 2).contiguous()
        self._images = self._images.to(self.device)
        self._labels = torch.from_numpy(case.labels).to(self.device)

    def attack(self, name: str, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        attacked = self.run(name)
        return np.ascontiguousarray(attacked.cpu().numpy().transpose(0, 2, 3, 1))

    @abc.abstractmethod
    def run(self, name: str) -> torch.Tensor: ...

    def plain_logits(self) -> np.ndarray:
        with torch.no_grad():
            return self._plain(self._images).cpu().numpy()

    def device_memory(self) -> tuple[float, float] | None:
        if self.device != "cuda":
            return None
        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return held / 2**20, peak / 2**20


class TorchAttacks(_OnTorch):
    """torchattacks' PGD and EOTPGD."""

    def __init__(self, case: Case):
        super().__init__(case)
        import torchattacks

        options = self._options
        given = {
            "eps": options["radius"], "alpha": options["step_size"], "steps": options["num_steps"]
        }  # fmt: skip
        self._attacks = {
            "pgd": torchattacks.PGD(self._model, **given),
            "eot_pgd": torchattacks.EOTPGD(self._model, **given, eot_iter=options["num_eot"]),
        }

    def run(self, name: str) -> torch.Tensor:
        return self._attacks[name](self._images, self._labels)


class FoolboxTorch(_OnTorch):
    """Foolbox's LinfPGD on its PyTorch model."""

    def __init__(self, case: Case):
        super().__init__(case)
        import foolbox

        self._bounded = foolbox.PyTorchModel(self._model, bounds=(0, 1), device=self.device)
        self._attacks = foolbox_pgd(self._options)

    def run(self, name: str) -> torch.Tensor:
        radius = self._options["radius"]
        return self._attacks[name](self._bounded, self._images, self._labels, epsilons=radius)[1]


class ART(_OnTorch):
    """ART's ProjectedGradientDescentPyTorch on an estimator that averages gradients.

    ART's own EOT is a preprocessor that transforms one image of one draw at a time and puts all
    draws into one batch; averaging in `loss_gradient` takes less time and less memory.
    """

    def __init__(self, case: Case):
        super().__init__(case)
        from art.attacks.evasion.projected_gradient_descent import (
            projected_gradient_descent_pytorch as pgd,
        )
        from art.estimators.classification import PyTorchClassifier

        options = self._options

        class Averaged(PyTorchClassifier):
            def loss_gradient(self, x, y, training_mode=False, **kwargs):
                total = super().loss_gradient(x, y, training_mode, **kwargs)
                for _ in range(options["num_eot"] - 1):
                    total = total + super().loss_gradient(x, y, training_mode, **kwargs)
                return total / options["num_eot"]

        self._inputs = self._images.cpu().numpy()
        self._one_hot = np.eye(case.network["num_classes"], dtype=np.float32)[case.labels]
        self._attacks = {
            name: pgd.ProjectedGradientDescentPyTorch(
                estimator(
                    self._model,
                    nn.CrossEntropyLoss(),
                    self._inputs.shape[1:],
                    case.network["num_classes"],
                    clip_values=(0.0, 1.0),
                    device_type="gpu" if self.device == "cuda" else "cpu",
                ),
                eps=options["radius"],
                eps_step=options["step_size"],
                max_iter=options["num_steps"],
                num_random_init=1,
                batch_size=len(self._inputs),
                verbose=False,
            )
            for name, estimator in (("pgd", PyTorchClassifier), ("eot_pgd", Averaged))
        }

    def run(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._attacks[name].generate(self._inputs, self._one_hot))
