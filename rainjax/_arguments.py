"""Arguments that a class does not take: what they are called here, in one sentence."""

import abc
import difflib
import inspect
from typing import Any

# What other programs call the options that some class here has.
_ELSEWHERE = {
    "radius": ("eps", "epsilon", "max_eps", "max_norm", "budget"),
    "step_size": ("alpha", "eps_step", "eps_iter", "stepsize", "lr", "learning_rate"),
    "num_steps": (
        "steps", "iters", "iterations", "iter", "num_iter", "num_iters", "num_iterations",
        "nb_iter", "n_iter", "n_steps", "max_iter", "max_iterations",
    ),
    "num_queries": ("n_queries", "queries", "max_queries", "query_budget"),
    "probe_size": ("sigma", "delta", "h", "variable_h", "fd_eta"),
    "low_frequencies": ("freq_dims", "freq_dim"),
    "num_restarts": ("restarts", "n_restarts", "nb_restarts"),
    "num_search_steps": ("binary_search_steps", "search_steps"),
    "num_targets": ("n_target_classes", "n_targets"),
    "num_samples": ("num_draws", "samples", "n_samples", "eot_iter", "eot_samples"),
    "num_examples": ("n_ex", "n_examples", "num_images"),
    "eot": ("eot_iter", "eot_samples", "num_eot"),
    "random_start": ("rand_init", "random_init", "rs", "num_random_init"),
    "momentum": ("decay", "mu"),
    "loss": ("loss_fn", "criterion", "loss_type"),
    "norm": ("ord", "p", "lp", "lp_norm"),
    "confidence": ("kappa",),
    "initial_const": ("c", "const", "init_const"),
    "sigma": ("std",),
    "seed": ("random_state", "random_seed"),
    "threats": ("attacks", "threat_models"),
    "subjects": ("models", "pipelines"),
    "defense": ("purifier",),
    "classifier": ("model", "network"),
}  # fmt: skip
_LENGTHS = ("radius", "step_size")


class Named(abc.ABCMeta):
    """The class of classes that say how their options are called, when one is called otherwise."""

    def __call__(cls, *args, **kwargs):
        try:
            return super().__call__(*args, **kwargs)
        except TypeError as error:
            refusal = _refusal(cls, args, kwargs)
            if refusal is None:  # they are its own, and something else failed
                raise
            raise ValueError(refusal) from error

    @property
    def __signature__(cls) -> inspect.Signature:
        """What its `__init__` takes: `inspect` would show what `__call__` does."""
        first, *others = inspect.signature(cls.__init__).parameters.values()
        del first
        return inspect.Signature(others)


def _refusal(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Returns what is wrong with the names of arguments; None if nothing is."""
    parameters = inspect.signature(cls).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return None
    unknown = [name for name in kwargs if name not in parameters]
    if unknown:
        return (
            f"{cls.__name__} has no option {unknown[0]!r}: {_mend(unknown[0], list(parameters))}."
        )
    if len(args) > sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values()):
        return f"{cls.__name__} takes its options by name: {', '.join(parameters)}."
    return None


def _mend(name: str, options: list[str]) -> str:
    called = [o for o in options if name.lower() in _ELSEWHERE.get(o, ())]
    close = called or difflib.get_close_matches(name.lower(), options, 1)
    if not close:
        return f"it has {', '.join(options)}" if options else "it has none"
    unit = ", in units of the [0, 1] range" if close[0] in _LENGTHS else ""
    return f"it is called {close[0]!r} here{unit}"
