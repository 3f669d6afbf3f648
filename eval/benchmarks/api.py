"""What purifiers are worth before a labelling service that nobody can look into: `... api`.

NCIS's authors (Cha et al., 2024, arXiv 2106.11644, abstract) attack four commercial services with
examples that transfer from networks of the attacker's own, and purify them. The abstract gives no
number, and neither measure nor perturbation: those taken here are our reading.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval.benchmarks._api_figure import figure
from eval.benchmarks._api_pictures import pictures, study
from eval.benchmarks._api_tables import compare, problem, tables
from eval.studies.defenses import MAKERS, Shelf
from eval.studies.later import Later
from rainjax import data, zoo
from rainjax._files import write_bytes, write_json
from rainjax.data import ImageSet
from rainjax.defenses import NCIS
from rainjax.evaluation.describe import describe
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.report.single_file import SingleFileRecord
from rainjax.services import (
    SERVICES,
    Answer,
    AnswerCache,
    Labeller,
    LocalServer,
    Picture,
    Service,
)
from rainjax.zoo import Entry


@dataclasses.dataclass(frozen=True)
class Api:
    """Asks a labelling service about images: clean, attacked, and each of them purified.

    The attack transfers from a classifier of the attacker's own (--source), with momentum, diverse
    inputs and a blurred gradient, and knows neither the service nor the purifier. Measured is how
    far the service's labels agree with those that it gives the clean image. Nothing is sent before
    the number of requests and an estimate of the bill are printed, and a question is answered.
    Answers are kept in --cache: none is paid for twice, and killed, it goes on where it was.
    Credentials are where the service's own client looks for them. Writes OUT/api.json and
    OUT/api.png.
    """

    service: str = "own"
    """aws (Rekognition), google (Cloud Vision), azure (AI Vision), clarifai, or own: a server at
    --endpoint that takes a PNG file at /labels and answers {"labels": [{"name": ..., "confidence":
    ...}]}."""
    endpoint: str | None = None
    """Where the service is; by default where its client looks."""
    settings: tuple[str, ...] = ()
    """Other fields of the service, as in region=eu-west-1, model_version=2024-02-01 or
    min_confidence=0.5."""
    stand_in: str | None = None
    """A classifier that answers in the service's place on this machine, in its wire format and
    through its client: a zoo name, a path, or a file of published weights. Nothing is sent to
    anyone, and nothing is paid."""
    stand_in_arch: str | None = None
    """The network of its published weights (mobilenetv2, squeezenet ...)."""
    data: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set (`rainjax data list`)."""
    split: str = "test"
    """The split whose first images are taken."""
    skip: int = 0
    """Images at the start of the split that are left out."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    source: str = "builtin_resnet"
    """The attacker's own classifier: a zoo name, a path, or a file of published weights."""
    source_arch: str | None = None
    """The network of its published weights."""
    rows: tuple[str, ...] = ("smoothing", "fd")
    """The purifiers by name, those of `python -m eval transformations`: smoothing, ncis (with
    --blind-spot), rain, fd, jpeg ... No purifier is measured in any case."""
    rain: str = "builtin_edsr_rain"
    """RAIN's EDSR: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """RAIN's largest circular shift as a share of the low-resolution height, rounded down."""
    blind_spot: str | None = None
    """NCIS's network: a zoo name or a path."""
    ncis_iterations: int = NCIS.num_iterations
    """How often NCIS's smoothing and network take turns."""
    table: str | None = None
    """Feature Distillation's table for the row fd_designed."""
    radius: float = 16 / 255
    """Radius of the L-inf ball of the attack."""
    num_steps: int = 20
    """Steps of the attack."""
    num_examples: int = 100
    """Images."""
    top_k: int = 5
    """Labels of an answer that are looked at beside the first."""
    max_labels: int = 10
    """Labels that the service is asked for."""
    per_second: float | None = None
    """Requests a second at most; by default what the service allows every account."""
    max_requests: int | None = None
    """Requests of this run at most, repeated ones included; by default as many as it takes."""
    num_attempts: int = 6
    """Attempts of one request at most, where the service is busy."""
    price: float | None = None
    """US dollars for a thousand requests; by default what the list said when this was written."""
    dry_run: bool = False
    """Print the number of requests and an estimate of the bill, and send nothing."""
    yes: bool = False
    """Send without a question."""
    cache: pathlib.Path = pathlib.Path("results/api/answers")
    """The folder of answers, which runs may share."""
    batch_size: int = 8
    """Images attacked and purified together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results/api")
    """The record is written to OUT/api.json, what was attacked to OUT/attacks."""

    def __post_init__(self):
        if self.service not in SERVICES:
            raise ValueError(f"service={self.service!r} is none of {', '.join(SERVICES)}.")
        for field in ("num_examples", "num_steps", "top_k", "batch_size", "ncis_iterations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.top_k > self.max_labels:
            raise ValueError(
                f"top_k={self.top_k} is more than max_labels={self.max_labels}: ask for more."
            )
        if self.skip < 0:
            raise ValueError(f"skip={self.skip} must be 0 or more images.")
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius={self.radius} must lie in (0, 1]; 8/255 is 0.03137.")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise ValueError(f"price={self.price} must be a number of dollars, not below 0.")
        unknown = [name for name in self.rows if name not in MAKERS or name == "undefended"]
        if unknown:
            others = ", ".join(name for name in MAKERS if name != "undefended")
            raise ValueError(f"rows={unknown[0]!r} is none of {others}.")
        if self.stand_in is not None and self.endpoint is not None:
            raise ValueError("stand_in answers on this machine: leave out endpoint.")

    def images(self) -> ImageSet:
        """Returns the images; raises as `rainjax.data.load`, and where `skip` leaves none."""
        images = data.load(self.data, self.split, data_dir=self.data_dir)
        return Later(images, self.skip) if self.skip else images

    def shelf(self, images: ImageSet) -> Shelf:
        """Returns what the purifiers are made of."""
        return Shelf(
            small=max(images.image(0).shape[:2]) < 96,
            rain=self.rain,
            shift_fraction=self.shift_fraction,
            blind_spot=self.blind_spot,
            ncis_iterations=self.ncis_iterations,
            table=self.table,
            bank_data=self.data,
            data_dir=self.data_dir,
            seed=self.seed,
        )


def run(options: Api) -> pathlib.Path | None:
    """Attacks, purifies, says what it will cost, asks, and writes the record and its figure.

    Returns the record's path, None after a dry run or where the question was answered no.

    Raises:
        ValueError: the data set, a network or a setting is missing, or they do not fit each other.
        ServiceError: the service refuses, or is busy for too long; what it answered is kept.
        ImportError: the service's client is not installed.
    """
    images = options.images()
    source = zoo.load_any(options.source, options.source_arch)
    rows = [MAKERS[name] for name in options.rows]
    with _service(options, source, images) as (service, stand_in):
        # Before an hour's work, too.
        service.limits.check(Picture(images.image(0)), service.title)
        if not options.dry_run:
            service.connect().close()
        attack, shelf = study(options, images, source), options.shelf(images)
        shown = pictures(options, attack, [(row.title, *row.make(shelf)) for row in rows])
        answers = _answers(options, service, stand_in, shown)
    if answers is None:
        print("Nothing was sent.")
        return None
    record = {
        "schema": 1,
        "kind": "api",
        "options": _plain(options),
        "service": {
            "title": service.title,
            "settings": {k: v for k, v in service.settings().items() if k != "endpoint"},
            "stand_in": None if stand_in is None else _network(stand_in),
        },
        "source": _network(source),
        "images": {"fingerprint": images.fingerprint, "count": options.num_examples},
        "rows": [row.title for row in rows],
        "entries": compare(answers, options.top_k),
        "run": {"code": code_digest(), **provenance()},
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "api.json"
    write_json(path, record)
    write_bytes(path.with_suffix(".png"), figure(record).png)
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path


def _answers(
    options: Api, service: Service, stand_in: Entry | None, shown: dict[str, list[Picture]]
) -> dict[str, list[Answer]] | None:
    """Says what is to be paid and asks for it, then for what is missing; None if it may not."""
    every = [picture for seen in shown.values() for picture in seen]
    for picture in every:
        service.limits.check(picture, service.title)
    with Labeller(
        service,
        AnswerCache(options.cache),
        max_requests=options.max_requests,
        per_second=options.per_second,
        num_attempts=options.num_attempts,
    ) as labeller:
        missing = labeller.missing(every)
        print(_estimate(options, service, stand_in, shown, len(missing)))
        if options.dry_run or not (stand_in or _agreed(options, service, len(missing))):
            return None
        for picture in tqdm(missing, desc=service.name, unit="picture", disable=not missing):
            labeller(picture)
        return {name: [labeller(picture) for picture in seen] for name, seen in shown.items()}


@contextlib.contextmanager
def _service(
    options: Api, source: Entry, images: ImageSet
) -> Iterator[tuple[Service, Entry | None]]:
    """Yields the service, and the classifier that answers in its place where one does."""
    kind = SERVICES[options.service]
    given = {"max_labels": options.max_labels, **_settings(kind, options.settings)}
    if options.stand_in is None:
        yield kind(endpoint=options.endpoint, **given), None
        return
    entry = zoo.load_any(options.stand_in, options.stand_in_arch)
    if entry.sha256 == source.sha256:
        raise ValueError(
            f"stand_in={options.stand_in!r} is the attacker's own classifier: name another, which "
            "the attack has not seen."
        )
    with LocalServer(_classify(entry, images, options.max_labels)) as server:
        name = f"{entry.name} {entry.sha256[:12]}"
        yield kind(endpoint=server.url, anonymous=True, stand_in=name, **given), entry


def _settings(kind: type[Service], words: tuple[str, ...]) -> dict[str, Any]:
    """Returns the fields of a service that a command line sets."""
    apart = ("endpoint", "max_labels", "anonymous", "stand_in")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in apart}
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in fields:
            raise ValueError(
                f"settings={name!r} must be NAME=VALUE, with one of {', '.join(fields)}."
            )
        try:
            found[name] = float(value) if fields[name].type is float else value
        except ValueError:
            raise ValueError(f"settings={name!r} must give a number.") from None
    return found


def _classify(entry: Entry, images: ImageSet, num: int):
    """Returns what names the most likely classes of a picture, with their probabilities."""
    if not images.class_names:
        raise ValueError(f"{images.name!r} has no names of classes, which a service answers with.")
    program = jax.jit(lambda params, x: jax.nn.softmax(entry.network.apply(params, x)))

    def classify(pixels):
        probability = np.asarray(program(entry.params, jnp.asarray(pixels, jnp.float32) / 255))
        if len(probability) != images.num_classes:
            raise ValueError(
                f"{entry.name!r} tells {len(probability)} classes apart, but {images.name!r} has "
                f"{images.num_classes}: choose a classifier of this data set."
            )
        best = np.argsort(-probability, kind="stable")[:num]
        return [(images.class_names[i], float(probability[i])) for i in best]

    classify(images.image(0))  # a request has no time to compile, and nobody to complain to
    return classify


def _estimate(
    options: Api,
    service: Service,
    stand_in: Entry | None,
    shown: dict[str, list[Picture]],
    missing: int,
) -> str:
    price = service.price if options.price is None else options.price
    views, different = len(shown), len({p.digest for seen in shown.values() for p in seen})
    lines = [
        f"{service.title}: {options.num_examples} images in {views} versions, {different} "
        f"different pictures, {different - missing} of them answered before. {missing} requests."
    ]
    if stand_in is not None:
        lines.append(f"{stand_in.name} answers on this machine, in its place: nothing is paid.")
    else:
        lines.append(
            f"About ${missing * price / 1000:.2f}, at ${price:g} for a thousand (--price; the "
            "list's when this was written, without what is free or your account's own). Requests "
            "that the service is too busy for are repeated, and may be billed."
        )
    most = options.max_requests
    if most is not None and most < missing:
        lines.append(f"It stops after {most} (--max-requests), and can be called again.")
    return "\n".join(lines)


def _agreed(options: Api, service: Service, missing: int) -> bool:
    """Returns whether requests may be sent, by the option or by a person."""
    if options.yes or not missing:
        return True
    if not sys.stdin.isatty():
        raise ValueError(
            f"{missing} requests to {service.title} are to be agreed to, and nobody is asked "
            "here: give --yes."
        )
    again = ""
    if options.num_attempts > 1:
        again = f", one that is not answered up to {options.num_attempts} times"
    question = f"Send {missing} requests to {service.title}{again}? [y/N] "
    return input(question).strip().lower() in ("y", "yes")


def _network(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "network": describe(entry.network), "sha256": entry.sha256}


def _plain(options: Api) -> dict[str, Any]:
    """Returns the options as a record holds them: without this machine's folders and addresses."""
    apart = ("out", "data_dir", "cache", "batch_size", "endpoint", "yes", "dry_run")
    found = {k: v for k, v in dataclasses.asdict(options).items() if k not in apart}
    for name in ("source", "stand_in", "rain", "blind_spot", "table"):
        if found[name] is not None:
            found[name] = pathlib.Path(found[name]).name
    return {**found, "rows": list(options.rows), "settings": list(options.settings)}


RECORD = SingleFileRecord("api", "python -m eval api", tables, problem)
