"""Send load and measure it: wrk and h2load for one row, an asyncio client for tables and for fixed rates."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import numpy as np
import uvloop

from benchmarks.dialects import Request
from benchmarks.endpoint import GRPC_OPTIONS, as_bytes
from benchmarks.paths import HERE

_TIMEOUT_S = 30
Send = Callable[[Request], Awaitable[bool]]
"""Send a request; returns whether it succeeded."""


@dataclass(frozen=True)
class Figures:
    """Figures of a load. Latencies are in milliseconds and include failed requests.

    Args:
        errors: answers with an error status, and requests without an answer.
    """

    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: int


_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
_GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}


def find(program: str) -> str:
    """Return the path of a load generator. Raises `FileNotFoundError`."""
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"{program} is not installed; on Debian, run apt-get install {_PACKAGES[program]}")
    return found


def wrk(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Figures:
    """Run a closed loop over HTTP: each connection sends its next request after its answer."""
    with tempfile.NamedTemporaryFile("wb", suffix=".requests") as file:
        for request in requests:
            file.write(request.path.encode() + b"\t" + request.body + b"\n")
        file.flush()
        headers = [part for name, value in requests[0].headers.items() for part in ("-H", f"{name}: {value}")]
        command = [find("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", f"{_TIMEOUT_S}s", *headers]
        command += ["-s", str(HERE / "load.lua"), url, "--", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 2 * _TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    took = found["microseconds"] / 1e6
    good = found["requests"] - found["status"]
    return Figures(
        requests=found["requests"],
        seconds=took,
        rate=good / took,
        p50_ms=found["p50_us"] / 1e3,
        p90_ms=found["p90_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        p999_ms=found["p999_us"] / 1e3,
        max_ms=found["max_us"] / 1e3,
        errors=found["status"] + found["connect"] + found["read"] + found["write"] + found["timeout"],
    )


def h2load(port: int, request: Request, connections: int, seconds: float) -> Figures:
    """Run a closed loop over gRPC, which repeats one request: each connection sends it again after its answer.

    A call that fails has status 200 in HTTP, so failures are only counted where no answer comes.
    """
    frame = b"\0" + len(request.body).to_bytes(4, "big") + request.body
    headers = [part for name, value in _GRPC_HEADERS.items() for part in ("-H", f"{name}: {value}")]
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(frame)
        command = [find("h2load"), "-t1", f"-c{connections}", "-m1", f"-D{seconds:g}", f"-d{body}", f"--log-file={log}"]
        command += [*headers, f"http://127.0.0.1:{port}{request.path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 2 * _TIMEOUT_S)
        if done.returncode:
            raise RuntimeError(f"h2load failed: {done.stderr.strip() or done.stdout.strip()}")
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    samples = [Sample(0, int(at) / 1e6, int(took) / 1e6, status == "200") for at, status, took, *_ in lines]
    if not samples:
        raise RuntimeError(f"h2load got no answer: {done.stdout.strip()[-300:]}")
    return summarize(samples)


@dataclass(frozen=True)
class Sample:
    """One answer: number of the request, begin of its latency (`time.perf_counter`), duration, success."""

    index: int
    at: float
    seconds: float
    ok: bool


def closed(
    port: int, requests: Sequence[Request], connections: int, seconds: float, *, over_grpc: bool = False
) -> list[Sample]:
    """Run a closed loop where wrk does not suffice: gRPC, bodies with newlines, figures of single answers."""
    return _run(_sampled(closed_loop, port, requests, connections, seconds, over_grpc=over_grpc))


def at_rate(port: int, requests: Sequence[Request], connections: int, seconds: float, rate: float) -> list[Sample]:
    """Run an open loop over HTTP: `rate` requests per second at random times, regardless of earlier answers.

    A latency begins when the request is due, so waiting for a free connection counts.
    """
    return _run(_sampled(open_loop, port, requests, connections, seconds, rate))


def summarize(samples: Sequence[Sample]) -> Figures:
    """Summarize at least one answer."""
    seconds = max(sample.at + sample.seconds for sample in samples) - min(sample.at for sample in samples)
    taken = np.array([sample.seconds for sample in samples]) * 1e3
    good = sum(sample.ok for sample in samples)
    p50, p90, p99, p999 = np.percentile(taken, [50, 90, 99, 99.9])
    return Figures(
        requests=len(samples),
        seconds=seconds,
        rate=good / seconds,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        p999_ms=float(p999),
        max_ms=float(taken.max()),
        errors=len(samples) - good,
    )


def _run(work: Coroutine[Any, Any, list[Sample]]) -> list[Sample]:
    """Run on uvloop, which leaves more of the CPU to the system under load."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _sampled(
    loop: Callable[..., Awaitable[list[Sample]]],
    port: int,
    requests: Sequence[Request],
    connections: int,
    *further: float,
    over_grpc: bool = False,
) -> list[Sample]:
    """Open a client with this many connections and run the loop with it."""
    if over_grpc:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS) as channel:

            async def call(request: Request) -> bool:
                try:
                    await channel.unary_unary(request.path, as_bytes, as_bytes)(request.body, timeout=_TIMEOUT_S)
                except grpc.aio.AioRpcError:
                    return False
                return True

            return await loop(call, requests, connections, *further)
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}",
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        auto_decompress=False,
    ) as session:

        async def post(request: Request) -> bool:
            try:
                async with session.post(request.path, data=request.body, headers=request.headers) as answer:
                    await answer.read()
                    return answer.ok
            except (aiohttp.ClientError, TimeoutError):
                return False

        return await loop(post, requests, connections, *further)


async def closed_loop(send: Send, requests: Sequence[Request], connections: int, seconds: float) -> list[Sample]:
    """Let each connection send its next request after its answer."""
    samples: list[Sample] = []
    turn = 0
    end = time.perf_counter() + seconds

    async def connection() -> None:
        nonlocal turn
        while (at := time.perf_counter()) < end:
            index, turn = turn % len(requests), turn + 1
            ok = await send(requests[index])
            samples.append(Sample(index, at, time.perf_counter() - at, ok))

    await asyncio.gather(*(connection() for _ in range(connections)))
    return samples


async def open_loop(
    send: Send, requests: Sequence[Request], connections: int, seconds: float, rate: float
) -> list[Sample]:
    """Send requests at random times; `send` waits while all connections are busy."""
    samples: list[Sample] = []
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    start = time.perf_counter()

    async def one(index: int, at: float) -> None:
        ok = await send(requests[index])  # includes the wait for a connection
        samples.append(Sample(index, at, time.perf_counter() - at, ok))

    async with asyncio.TaskGroup() as tasks:
        for turn, offset in enumerate(arrivals):
            due = start + float(offset)
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.create_task(one(turn % len(requests), due))
    return samples
