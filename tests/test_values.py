"""A value is refused unless equality and hash see all that it holds, however its class is made."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from rainjax._values import Value, check_value
from rainjax.attacks import PGD, Attack
from rainjax.defenses import RAIN, Defense, Deterministic, Identity
from rainjax.evaluation import run_attack
from rainjax.evaluation.measures import Measure
from rainjax.evaluation.threats import Surrogate
from rainjax.nets import Network
from rainjax.pipeline import Defended, Pipeline
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

DECORATE = r"decorate {} with @dataclasses\.dataclass\(frozen=True\) and declare '{}' as a field"


def _rounded(image, levels):
    return jnp.round(image * levels) / levels


@dataclasses.dataclass(frozen=True)
class Rounding(Deterministic):
    """Rounds to multiples of 1 / levels: declared as it should be."""

    levels: int = 1

    def purify(self, image):
        return _rounded(image, self.levels)


class PlainRounding(Deterministic):
    """The same as a plain class, whose inherited equality sees no levels."""

    def __init__(self, levels):
        self.levels = levels

    def purify(self, image):
        return _rounded(image, self.levels)


class HiddenRounding(Deterministic):
    """The same, past what a frozen dataclass forbids."""

    def __init__(self, levels):
        object.__setattr__(self, "levels", levels)

    def purify(self, image):
        return _rounded(image, self.levels)


class SlotRounding(Deterministic):
    """The same, where `vars` does not show it."""

    __slots__ = ("levels",)

    def __init__(self, levels):
        object.__setattr__(self, "levels", levels)

    def purify(self, image):
        return _rounded(image, self.levels)


class LateRounding(Rounding):
    """Adds to a dataclass what its equality does not see."""

    def __init__(self, levels, offset):
        super().__init__(levels)
        self.offset = offset


class AnnotatedRounding(Rounding):
    """Means a field, and has none."""

    offset: float = 0.5


@dataclasses.dataclass(frozen=True)
class InheritsAnnotation(AnnotatedRounding):
    """A dataclass collects nothing from a base that is none."""

    more: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class InheritedEquality(Deterministic):
    """Has an equality, though: that of a defense without fields."""

    levels: int = 1

    def purify(self, image):
        return _rounded(image, self.levels)


@dataclasses.dataclass(frozen=True)
class Uncompared(Deterministic):
    """Leaves out the one field that matters."""

    levels: int = dataclasses.field(default=1, compare=False)

    def purify(self, image):
        return _rounded(image, self.levels)


@dataclasses.dataclass(frozen=True)
class Unasked(Deterministic):
    """Keeps a number made of nothing that equality sees, and asks no base class."""

    def __post_init__(self):
        object.__setattr__(self, "levels", next(COUNTER))

    def purify(self, image):
        return _rounded(image, self.levels)


COUNTER = iter(range(1, 100))


def test_values_that_differ_in_levels_run_programs_of_their_own():
    """The issue's case: levels=1, then levels=255, in one process."""
    images = np.linspace(0, 1, 192, dtype=np.float32).reshape(1, 8, 8, 3)
    run = jax.jit(lambda defense, image: defense.apply((), None, image), static_argnums=0)
    with unchecked():
        for levels in (1, 255):
            expected = np.rint(images[0] * np.float32(levels)) / levels
            np.testing.assert_allclose(run(Rounding(levels), images[0]), expected, atol=1e-6)
            with pytest.raises(ValueError, match=DECORATE.format("PlainRounding", "levels")):
                run(PlainRounding(levels), images[0])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PlainRounding(1), DECORATE.format("PlainRounding", "levels")),
        (lambda: HiddenRounding(1), DECORATE.format("HiddenRounding", "levels")),
        (lambda: SlotRounding(1), DECORATE.format("SlotRounding", "levels")),
        (lambda: LateRounding(1, 0.5), DECORATE.format("LateRounding", "offset")),
        (lambda: AnnotatedRounding(1), DECORATE.format("AnnotatedRounding", "offset")),
        (lambda: AnnotatedRounding(1, offset=0.1), DECORATE.format("AnnotatedRounding", "offset")),
        (lambda: InheritsAnnotation(1), DECORATE.format("AnnotatedRounding", "offset")),
        (lambda: InheritedEquality(1), "does not see its field 'levels'.* without eq=False"),
        (lambda: Uncompared(1), "does not see its field 'levels'.* and compare=False"),
        (lambda: Unasked(), DECORATE.format("Unasked", "levels")),
    ],
)
def test_a_value_that_equality_does_not_see_is_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("base", [Defense, Network, Attack, Pipeline, Surrogate, Measure])
def test_every_kind_of_value_is_checked(base):
    assert issubclass(base, Value)
    stubs = dict.fromkeys(base.__abstractmethods__, lambda self: None)

    def init(self, levels):
        object.__setattr__(self, "levels", levels)

    bad = type("Bad", (base,), {**stubs, "__init__": init})
    with unchecked(), pytest.raises(ValueError, match=DECORATE.format("Bad", "levels")):
        bad(1)
    good = type("Good", (base,), stubs)
    assert good() == good()


@dataclasses.dataclass(frozen=True)
class Holder(Defense):
    """Holds anything."""

    what: typing.Any

    def apply(self, params, key, image):
        return image


@dataclasses.dataclass(frozen=True)
class Config:
    """Somebody's own value, no class of ours."""

    number: object = 1


class Subconfig(Config):
    """The trap, one level down."""

    def __init__(self, extra):
        super().__init__()
        object.__setattr__(self, "extra", extra)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (np.ones(3), "an array"),
        (jnp.ones(3), "an array"),
        (jax.random.key(0), "an array"),
        ([1, 2], "a list"),
        ({"a": 1}, "a dict"),
        ((1, [2]), "a tuple"),
        (Config(np.ones(2)), "a Config"),
    ],
)
def test_what_has_no_hash_is_refused_in_words(what, kind):
    sentence = rf"^Holder\.what holds {kind}, .*: pass arrays as parameters from `init`, or a tup"
    with unchecked(), pytest.raises(ValueError, match=sentence):
        Holder(what)


@pytest.mark.parametrize(
    "what",
    [
        1,
        np.float32(0.5),
        np.int64(3),
        "name",
        None,
        (1, (2.0, "x")),
        frozenset({1}),
        float,
        lambda x: x,
        np.tanh,
        jnp.tanh,
        jax.jit(jnp.tanh),
        functools.partial(np.add, 1),
        np.dtype("float32"),
        linen.Dense(2),
        Config(),
        Rounding(3),
        (Rounding(3),),
        PGD(),
    ],
    ids=lambda what: type(what).__name__,
)
def test_what_equality_sees_is_accepted(what):
    with unchecked():
        value = Holder(what)
        assert value == Holder(what)
        assert hash(value) == hash(Holder(what))
        assert value != Holder("another")


def test_what_is_hidden_further_down_is_refused():
    for what in (Subconfig(1), (Subconfig(1),), Config(Subconfig(1))):
        with unchecked(), pytest.raises(ValueError, match="'extra' is no field of Subconfig"):
            Holder(what)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A dataclass of somebody's, which is no value of ours."""

    left: object
    right: object = None


@pytest.mark.parametrize(
    ("wrap", "owner"),
    [
        (lambda module: module, "Holder.what"),
        (lambda module: (module,), "Holder.what"),
        (lambda module: (1, (2, (module,))), "Holder.what"),
        (lambda module: frozenset({module}), "Holder.what"),
        (lambda module: functools.partial(module), "Holder.what"),
        (lambda module: functools.partial(np.add, module), "Holder.what"),
        (lambda module: module.__call__, "Holder.what"),
        (lambda module: Pair(module), "Pair.left"),
        (lambda module: (Pair(1, (module,)),), "Pair.right"),
    ],
)
def test_an_nnx_module_is_refused_wherever_a_value_holds_it(wrap, owner):
    module = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    sentence = rf"^{owner} holds an NNX module, .*from_flax"
    with unchecked(), pytest.raises(ValueError, match=sentence):
        Holder(wrap(module))


class Inverted(Deterministic):
    """No field, and no decorator: nothing that equality could miss."""

    scale: typing.ClassVar[float] = 1.0

    @functools.cached_property
    def table(self):
        return np.arange(3.0)

    def purify(self, image):
        return 1 - image


class Louder(Rounding):
    """Another method of a dataclass, and nothing else."""

    def purify(self, image):
        return jnp.sqrt(super().purify(image))


class ByContent(Deterministic):
    """An equality and a hash of its own, which see its array."""

    def __init__(self, table):
        object.__setattr__(self, "table", table)

    def __eq__(self, other):
        return type(other) is ByContent and self.table.tobytes() == other.table.tobytes()

    def __hash__(self):
        return hash(self.table.tobytes())

    def purify(self, image):
        return image * self.table


@dataclasses.dataclass(frozen=True)
class Generic(Deterministic, typing.Generic[typing.TypeVar("T")]):
    """`typing` keeps a note on every instance of these."""

    levels: int = 1

    def purify(self, image):
        return image


def test_classes_that_keep_their_word_need_no_decorator():
    with unchecked():
        assert Inverted() == Inverted()
        inverted = Inverted()
        assert inverted.table.sum() == 3  # is kept on the object
        assert Defended(inverted, Linear(192, 4)) == Defended(Inverted(), Linear(192, 4))
        check_value(inverted)
        assert Louder(2) == Louder(2) != Louder(3)
        assert Louder(2) != Rounding(2)
        assert ByContent(np.ones(3)) == ByContent(np.ones(3)) != ByContent(np.zeros(3))
        assert Generic[int](2) == Generic(2)


def test_a_value_is_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Rounding(1), "levels", 2)  # noqa: B010 - a type checker refuses the plain way
    for value in (Inverted(), Louder(2)):
        with pytest.raises(ValueError, match="'offset' is no field of"):
            value.offset = 3
    with pytest.raises(TypeError, match="non-frozen"):
        dataclasses.dataclass(type("Mutable", (Deterministic,), {}))


def test_a_class_with_an_equality_and_no_hash_is_refused():
    class Unhashed(Deterministic):
        def __eq__(self, other):
            return type(other) is Unhashed

        def purify(self, image):
            return image

    with unchecked(), pytest.raises(ValueError, match=r"Unhashed has no hash, .*define __hash__"):
        Unhashed()


def test_what_an_attack_asks_is_checked_where_it_is_used():
    class Question:
        """Asks for less the larger `divisor` is; all are equal."""

        def __init__(self, divisor):
            self.divisor = divisor

        def __eq__(self, other):
            return type(other) is Question

        def __hash__(self):
            return 0

        def __call__(self, logits_fn, draw, image, query_args):
            raise AssertionError("is not asked")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Asking(PGD):
        divisor: int = 1

        @property
        def query(self):
            return Question(self.divisor)

    target = Defended(Identity(), Linear(192, 4))
    images = np.full((1, 8, 8, 3), 0.5, np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    params = target.init(jax.random.key(0))
    with unchecked(), pytest.raises(ValueError, match="'divisor' is no field of Question"):
        run_attack(target, Asking(num_steps=1), params, keys, images, np.array([0]))


def test_copies_of_a_value_are_that_value():
    rain = RAIN()
    assert dataclasses.replace(rain, shift_fraction=0.1) != rain
    assert dataclasses.replace(rain) == rain
