"""`python -m eval api` to the end: tiny classifiers, the built-in set, a local server."""

import copy
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval.__main__ as program
from eval.benchmarks import _api_figure, api
from eval.benchmarks._api_tables import attacked, clean
from eval.benchmarks.api import Api
from rainjax import data, zoo
from rainjax.metrics import wilson_interval
from rainjax.services import Clarifai, LocalServer, RequestsSpent
from tests.saved_networks import two_classifiers
from tests.services.common import need

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM, ROW = 6, "bit depth, 3 bits"


@pytest.fixture(autouse=True)
def tenacity():
    need("own")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return two_classifiers(tmp_path_factory.mktemp("api"))


def _options(folder, **changes):
    options = {
        "service": "own",
        "stand_in": str(folder / "resnet1"),
        "source": str(folder / "resnet0"),
        "split": "train",
        "rows": ("bit_depth",),
        "num_examples": NUM,
        "num_steps": 2,
        "top_k": 2,
        "per_second": 1e9,
        "cache": folder / "answers",
        "out": folder / "results",
    }
    return Api(**{**options, **changes})


@pytest.fixture(scope="module")
def path(folder):
    need("own")
    return api.run(_options(folder))


@pytest.fixture
def record(path):
    return api.RECORD.load(path)


def _entry(record, name):
    return next(entry for entry in record["entries"] if entry["name"] == name)


def _names(folder, images):
    """Returns the two likeliest classes by the stand-in itself, without a service between."""
    entry, names = zoo.load(folder / "resnet1"), data.load("builtin", "train").class_names
    levels = jnp.rint(jnp.asarray(images) * 255) / 255
    logits = jax.vmap(entry.network.apply, (None, 0))(entry.params, levels)
    return [[names[i] for i in row] for row in np.argsort(-np.asarray(logits), -1)[:, :2]]


def test_labels_are_the_stand_ins(folder, record):
    images, _ = data.load("builtin", "train").get(np.arange(NUM))
    images = images.astype(np.float32) / 255
    assert _entry(record, clean(None))["labels"] == _names(folder, images)
    reduced = np.rint(images * 7) / 7
    assert _entry(record, clean(ROW))["labels"] == _names(folder, reduced)


def test_agreement_is_counted(record):
    own, other = (_entry(record, name) for name in (clean(None), attacked(None)))
    assert own["agreement"]["top1"]["mean"] == own["agreement"]["overlap"]["mean"] == 1
    same = [a[0] == b[0] for a, b in zip(own["labels"], other["labels"], strict=True)]
    assert other["agreement"]["num_images"] == NUM
    low, high = wilson_interval(sum(same), NUM)
    assert other["agreement"]["top1"] == {"mean": np.mean(same), "low": low, "high": high}
    shared = [len({*a} & {*b}) / 2 for a, b in zip(own["labels"], other["labels"], strict=True)]
    np.testing.assert_allclose(other["agreement"]["overlap"]["mean"], np.mean(shared))


def test_the_attack_stays_in_its_ball(folder, record):
    (file,) = [
        loaded["attacked"]
        for found in (folder / "results" / "attacks").rglob("*.npz")
        if "attacked" in (loaded := np.load(found)).files
    ]
    images, _ = data.load("builtin", "train").get(np.arange(NUM))
    moved = np.abs(file - images.astype(np.float32) / 255)
    assert 0 < moved.max() <= record["options"]["radius"] + 1e-6


def test_the_record_names_no_folder_and_no_address(folder, path):
    text = path.read_text()
    assert str(folder) not in text
    assert "127.0.0.1" not in text
    assert json.loads(text)["service"]["stand_in"]["name"] == "resnet1"


def test_a_record_at_odds_with_itself_is_refused(record, tmp_path):
    changed = copy.deepcopy(record)
    _entry(changed, attacked(ROW))["labels"][0] = ["something", "else"]
    _entry(changed, attacked(ROW))["agreement"]["top1"]["mean"] = 0.25
    (tmp_path / "api.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="does not follow"):
        api.RECORD.load(tmp_path / "api.json")
    changed["rows"].append("another")
    (tmp_path / "api.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="another"):
        api.RECORD.load(tmp_path / "api.json")


def test_its_figure_and_table(path, record):
    drawn = _api_figure.figure(record)
    assert path.with_suffix(".png").read_bytes() == drawn.png
    assert drawn.png.startswith(b"\x89PNG")
    assert f"attacked, {ROW}" in drawn.alt
    text = api.RECORD.text(record)
    assert "resnet1" in text
    assert "No company was asked" in text


def test_nothing_is_asked_twice(folder, path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(LocalServer, "answer", lambda *args: pytest.fail("a request"))
    assert api.run(_options(folder)) == path
    told = [json.loads(text)["entries"] for text in (before, path.read_bytes())]
    assert told[0] == told[1]


def _served(**options):
    return LocalServer(lambda pixels: [("sky", float(pixels.mean() / 255)), ("sea", 0.5)])


def _elsewhere(folder, server, **changes):
    """Returns the options of somebody who has a server, which is taken for one that costs."""
    there = {"stand_in": None, "endpoint": server.url, "cache": folder / server.url[-5:]}
    return _options(folder, out=folder / "results", **{**there, **changes})


def test_a_dry_run_says_what_it_would_cost(folder, path, monkeypatch, capsys):
    monkeypatch.setattr(Clarifai, "connect", lambda self: pytest.fail("a connection"))
    options = _options(
        folder, service="clarifai", stand_in=None, dry_run=True, max_requests=3, price=1000.0
    )
    assert api.run(options) is None
    said = capsys.readouterr().out
    # Six images; clean and attacked, purified and not. Those that are alike count once.
    (number,) = {int(word) for word in said.split() if word.isdigit()} & {*range(13, 25)}
    assert f"{number} requests" in said
    assert f"About ${number}.00" in said
    assert "stops after 3" in said
    assert "Nothing was sent." in said


def test_it_asks_before_it_sends(folder, path, monkeypatch, capsys):
    with _served() as server:
        options = _elsewhere(folder, server)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
        with pytest.raises(ValueError, match="--yes"):
            api.run(options)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda text: "")
        assert api.run(options) is None
        assert server.num_requests == 0
        asked = []
        monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
        before = path.read_bytes()
        assert api.run(options) is not None
        path.write_bytes(before)
    assert server.num_requests >= 2 * NUM
    (question,) = asked
    assert question.startswith(f"Send {server.num_requests} requests to Your labelling server")
    assert f"up to {Api().num_attempts} times" in question


def test_a_run_that_has_spent_its_requests_goes_on(folder, path, capsys):
    before = path.read_bytes()
    with _served() as server:
        with pytest.raises(RequestsSpent):
            api.run(_elsewhere(folder, server, yes=True, max_requests=5))
        assert server.num_requests == 5
        api.run(_elsewhere(folder, server, yes=True))
    path.write_bytes(before)
    sent = server.pictures
    assert len(sent) == server.num_requests == len({*sent})


def test_its_words(folder, path, monkeypatch, capsys):
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    words = ["api", "--service", "azure", "--dry-run", "--split", "train", "--num-examples", "6"]
    words += ["--source", str(folder / "resnet0"), "--out", str(folder / "results")]
    monkeypatch.setattr(sys, "argv", ["eval", *words])
    with pytest.raises(SystemExit, match="50 pixels a side or more"):
        program.main()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service": "bing"}, "service='bing' is none of aws, google, azure, clarifai, own"),
        ({"rows": ("undefended",)}, "rows='undefended' is none of fd"),
        ({"top_k": 11}, "top_k=11 is more than max_labels=10"),
        ({"radius": 8.0}, "radius=8.0"),
        ({"price": -1.0}, "price=-1.0"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"skip": -1}, "skip=-1"),
        ({"endpoint": "http://127.0.0.1:1"}, "leave out endpoint"),
    ],
)
def test_options_that_make_no_sense(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        _options(folder, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ("region",)}, "must be NAME=VALUE"),
        ({"settings": ("region=here",)}, "with one of timeout"),
        ({"settings": ("timeout=soon",)}, "must give a number"),
        ({"stand_in": None}, "needs an endpoint"),
    ],
)
def test_settings_of_a_service(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        api.run(_options(folder, **changes))


def test_a_secret_among_the_settings_is_not_repeated(folder):
    with pytest.raises(ValueError, match="settings='KEY'") as told:
        api.run(_options(folder, settings=("KEY=abc123",)))
    assert "abc123" not in str(told.value)


def test_the_attackers_classifier_is_no_stand_in(folder):
    with pytest.raises(ValueError, match="name another"):
        api.run(_options(folder, stand_in=str(folder / "resnet0")))
