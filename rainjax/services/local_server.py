"""A server on this machine that answers as the services do, with any classifier behind it.

It speaks what is wanted of each service's wire format, as their API references have it, so that
their own clients can be pointed at it: a benchmark can be rehearsed to the end, and nothing is
sent to anyone.
"""

import base64
import http.server
import io
import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

Named = Sequence[tuple[str, float]]
Classify = Callable[[UInt8[np.ndarray, "h w c"]], Named]
# Status, headers and body, of which less than the Content-Length may be sent.
Raw = tuple[int, dict[str, str], bytes]


class LocalServer:
    """Answers at `url` with what `classify` says of a picture: names and confidences.

    A context manager. `classify` is called by one thread at a time. `before` is asked first, with
    the number of the request, the first being 0, and may give an answer of its own: that is how
    tests make a server fail.
    """

    def __init__(self, classify: Classify, before: Callable[[int], Raw | None] | None = None):
        self.classify, self.before = classify, before
        self.num_requests = 0
        self.pictures: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalServer":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.daemon = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Raw:
        """Returns the answer to one request, and counts it."""
        with self._lock:
            number, self.num_requests = self.num_requests, self.num_requests + 1
            self.headers.append(headers)
            failure = self.before(number) if self.before else None
            if failure is not None:
                return failure
            wire = next((w for pattern, w in _WIRES if re.search(pattern, path)), None)
            if wire is None:
                return 404, {}, b"{}"
            kind, read, written = wire
            try:
                picture = read(body)
                with PIL.Image.open(io.BytesIO(picture)) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (ValueError, KeyError, IndexError, OSError):
                return 400, {"Content-Type": "application/json"}, b'{"error": "no picture"}'
            self.pictures.append(picture)
            named = sorted(self.classify(pixels), key=lambda pair: -pair[1])
            content = json.dumps(written(named)).encode()
            return 200, {"Content-Type": kind}, content


def _handler(server: LocalServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = server.answer(self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args  # a request's line would stand between those of a progress bar

    return Handler


def _rekognition(named: Named) -> dict[str, Any]:
    labels = [
        {
            "Name": name,
            "Confidence": 100 * confidence,
            "Instances": [],
            "Parents": [],
            "Aliases": [],
            "Categories": [],
        }
        for name, confidence in named
    ]
    return {"Labels": labels, "LabelModelVersion": "3.0"}


def _google(named: Named) -> dict[str, Any]:
    labels = [
        {"description": name, "score": confidence, "topicality": confidence}
        for name, confidence in named
    ]
    return {"responses": [{"labelAnnotations": labels}]}


def _azure(named: Named) -> dict[str, Any]:
    tags = [{"name": name, "confidence": confidence} for name, confidence in named]
    return {
        "modelVersion": "2023-10-01",
        "metadata": {"width": 224, "height": 224},
        "tagsResult": {"values": tags},
    }


def _clarifai(named: Named) -> dict[str, Any]:
    fine = {"code": 10000, "description": "Ok"}
    concepts = [{"id": f"ai_{n}", "name": n, "value": c, "app_id": "main"} for n, c in named]
    return {"status": fine, "outputs": [{"status": fine, "data": {"concepts": concepts}}]}


def _own(named: Named) -> dict[str, Any]:
    return {"labels": [{"name": name, "confidence": confidence} for name, confidence in named]}


def _encoded(*path: str | int) -> Callable[[bytes], bytes]:
    """Returns what finds a picture in JSON, in base 64, at the end of a path."""

    def read(body: bytes) -> bytes:
        value = json.loads(body)
        for step in path:
            value = value[step]
        return base64.b64decode(value, validate=True)

    return read


_JSON = "application/json"
# By the end of an address: the type of the answer, where the picture is, and how labels are told.
_WIRES = (
    (
        r"^/v1/images:annotate",
        (_JSON, _encoded("requests", 0, "image", "content"), _google),
    ),
    (r"^/computervision/imageanalysis:analyze", (_JSON, bytes, _azure)),
    (
        r"^/v2/users/[^/]+/apps/[^/]+/models/[^/]+/outputs",
        (_JSON, _encoded("inputs", 0, "data", "image", "base64"), _clarifai),
    ),
    (r"^/labels$", (_JSON, bytes, _own)),
    (r"^/$", ("application/x-amz-json-1.1", _encoded("Image", "Bytes"), _rekognition)),
)
