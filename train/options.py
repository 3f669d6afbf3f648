"""Options that every training program has, and the examples they stand for."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import tyro

from rainjax import data, zoo
from rainjax._files import check_writable
from rainjax.compilation_cache import use_compilation_cache
from rainjax.data import ImageSet
from rainjax.data.splits import Split, labelled
from rainjax.devices import join_processes, use_all_cores
from rainjax.keys import Purpose, purpose_key
from rainjax.nets import Network
from rainjax.typing import Params
from train.batches import Held, Pictures
from train.loop import Outcome
from train.run import Run, flat, main


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a run is written."""

    name: str
    """The run is written to the folder of this name, and its parameters get this name."""
    out: pathlib.Path = pathlib.Path("runs")
    """The folder that holds the runs."""
    fresh: bool = False
    """Start over, instead of going on from the checkpoint that the folder holds."""
    keep: int = 2
    """Checkpoints that stay, the newest ones; the best stays besides."""
    dtype: Literal["float32", "float16"] = "float32"
    """What the parameters are stored in at the end; a finished run stores them anew."""

    def __post_init__(self):
        zoo.check_name(self.name)
        if self.keep < 1:
            raise ValueError(f"keep={self.keep}: at least one checkpoint must stay.")

    def open(self, options: Any, **facts: Any) -> Run:
        """Returns the run of these options; `facts` decide its outcome as well."""
        return Run(
            self.folder, identity(options, **facts), fresh=self.fresh,
            keep=self.keep,
        )  # fmt: skip

    @property
    def folder(self) -> pathlib.Path:
        """The run's own folder."""
        return self.out / self.name


def training_source(split: Split, *, one_size: bool = True, min_size: int = 1) -> Held | Pictures:
    """Returns the training examples for `Batches`, of any size from `min_size` on or of one.

    Raises:
      ValueError: images are to be of one size, which goes with labels, and have none.
    """
    image_set, indices = split.training, split.training_indices
    if isinstance(image_set, data.BuiltinSet):
        # They are made by JAX, which a worker process had better leave alone.
        return Held(labelled(image_set, indices))
    if one_size and image_set.num_classes < 1:
        raise ValueError(f"The data set {image_set.name!r} has no labels.")
    source = Pictures(image_set, indices, min_size=min_size)
    return Pictures(image_set, indices, source[0]["image"].shape) if one_size else source


def validation_examples(split: Split) -> dict[str, np.ndarray]:
    """Returns the validation examples as `labelled` does, without those that are damaged."""
    return labelled(split.validation, readable(split.validation, split.validation_indices))


def readable(image_set: ImageSet, indices: np.ndarray) -> np.ndarray:
    """Returns `indices` without those of pictures that cannot be decoded, and warns of these.

    Raises:
      ValueError: none can.
    """
    good = []
    for index in indices.tolist():
        with contextlib.suppress(data.DamagedPicture):
            image_set.image(index)
            good.append(index)
    if not good:
        raise ValueError(f"No validation picture of {image_set.name!r} can be decoded.")
    if len(good) < len(indices):
        first = next(index for index in indices.tolist() if index not in set(good))
        warnings.warn(
            f"{len(indices) - len(good)} of {len(indices)} validation pictures of "
            f"{image_set.name!r} cannot be decoded and are left out, the first is {first}.",
            stacklevel=2,
        )
    return np.array(good, indices.dtype)


def validation_crops(split: Split, *, largest: int = 128) -> dict[str, np.ndarray]:
    """Returns the centres of the validation images, all of one even size up to `largest`."""
    indices = readable(split.validation, split.validation_indices)
    images = [split.validation.image(int(index)) for index in indices]
    side = min([largest, *(min(image.shape[:2]) for image in images)]) // 2 * 2
    crops = []
    for image in images:
        row, column = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        crops.append(image[row : row + side, column : column + side])
    return {"image": np.stack(crops), "index": indices.astype(np.int32)}


def start_of(options: Any) -> tuple[Params, str | None]:
    """Returns the parameters that a program's `network` starts from, and their digest.

    They are those of its `init`, the name or path of a zoo entry, or fresh ones without a digest.

    Raises:
      ValueError: the entry holds another network.
    """
    if not options.init:
        return options.network.init(purpose_key(options.seed, Purpose.INIT)), None
    entry = zoo.load(options.init)
    if entry.network != options.network:
        raise ValueError(f"init={options.init!r} holds {entry.network}, not {options.network}.")
    return entry.params, entry.sha256


def batches_per_epoch(source: Any, batch_size: int) -> int:
    """Returns how many whole batches the examples make.

    Raises:
      ValueError: there is none.
    """
    if not 1 <= batch_size <= len(source):
        raise ValueError(
            f"{batch_size=} must be at least 1, and at most the {len(source)} training images."
        )
    return len(source) // batch_size


def check_counts(options: Any, *fields: str) -> None:
    """Refuses options that count something, and count less than one.

    Raises:
      ValueError: naming the first.
    """
    for field in fields:
        if getattr(options, field) < 1:
            raise ValueError(f"{field}={getattr(options, field)} must be at least 1.")


def program(
    train: Callable[[Any], None], presets: dict[str, Any], description: str | None
) -> None:
    """Runs a training program: reads its options, takes all cores, and joins other processes."""
    use_all_cores()

    def read_and_train() -> None:
        options = tyro.extras.overridable_config_cli(presets, description=description)
        check_writable(options.run.folder)
        use_compilation_cache()
        if options.compute.distributed:
            join_processes()
        train(options)

    main(read_and_train)


# On how many devices and processes a run is spread, and in how many parts it takes a batch, does
# not decide what comes out of it.
_SPREAD = tuple(f"compute.{name}" for name in ("shards", "accumulate", "workers", "distributed"))


def identity(options: Any, **facts: Any) -> dict[str, Any]:
    """Returns everything that decides a run's outcome: options but for places, and `facts`."""
    plain = flat(options)
    places = ("run.", "data.data_dir", "init", "classifier", "pairs_folder", *_SPREAD)
    kept = {name: value for name, value in plain.items() if not name.startswith(places)}
    return {**kept, **facts}


def save_entry(
    run: Run,
    output: Output,
    network: Network,
    outcome: Outcome,
    split: Split,
    *,
    options: Any,
    **extra: Any,
) -> pathlib.Path:
    """Writes a run's parameters and card for the zoo, says where, and returns the path.

    The card names the program, versions and machine that began the run, and those that went on.
    """
    card = {
        "data": split.describe(),
        "seed": options.seed,
        "metrics": outcome.metrics,
        "options": identity(options),
        "seconds": round(outcome.seconds, 1),
        "dtype": output.dtype,
        **run.made_by,
        **extra,
    }
    path = output.folder / f"{output.name}.safetensors"
    if jax.process_index():
        return path
    zoo.save(output.folder, output.name, network, outcome.params, card)
    kept = outcome.metrics["validation"]
    print(
        f"Kept epoch {outcome.metrics['selected_epoch']} of {outcome.metrics['num_epochs']}: "
        f"validation {kept['metric']} {kept['value']:.4f}.\n"
        f"Wrote {path} and its card {path.with_suffix('.json').name}: "
        f"load it with rainjax.zoo.load({str(path)!r}).",
        flush=True,
    )
    return path
