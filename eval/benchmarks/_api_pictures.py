"""What a service is shown: images as they are, attacked, and each of them behind a purifier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.benchmarks._api_tables import attacked, clean
from rainjax._files import read_array
from rainjax.attacks import PGD, InputDiversity, TranslationInvariance
from rainjax.data import ImageSet
from rainjax.defenses import Chain, Defense, Identity
from rainjax.evaluation import CLEAN, Knowledge, Study, Subject, ThreatModel, Transfer, evaluate
from rainjax.evaluation.study import cells
from rainjax.evaluation.work import Work
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from rainjax.services import Picture
from rainjax.typing import Params
from rainjax.zoo import Entry

Purifier = tuple[str, Defense, Params, str | None]


def study(options: Any, images: ImageSet, source: Entry) -> Study:
    """Returns the attack on the attacker's own classifier, as a study that can be continued.

    PGD with momentum (Dong et al., 2018), diverse inputs and a blurred gradient, by which a
    perturbation transfers.

    Raises:
        ValueError: the classifier is of other images.
    """
    params = {"defense": (), "classifier": source.params}
    bare = Subject(source.name, Defended(Identity(), source.network), params)
    # The blur is as wide as its paper's, by the width of the images.
    size = 2 * round(max(images.image(0).shape[:2]) / 40) + 1
    # TI before DI, so that what is blurred is the gradient at the image, as in its paper.
    front = Chain((TranslationInvariance(size), InputDiversity()))
    own = Subject(source.name, Defended(front, source.network), {**params, "defense": ((), ())})
    attack = PGD(
        radius=options.radius,
        step_size=options.radius / 10,
        num_steps=options.num_steps,
        random_start=False,
        momentum=1.0,
    )
    return Study(
        "attacks",
        images,
        [bare],
        [CLEAN, ThreatModel("transfer", attack, Transfer(own), Knowledge.TRANSFER)],
        num_examples=options.num_examples,
        num_score_draws=1,
        batch_size=options.batch_size,
        seed=options.seed,
    )


def pictures(options: Any, attack: Study, purifiers: list[Purifier]) -> dict[str, list[Picture]]:
    """Returns the pictures by what was done to them, an image's place being the same in each.

    A purifier that is random draws once for an image, with the key that scores are taken with, and
    the same for the clean and the attacked one.
    """
    evaluate(attack, options.out)
    work = Work(attack, options.out / attack.name)
    (cell,) = (c for c in cells(attack) if c.threat.attack is not None)
    rows = np.arange(attack.count)
    originals, _ = work.read(rows)
    paths = [unit.attacked for unit in work.units(cell)]
    found = np.concatenate([read_array(path, "attacked") for path in paths if path is not None])
    shown = {clean(None): list(map(Picture.of, np.asarray(originals)))}
    shown[attacked(None)] = list(map(Picture.of, found))
    for title, defense, params, _ in purifiers:
        for name, images in ((clean(title), originals), (attacked(title), found)):
            shown[name] = _purified(options, defense, params, np.asarray(images))
    return shown


def _purified(options: Any, defense: Defense, params: Params, images: np.ndarray) -> list[Picture]:
    program = jax.jit(jax.vmap(defense.apply, (None, 0, 0)))
    keys = example_keys(options.seed, Purpose.SCORE, np.arange(len(images)))
    found = []
    for start in range(0, len(images), options.batch_size):
        part = slice(start, start + options.batch_size)
        found += map(
            Picture.of, np.asarray(program(params, keys[part], jnp.asarray(images[part])))
        )
    return found
