"""A labelling server of one's own, in a format of a few lines."""

import dataclasses
import http.client
import json
import urllib.error
import urllib.request
from typing import ClassVar

from rainjax.services._base import (
    Answer,
    Client,
    Service,
    ServiceLabel,
    in_order,
    malformed,
    of_status,
    unreachable,
)
from rainjax.services._pictures import Picture, PictureLimits


@dataclasses.dataclass(frozen=True)
class OwnServer(Service):
    """A server that takes a PNG file by POST at ENDPOINT/labels, and answers in JSON.

    The answer is `{"labels": [{"name": "tench", "confidence": 0.9}, ...]}`. No credentials are
    sent. Let `stand_in` name what answers, and change it with the server's classifier: the cache
    goes by it.
    """

    name: ClassVar[str] = "own"
    title: ClassVar[str] = "Your labelling server"
    limits: ClassVar[PictureLimits] = PictureLimits(100 * 2**20)
    price: ClassVar[float] = 0.0
    rate: ClassVar[float] = 1000.0
    sends_credentials: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if self.endpoint is None:
            raise ValueError("OwnServer needs an endpoint, such as http://127.0.0.1:8000.")

    def connect(self) -> Client:
        """Returns what sends a picture; there is nothing to open."""
        url = f"{(self.endpoint or '').rstrip('/')}/labels"

        def ask(picture: Picture) -> Answer:
            request = urllib.request.Request(url, picture.png, {"Content-Type": "image/png"})
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    said = json.loads(response.read())
                labels = [ServiceLabel(x["name"], float(x["confidence"])) for x in said["labels"]]
            except urllib.error.HTTPError as error:
                with error:
                    after = error.headers.get("Retry-After")
                    raise of_status(self.title, error.code, "", after) from None
            except (ValueError, KeyError, TypeError, http.client.IncompleteRead):
                raise malformed(self.title) from None
            except (OSError, http.client.HTTPException):
                raise unreachable(self.title) from None
            return in_order(labels, self.title)[: self.max_labels]

        return Client(ask)
