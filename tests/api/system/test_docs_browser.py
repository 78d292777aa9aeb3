"""The documentation in a real browser, over a gateway replica whose model is a function."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from app.demo.data import COLUMNS, EXAMPLE, MODEL, NOTES
from app.serving.references import ModelRef
from tests import browser as browser_module
from tests.browser import Browser, StrippingGateway, chromium, hosts
from tests.fakes import FakeModel, columns, make_fakes, tensor
from tests.server import Server

FORMULA = FakeModel(
    lambda batch: tensor(22.3 + np.asarray(batch.arrays).T @ np.array([0.82, 2.6, -12])),
    columns(*COLUMNS),
    [{"name": "price", "type": "double", "required": True}],
    example={"dataframe_split": {"columns": list(COLUMNS), "data": [list(EXAMPLE)]}},
    metadata={"columns": NOTES},
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    fakes = make_fakes({MODEL: FORMULA, "odd {name} ä?": FORMULA})
    for name in fakes.directory.names():
        asyncio.run(fakes.manager.load(ModelRef(name)))
    with Server(fakes.app) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Server) -> Iterator[Server]:
    with Server(StrippingGateway(server.url, "/ml/serve")) as gateway:
        yield gateway


def check(browser: Browser, address: str) -> None:
    """Everything came from the one server, and the console has nothing to say."""
    assert hosts(browser.requests()) == {address.removeprefix("http://")}
    assert browser.complaints() == []


def test_try_it_out(browser: Browser, server: Server) -> None:
    browser.open(f"{server.url}/docs")
    status, answer = browser.try_it_out(MODEL)
    assert status == "200"
    assert answer["predictions"] == [pytest.approx(78.3, abs=0.1)]
    assert f"{server.url}/v1/models/{MODEL}:predict" in browser.requests()
    browser.save_screenshot(".opblock.is-open")
    check(browser, server.url)


def test_try_it_out_with_an_odd_name(browser: Browser, server: Server) -> None:
    browser.open(f"{server.url}/docs")
    status, answer = browser.try_it_out("odd%20%7Bname%7D%20%C3%A4%3F")
    assert (status, answer["model_name"]) == ("200", "odd {name} ä?")
    check(browser, server.url)


def test_try_it_out_behind_a_gateway_that_strips_its_prefix(browser: Browser, gateway: Server) -> None:
    browser.open(f"{gateway.url}/ml/serve/docs")
    status, answer = browser.try_it_out(MODEL)
    assert (status, answer["model_name"]) == ("200", MODEL)
    sent = browser.requests()
    assert f"{gateway.url}/ml/serve/openapi.json" in sent
    assert f"{gateway.url}/ml/serve/v1/models/{MODEL}:predict" in sent
    assert [url for url in sent if not url.startswith(f"{gateway.url}/ml/serve/")] == []
    check(browser, gateway.url)


@pytest.mark.parametrize("prefix", ["", "/ml/serve"])
def test_redoc(browser: Browser, server: Server, gateway: Server, prefix: str) -> None:
    address = gateway.url if prefix else server.url
    browser.open(f"{address}{prefix}/redoc")
    browser.wait_for(f"Predict with {MODEL}.")
    check(browser, address)


def test_a_model_description_runs_no_script(browser: Browser) -> None:
    name = "<img src=x onerror=document.title=1>"
    hostile = {"columns": {"x": {"description": f"{name}<script>document.title=1</script>"}}}
    fakes = make_fakes({name: FakeModel(FORMULA.predict, columns("x"), metadata=hostile)})
    asyncio.run(fakes.manager.load(ModelRef(name)))
    with Server(fakes.app) as server:
        for page in ("docs", "redoc"):
            browser.open(f"{server.url}/{page}")
            browser.wait_for("Predict with")
            assert browser.title == "ML Serve Gateway"
            assert [url for url in browser.requests() if url.endswith("/x")] == []
            assert browser.complaints() == []


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_a_browser_the_tests_are_skipped_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr(browser_module, "DRIVER", "/nowhere/chromedriver")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="/nowhere/chromedriver not found"), chromium():
        pass
