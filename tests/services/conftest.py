"""Fixtures of the tests of services."""

import pytest

from tests.services.common import NAMES, OPEN, need


@pytest.fixture(autouse=True)
def closed():
    """Closes the connections of a test's labellers."""
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture(params=NAMES)
def name(request, monkeypatch):
    """A service whose client is installed, on a machine that holds no credentials."""
    need(request.param)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for variable in ("VISION_KEY", "VISION_ENDPOINT", "CLARIFAI_PAT", "CLARIFAI_API_BASE",
                     "GOOGLE_APPLICATION_CREDENTIALS", "AWS_PROFILE", "AWS_ACCESS_KEY_ID",
                     "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
                     "AWS_REGION"):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    return request.param
