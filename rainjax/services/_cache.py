"""Answers on disk, by the picture and by what a service was asked for: none is paid for twice."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from rainjax._files import read_json, write_json
from rainjax.services._base import Answer, Service, ServiceLabel
from rainjax.services._pictures import Picture

_SCHEMA = 1


class AnswerCache:
    """A folder of answers: one file each, whole or absent, so a kill at any moment loses none.

    Several services may share it. Processes that share it may ask about a picture at the same
    moment, and then both pay.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def path(self, service: Service, picture: Picture) -> pathlib.Path:
        """Returns the file of the answer, whether it is there or not."""
        decided = json.dumps([service.settings(), picture.digest], sort_keys=True)
        name = hashlib.sha256(decided.encode()).hexdigest()
        return self.folder / service.name / name[:2] / f"{name}.json"

    def get(self, service: Service, picture: Picture) -> Answer | None:
        """Returns the answer that is kept, None if there is none.

        Raises:
            ValueError: its file is damaged, which no kill can do; says which.
        """
        path = self.path(service, picture)
        if not path.exists():
            return None
        kept = read_json(path)
        try:
            assert kept["schema"] == _SCHEMA
            assert kept["picture"] == picture.digest
            return tuple(
                ServiceLabel(
                    label["name"],
                    label["confidence"],
                    tuple(label["aliases"]),
                    label["identifier"],
                )
                for label in kept["labels"]
            )
        except (AssertionError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: delete it and run again.") from error

    def put(self, service: Service, picture: Picture, answer: Answer) -> None:
        """Keeps an answer; raises OSError where it cannot be written."""
        content: dict[str, Any] = {
            "schema": _SCHEMA,
            "settings": service.settings(),
            "picture": picture.digest,
            "labels": [dataclasses.asdict(label) for label in answer],
        }
        write_json(self.path(service, picture), content)
