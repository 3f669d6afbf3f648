"""AWS Rekognition's DetectLabels, through boto3."""

import dataclasses
import functools
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

_BUSY = (
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
)
_CREDENTIALS = (
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "OptInRequired",
    "UnrecognizedClientException",
)


@dataclasses.dataclass(frozen=True)
class Rekognition(Service):
    """AWS Rekognition's DetectLabels.

    Credentials and the region are boto3's: environment, ~/.aws, a role. Its limits are those of
    the developer guide's "Guidelines and quotas": 5 MB sent as bytes, 80 to 10,000 pixels a side.
    The price is that of the first million images a month, Group 2, as listed in October 2026. Five
    requests a second are a cautious rate: quotas differ by region. Labels come with `aliases`;
    their parents, which are broader words and no synonyms, are left out.
    """

    name: ClassVar[str] = "aws"
    title: ClassVar[str] = "AWS Rekognition"
    limits: ClassVar[PictureLimits] = PictureLimits(5 * 2**20, 80, 10_000)
    price: ClassVar[float] = 1.0
    rate: ClassVar[float] = 5.0

    region: str | None = None
    """The region, as in eu-west-1; None for what boto3 is configured with."""
    min_confidence: float = 0.0
    """Labels below it, in [0, 1], are not asked for; the service's own default is 0.55."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence={self.min_confidence} must lie in [0, 1].")

    def connect(self) -> Client:
        """Opens boto3's client; raises as `Service.connect`."""
        load = functools.partial(require, name="boto3", extra="aws")
        boto3, botocore = load("boto3"), load("botocore")
        config_of = load("botocore.config").Config
        errors, parsers = load("botocore.exceptions"), load("botocore.parsers")
        keep_quiet("boto3", "botocore")
        config = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": self.timeout,
            "read_timeout": self.timeout,
        }
        if self.anonymous:
            config["signature_version"] = botocore.UNSIGNED
        region = self.region or ("us-east-1" if self.anonymous else None)
        try:
            client = boto3.client(
                "rekognition",
                region_name=region,
                endpoint_url=self.endpoint,
                config=config_of(**config),
            )
        except errors.NoRegionError:
            raise ServiceRefused(
                f"{self.title} needs a region: give one, or set AWS_DEFAULT_REGION."
            ) from None
        except errors.BotoCoreError as error:
            raise credentials(self.title, type(error).__name__) from None

        def ask(picture: Picture) -> Answer:
            try:
                said = client.detect_labels(
                    Image={"Bytes": picture.png},
                    MaxLabels=self.max_labels,
                    MinConfidence=100 * self.min_confidence,
                )
                return in_order(map(_label, said["Labels"]), self.title)[: self.max_labels]
            except errors.ClientError as error:
                raise self._refusal(error.response) from None
            except (errors.HTTPClientError, errors.ConnectionError):
                raise unreachable(self.title) from None
            except (
                errors.NoCredentialsError,
                errors.PartialCredentialsError,
                errors.CredentialRetrievalError,
                errors.TokenRetrievalError,
            ) as error:
                raise credentials(self.title, type(error).__name__) from None
            except (
                parsers.ResponseParserError,
                errors.BotoCoreError,
                KeyError,
                TypeError,
                ValueError,
            ):
                raise malformed(self.title) from None

        return Client(ask, client.close)

    def _refusal(self, response: dict[str, Any]) -> Exception:
        code = response.get("Error", {}).get("Code", "")
        said = response.get("ResponseMetadata", {})
        status = said.get("HTTPStatusCode", 400)
        after = said.get("HTTPHeaders", {}).get("retry-after")
        if code in _BUSY:
            return of_status(self.title, 429, code, after)
        if code in _CREDENTIALS:
            return credentials(self.title, f"{self.title} answered {status} ({code})")
        return of_status(self.title, status, code, after)


def _label(said: dict[str, Any]) -> ServiceLabel:
    aliases = tuple(alias["Name"] for alias in said.get("Aliases") or ())
    return ServiceLabel(said["Name"], said["Confidence"] / 100, aliases)
