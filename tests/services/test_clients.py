"""The services' own clients against a server on this machine: labels, and all that fails."""

import base64
import io
import json
import logging
import socket
import traceback

import numpy as np
import PIL.Image
import pytest

from rainjax.services import (
    LocalServer,
    Picture,
    Rekognition,
    ServiceBusy,
    ServiceError,
    ServiceLabel,
    ServiceRefused,
)
from tests.services.common import (
    LABELS,
    classify,
    failing,
    labeller,
    need,
    picture,
    pointed_at,
    raw,
)

SECRET = "AKIDsecretsecretsecret"
AMZ = {"Content-Type": "application/x-amz-json-1.1"}


def test_labels_come_in_order(name, tmp_path):
    with LocalServer(classify) as server:
        ask, _ = labeller(pointed_at(name, server), tmp_path)
        answer = ask(picture())
    assert [label.name for label in answer[:3]] == ["tench", "goldfish", "coho"]
    expected = sorted((confidence for _, confidence in LABELS), reverse=True)
    assert [label.confidence for label in answer[:3]] == pytest.approx(expected, abs=1e-6)


def test_the_very_pixels_arrive(name, tmp_path):
    sent = picture(3)
    with LocalServer(classify) as server:
        answer = labeller(pointed_at(name, server), tmp_path)[0](sent)
    (file,) = server.pictures
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(file)), sent.pixels)
    assert answer[-1].name == f"mean {sent.pixels.mean():.4f}"


def test_no_more_labels_than_are_wanted(name, tmp_path):
    """Whether the service heeds the number or not."""
    many = lambda pixels: [(f"thing {n}", 1 / (n + 2)) for n in range(30)]
    with LocalServer(many) as server:
        service = pointed_at(name, server, max_labels=2)
        labels = labeller(service, tmp_path)[0](picture())
    assert [label.name for label in labels] == ["thing 0", "thing 1"]


@pytest.mark.parametrize(
    "failure",
    [
        raw(429, {"message": "slow down"}),
        raw(500, b"oops"),
        raw(503, {"error": {"code": 503, "message": "busy"}}),
        raw(200, b'{"labels": [{"nam'),
        raw(200, b"<html>a gateway speaks</html>"),
        raw(200, {"hello": 1}),
        raw(200, b'{"labels": [{"nam', **{"Content-Length": "5000"}),
    ],
    ids=["429", "500", "503", "malformed", "html", "another", "truncated"],
)
def test_asks_again_where_that_may_help(name, failure, tmp_path):
    with LocalServer(classify, failing(failure, failure)) as server:
        ask, waits = labeller(pointed_at(name, server), tmp_path)
        assert ask(picture())[0].name == "tench"
    assert server.num_requests == ask.num_requests == 3
    assert len(waits) == 2
    assert 0 <= waits[0] <= 1
    assert 0 <= waits[1] <= 2


def test_waits_as_long_as_the_service_says(name, tmp_path):
    with LocalServer(classify, failing(raw(429, {}, **{"Retry-After": "17"}))) as server:
        ask, waits = labeller(pointed_at(name, server), tmp_path)
        ask(picture())
    assert waits == [17.0]


def test_gives_up_in_one_sentence(name, tmp_path):
    with LocalServer(classify, lambda number: raw(503, b"oops")) as server:
        ask, waits = labeller(pointed_at(name, server), tmp_path, num_attempts=4)
        with pytest.raises(ServiceBusy, match="503"):
            ask(picture())
    assert server.num_requests == 4
    assert len(waits) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_expired_credentials_are_not_tried_again(name, status, tmp_path):
    body = {"error": {"code": status, "message": f"the key {SECRET} has expired"}}
    with LocalServer(classify, lambda number: raw(status, body)) as server:
        ask, _ = labeller(pointed_at(name, server), tmp_path)
        with pytest.raises(ServiceRefused, match="credentials") as error:
            ask(picture())
    assert server.num_requests == 1
    shown = "".join(traceback.format_exception(error.value))
    assert SECRET not in shown


def test_what_the_service_does_not_take_is_not_tried_again(name, tmp_path):
    with LocalServer(classify, lambda number: raw(400, {"error": {"code": 400}})) as server:
        ask, _ = labeller(pointed_at(name, server), tmp_path)
        with pytest.raises(ServiceRefused, match="400"):
            ask(picture())
    assert server.num_requests == 1


def test_nobody_listens(name, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = LocalServer.__new__(LocalServer)
        server._server = type("Closed", (), {"server_port": free.getsockname()[1]})()
        ask, waits = labeller(pointed_at(name, server, timeout=2.0), tmp_path, num_attempts=2)
        with pytest.raises(ServiceBusy, match="cannot be reached"):
            ask(picture())
    assert len(waits) == 1


def test_too_large_a_picture_is_not_sent(name, tmp_path):
    with LocalServer(classify) as server:
        service = pointed_at(name, server)
        ask, _ = labeller(service, tmp_path)
        side = 4000 if name == "own" else 3000
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        noisy = Picture(noise)
        noisy.png = b"\0" * (service.limits.max_bytes + 1)  # not to compress for a minute
        with pytest.raises(ValueError, match="bytes at most"):
            ask(noisy)
    assert server.num_requests == 0


def test_what_is_refused_as_too_large(name, tmp_path):
    with LocalServer(classify, lambda number: raw(413, {})) as server:
        ask, _ = labeller(pointed_at(name, server), tmp_path)
        with pytest.raises(ServiceRefused, match="too large"):
            ask(picture())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ThrottlingException", None),
        ("ProvisionedThroughputExceededException", None),
        ("ExpiredTokenException", "credentials"),
        ("UnrecognizedClientException", "credentials"),
        ("ImageTooLargeException", "ImageTooLargeException"),
        ("InvalidImageFormatException", "does not take"),
    ],
)
def test_aws_says_by_a_code_what_is_wrong(code, error, tmp_path):
    need("aws")
    failure = (400, AMZ, json.dumps({"__type": code, "message": SECRET}).encode())
    with LocalServer(classify, failing(failure)) as server:
        ask, _ = labeller(pointed_at("aws", server), tmp_path)
        if error is None:
            assert ask(picture())[0].name == "tench"
        else:
            with pytest.raises(ServiceRefused, match=error) as caught:
                ask(picture())
            assert SECRET not in str(caught.value)
    assert server.num_requests == (2 if error is None else 1)


@pytest.mark.parametrize(
    ("code", "error"),
    [(11005, None), (98010, None), (11009, "credentials"), (11102, "does not take")],
)
def test_clarifai_says_by_a_code_what_is_wrong(code, error, tmp_path):
    """Whatever the HTTP status is: the codes are those of Clarifai's status_code.proto."""
    need("clarifai")
    body = {"status": {"code": code, "description": SECRET}, "outputs": []}
    with LocalServer(classify, failing(raw(200, body))) as server:
        ask, _ = labeller(pointed_at("clarifai", server), tmp_path)
        if error is None:
            assert ask(picture())[0].name == "tench"
        else:
            with pytest.raises(ServiceRefused, match=error):
                ask(picture())


def test_google_reports_what_is_wrong_with_one_picture(tmp_path):
    need("google")
    bodies = [{"responses": [{"error": {"code": code, "message": SECRET}}]} for code in (8, 3)]
    with LocalServer(classify, failing(*(raw(200, body) for body in bodies))) as server:
        ask, waits = labeller(pointed_at("google", server), tmp_path)
        with pytest.raises(ServiceRefused, match="does not take"):
            ask(picture())
    assert server.num_requests == 2
    assert len(waits) == 1


def test_credentials_are_in_no_log_record_cache_or_error(name, tmp_path, monkeypatch, caplog):
    """They reach the server, and nothing else: with every logger at its loudest."""
    if name == "own":
        pytest.skip("it has none")
    if name == "google":  # a service account would have to ask Google for a token
        token = pytest.importorskip("google.oauth2.credentials").Credentials(token=SECRET)
        monkeypatch.setattr("google.auth.default", lambda **_: (token, None))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("VISION_KEY", SECRET)
    monkeypatch.setenv("CLARIFAI_PAT", SECRET)
    caplog.set_level(logging.DEBUG)
    failures = failing(raw(503, b"oops"), raw(200, b"<html>"), raw(401, {"message": SECRET}))
    with LocalServer(classify, failures) as server:
        kind = type(pointed_at(name, server))
        service = kind(endpoint=server.url, stand_in="test")
        ask, _ = labeller(service, tmp_path)
        with pytest.raises(ServiceError) as error:
            ask(picture())
        ask(picture())
    sent = [json.dumps(headers) for headers in server.headers]
    assert all(SECRET in headers for headers in sent)  # or the test could not fail
    shown = "".join(traceback.format_exception(error.value)) + repr(service) + caplog.text
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "tench" in kept
    assert SECRET not in shown + kept + json.dumps(service.settings())


@pytest.mark.parametrize(
    ("service", "variable"), [("azure", "VISION_KEY"), ("clarifai", "CLARIFAI_PAT")]
)
def test_missing_credentials_are_named(service, variable, tmp_path, monkeypatch):
    need(service)
    monkeypatch.delenv(variable, raising=False)
    with LocalServer(classify) as server:
        kind = type(pointed_at(service, server))
        ask, _ = labeller(kind(endpoint=server.url), tmp_path)
        with pytest.raises(ServiceRefused, match=variable):
            ask(picture())
    assert server.num_requests == 0


def test_aliases_of_rekognition(tmp_path):
    """As in the developer guide's example of an answer."""
    need("aws")
    said = {
        "Labels": [
            {
                "Name": "Mobile Phone",
                "Confidence": 99.5,
                "Parents": [{"Name": "Phone"}],
                "Aliases": [{"Name": "Cell Phone"}],
                "Categories": [{"Name": "Technology and Computing"}],
                "Instances": [],
            }
        ],
        "LabelModelVersion": "3.0",
    }
    with LocalServer(classify, failing((200, AMZ, json.dumps(said).encode()))) as server:
        (label,) = labeller(pointed_at("aws", server), tmp_path)[0](picture())
    assert label == ServiceLabel("Mobile Phone", 0.995, ("Cell Phone",))


def test_rekognition_as_moto_answers(tmp_path, monkeypatch):
    """Somebody else's server of AWS's wire format."""
    need("aws")
    moto = pytest.importorskip("moto.server", reason="needs moto's server")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        service = Rekognition(endpoint=f"http://{host}:{port}", region="eu-west-1")
        answer = labeller(service, tmp_path)[0](picture())
    finally:
        server.stop()
    assert answer[0].name == "Mobile Phone"
    assert answer[0].aliases == ("Cell Phone",)
    assert 0.9 < answer[0].confidence <= 1


def test_each_request_is_in_the_services_format(name, tmp_path):
    """What the public API references ask for, read from the wire, not by the server's parser."""
    bodies, paths = [], []
    with LocalServer(classify) as server:
        answer = server.answer

        def spy(path, headers, body):
            paths.append((path, headers))
            bodies.append(body)
            return answer(path, headers, body)

        server.answer = spy
        sent = picture()
        labeller(pointed_at(name, server, max_labels=7), tmp_path)[0](sent)
    ((path, headers),), (body,) = paths, bodies
    headers = {key.lower(): value for key, value in headers.items()}
    image = base64.b64encode(sent.png).decode()
    if name == "aws":
        assert headers["x-amz-target"] == "RekognitionService.DetectLabels"
        wanted = {"Image": {"Bytes": image}, "MaxLabels": 7, "MinConfidence": 0.0}
        assert json.loads(body) == wanted
    elif name == "google":
        assert path.split("?")[0] == "/v1/images:annotate"
        (request,) = json.loads(body)["requests"]
        assert request["image"] == {"content": image}
        (feature,) = request["features"]
        assert feature["type"] in ("LABEL_DETECTION", 4)
        assert feature["maxResults"] == 7
    elif name == "azure":
        assert path.startswith("/computervision/imageanalysis:analyze?")
        assert "features=tags" in path
        assert "api-version=2023-10-01" in path
        assert body == sent.png
    elif name == "clarifai":
        model = "general-image-recognition"
        assert path == f"/v2/users/clarifai/apps/main/models/{model}/outputs"
        assert json.loads(body)["inputs"] == [{"data": {"image": {"base64": image}}}]
    else:
        assert path == "/labels"
        assert body == sent.png
