"""The documentation of the running platform in a real browser. `TESTS_SCREENSHOT` names a file for a picture."""

from collections.abc import Iterator

import pytest

from app.demo.data import MODEL
from tests.browser import Browser, StrippingGateway, chromium, hosts
from tests.platform import URL, Platform
from tests.server import Server

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def browser(platform: Platform) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(platform: Platform) -> Iterator[Server]:
    with Server(StrippingGateway(URL, "/ml/serve")) as gateway:
        yield gateway


def check(browser: Browser, address: str) -> None:
    """Everything came from the one server, and the console has nothing to say."""
    assert hosts(browser.requests()) == {address.removeprefix("http://")}
    assert browser.complaints() == []


def test_try_it_out_predicts_the_logged_example(browser: Browser) -> None:
    browser.open(f"{URL}/docs")
    status, answer = browser.try_it_out(MODEL)
    assert (status, answer["model_name"]) == ("200", MODEL)
    assert answer["predictions"] == [pytest.approx(78.3, abs=0.05)]
    browser.save_screenshot(".opblock.is-open")
    check(browser, URL)


def test_try_it_out_behind_a_gateway_that_strips_its_prefix(browser: Browser, gateway: Server) -> None:
    browser.open(f"{gateway.url}/ml/serve/docs")
    status, answer = browser.try_it_out(MODEL)
    assert status == "200"
    assert answer["predictions"] == [pytest.approx(78.3, abs=0.05)]
    sent = browser.requests()
    assert f"{gateway.url}/ml/serve/v1/models/{MODEL}:predict" in sent
    assert [url for url in sent if not url.startswith(f"{gateway.url}/ml/serve/")] == []
    check(browser, gateway.url)


def test_redoc_shows_the_model_with_its_units(browser: Browser) -> None:
    browser.open(f"{URL}/redoc")
    browser.wait_for(f"Predict with {MODEL}.")
    browser.wait_for("USD per barrel")
    check(browser, URL)
