"""Other people's attacks on a defended pipeline, and other people's classifiers behind a defense.

    as_torch_module     a PyTorch module, for torchattacks, AutoAttack and your own loops
    as_foolbox_model    a Foolbox model
    as_art_classifier   an estimator of the Adversarial Robustness Toolbox (ART)
    from_torch_module, from_tensorflow   a classifier of theirs as the network of `Defended`

Each imports its framework when it is called. What they hand out draws anew at every call, as
the pipeline does: an attack then averages over draws only if it averages over calls.
"""

from rainjax.adapters.art import as_art_classifier
from rainjax.adapters.foolbox import as_foolbox_model
from rainjax.adapters.tensorflow import from_tensorflow
from rainjax.adapters.torch import as_torch_module, from_torch_module

__all__ = [
    "as_art_classifier",
    "as_foolbox_model",
    "as_torch_module",
    "from_tensorflow",
    "from_torch_module",
]
