"""What a labelling service is: a picture goes in, names with confidences come out, no gradient."""

import abc
import dataclasses
import ipaddress
import logging
import math
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rainjax._values import Value
from rainjax.services._pictures import Picture, PictureLimits

_LOCAL = ("localhost",)


@dataclasses.dataclass(frozen=True)
class ServiceLabel:
    """A name that a service gives to a picture, with a confidence in [0, 1].

    `aliases` are other names that the service itself has for the same thing, and `identifier`
    what it calls the thing independently of the language, where it tells.
    """

    name: str
    confidence: float
    aliases: tuple[str, ...] = ()
    identifier: str | None = None


Answer = tuple[ServiceLabel, ...]


@dataclasses.dataclass(frozen=True)
class Client:
    """An open client of a service: `ask` sends one picture, once, and `close` ends connections."""

    ask: Callable[[Picture], Answer]
    close: Callable[[], Any] = lambda: None


class ServiceError(OSError):
    """A service that gave no answer. The sentence holds nothing that the service said.

    Services quote parts of a request when they refuse it, and a request holds credentials.
    """


class ServiceBusy(ServiceError):
    """It may answer when it is asked again, after `retry_after` seconds where it says so."""

    def __init__(self, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.retry_after = retry_after


class ServiceRefused(ServiceError):
    """It will not answer this request however often it is asked."""


@dataclasses.dataclass(frozen=True)
class Service(Value):
    """A labelling service: where it is, and what it is asked for. It holds no credentials.

    Those are looked up by the service's own client, in its usual places, when `connect` is called.

    Raises:
        ValueError: a field is out of range; or `endpoint` is no address, holds credentials, or
            would have them sent over a network as plain text.
    """

    name: ClassVar[str]
    """The service's name in records and on command lines."""
    title: ClassVar[str]
    """What people call it."""
    limits: ClassVar[PictureLimits]
    """The pictures it takes."""
    price: ClassVar[float]
    """US dollars for a thousand requests, by the list that the class names."""
    rate: ClassVar[float]
    """Requests a second that an account may make before anybody raises its quota."""
    sends_credentials: ClassVar[bool] = True
    """Whether its client sends any."""

    endpoint: str | None = None
    """Where the service is, as in https://host; None for where its client looks."""
    max_labels: int = 10
    """Labels asked for, the most confident ones."""
    timeout: float = 30.0
    """Seconds to wait for a connection, and for an answer."""
    anonymous: bool = False
    """Whether to send no credentials: for a server of your own, which wants none."""
    stand_in: str | None = None
    """What answers at `endpoint` where that is not the service itself: the cache and records go by
    it, and not by the address."""

    def __post_init__(self):
        super().__post_init__()
        if self.max_labels < 1:
            raise ValueError(f"max_labels={self.max_labels} must be at least 1.")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout={self.timeout} must be a number of seconds above 0.")
        if self.endpoint is not None:
            self._check_endpoint(self.endpoint)
        elif self.anonymous or self.stand_in:
            option = "anonymous=True" if self.anonymous else f"stand_in={self.stand_in!r}"
            raise ValueError(f"{option} is for a server of your own: give its endpoint.")

    @abc.abstractmethod
    def connect(self) -> Client:
        """Opens the service's client; labels come in order, the most confident first.

        Where there is no answer, its `ask` raises a `ServiceError`.

        Raises:
            ImportError: the service's client is not installed; says which extra brings it.
            ServiceRefused: there are no credentials; says where they are looked for.
        """

    def settings(self) -> dict[str, Any]:
        """Returns, as plain JSON, what decides an answer beside the picture.

        That is, of what this value says: a region or an address that a client takes from its own
        configuration is not among it.
        """
        apart = {"timeout", "anonymous"} | ({"endpoint"} if self.stand_in else set())
        names = [field.name for field in dataclasses.fields(self) if field.name not in apart]
        return {"service": self.name, **{name: getattr(self, name) for name in names}}

    def _check_endpoint(self, endpoint: str) -> None:
        try:
            parts = urllib.parse.urlsplit(endpoint)
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = None, None
        if parts is None or not host or parts.scheme not in ("http", "https"):
            raise ValueError(
                f"The endpoint of {self.title} must be an address such as https://host or "
                "http://127.0.0.1:8000."
            )
        if (
            parts.username is not None
            or parts.password is not None
            or parts.query
            or parts.fragment
        ):
            raise ValueError(
                f"The endpoint of {self.title} holds a user, a password, a query or a fragment, "
                f"which records and logs would show: give {parts.scheme}://{host} alone, and "
                "leave credentials to the client's usual places."
            )
        secret = self.sends_credentials and not self.anonymous
        if parts.scheme == "http" and secret and not _is_local(host):
            raise ValueError(
                f"{parts.scheme}://{host} would have the credentials of {self.title} cross a "
                "network as plain text: give https."
            )


def in_order(labels: Iterable[ServiceLabel], title: str) -> Answer:
    """Returns labels as an answer, the most confident first; equals stay in the service's order.

    Raises:
        ServiceBusy: a name is empty, or a confidence lies outside [0, 1].
    """
    labels = tuple(labels)
    for label in labels:
        # What is sent as a float32 may be a little above one.
        if not label.name or not -1e-3 <= label.confidence <= 1.001:
            raise malformed(title)
    clipped = (
        dataclasses.replace(label, confidence=min(max(label.confidence, 0.0), 1.0))
        for label in labels
    )
    return tuple(sorted(clipped, key=lambda label: -label.confidence))


def of_status(title: str, status: int, code: str = "", retry_after: Any = None) -> ServiceError:
    """Returns the error of an HTTP status, with the service's own code where there is one."""
    said = f"{title} answered {status}" + (f" ({code})" if code and code.isidentifier() else "")
    if status in (408, 429) or status >= 500:
        return ServiceBusy(f"{said}, over and over: try again later, or ask for less a second.",
                           _seconds(retry_after))  # fmt: skip
    if status in (401, 403):
        return credentials(title, said)
    if status == 413:
        return ServiceRefused(f"{said}: a picture is too large for it; make it smaller.")
    return ServiceRefused(f"{said}: it does not take such a request or picture.")


def credentials(title: str, said: str) -> ServiceRefused:
    """Returns the error of credentials that are missing, wrong or expired."""
    return ServiceRefused(
        f"{said}: the credentials of {title} are missing, expired, or not allowed this; renew "
        "them where its client looks for them, and run again: what was answered is kept."
    )


def malformed(title: str) -> ServiceBusy:
    """Returns the error of an answer that is cut short, or that says something else."""
    return ServiceBusy(f"{title} sent an answer that cannot be read, over and over.")


def unreachable(title: str) -> ServiceBusy:
    """Returns the error of a connection that failed, or took longer than the timeout."""
    return ServiceBusy(f"{title} cannot be reached, or took too long, over and over.")


def keep_quiet(*loggers: str) -> None:
    """Silences a client's loggers: they print what they sign and send, and what comes back."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOCAL


def _seconds(retry_after: Any) -> float:
    """Returns what a Retry-After header says; 0 where it is a date, or nothing."""
    try:
        return max(0.0, float(retry_after))
    except (TypeError, ValueError):
        return 0.0
