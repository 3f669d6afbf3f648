"""What the tests of services share: a picture, a local server that fails on demand, and clients.

Every client is pointed at a server on this machine: no test sends anything to anyone.
"""

import contextlib
import json

import numpy as np
import pytest

from rainjax.services import SERVICES, AnswerCache, Labeller, LocalServer, Picture

NAMES = tuple(SERVICES)
EXTRAS = {
    "aws": ("boto3",),
    "google": ("google.cloud.vision", "requests"),
    "azure": ("azure.ai.vision.imageanalysis",),
    "clarifai": ("clarifai_grpc", "requests"),
    "own": (),
}
LABELS = [("goldfish", 0.25), ("tench", 0.5), ("coho", 0.125)]
OPEN: list[Labeller] = []  # closed when the test is over
JSON = {"Content-Type": "application/json"}


def need(service: str) -> None:
    """Skips a test where a service's client, or tenacity, is not installed."""
    for module in ("tenacity", *EXTRAS[service]):
        with contextlib.suppress(Warning):  # of a client's own, on import
            pytest.importorskip(module, reason=f"needs {module}, which rainjax does not require")


def picture(seed: int = 0, shape: tuple[int, int, int] = (96, 80, 3)) -> Picture:
    return Picture(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def classify(pixels: np.ndarray) -> list[tuple[str, float]]:
    """Answers alike, but for a label that tells what was sent."""
    return [*LABELS, (f"mean {pixels.mean():.4f}", 0.0625)]


def failing(*answers):
    """Returns what has the first requests answered by `answers`, and all others well."""
    return lambda number: answers[number] if number < len(answers) else None


def pointed_at(name: str, server: LocalServer, **options):
    return SERVICES[name](endpoint=server.url, anonymous=True, stand_in="test", **options)


def labeller(service, folder, **options) -> tuple[Labeller, list[float]]:
    """Returns one that notes how long it would wait, and does not."""
    waits: list[float] = []
    options = {"per_second": 1e9, "sleep": waits.append, **options}
    OPEN.append(Labeller(service, AnswerCache(folder), **options))
    return OPEN[-1], waits


def raw(status: int, body: object = b"", **headers: str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status, {**JSON, **headers}, content
