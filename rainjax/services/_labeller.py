"""A service that is asked politely: from the cache first, then so often a second, and no more."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from rainjax._extras import require
from rainjax.services._base import Answer, Client, Service, ServiceBusy, ServiceError
from rainjax.services._cache import AnswerCache
from rainjax.services._pictures import Picture

_LONGEST_WAIT = 60.0  # seconds before a further attempt


class RequestsSpent(ServiceError):
    """All the requests that were allowed have been made."""


class Labeller:
    """Asks a service about pictures, and pays for none twice.

    An answer that is kept costs nothing. Others are asked for at most `per_second` times a second;
    where the service is busy, or its answer cannot be read, up to `num_attempts` times, each wait
    drawn below a bound that doubles from one second to a minute (exponential back-off with full
    jitter, by tenacity), or as long as the service says. The clients' own retries are off, so that
    `num_requests` counts every request that is sent, and `max_requests` bounds it. A context
    manager, which closes the client.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        service: Service,
        cache: AnswerCache,
        *,
        max_requests: int | None = None,
        per_second: float | None = None,
        num_attempts: int = 6,
        sleep: Callable[[float], Any] = time.sleep,
    ):
        per_second = service.rate if per_second is None else per_second
        if not (math.isfinite(per_second) and per_second > 0):
            raise ValueError(f"per_second={per_second} must be a number above 0.")
        for name, value in (("num_attempts", num_attempts), ("max_requests", max_requests)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        self.service, self.cache, self.max_requests = service, cache, max_requests
        self.num_requests = 0
        self._interval, self._sleep, self._next = 1 / per_second, sleep, 0.0
        self._num_attempts = num_attempts
        self._client: Client | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Labeller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def missing(self, pictures: Iterable[Picture]) -> list[Picture]:
        """Returns the pictures that have no answer yet, each once: what is left to be paid for."""
        different = {picture.digest: picture for picture in pictures}
        return [p for p in different.values() if not self.cache.path(self.service, p).exists()]

    def connect(self) -> None:
        """Opens the client, which looks for credentials but sends no picture.

        Raises:
            ImportError, ServiceRefused: as `Service.connect`.
        """
        if self._client is None:
            self._client = self.service.connect()

    def close(self) -> None:
        """Closes the client's connections, if there are any; the next question opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __call__(self, picture: Picture) -> Answer:
        """Returns the labels of a picture, the most confident first.

        Raises:
            ValueError: the service takes no such picture, or what the cache has is damaged.
            ServiceRefused: the service refuses it, or the credentials.
            ServiceBusy: it was busy at every attempt.
            RequestsSpent: `max_requests` were made.
        """
        kept = self.cache.get(self.service, picture)
        if kept is not None:
            return kept
        # One question at a time: JAX may call from several threads, and neither the budget nor the
        # rate may be overrun, nor one picture paid for twice.
        with self._lock:
            kept = self.cache.get(self.service, picture)
            return self._paid_for(picture) if kept is None else kept

    def _paid_for(self, picture: Picture) -> Answer:
        self.service.limits.check(picture, self.service.title)
        tenacity = require("tenacity", name="tenacity", extra="services")
        self.connect()
        jitter = tenacity.wait_random_exponential(multiplier=1, max=_LONGEST_WAIT)

        def wait(state: Any) -> float:
            said = getattr(state.outcome.exception(), "retry_after", 0.0)
            return min(_LONGEST_WAIT, max(said, jitter(state)))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ServiceBusy),
            stop=tenacity.stop_after_attempt(self._num_attempts),
            wait=wait,
            sleep=self._sleep,
            reraise=True,
        )
        answer = retrying(self._request, picture)
        self.cache.put(self.service, picture, answer)
        return answer

    def _request(self, picture: Picture) -> Answer:
        if self.max_requests is not None and self.num_requests >= self.max_requests:
            raise RequestsSpent(
                f"All {self.max_requests} requests that max_requests allows were made: what was "
                "answered is kept, and the same command goes on from here."
            )
        now = time.monotonic()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._interval
        self.num_requests += 1
        assert self._client is not None
        return self._client.ask(picture)
