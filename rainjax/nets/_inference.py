"""A Flax NNX module in inference mode: checked when it is made, and whenever it is called."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core
from jaxtyping import Array

_MEND = (
    "let an argument of its __call__ such as train be False by default, for arguments go before "
    "what module.eval() sets"
)


def check_inference(module: nnx.Module, whose: str) -> None:
    """Refuses a module that is set up for training, where an image's logits are no function of it.

    A layer says so in the attributes that `module.eval()` sets. What the arguments of a call
    change is seen by `call_for_inference`.

    Raises:
        ValueError: naming the first layer that is.
    """
    parts = [(".".join(map(str, path)), part) for path, part in nnx.iter_modules(module)]
    for where, part in parts:
        if not getattr(part, "use_running_average", True):
            raise ValueError(
                f"{where} of {whose} is in training mode, and would normalise each image by "
                "itself instead of by its running statistics: call module.eval() first, or build "
                "it with use_running_average=True."
            )
    for where, part in parts:
        rate = getattr(part, "rate", getattr(part, "dropout_rate", None))
        if rate != 0 and not getattr(part, "deterministic", True):
            raise ValueError(
                f"{where} of {whose} is in training mode, and would drop values at random: call "
                "module.eval() first, or build it with deterministic=True."
            )


def call_for_inference(
    module: Any, inputs: Sequence[Array], whose: str, *, moves_statistics: bool = False
) -> Any:
    """Returns what a module makes of a batch; refuses one that a call puts into training mode.

    Arguments of a call go before a layer's attributes, so `module.eval()` does not see to it. A
    module that trains writes to its variables: batch norm to its running statistics, dropout
    to the count of its draws. `moves_statistics` lets the former pass.

    Raises:
        ValueError: naming the first variable that the call changes, or an argument that it lacks.
    """
    check_takes(module.__call__, inputs, f"{whose}.__call__", "module(images)")
    before = _values(module)
    outputs = module(*inputs)
    after = _values(module)
    written = [path for path in before if after.get(path) is not before[path]]
    if not written:
        return outputs
    changed, variables = _changed(module, inputs), dict(nnx.to_flat_state(nnx.state(module)))
    for path in written:
        where, variable = f"{'.'.join(map(str, path))} of {whose}", variables.get(path)
        if path not in changed or isinstance(variable, nnx.Intermediate):
            continue
        if isinstance(variable, nnx.RngState):
            raise ValueError(
                f"{where} is drawn from when it is called, as dropout does in training: {_MEND}."
            )
        if isinstance(variable, nnx.BatchStat):
            if moves_statistics:
                continue
            raise ValueError(
                f"{where} moves when it is called, as in training mode, where it would normalise "
                f"each image by itself instead of by its running statistics: {_MEND}."
            )
        raise ValueError(
            f"{where} changes when it is called, and what a network returns is a function of its "
            "parameters and its input: write to no variable in __call__."
        )
    return outputs


def check_takes(fn: Callable[..., Any], given: Sequence[Any], who: str, how: str) -> None:
    """Refuses a function that cannot be called with these arguments and no others.

    Raises:
        ValueError: naming `who` it is, `how` it is called, and what is missing or too many.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # written in C, or one that hides what it takes
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        raise ValueError(
            f"{who} must take a call {how}, and does not ({error}): give any other argument a "
            "default for inference, such as train=False, or bind it by functools.partial."
        ) from None


def split_random(module: nnx.Module) -> tuple[Any, Any, Any]:
    """Returns a module's structure, the shapes of its random state, and its other variables.

    In inference nothing is drawn, so random state is no parameter.
    """
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    return graphdef, jax.tree.map(_shape, random), state


def merge_random(graphdef: Any, random: Any, state: Any) -> Any:
    """Returns a module of its own with these variables, and random state that nobody draws from.

    Who draws all the same is refused by `call_for_inference`.
    """
    return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), random), state)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _values(module: Any) -> dict[tuple, Any]:
    """Returns the arrays in the variables; the variables themselves would change with a call."""
    flat = nnx.to_flat_state(nnx.state(module))
    held = lambda leaf: leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf
    return {path: held(leaf) for path, leaf in flat}


def _changed(module: Any, inputs: Sequence[Array]) -> set[tuple]:
    """Returns the variables that come out of a call as others than they went in.

    A part under `nnx.jit` or `nnx.remat` writes all its variables, most of them as they were:
    the program of the call tells which.
    """
    graphdef, state = nnx.split(module)
    paths = [path for path, _ in nnx.to_flat_state(state)]

    def run(state, inputs):
        called = nnx.merge(graphdef, state)
        called(*inputs)
        after = _values(called)
        return [after[path] for path in paths]

    given = jax.tree.map(_shape, (state, list(inputs)))
    program = jax.make_jaxpr(run)(*given).jaxpr
    return {
        path
        for i, path in enumerate(paths)
        if _origin(program, program.outvars[i]) is not program.invars[i]
    }


def _origin(program: core.Jaxpr, variable: Any) -> Any:
    """Returns the input that a variable of a program is a copy of; itself if it is none."""
    for equation in program.eqns:
        if variable not in equation.outvars:
            continue
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if not isinstance(inner, core.Jaxpr) or len(inner.invars) != len(equation.invars):
            return variable
        found = _origin(inner, inner.outvars[equation.outvars.index(variable)])
        if found not in inner.invars:
            return variable
        return _origin(program, equation.invars[inner.invars.index(found)])
    return variable
