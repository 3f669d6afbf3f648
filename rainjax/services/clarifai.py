"""Clarifai's general image recognition, through clarifai-grpc's JSON channel."""

import collections
import dataclasses
import functools
import os
from typing import Any, ClassVar

from rainjax._extras import require
from rainjax.services._base import (
    Answer,
    Client,
    Service,
    ServiceError,
    ServiceLabel,
    credentials,
    in_order,
    keep_quiet,
    malformed,
    of_status,
    unreachable,
)
from rainjax.services._pictures import Picture, PictureLimits

_SUCCESS = 10000
_BUSY = (
    "CONN_EXCEED_HOURLY_LIMIT",
    "CONN_THROTTLED",
    "MODEL_BUSY_PLEASE_RETRY",
    "MODEL_DEPLOYING",
    "MODEL_LOADING",
    "MODEL_QUEUED_FOR_DEPLOYMENT",
    "RPC_CANCELED",
    "RPC_REQUEST_QUEUE_FULL",
    "RPC_REQUEST_TIMEOUT",
    "RPC_SERVER_UNAVAILABLE",
)
_CREDENTIALS = (
    "CONN_ACCOUNT_ISSUES",
    "CONN_AUTH_METHOD_DISABLED",
    "CONN_CREDENTIALS_INVALID",
    "CONN_EXCEED_MONTHLY_LIMIT",
    "CONN_INSUFFICIENT_SCOPES",
    "CONN_KEY_INVALID",
    "CONN_KEY_NOT_FOUND",
    "CONN_TOKEN_INVALID",
    "MODEL_PERMISSION_DENIED",
)


@dataclasses.dataclass(frozen=True)
class Clarifai(Service):
    """A model of Clarifai's that names concepts, by default its general one.

    The personal access token is looked for in CLARIFAI_PAT, and the address, where no endpoint is
    given, in CLARIFAI_API_BASE, as Clarifai's clients do. The client is clarifai-grpc, on its
    channel of JSON over HTTP: that one takes any address. Pictures have under 20 MB and 85
    megapixels. The price is one that was listed for pre-trained models before plans came with a
    number of operations; the rate is the default limit of every account. Concepts come with an
    `identifier` of Clarifai's.
    """

    name: ClassVar[str] = "clarifai"
    title: ClassVar[str] = "Clarifai"
    limits: ClassVar[PictureLimits] = PictureLimits(20 * 2**20 - 1, max_pixels=85_000_000)
    price: ClassVar[float] = 1.2
    rate: ClassVar[float] = 15.0

    user: str = "clarifai"
    """Whose model it is."""
    app: str = "main"
    """The application it belongs to."""
    model: str = "general-image-recognition"
    """The model."""

    def connect(self) -> Client:
        """Opens the channel; raises as `Service.connect`."""
        load = functools.partial(require, name="clarifai-grpc", extra="clarifai")
        channel = load("clarifai_grpc.channel.clarifai_channel").ClarifaiChannel
        messages = load("clarifai_grpc.grpc.api.resources_pb2")
        service = load("clarifai_grpc.grpc.api.service_pb2")
        stub_of = load("clarifai_grpc.grpc.api.service_pb2_grpc").V2Stub
        codes = load("clarifai_grpc.grpc.api.status.status_code_pb2").StatusCode
        client_error = load("clarifai_grpc.channel.errors").ApiError
        requests = require("requests", name="requests", extra="clarifai")
        keep_quiet("clarifai", "urllib3", "requests")
        token = "none" if self.anonymous else os.environ.get("CLARIFAI_PAT")
        if not token:
            raise credentials(self.title, "CLARIFAI_PAT is not set")
        base = self.endpoint or os.environ.get("CLARIFAI_API_BASE") or "https://api.clarifai.com"
        self._check_endpoint(base)
        json_channel = channel.get_json_channel(base.rstrip("/"))
        statuses = _prepare(json_channel.session, requests, self.title, self.timeout)
        stub = stub_of(json_channel)
        config = messages.OutputConfig(max_concepts=self.max_labels)
        model = messages.Model(output_info=messages.OutputInfo(output_config=config))

        def ask(picture: Picture) -> Answer:
            image = messages.Image(base64=picture.png)
            asked = service.PostModelOutputsRequest(
                user_app_id=messages.UserAppIDSet(user_id=self.user, app_id=self.app),
                model_id=self.model,
                inputs=[messages.Input(data=messages.Data(image=image))],
                model=model,
            )
            try:
                said = stub.PostModelOutputs(asked, metadata=(("authorization", f"Key {token}"),))
                if said.status.code not in (_SUCCESS, 0):
                    raise self._refusal(said.status.code, codes)
                if statuses[-1] >= 400:
                    raise of_status(self.title, statuses[-1])
                (output,) = said.outputs
                if output.status.code not in (_SUCCESS, 0):
                    raise self._refusal(output.status.code, codes)
                labels = [
                    ServiceLabel(concept.name, concept.value, (), concept.id or None)
                    for concept in output.data.concepts
                ]
            except ServiceError:
                raise
            except requests.exceptions.RequestException:
                raise unreachable(self.title) from None
            except client_error as error:
                cause = error.__context__
                wire = isinstance(cause, requests.exceptions.RequestException)
                cut = isinstance(cause, requests.exceptions.ChunkedEncodingError)
                raise (
                    unreachable(self.title) if wire and not cut else malformed(self.title)
                ) from None
            except Exception:  # no output, or fields that are none of the message's
                raise malformed(self.title) from None
            return in_order(labels, self.title)[: self.max_labels]

        return Client(ask, json_channel.session.close)

    def _refusal(self, code: int, codes: Any) -> ServiceError:
        """Returns the error of one of Clarifai's status codes, which its names tell apart."""
        try:
            name = codes.Name(code)
        except ValueError:
            name = ""
        said = f"{self.title} answered {code}" + (f" ({name})" if name else "")
        if name in _BUSY:
            return of_status(self.title, 429, name)
        if name.startswith("INTERNAL_"):
            return of_status(self.title, 500, name)
        if name in _CREDENTIALS:
            return credentials(self.title, said)
        return of_status(self.title, 400, name)


def _prepare(session: Any, requests: Any, title: str, timeout: float) -> collections.deque[int]:
    """Has a session wait no longer than `timeout`, send once, and look at the HTTP status.

    The channel does none of these; it reads whatever JSON comes back. Returns where the status of
    the latest answer will be.
    """
    statuses = collections.deque([0], maxlen=1)

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request, **kwargs):
            kwargs["timeout"] = timeout
            return super().send(request, **kwargs)

    def look(response, **_):
        status = response.status_code
        statuses.append(status)
        if status in (401, 403, 408, 413, 429) or status >= 500:
            response.close()
            raise of_status(title, status, "", response.headers.get("Retry-After"))

    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=0))
    session.hooks["response"] = [look]
    return statuses
