"""From a configuration to the cells of its table: which target, which attacker, which images."""

import dataclasses
from typing import Any

from eval.config import Robustness
from rainjax import zoo
from rainjax.attacks import EOT, PGD
from rainjax.attacks._base import BallAttack
from rainjax.attacks.minimum_norm import MinimumNormAttack
from rainjax.defenses import RAIN, Defense, Identity, MeanFieldRAIN
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.gradients import Draws
from rainjax.nets import EDSR
from rainjax.pipeline import Defended
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One pipeline under test, with its parameters and where they came from."""

    key: str
    title: str
    target: Defended
    params: Params
    sources: dict[str, dict[str, str] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One number of a study. `surrogate` and `attack` are None for clean accuracy."""

    row: Row
    column: str
    title: str
    threat_model: str
    surrogate: Defended | None
    attack: BallAttack | MinimumNormAttack | AutoAttack | None
    num_examples: int
    roles: tuple[str, ...]

    @property
    def panel(self) -> bool:
        """Whether some of its images are kept to be looked at."""
        return (
            self.attack is not None
            and self.roles != ("comparison", "table")
            and "table" in self.roles
        )

    @property
    def id(self) -> str:
        """The name of the cell's record: unique within the study."""
        parts = [self.row.key.replace("_", "-"), self.column.replace("_", "-")]
        if self.attack is not None:
            radius = self.attack.radius
            parts += ["nearest" if radius is None else f"r{radius * 255:.6g}"]
            parts += [f"k{self.attack.num_draws}"]
        return "--".join([*parts, f"n{self.num_examples}"])

    @property
    def known_key(self) -> bool:
        """Whether the attacker holds the scoring keys."""
        return self.column == "known_key"


def rows(config: Robustness) -> list[Row]:
    """Loads the networks and returns the pipelines: no defense, RAIN before, RAIN after."""
    classifier = zoo.load_any(config.classifier, config.classifier_arch)
    found = [_row("undefended", "no defense", Identity(), None, classifier)]
    for key, title, name in (
        ("rain_pretrained", "RAIN, before fine-tuning", config.pretrained),
        ("rain_finetuned", "RAIN, fine-tuned", config.finetuned),
    ):
        entry = zoo.load_any(name)
        if not isinstance(entry.network, EDSR):
            raise ValueError(f"{name!r} holds a {type(entry.network).__name__}, not an EDSR.")
        defense = RAIN(entry.network, shift_fraction=config.shift_fraction)
        found.append(_row(key, title, defense, entry, classifier))
    return found


def cells(config: Robustness, found: list[Row], height: int) -> list[Cell]:
    """Returns the study's cells, cheap ones first; `height` is the images'."""
    table, curves = [], []
    for row in found:
        table += _table_cells(config, row, height)
        curves += _curve_cells(config, row, height)
    merged: dict[str, Cell] = {}
    for cell in table + curves:
        if cell.id in merged:  # one run serves several displays
            if merged[cell.id].attack != cell.attack:
                raise ValueError(f"Two attacks of one study would both be recorded as {cell.id}.")
            roles = tuple(sorted({*merged[cell.id].roles, *cell.roles}))
            cell = dataclasses.replace(merged[cell.id], roles=roles)
        merged[cell.id] = cell
    return sorted(merged.values(), key=_cost)


def describe(value: Any) -> Any:
    """Returns a configuration as plain JSON: dataclasses become dicts that name their class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)


def source(entry: zoo.Entry | None) -> dict[str, str] | None:
    """Returns what a record says of where parameters came from."""
    return entry and {"name": entry.name, "sha256": entry.sha256}


def _row(key: str, title: str, defense: Defense, edsr, classifier) -> Row:
    return Row(
        key,
        title,
        Defended(defense, classifier.network),
        {"defense": edsr.params if edsr else (), "classifier": classifier.params},
        {"classifier": source(classifier), "defense": source(edsr)},
    )


def _table_cells(config: Robustness, row: Row, height: int) -> list[Cell]:
    few, many = config.num_eot_examples, config.num_examples
    clean = Cell(row, "clean", "clean", "no attack", None, None, many, ("table",))
    columns = [clean, *_attacks(config, row, height, config.radius, many, few, ("table",))]
    if config.autoattack and row.target.defense.is_random:
        columns.append(_autoattack(config, row, few))
    if config.known_key and row.target.defense.is_random:
        columns.append(_known_key(config, row, few))
    return columns


def _curve_cells(config: Robustness, row: Row, height: int) -> list[Cell]:
    n = config.num_sweep_examples
    found = []
    for radius in config.radius_sweep:
        found += _attacks(config, row, height, radius, n, n, ("radius",))
    if row.target.defense.is_random:
        for num_eot in config.eot_sweep:
            found.append(_eot(config, row, config.radius, num_eot, n, ("eot",)))
        if config.eot_sweep:  # the level that the curve is held against
            found.append(_mean_field(config, row, height, config.radius, n, ("eot",)))
    return found


def _attacks(config, row, height, radius, num_examples, num_eot_examples, roles) -> list[Cell]:
    """The attacks of one radius: four on a randomised row, and one where blind is white-box."""
    classifier_alone = Defended(Identity(), row.target.classifier)
    attack = _pgd(config, radius)
    steps = f"PGD-{config.num_steps}"
    if not row.target.defense.is_random:
        threat = "white box: gradients of the classifier, which is all there is"
        return [Cell(row, "white_box", steps, threat, row.target, attack, num_examples, roles)]
    return [
        Cell(
            row, "blind", f"{steps}, blind",
            "blind to the defense: gradients of the classifier alone",
            classifier_alone, attack, num_examples, roles,
        ),
        Cell(
            row, "white_box", f"{steps}, one draw",
            "white box: gradients of the whole pipeline, one draw a step",
            row.target, attack, num_examples, roles,
        ),
        _eot(config, row, radius, config.num_eot, num_eot_examples, roles),
        _mean_field(config, row, height, radius, num_eot_examples, roles),
    ]  # fmt: skip


def _eot(config, row, radius, num_eot, num_examples, roles) -> Cell:
    attack = _pgd(config, radius, num_eot)
    threat = f"white box: gradients averaged over {num_eot} draws a step"
    title = f"EOT-PGD-{config.num_steps}"
    return Cell(row, "eot", title, threat, row.target, attack, num_examples, roles)


def _mean_field(config, row, height, radius, num_examples, roles) -> Cell:
    surrogate = MeanFieldRAIN(row.target.defense)
    num_outcomes = surrogate.num_outcomes(height)
    attack = _pgd(config, radius, num_outcomes, "enumerated")
    threat = f"white box: mean pixel for the random pick, all {num_outcomes} shifts enumerated"
    target = Defended(surrogate, row.target.classifier)
    return Cell(row, "mean_field", "mean field", threat, target, attack, num_examples, roles)


def _autoattack(config, row, num_examples) -> Cell:
    version = config.autoattack
    draws = EOT(config.num_eot, chunk_size=config.chunk(config.num_eot))
    attack = AutoAttack(
        version=version, radius=config.radius, num_steps=config.num_steps, eot=draws
    )
    names = ", ".join(member.name for member in attack.members)
    threat = f"white box: the worst of {names}, answers averaged over {config.num_eot} draws"
    title = f"AutoAttack, {version}"
    return Cell(row, "autoattack", title, threat, row.target, attack, num_examples, ("table",))


def _known_key(config, row, num_examples) -> Cell:
    attack = _pgd(config, config.radius, config.num_score_draws, "enumerated")
    threat = f"white box, holding the {config.num_score_draws} keys that will be scored"
    return Cell(
        row, "known_key", "known key", threat, row.target, attack, num_examples, ("table",)
    )


def _pgd(config: Robustness, radius: float, num_eot: int = 1, draws: Draws = "independent") -> PGD:
    return PGD(
        radius=radius,
        step_size=config.step_size * radius / config.radius,
        num_steps=config.num_steps,
        eot=EOT(num_eot, chunk_size=config.chunk(num_eot), draws=draws),
    )


def _cost(cell: Cell) -> tuple[int, int, str]:
    gradients = cell.attack.num_gradients if cell.attack else 0
    return ("table" not in cell.roles, gradients * cell.num_examples, cell.id)
