"""What a study of accuracies is: one frozen value, from which everything else follows."""

import dataclasses
import pathlib
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Study:
    """What every study has: images, a classifier, and how hard they are attacked."""

    name: str
    """The study's name, in its records and its report."""
    data: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set (`python -m rainjax.data list`)."""
    split: str = "test"
    """The split that is reported; nothing may have been chosen on it."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    classifier: str = "builtin_resnet"
    """The classifier: a zoo name, a path, or a file of published weights."""
    classifier_arch: str | None = None
    """The network of published weights (resnet20, resnet56, mobilenetv2_imagenette ...)."""
    num_steps: int = 40
    """PGD steps."""
    num_eot: int = 16
    """Draws whose gradients EOT-PGD averages at every step."""
    eot_chunk: int | None = None
    """Draws held in memory at once; by default one on CPU, all elsewhere."""
    eight_bit: bool = False
    """Also score the adversarial images rounded to 8 bits, as a file would hold them."""
    num_examples: int = 2000
    """Images for clean accuracy and for the attacks that follow one draw."""
    num_eot_examples: int = 500
    """Images for the attacks that average over draws."""
    num_score_draws: int = 5
    """Fresh draws under which every image is scored: mean, worst and majority."""
    batch_size: int = 100
    """Images attacked together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results")
    """The study is written to OUT/NAME and, when interrupted, continued from there."""

    def __post_init__(self):
        counts = ("num_examples", "num_eot_examples", "num_score_draws", "batch_size", "num_eot")
        for field in counts:
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.eot_chunk is not None and self.eot_chunk < 1:
            raise ValueError(f"eot_chunk={self.eot_chunk} must be at least 1.")
        if not self.name or pathlib.PurePath(self.name).name != self.name:
            raise ValueError(f"name={self.name!r} must be a plain name: it becomes a folder.")
        if self.num_eot_examples > self.num_examples:
            raise ValueError(
                f"num_examples={self.num_examples} must be at least num_eot_examples="
                f"{self.num_eot_examples}: every study is on the first images of one list."
            )

    @property
    def folder(self) -> pathlib.Path:
        """Where the study is written."""
        return self.out / self.name

    def chunk(self, num_eot: int) -> int | None:
        """Returns how many of `num_eot` draws are held at once: a divisor, or None by default."""
        most = self.eot_chunk
        return most and max(n for n in range(1, most + 1) if num_eot % n == 0)


@dataclasses.dataclass(frozen=True)
class Robustness(Study):
    """Measures a classifier behind RAIN, before and after fine-tuning, against five attackers.

    Every option is part of the records. Radii and step sizes are in units of the [0, 1] range.
    """

    pretrained: str = "builtin_edsr"
    """RAIN's EDSR before fine-tuning: a zoo name or a path."""
    finetuned: str = "builtin_edsr_rain"
    """RAIN's EDSR after fine-tuning: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """Largest circular shift as a share of the low-resolution height, rounded down."""
    radius: float = 8 / 255
    """Radius of the L-inf ball."""
    step_size: float = 2 / 255
    """Size of one PGD step; on the radius axis it scales with the radius."""
    autoattack: Literal["standard", "rand", "plus"] | None = None
    """Also run this version of AutoAttack's ensemble, with `num_steps` and `num_eot`, against
    every random pipeline."""
    known_key: bool = False
    """Also run the attacker who holds the scoring keys (tells masking from robustness)."""
    num_sweep_examples: int = 200
    """Images for the curves over the number of draws and over the radius."""
    eot_sweep: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of draws on the EOT curve; empty for none."""
    radius_sweep: tuple[float, ...] = ()
    """Radii on the curve over the radius, for every threat model; empty for none."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.radius <= 1 or not all(0 < r <= 1 for r in self.radius_sweep):
            raise ValueError(
                f"radius={self.radius} and radius_sweep={self.radius_sweep} must lie in (0, 1]; "
                "8/255 is 0.03137."
            )
        if not all(k >= 1 for k in self.eot_sweep):
            raise ValueError(f"eot_sweep={self.eot_sweep} starts at 1.")
        if self.num_sweep_examples > self.num_examples:
            raise ValueError(
                f"num_examples={self.num_examples} must be at least num_sweep_examples="
                f"{self.num_sweep_examples}: every study is on the first images of one list."
            )
        if (self.eot_sweep or self.radius_sweep) and self.num_sweep_examples < 1:
            raise ValueError(
                f"num_sweep_examples={self.num_sweep_examples} leaves the sweeps no image: "
                "raise it, or empty eot_sweep and radius_sweep."
            )


@dataclasses.dataclass(frozen=True)
class Transformations(Study):
    """Measures transformations of an image side by side, in front of one classifier.

    Each meets attacks that do not know of it, found on the classifier alone, and attacks that
    do: with the identity for its gradient, with a gradient of its own, and averaged over draws.
    """

    rows: tuple[str, ...] = ()
    """The transformations by name, empty for all: fd, fd_designed (with --table), jpeg, shield,
    bit_depth, median, bilateral, low_pass, total_variation, wavelet, super_resolution, quilting,
    noise, resize_pad, crop, pixel_deflection, subset, rain. The bare classifier, undefended, is
    measured in any case."""
    radii: tuple[float, ...] = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    """Radii of the L-inf ball, in units of the [0, 1] range: 8/255 is 0.03137."""
    num_steps: int = 20
    """Steps of BIM, of PGD and of the attacks that know the transformation."""
    num_eot: int = 8
    """Draws that an attack on a random transformation averages over."""
    num_examples: int = 200
    """Images for clean accuracy and for the attacks that follow one draw."""
    num_eot_examples: int = 100
    """Images for the attacks that average over draws."""
    cw_steps: int = 60
    """Steps of each of Carlini and Wagner's three searches."""
    two_pass: bool = False
    """Feature Distillation's two-pass process: images are compressed by it (25/30) and rounded to
    8 bits before the attacker, who stays near the compressed ones, sees them. Then --name
    another study."""
    table: str | None = None
    """Also measure Feature Distillation with this table: a file or a folder that
    `python -m train.feature_distillation` wrote."""
    enhancer: str = "builtin_edsr"
    """The EDSR of the super-resolution defense: a zoo name or a path."""
    rain: str = "builtin_edsr_rain"
    """RAIN's EDSR: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """RAIN's largest circular shift as a share of the low-resolution height, rounded down."""
    bank_data: str | None = None
    """Whose pictures the patches of quilting are from; by default those of `data`."""
    bank_split: str = "train"
    """The split of those pictures."""
    bank_size: int = 50_000
    """Patches in quilting's bank."""

    def __post_init__(self):
        super().__post_init__()
        if not self.radii or not all(0 < r <= 1 for r in self.radii):
            raise ValueError(f"radii={self.radii} must lie in (0, 1]; 8/255 is 0.03137.")
        # As precise as the names of records are.
        if len({f"{255 * r:.6g}" for r in self.radii}) < len(self.radii):
            raise ValueError(f"radii={self.radii} holds one twice: leave it out.")
        if self.num_steps < 1 or self.cw_steps < 1 or self.bank_size < 1:
            raise ValueError(
                f"num_steps={self.num_steps}, cw_steps={self.cw_steps} and bank_size="
                f"{self.bank_size} must be at least 1."
            )
