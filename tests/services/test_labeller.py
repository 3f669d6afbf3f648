"""Nothing is paid for twice: the cache, what a kill leaves, limits of requests, and settings."""

import concurrent.futures
import dataclasses
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from rainjax.services import (
    SERVICES,
    AnswerCache,
    AzureVision,
    Clarifai,
    GoogleVision,
    Labeller,
    LocalServer,
    OwnServer,
    Picture,
    Rekognition,
    RequestsSpent,
)
from tests.services.common import classify, failing, labeller, need, picture, pointed_at, raw


@pytest.fixture(autouse=True)
def tenacity():
    need("own")


def test_an_answer_is_kept(tmp_path):
    with LocalServer(classify) as server:
        service = pointed_at("own", server)
        first = labeller(service, tmp_path)[0](picture())
        again, _ = labeller(service, tmp_path)
        assert again(Picture(picture().pixels.copy())) == first
    assert server.num_requests == 1
    assert again.num_requests == 0


def test_threads_share_the_budget_and_pay_once(tmp_path):
    """JAX may call the host from several threads at once."""

    def ask(number):
        try:
            return asked(picture(number % 3))
        except RequestsSpent:
            return None

    with LocalServer(classify) as server:
        asked, _ = labeller(pointed_at("own", server), tmp_path, max_requests=2)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(24)))
    assert server.num_requests == asked.num_requests == 2
    assert sum(answer is not None for answer in answers) >= 2


def test_a_server_that_gets_no_credentials_may_be_in_the_next_room():
    assert OwnServer(endpoint="http://192.168.1.5:8000").endpoint == "http://192.168.1.5:8000"
    with pytest.raises(ValueError, match="give https"):
        Rekognition(endpoint="http://192.168.1.5:8000")
    with pytest.raises(ValueError, match="fragment"):
        OwnServer(endpoint="http://127.0.0.1:8000/#secret")


def test_another_picture_or_setting_is_another_question(tmp_path):
    with LocalServer(classify) as server:
        service = pointed_at("own", server)
        for changed in (
            service,
            dataclasses.replace(service, max_labels=3),
            dataclasses.replace(service, stand_in="another"),
            dataclasses.replace(service, stand_in=None),
        ):
            labeller(changed, tmp_path)[0](picture())
        labeller(service, tmp_path)[0](picture(1))
        # What does not decide an answer asks nothing anew.
        labeller(dataclasses.replace(service, timeout=3.0), tmp_path)[0](picture())
    assert server.num_requests == 5


def test_a_shape_is_part_of_a_picture():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert Picture(pixels).digest != Picture(pixels.reshape(2, 8, 3)).digest
    assert Picture(pixels).digest == Picture(np.asfortranarray(pixels)).digest


def test_a_stand_in_is_known_by_its_name_and_not_by_its_port(tmp_path):
    for _ in range(2):
        with LocalServer(classify) as server:
            ask, _ = labeller(pointed_at("own", server), tmp_path)
            ask(picture())
    assert ask.num_requests == 0


def test_requests_are_bounded_and_repeated_ones_count(tmp_path):
    with LocalServer(classify, failing(raw(503), raw(503))) as server:
        service = pointed_at("own", server)
        ask, _ = labeller(service, tmp_path, max_requests=4)
        ask(picture(0))  # at the third attempt
        ask(picture(1))
        with pytest.raises(RequestsSpent, match="All 4 requests"):
            ask(picture(2))
        ask(picture(1))  # which is kept
        assert server.num_requests == 4
        labeller(service, tmp_path, max_requests=1)[0](picture(2))
    assert server.num_requests == 5


def test_missing_counts_each_picture_once(tmp_path):
    with LocalServer(classify) as server:
        ask, _ = labeller(pointed_at("own", server), tmp_path)
        ask(picture(0))
        left = ask.missing([picture(0), picture(1), picture(1), picture(2)])
    assert [p.digest for p in left] == [picture(1).digest, picture(2).digest]


def test_requests_keep_their_distance(tmp_path):
    """By the clock of whoever sleeps: what is slept adds up to an interval each."""
    with LocalServer(classify) as server:
        ask, waits = labeller(pointed_at("own", server), tmp_path, per_second=0.001)
        for seed in range(3):
            ask(picture(seed))
    assert len(waits) == 2
    # The second waits for one interval, the third for two, as nobody has slept meanwhile.
    assert waits[0] == pytest.approx(1000, abs=30)
    assert waits[1] == pytest.approx(2000, abs=30)


PROGRAM = """
import pathlib, sys
import numpy as np
from rainjax.services import AnswerCache, Labeller, OwnServer, Picture
service = OwnServer(endpoint=sys.argv[1], stand_in="test")
ask = Labeller(service, AnswerCache(pathlib.Path(sys.argv[2])), per_second=1e9)
for level in range(12):
    ask(Picture(np.full((8, 8, 3), level, np.uint8)))
"""


def test_a_killed_run_goes_on_without_a_repeated_request(tmp_path):
    """Killed without a chance to clean up, while it waits for its sixth answer."""
    reached = []

    def hold(number):
        reached.append(number)
        while number == 5 and len(reached) == 6 and program.poll() is None:
            time.sleep(0.01)
            if len(reached) == 6 and number == 5:
                program.send_signal(signal.SIGKILL)

    with LocalServer(classify, hold) as server:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), server.url, str(tmp_path)]
        program = subprocess.Popen(command)
        assert program.wait() == -signal.SIGKILL
        whole = list(tmp_path.rglob("*.json"))
        assert len(whole) == 5
        ask, _ = labeller(pointed_at("own", server), tmp_path)
        for level in range(12):
            ask(Picture(np.full((8, 8, 3), level, np.uint8)))
    # The sixth was sent, and its answer lost with the process; no other was asked for twice.
    assert ask.num_requests == 7
    assert server.num_requests == 6 + 7


def test_a_damaged_answer_is_named(tmp_path):
    with LocalServer(classify) as server:
        service = pointed_at("own", server)
        ask, _ = labeller(service, tmp_path)
        ask(picture())
        path = AnswerCache(tmp_path).path(service, picture())
        for content in ("{", '{"schema": 2}', "[]"):
            path.write_text(content)
            with pytest.raises(ValueError, match=path.name):
                ask(picture())
    assert server.num_requests == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rekognition(endpoint="rekognition"), "must be an address"),
        (lambda: Rekognition(endpoint="ftp://127.0.0.1"), "must be an address"),
        (lambda: Rekognition(endpoint="https://127.0.0.1:port"), "must be an address"),
        (lambda: GoogleVision(endpoint="https://me:sesame@127.0.0.1"), "holds a user"),
        (lambda: GoogleVision(endpoint="https://127.0.0.1/?key=sesame"), "holds a user"),
        (lambda: AzureVision(endpoint="http://example.com"), "plain text"),
        (lambda: Clarifai(anonymous=True), "give its endpoint"),
        (lambda: Clarifai(stand_in="mine"), "give its endpoint"),
        (lambda: Clarifai(max_labels=0), "max_labels=0"),
        (lambda: Clarifai(timeout=float("nan")), "timeout=nan"),
        (lambda: Rekognition(min_confidence=55.0), "min_confidence=55.0"),
        (lambda: OwnServer(), "needs an endpoint"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_second": 0.0}, "per_second=0.0"),
        ({"max_requests": 0}, "max_requests=0"),
        ({"num_attempts": 0}, "num_attempts=0"),
    ],
)
def test_numbers_of_requests_that_make_no_sense(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Labeller(Rekognition(), AnswerCache(tmp_path), **options)


@pytest.mark.parametrize(
    ("service", "shape", "message"),
    [
        (Rekognition(), (79, 100, 3), "80 pixels a side or more"),
        (Rekognition(), (80, 10_001, 3), "10000 pixels a side at most"),
        (AzureVision(), (49, 100, 3), "50 pixels a side or more"),
        (GoogleVision(), (8000, 9400, 1), "75,000,000 pixels at most"),
    ],
)
def test_sizes_of_pictures(service, shape, message):
    with pytest.raises(ValueError, match=message):
        service.limits.check(Picture(np.zeros(shape, np.uint8)), service.title)
    service.limits.check(Picture(np.zeros((80, 100, 3), np.uint8)), service.title)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_pictures_are_of_images(bad):
    image = np.zeros((4, 4, 3), np.float32)
    image[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Picture.of(image)


def test_a_perturbation_of_whole_grey_levels_arrives():
    levels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Picture.of(levels.astype(np.float32) / 255).pixels, levels)


def test_every_service_says_what_decides_its_answers():
    for name, kind in SERVICES.items():
        settings = kind(endpoint="http://127.0.0.1:1", anonymous=True, stand_in="x").settings()
        assert settings["service"] == name
        assert {"max_labels", "stand_in"} <= settings.keys()
        assert "127.0.0.1" not in str(settings)
