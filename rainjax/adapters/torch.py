"""PyTorch: the pipeline as a module, and modules as classifiers."""

import dataclasses
import functools
import hashlib
import math
import types
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from rainjax._extras import require
from rainjax.adapters._batched import Batched
from rainjax.adapters._foreign import COMMON_SIDES, Foreign, Held, UnusableModel
from rainjax.evaluation.describe import describe, digest
from rainjax.pipeline import Defended
from rainjax.typing import Params

_require = functools.partial(require, "torch", name="PyTorch", extra="torch")


def as_torch_module(
    defended: Defended, params: Params, *, seed: int = 0, fresh: bool = True
) -> Any:
    """Returns a `torch.nn.Module` from images `n c h w`, float32 in [0, 1], to logits.

    Every call draws anew for every image, as a function of `seed` and of how many calls there
    were, and `backward` differentiates the draw of its own forward pass. `module.reseed(seed)`
    starts again; with `fresh=False`, or while `module.fresh` is that, every call has the same
    draws. A copy, by `copy.deepcopy` or `pickle`, draws on from where the module is. Score with
    another seed, or with `rainjax.score`: an attack has seen these draws.

    It has no trainable parameters and no second derivative. Arrays pass through DLPack where
    PyTorch and JAX are on one device, and through the host elsewhere. On a GPU that both use,
    set `XLA_PYTHON_CLIENT_PREALLOCATE=false`, or JAX takes most of the memory first.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: `seed` is not in 0..2**32-1. The module raises it for images that are not as
            above, and FloatingPointError for NaN in the logits or in a gradient, which `sign`
            of PyTorch would turn to zero.
    """
    batched = Batched(defended, params, seed=seed, fresh=fresh)
    return _module_class(_require())(batched)


def from_torch_module(module: Any, num_classes: int) -> Foreign:
    """Returns a PyTorch classifier as the `classifier` of `Defended`, with parameters `()`.

    `module` maps images `n c h w` in [0, 1] to logits and is in eval mode: a normalisation
    belongs into it, a softmax does not. It is taken for a function, without randomness. Where
    rainjax has the architecture, `rainjax.nets.from_torch` turns the module's arrays into
    parameters of its own network, which is faster. It is called on gray images of common sizes
    here, and on one of the true size before the first batch, to say early what is wrong with it.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: `module` is no `torch.nn.Module`.
        ValueError: `module` or a part of it is in training mode or has no parameters yet, it
            returns no tensor of logits, in half precision, or of another number than
            `num_classes`, or that is below 2.
    """
    torch = _require()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch_module takes a torch.nn.Module, not {type(module).__name__}.")
    _check_eval(module)
    lazy = [n for n, p in module.named_parameters() if torch.nn.parameter.is_lazy(p)]
    if lazy:
        raise ValueError(f"{lazy[0]} has no numbers yet: call the module on one of your images.")
    network = TorchClassifier(Held(module), num_classes)
    network.try_likely_shapes()
    return network


@dataclasses.dataclass(frozen=True)
class TorchClassifier(Foreign):
    """A PyTorch classifier as a network; made by `from_torch_module`."""

    def content_digest(self) -> str:
        numbers = [*self.model.named_parameters(), *self.model.named_buffers()]
        return digest(
            {
                "modules": {name: _described(part) for name, part in self.model.named_modules()},
                "numbers": {name: _tensor_digest(tensor) for name, tensor in numbers},
            }
        )

    def host_logits(self, images: np.ndarray) -> np.ndarray:
        with _require().no_grad():
            return self._logits(self._tensor(images)).cpu().numpy()

    def host_gradients(self, images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        torch = _require()
        with torch.enable_grad():
            inputs = self._tensor(images).requires_grad_()
            logits = self._logits(inputs)
            weights = torch.tensor(cotangents, device=logits.device, dtype=logits.dtype)
            (gradients,) = torch.autograd.grad(logits, inputs, weights)
        return np.moveaxis(gradients.cpu().numpy(), 1, -1)

    def _tensor(self, images: np.ndarray) -> Any:
        first = next(self.model.parameters(), None)
        device = "cpu" if first is None else first.device
        copy = np.array(np.moveaxis(images, -1, 1), order="C")  # XLA may reuse the buffer
        return _require().from_numpy(copy).to(device)

    def _logits(self, inputs: Any) -> Any:
        _check_eval(self.model)
        try:
            logits = self.model(inputs)
        except Exception:
            self._check_precision(inputs)
            raise
        self.check_logits(logits, len(inputs))
        return logits

    def _check_precision(self, inputs: Any) -> None:
        """Refuses a module that takes images in the precision of its numbers alone."""
        kinds = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        for kind in kinds - {inputs.dtype}:
            try:
                self.model(inputs.to(kind))
            except Exception:  # then it was something else
                continue
            raise UnusableModel(
                f"{type(self.model).__name__} takes images in {kind} alone: call module.float(), "
                "for images here are float32, and small gradients vanish in half precision."
            )

    def likely_shapes(self) -> list[tuple[int, int, int]]:
        weights = (getattr(part, "weight", None) for part in self.model.modules())
        shapes = (tuple(getattr(weight, "shape", ())) for weight in weights)
        first = next((shape for shape in shapes if len(shape) in (2, 4)), ())
        if len(first) == 2:  # a linear layer takes all pixels
            sides = {c: math.isqrt(first[1] // c) for c in (3, 1)}
            return [(side, side, c) for c, side in sides.items() if side**2 * c == first[1]]
        channels = first[1] if first else 3
        return [(side, side, channels) for side in COMMON_SIDES]


def _check_eval(module: Any) -> None:
    training = [name or "module" for name, part in module.named_modules() if part.training]
    if training:
        raise UnusableModel(
            f"{training[0]} is in training mode, where an image's logits are no function of it: "
            "call module.eval() first."
        )


def _described(part: Any) -> dict[str, Any]:
    """Returns the class of a module and what it holds beside numbers and parts, as plain JSON."""
    own = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    own.pop("training", None)  # checked at every call
    torch = _require()
    if isinstance(part, torch.jit.ScriptModule):  # whose class does not have its code
        own = {}
        if hasattr(part, "forward"):
            code, constants = part.code_with_constants
            own = {"code": code, "constants": constants.const_mapping}
    elif isinstance(part, torch.fx.GraphModule):
        own["code"] = part.code
    return {**describe(type(part)), "holds": _plain(own)}


def _plain(value: Any) -> Any:
    if isinstance(value, _require().Tensor):
        return _tensor_digest(value)
    if isinstance(value, types.BuiltinFunctionType):  # torch.relu, whose repr has an address
        return value.__qualname__
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    return describe(value)


def _tensor_digest(tensor: Any) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(_require().uint8).numpy().tobytes()  # NumPy has no bfloat16
    kind = f"{tensor.dtype} {tuple(tensor.shape)} "
    return hashlib.sha256(kind.encode() + content).hexdigest()


@functools.cache
def _module_class(torch: Any) -> type:
    """Returns the module's class, which cannot be written before PyTorch is imported."""

    class Logits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, batched):
            # JAX gets a copy of its own: what it saves for the gradient might else change with
            # an image that the attack changes in place.
            rows = images.detach().permute(0, 2, 3, 1)
            rows = _to_jax(rows.clone(memory_format=torch.contiguous_format), batched.device)
            if ctx.needs_input_grad[0]:
                logits, ctx.pullback = batched.logits_and_pullback(rows)
            else:
                logits = batched.logits(rows)
            ctx.places = images.device, batched.device
            return _to_torch(torch, logits, images.device).clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, cotangents):
            theirs, ours = ctx.places
            gradients = ctx.pullback(_to_jax(cotangents.detach().contiguous(), ours))
            rows = _to_torch(torch, gradients, theirs)
            return rows.permute(0, 3, 1, 2).contiguous(), None

    class DefendedModule(torch.nn.Module):
        """A defended pipeline of JAX."""

        def __init__(self, batched: Batched):
            super().__init__()
            self.batched = batched
            # Attacks look at the first parameter for the device to work on.
            empty = torch.empty(0, device=_torch_device(torch, batched.device))
            self.place = torch.nn.Parameter(empty, requires_grad=False)

        def forward(self, images):
            if images.ndim != 4 or images.dtype != torch.float32:
                raise ValueError(
                    "The module takes a batch `n c h w` of float32 in [0, 1], got "
                    f"{images.dtype} of shape {tuple(images.shape)}."
                )
            return Logits.apply(images, self.batched)

        def __reduce__(self):
            return _unfilled_module, (), self.__dict__  # pickle does not find this class by name

        def reseed(self, seed: int) -> None:
            self.batched.reseed(seed)

        @property
        def fresh(self) -> bool:
            return self.batched.fresh

        @fresh.setter
        def fresh(self, value: bool) -> None:
            self.batched.fresh = value

        def extra_repr(self) -> str:
            return repr(self.batched.defended)

    return DefendedModule


def _unfilled_module() -> Any:
    cls: Any = _module_class(_require())
    return cls.__new__(cls)


def _to_jax(tensor: Any, device: Any) -> Array:
    """Returns a contiguous tensor as an array on `device`, without a copy where that can be."""
    if tensor.device.type == ("cpu" if device.platform == "cpu" else "cuda"):
        return jax.device_put(jax.dlpack.from_dlpack(tensor), device)
    return jax.device_put(tensor.cpu().numpy(), device)


def _to_torch(torch: Any, array: Array, device: Any) -> Any:
    """Returns an array as a tensor on `device`, without a copy where that can be."""
    (source,) = array.devices()
    if device.type == ("cpu" if source.platform == "cpu" else "cuda"):
        return torch.from_dlpack(array).to(device)
    return torch.tensor(np.asarray(array), device=device)


def _torch_device(torch: Any, device: Any) -> Any:
    if device.platform == "gpu" and torch.cuda.is_available():
        return torch.device("cuda", device.local_hardware_id or 0)
    return torch.device("cpu")
