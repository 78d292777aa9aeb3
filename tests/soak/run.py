"""Mixed traffic for a long time: memory, descriptors, threads and shared memory of the platform stay where they are.

Run as ``python -m tests.soak.run MINUTES REPORT``; `make soak` does.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import orjson
import psutil

from tests.platform import DEMO, URL, Platform

ROW = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.1}
CALLERS = 16
SAMPLE_S = 15.0
WARM_UP = 0.25
"""Share of the samples that count as warm-up: caches, thread pools and heaps still grow."""
MOST_GROWTH = 0.05


class Sample(NamedTuple):
    """What all processes of the platform use together.

    Attributes:
        memory_mb: proportional set size.
        shared_mb: files in shared memory.
    """

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int
    shared_mb: float
    requests: int


class Traffic:
    """Callers of every dialect: small and large requests, wrong ones, cancelled ones, loads and promotes."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.count: Counter[str] = Counter()

    async def call(self) -> None:
        """Call until cancelled."""
        while True:
            kind = random.choice(("serve", "serve", "v1", "v2", "binary", "csv", "entity", "wrong", "nobody", "cancel"))
            rows = random.choice((1, 1, 1, 7, 200, 5000))
            path, content, headers = request("v1" if kind == "cancel" else kind, rows)
            try:
                async with asyncio.timeout(0.004 if kind == "cancel" else 60):
                    answer = await self._http.post(path, content=content, headers=headers)
                self.count[f"{kind} {answer.status_code}"] += 1
            except TimeoutError:
                self.count[f"{kind} left"] += 1
            except httpx.HTTPError as error:
                self.count[f"{kind} {type(error).__name__}"] += 1

    async def release(self) -> None:
        """Promote the two versions of the model in turn, and unload and load the other one, until cancelled."""
        version = 1
        while True:
            await asyncio.sleep(20)
            version = 3 - version
            for verb, body in ((":promote", {"version": str(version)}), ("", None)):
                with suppress(httpx.HTTPError):
                    path = f"/v1/models/{DEMO}{verb}" if verb else f"/v1/models/{DEMO}/versions/{3 - version}:unload"
                    answer = await self._http.post(path, json=body or {}, timeout=120)
                    self.count[f"{verb or ':unload'} {answer.status_code}"] += 1


def request(kind: str, rows: int) -> tuple[str, bytes, dict[str, str]]:
    """Return path, body and headers of a request."""
    json_type = {"content-type": "application/json"}
    if kind == "binary":
        inputs = [
            {"name": name, "shape": [rows], "datatype": "FP64", "parameters": {"binary_data_size": 8 * rows}}
            for name in ROW
        ]
        head = orjson.dumps({"inputs": inputs})
        body = head + b"".join(np.full(rows, value).tobytes() for value in ROW.values())
        return f"/v2/models/{DEMO}/infer", body, {"inference-header-content-length": str(len(head))}
    if kind == "csv":
        lines = [",".join(ROW), *[",".join(map(str, ROW.values()))] * rows]
        return f"/invocations/{DEMO}", "\n".join(lines).encode(), {"content-type": "text/csv"}
    bodies: dict[str, tuple[str, Any]] = {
        "serve": ("/serve", {"model_name": DEMO, "data": ROW}),
        "v1": (f"/v1/models/{DEMO}:predict", {"instances": [ROW] * rows}),
        "v2": (
            f"/v2/models/{DEMO}/infer",
            {
                "inputs": [
                    {"name": name, "shape": [rows], "datatype": "FP64", "data": [value] * rows}
                    for name, value in ROW.items()
                ]
            },
        ),
        "entity": (
            "/serve",
            {
                "model_name": DEMO,
                "use_feature_store": True,
                "entity_id": "crude_oil_wti",
                "feature_view": "commodity_features",
            },
        ),
        "wrong": ("/serve", {"model_name": DEMO, "data": {"crude_oil_price": "much"}}),
        "nobody": ("/serve", {"model_name": f"nobody-{random.random()}", "data": ROW}),
    }
    path, body_json = bodies[kind]
    return path, orjson.dumps(body_json), json_type


def sample(began: float, requests: int) -> Sample:
    """Measure all processes of Ray and of its load balancer."""
    memory = descriptors = threads = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if line.startswith("ray::") or process.info["name"] in ("haproxy", "raylet", "gcs_server"):
            with suppress(psutil.Error, OSError):
                found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
                memory += int(found[1]) if found else 0
                descriptors += process.num_fds()
                threads += process.num_threads()
    shared = sum(file.stat().st_size for file in Path("/dev/shm").iterdir() if file.is_file())
    return Sample(time.monotonic() - began, memory / 1024, descriptors, threads, shared / 1e6, requests)


async def soak(minutes: float) -> tuple[list[Sample], Counter[str]]:
    """Send traffic and measure. Returns the samples and how often each request had each outcome."""
    began = time.monotonic()
    limits = httpx.Limits(max_connections=2 * CALLERS)
    async with httpx.AsyncClient(base_url=URL, timeout=None, limits=limits) as http:
        traffic = Traffic(http)
        tasks = [asyncio.create_task(traffic.call()) for _ in range(CALLERS)]
        tasks.append(asyncio.create_task(traffic.release()))
        samples = []
        while time.monotonic() < began + 60 * minutes:
            await asyncio.sleep(SAMPLE_S)
            samples.append(await asyncio.to_thread(sample, began, traffic.count.total()))
            print(samples[-1], flush=True)  # noqa: T201 - progress
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return samples, traffic.count


def growth(samples: list[Sample]) -> dict[str, float]:
    """Return per resource how much more its mean was in the last third than in the first one after the warm-up."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = max(len(warm) // 3, 1)

    def mean(part: list[Sample], name: str) -> float:
        return float(np.mean([getattr(one, name) for one in part]))

    names = ("memory_mb", "descriptors", "threads", "shared_mb")
    return {name: mean(warm[-third:], name) / max(mean(warm[:third], name), 1.0) - 1 for name in names}


def main(minutes: float, report: Path) -> int:
    """Start the platform, soak it and write the report. Returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(Path(folder) / "home", Path(folder) / "log")
        platform.start()
        try:
            samples, count = asyncio.run(soak(minutes))
        finally:
            platform.stop()
    grown = growth(samples)
    result = {
        "minutes": minutes,
        "growth": grown,
        "outcomes": dict(sorted(count.items())),
        "samples": [one._asdict() for one in samples],
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    print(orjson.dumps({"growth": grown, "outcomes": result["outcomes"]}, option=orjson.OPT_INDENT_2).decode())  # noqa: T201
    bad = [outcome for outcome in count if re.search(r" 5\d\d$|Error$", outcome)]
    return int(bool(bad) or any(value > MOST_GROWTH for value in grown.values()))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), Path(sys.argv[2])))
