"""A headless Chromium that keeps account of what it loads, and a gateway in front that strips a prefix, as Kong does.

Both programs are Debian's: selenium is told where they are and never downloads any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as expect
from selenium.webdriver.support.wait import WebDriverWait
from starlette.types import Receive, Scope, Send

from tests.missing import missing

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
SCREENSHOT = "TESTS_SCREENSHOT"
"""Variable that names the file to which the executed "Try it out" is saved. The platform refuses `ML_SERVE_*` here."""

_PATIENCE_S = 120.0
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,1750")
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"}


class Browser:
    """What the tests do with a page."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._log: list[dict[str, Any]] = []

    def open(self, url: str) -> None:
        """Forget what was loaded before, and load a page."""
        self._driver.get("about:blank")
        for kind in ("performance", "browser"):
            self._driver.get_log(kind)  # type: ignore[no-untyped-call]
        self._log = []
        self._driver.get(url)

    def find(self, css: str) -> WebElement:
        """The first such element, as soon as it is visible."""
        found: WebElement = WebDriverWait(self._driver, _PATIENCE_S).until(
            expect.visibility_of_element_located((By.CSS_SELECTOR, css)), f"there is no {css}"
        )
        return found

    def click(self, css: str) -> None:
        """Click the first such element, as soon as it can be."""
        self._driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(css))
        WebDriverWait(self._driver, _PATIENCE_S).until(expect.element_to_be_clickable((By.CSS_SELECTOR, css))).click()

    def text(self, css: str = "body") -> str:
        """What is to be read there."""
        return self.find(css).text

    @property
    def title(self) -> str:
        return str(self._driver.title)

    def wait_for(self, text: str) -> None:
        """Return once the page shows the text."""
        WebDriverWait(self._driver, _PATIENCE_S).until(
            lambda driver: text in driver.find_element(By.TAG_NAME, "body").text, f"the page never shows '{text}'"
        )

    def requests(self) -> list[str]:
        """The address of each request since the page was opened, but those that never leave the browser."""
        self._log += [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]  # type: ignore[no-untyped-call]
        sent = [entry["params"] for entry in self._log if entry["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if urlsplit(one["request"]["url"]).scheme in ("http", "https")]

    def complaints(self) -> list[str]:
        """What is in the console since the page was opened: errors and warnings."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] != "INFO"]  # type: ignore[no-untyped-call]

    def try_it_out(self, model: str) -> tuple[str, Any]:
        """Open the model's operation in Swagger UI and execute its example.

        Returns:
            The status and the body of the answer as Swagger UI shows them.
        """
        path = f"/v1/models/{model}:predict"
        block = f'.opblock:has([data-path="{path}"])'
        self.click(f"{block} .opblock-summary-control")
        self.click(f"{block} .try-out__btn")
        self.click(f"{block} .execute")
        answer = f"{block} .live-responses-table .response"
        body = self.text(f"{answer} .highlight-code code")
        status = self.text(f"{answer} .response-col_status").split()[0]
        return status, json.loads(body)

    def save_screenshot(self, css: str) -> None:
        """Save what is seen from this element on to the file that `SCREENSHOT` names, if it names one."""
        target = os.environ.get(SCREENSHOT)
        if target:
            self._driver.execute_script("arguments[0].scrollIntoView()", self.find(css))
            Path(target).write_bytes(self._driver.get_screenshot_as_png())


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile. Skips the test where there is none, but fails it in CI."""
    absent = [path for path in (CHROMIUM, DRIVER) if not Path(path).exists()]
    if absent:
        missing(f"{' and '.join(absent)} not found: apt-get install chromium chromium-driver")
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class StrippingGateway:
    """An ASGI application that passes what is under `prefix` on to `upstream` without it, as Kong does.

    What is not under the prefix is a 404, whatever the upstream would say.
    """

    def __init__(self, upstream: str, prefix: str) -> None:
        self._upstream = upstream
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = (scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")).decode()
        if not target.startswith(f"{self._prefix}/"):
            await _answer(send, 404, [], b"no route of the gateway matches")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(key, value) for key, value in scope["headers"] if key not in (b"host", b"content-length")]
        headers.append((b"x-forwarded-prefix", self._prefix.encode()))
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream(
                scope["method"], self._upstream + target.removeprefix(self._prefix), headers=headers, content=body
            ) as answer,
        ):
            raw = b"".join([part async for part in answer.aiter_raw()])
            kept = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in _HOP_BY_HOP]
            await _answer(send, answer.status_code, kept, raw)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def hosts(urls: list[str]) -> set[str]:
    """Where the requests went, with ports."""
    return {urlsplit(url).netloc for url in urls}
