"""Azure AI Vision's tags, through azure-ai-vision-imageanalysis."""

import dataclasses
import functools
import os
from typing import Any, ClassVar

from rainjax._extras import require
from rainjax.services._base import (
    Answer,
    Client,
    Service,
    ServiceLabel,
    ServiceRefused,
    credentials,
    in_order,
    keep_quiet,
    malformed,
    of_status,
    unreachable,
)
from rainjax.services._pictures import Picture, PictureLimits

_load = functools.partial(require, name="azure-ai-vision-imageanalysis", extra="azure")


@dataclasses.dataclass(frozen=True)
class AzureVision(Service):
    """Tags of Azure AI Vision's Image Analysis 4.0.

    The endpoint and the key are where the client's documentation has them, in VISION_ENDPOINT and
    VISION_KEY; without a key, azure-identity's default credential is taken where that package is
    installed. Pictures have under 20 MB and 50 to 16,000 pixels a side. The price is the listed
    one of tags in tier S1, not checked lately; ten requests a second are a cautious rate. The
    service returns all the tags it has; the most confident ones are kept.
    """

    name: ClassVar[str] = "azure"
    title: ClassVar[str] = "Azure AI Vision"
    limits: ClassVar[PictureLimits] = PictureLimits(20 * 2**20 - 1, 50, 16_000)
    price: ClassVar[float] = 1.0
    rate: ClassVar[float] = 10.0

    model_version: str = "latest"
    """The model: latest, or a date."""

    def settings(self) -> dict[str, Any]:
        """Returns what decides an answer: not the endpoint, which is the name of an account."""
        return {k: v for k, v in super().settings().items() if k != "endpoint"}

    def connect(self) -> Client:
        """Opens the client; raises as `Service.connect`."""
        analysis = _load("azure.ai.vision.imageanalysis")
        models = _load("azure.ai.vision.imageanalysis.models")
        errors = _load("azure.core.exceptions")
        keep_quiet("azure", "urllib3")
        endpoint = self.endpoint or os.environ.get("VISION_ENDPOINT")
        if not endpoint:
            raise ServiceRefused(
                f"{self.title} needs the address of your resource: give an endpoint, or set "
                "VISION_ENDPOINT."
            )
        self._check_endpoint(endpoint)
        client = analysis.ImageAnalysisClient(endpoint, self._credential(), retry_total=0)

        def ask(picture: Picture) -> Answer:
            try:
                said = client.analyze(
                    image_data=picture.png,
                    visual_features=[models.VisualFeatures.TAGS],
                    model_version=self.model_version,
                    connection_timeout=self.timeout,
                    read_timeout=self.timeout,
                )
                tags = [ServiceLabel(tag.name, tag.confidence) for tag in said.tags.list]
                return in_order(tags, self.title)[: self.max_labels]
            except errors.ClientAuthenticationError as error:
                raise of_status(self.title, error.status_code or 401) from None
            except errors.IncompleteReadError:
                raise malformed(self.title) from None
            except (errors.ServiceRequestError, errors.ServiceResponseError):
                raise unreachable(self.title) from None
            except errors.HttpResponseError as error:
                if error.status_code is None or error.status_code < 300:
                    raise malformed(self.title) from None
                headers = getattr(error.response, "headers", None) or {}
                code = str(getattr(error.error, "code", "") or "")
                raise of_status(
                    self.title, error.status_code, code, headers.get("Retry-After")
                ) from None
            except (errors.AzureError, KeyError, TypeError, ValueError, AttributeError):
                raise malformed(self.title) from None

        return Client(ask, client.close)

    def _credential(self) -> Any:
        """Returns the key of the environment, or Microsoft Entra's credential."""
        key_of = _load("azure.core.credentials")
        key = "none" if self.anonymous else os.environ.get("VISION_KEY")
        if key:
            return key_of.AzureKeyCredential(key)
        try:
            return _load("azure.identity", name="azure-identity").DefaultAzureCredential()
        except ImportError:
            raise credentials(
                self.title, "VISION_KEY is not set, and azure-identity is not installed"
            ) from None
