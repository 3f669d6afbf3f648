"""Google Cloud Vision's label detection, through google-cloud-vision."""

import dataclasses
import functools
from typing import ClassVar

from rainjax._extras import require
from rainjax.services._base import (
    Answer,
    Client,
    Service,
    ServiceLabel,
    credentials,
    in_order,
    keep_quiet,
    malformed,
    of_status,
    unreachable,
)
from rainjax.services._pictures import Picture, PictureLimits

# Of a response whose request as a whole went well: google.rpc.Code, as HTTP statuses.
_STATUS = {2: 500, 4: 504, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}


@dataclasses.dataclass(frozen=True)
class GoogleVision(Service):
    """Google Cloud Vision's LABEL_DETECTION.

    Credentials are Google's application default ones: GOOGLE_APPLICATION_CREDENTIALS, `gcloud
    auth application-default login`, a service account. The client speaks REST, for which an
    endpoint may be any address. A request is JSON of 10 MB at most, in which a file takes a third
    more than its bytes. The price is the listed one beyond the first thousand images of a month,
    not checked lately, and the rate the default quota of 1,800 a minute. Labels come with an
    `identifier` of Google's knowledge graph.
    """

    name: ClassVar[str] = "google"
    title: ClassVar[str] = "Google Cloud Vision"
    limits: ClassVar[PictureLimits] = PictureLimits(7 * 2**20, max_pixels=75_000_000)
    price: ClassVar[float] = 1.5
    rate: ClassVar[float] = 30.0

    model: str = "builtin/stable"
    """The model: builtin/stable, or builtin/latest."""

    def connect(self) -> Client:
        """Opens the client; raises as `Service.connect`."""
        load = functools.partial(require, name="google-cloud-vision", extra="google")
        vision = load("google.cloud.vision")
        rest = load("google.cloud.vision_v1.services.image_annotator.transports.rest")
        api = load("google.api_core.exceptions")
        auth, auth_errors = load("google.auth"), load("google.auth.exceptions")
        anonymous = load("google.auth.credentials")
        requests = require("requests", name="requests", extra="google")
        keep_quiet("google", "urllib3", "requests")
        try:
            given = (
                anonymous.AnonymousCredentials()
                if self.anonymous
                else auth.default(scopes=["https://www.googleapis.com/auth/cloud-vision"])[0]
            )
        except auth_errors.GoogleAuthError as error:
            raise credentials(self.title, type(error).__name__) from None
        host = self.endpoint or rest.ImageAnnotatorRestTransport.DEFAULT_HOST
        client = vision.ImageAnnotatorClient(
            transport=rest.ImageAnnotatorRestTransport(host=host.rstrip("/"), credentials=given)
        )
        feature = vision.Feature(
            type_=vision.Feature.Type.LABEL_DETECTION,
            max_results=self.max_labels,
            model=self.model,
        )

        def ask(picture: Picture) -> Answer:
            one = vision.AnnotateImageRequest(
                image=vision.Image(content=picture.png), features=[feature]
            )
            try:
                (said,) = client.batch_annotate_images(
                    requests=[one], retry=None, timeout=self.timeout
                ).responses
            except api.GoogleAPICallError as error:
                status = int(error.code or 500)
                headers = getattr(error.response, "headers", None) or {}
                raise of_status(
                    self.title,
                    status,
                    str(error.grpc_status_code or ""),
                    headers.get("Retry-After"),
                ) from None
            except auth_errors.TransportError:
                raise unreachable(self.title) from None
            except auth_errors.GoogleAuthError as error:
                raise credentials(self.title, type(error).__name__) from None
            except requests.exceptions.ChunkedEncodingError:
                raise malformed(self.title) from None
            except requests.exceptions.JSONDecodeError:
                raise malformed(self.title) from None
            except requests.exceptions.RequestException:
                raise unreachable(self.title) from None
            except Exception as error:  # json_format.ParseError, UnicodeDecodeError, no response
                raise malformed(self.title) from _shown(error)
            if said.error.code:
                raise of_status(self.title, _STATUS.get(said.error.code, 400))
            labels = (
                ServiceLabel(label.description, label.score, (), label.mid or None)
                for label in said.label_annotations
            )
            return in_order(labels, self.title)[: self.max_labels]

        return Client(ask, client.transport.close)


def _shown(error: Exception) -> Exception | None:
    """Returns an error of the program's own, to be shown; None for one that quotes an answer."""
    return error if isinstance(error, NameError | AttributeError) else None
