"""Measure the CPU time of a gateway for one table, by encoding: 1,000 rows of 100 float columns.

The gateway's application runs in this process, with a model in memory that adds up its columns. The figures cover
parsing, validation, batching and encoding. They are medians of interleaved rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parent.parent))

from app.api.http.exchange import HttpLimits
from app.api.oip.grpc import InferenceServicer
from app.api.oip.service import InferenceService
from app.oip import inference_pb2 as pb
from app.oip.binary import encode
from app.settings import BatchSettings, Limits
from tests.fakes import Fakes, make_fakes, total

ROWS, COLUMNS, ROUNDS = 1000, 100, 31
NAMES = [f"c{index}" for index in range(COLUMNS)]
Body = tuple[str, bytes, dict[str, str]]


def bodies(table: np.ndarray[Any, Any]) -> dict[str, Body]:
    """Return path, body and headers of the same request in each encoding."""
    json, binary = {"content-type": "application/json"}, {"parameters": {"binary_data_output": True}}
    lists = [table[:, index].tolist() for index in range(COLUMNS)]

    described = [{"name": name, "shape": [ROWS], "datatype": "FP64"} for name in NAMES]
    as_json = [{**one, "data": values} for one, values in zip(described, lists, strict=True)]
    as_binary = [{**one, "parameters": {"binary_data_size": ROWS * 8}} for one in described]
    whole = {"name": "table", "shape": [ROWS, COLUMNS], "datatype": "FP64"}
    header = orjson.dumps({**binary, "inputs": as_binary})
    short = orjson.dumps({**binary, "inputs": [{**whole, "parameters": {"binary_data_size": ROWS * COLUMNS * 8}}]})
    split = {"columns": NAMES, "data": table.tolist()}
    return {
        "v2 JSON, a tensor per column": ("/v2/models/sum/infer", orjson.dumps({"inputs": as_json}), json),
        "v2 JSON, one tensor": (
            "/v2/models/sum/infer",
            orjson.dumps({"inputs": [{**whole, "data": table.ravel().tolist()}]}),
            json,
        ),
        "v2 binary, a tensor per column": (
            "/v2/models/sum/infer",
            header + b"".join(encode(table[:, index]) for index in range(COLUMNS)),
            {"inference-header-content-length": str(len(header))},
        ),
        "v2 binary, one tensor": (
            "/v2/models/sum/infer",
            short + encode(table),
            {"inference-header-content-length": str(len(short))},
        ),
        "v1 JSON, instances": ("/v1/models/sum:predict", orjson.dumps({"instances": table.tolist()}), json),
        "MLflow JSON, dataframe_split": ("/invocations/sum", orjson.dumps({"dataframe_split": split}), json),
    }


async def post(fakes: Fakes, body: Body) -> int:
    """Send one request to the application; returns the status."""
    path, content, headers = body
    status = 0

    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await (
                asyncio.Event().wait()
            )  # the caller stays connected; without the wait, the gateway would poll in a loop
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await fakes.app(scope, receive, send)
    return status


class Context:
    """The part of a gRPC context that a successful call needs."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "here"

    def set_trailing_metadata(self, trailing_metadata: Any) -> None: ...
    def set_code(self, code: Any) -> None: ...
    def set_details(self, details: str) -> None: ...


async def measure(rounds: int = ROUNDS) -> dict[str, float]:
    """Return the CPU milliseconds of each encoding."""
    fakes = make_fakes(
        {"sum": total(*NAMES)},
        limits=Limits(rows=ROWS, columns=COLUMNS, queued_rows=10**9, queued_bytes=10**12),
        batch=BatchSettings(max_rows=ROWS, max_bytes=10**9, max_in_flight=1),
        http_limits=HttpLimits(10**9, 16, 60.0),
    )
    table = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
    requests = bodies(table)
    servicer = InferenceServicer(InferenceService(fakes.service, fakes.manager), 60.0)
    message = pb.ModelInferRequest(model_name="sum", raw_input_contents=[encode(table)])
    message.inputs.add(name="table", datatype="FP64", shape=[ROWS, COLUMNS])
    wire = message.SerializeToString()

    async def grpc() -> None:
        answer = await servicer.model_infer(pb.ModelInferRequest.FromString(wire), Context())
        assert answer.outputs
        answer.SerializeToString()

    times: dict[str, list[float]] = {name: [] for name in [*requests, "gRPC, one raw tensor"]}
    for _ in range(rounds):
        for name, body in requests.items():
            started = time.process_time()
            assert await post(fakes, body) == 200, name
            times[name].append(time.process_time() - started)
        started = time.process_time()
        await grpc()
        times["gRPC, one raw tensor"].append(time.process_time() - started)
    return {name: statistics.median(found) * 1000 for name, found in times.items()}


def main() -> None:
    """Print CPU milliseconds and their ratio to one binary tensor; with `--json` the milliseconds alone."""
    found = asyncio.run(measure())
    if "--json" in sys.argv:
        print(orjson.dumps(found).decode())
        return
    best = found["v2 binary, one tensor"]
    print(f"{'encoding':34} {'CPU ms':>8} {'× binary':>9}")
    for name, milliseconds in found.items():
        print(f"{name:34} {milliseconds:8.2f} {milliseconds / best:9.1f}")


if __name__ == "__main__":
    main()
