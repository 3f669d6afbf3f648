"""Commercial labelling services, asked through their own clients: names and confidences alone.

    Rekognition, GoogleVision, AzureVision, Clarifai   the services; OwnServer, one of your own
    Labeller, AnswerCache                              asked politely, and no answer paid for twice
    Labelled                                           a service as the pipeline of a study
    fold, meanings, agreement                          synonyms; how far two answers agree
    LocalServer                                        a classifier that answers in their place

Each service's client is an extra of its own, `pip install -e ".[aws]"`; `services` is all.
"""

from rainjax.services._base import (
    Answer,
    Service,
    ServiceBusy,
    ServiceError,
    ServiceLabel,
    ServiceRefused,
)
from rainjax.services._cache import AnswerCache
from rainjax.services._labeller import Labeller, RequestsSpent
from rainjax.services._pictures import Picture, PictureLimits
from rainjax.services.agreement import Agreement, agreement
from rainjax.services.aws import Rekognition
from rainjax.services.azure import AzureVision
from rainjax.services.clarifai import Clarifai
from rainjax.services.google import GoogleVision
from rainjax.services.local_server import LocalServer
from rainjax.services.own import OwnServer
from rainjax.services.pipeline import Labelled
from rainjax.services.words import fold, meanings

SERVICES: dict[str, type[Service]] = {
    service.name: service
    for service in (Rekognition, GoogleVision, AzureVision, Clarifai, OwnServer)
}

__all__ = [
    "SERVICES",
    "Agreement",
    "Answer",
    "AnswerCache",
    "AzureVision",
    "Clarifai",
    "GoogleVision",
    "Labelled",
    "Labeller",
    "LocalServer",
    "OwnServer",
    "Picture",
    "PictureLimits",
    "Rekognition",
    "RequestsSpent",
    "Service",
    "ServiceBusy",
    "ServiceError",
    "ServiceLabel",
    "ServiceRefused",
    "agreement",
    "fold",
    "meanings",
]
