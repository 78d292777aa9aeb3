"""Inference with binary tensors and compressed bodies over HTTP, on models in memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.oip.binary import encode_elements
from tests.api.oip.payloads import HEADER, PRICES, binary, described, frame, given, mirror, tensors, unnamed
from tests.connect import Connect
from tests.fakes import HTTP_LIMITS, FakeModel, Fakes, columns, make_fakes, total


class TestBinary:
    async def test_all_inputs_may_be_binary(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        oil, gas = np.array([1.5, 2.5]), np.array([1, 2], "i2")
        body, headers = binary([("oil", "FP64", oil), ("gas", "INT16", gas)])
        answer = await client.post(f"{PRICES}/infer", content=body, headers=headers)
        assert answer.headers["content-type"] == "application/json"
        assert tensors(answer) == {"output": [2.5, 4.5]}

    async def test_binary_tensors_follow_the_order_of_the_inputs(self, connect: Connect) -> None:
        client = connect(make_fakes({"m": mirror(*columns("a", "b", "c", "d"))}))
        inputs: list[Any] = [
            ("d", "FP32", np.array([4.0], "f4")),
            given("b", "FP64", [2]),
            ("a", "FP64", np.array([1.0])),
            given("c", "INT8", [3]),
        ]
        body, headers = binary(inputs)
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
        assert tensors(answer) == {"a": [1], "b": [2], "c": [3], "d": [4]}

    @pytest.mark.parametrize(
        ("everything", "single", "binary_names"),
        [
            (None, {}, set()),
            (False, {}, set()),
            (True, {}, {"a", "b"}),
            (True, {"a": False}, {"b"}),
            (False, {"b": True}, {"b"}),
            (None, {"a": True, "b": False}, {"a"}),
        ],
    )
    async def test_outputs_are_binary_on_request(
        self, connect: Connect, everything: bool | None, single: Mapping[str, bool], binary_names: set[str]
    ) -> None:
        client = connect(make_fakes({"m": frame(a=[1.5], b=np.array([2], "i2"))}))
        body = {
            "inputs": [given("x", "FP64", [1])],
            "outputs": [{"name": name, "parameters": {"binary_data": value}} for name, value in single.items()],
            "parameters": {} if everything is None else {"binary_data_output": everything},
        }
        wanted = [*single] or ["a", "b"]
        answer = await client.post("/v2/models/m/infer", json=body)
        assert tensors(answer) == {name: {"a": [1.5], "b": [2]}[name] for name in wanted}
        outputs = described(answer)["outputs"]
        assert {one["name"] for one in outputs if "parameters" in one} == binary_names & {*wanted}
        assert all(("data" in one) != ("parameters" in one) for one in outputs)
        expected = "application/octet-stream" if binary_names & {*wanted} else "application/json"
        assert answer.headers["content-type"] == expected
        assert (HEADER in answer.headers) == bool(binary_names & {*wanted})

    async def test_bytes_round_trip_in_binary(self, connect: Connect) -> None:
        client = connect(make_fakes({"m": mirror(*columns("x", type="binary"))}))
        values = [b"\xff\0\xfe", b"", b"text"]
        array = np.array(values, dtype=object)
        body, headers = binary([("x", "BYTES", array)], parameters={"binary_data_output": True})
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
        length = int(answer.headers[HEADER])
        assert answer.content[length:] == encode_elements(values)
        assert tensors(answer) == {"x": values}

    async def test_nan_stays_in_binary(self, connect: Connect) -> None:
        client = connect(make_fakes({"m": mirror(*columns("x"))}))
        array = np.array([np.nan, np.inf, 1.0])
        body, headers = binary([("x", "FP64", array)], parameters={"binary_data_output": True})
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
        assert answer.content[int(answer.headers[HEADER]) :] == array.tobytes()

    async def test_16_bit_floats_in_binary(self, connect: Connect) -> None:
        models = {"half": mirror(unnamed("float16", -1, 2)), "double": mirror(unnamed("float64", -1, 2))}
        client = connect(make_fakes(models))
        array = np.array([[0.5, -2.0]], "f2")
        for name, datatype in (("half", "FP16"), ("double", "FP64")):
            body, headers = binary([("x", "FP16", array)], parameters={"binary_data_output": True})
            answer = await client.post(f"/v2/models/{name}/infer", content=body, headers=headers)
            assert described(answer)["outputs"][0]["datatype"] == datatype
            assert tensors(answer) == {"output": [[0.5, -2.0]]}
        text = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}]}
        head = json.dumps(text).encode()
        content = head + b"\x00\x3f\x00\xc0"
        answer = await client.post("/v2/models/double/infer", content=content, headers={HEADER: str(len(head))})
        assert tensors(answer) == {"output": [[0.5, -2.0]]}

    async def test_binary_matrix_of_all_columns(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        matrix = np.arange(200, dtype="f4").reshape(100, 2)
        body, headers = binary([("input", "FP32", matrix)], parameters={"binary_data_output": True})
        answer = await client.post(f"{PRICES}/infer", content=body, headers=headers)
        assert tensors(answer) == {"output": matrix.sum(axis=1).tolist()}

    @pytest.mark.parametrize(
        ("model", "raw", "expected"),
        [
            (mirror(unnamed("float32", -1, 2)), struct.pack("<4f", 1, 2, 3, 4), {"output": [[1, 2], [3, 4]]}),
            (mirror(*columns("x")), struct.pack("<2d", 1, 2), {"x": [1, 2]}),
            (mirror(unnamed("uint8", 3)), b"\x01\x02\x03", {"output": [1, 2, 3]}),
        ],
        ids=["tensor", "column", "fixed"],
    )
    async def test_body_of_raw_bytes(self, connect: Connect, model: FakeModel, raw: bytes, expected: Any) -> None:
        answer = await connect(make_fakes({"m": model})).post(
            "/v2/models/m/infer", content=raw, headers={HEADER: "0", "content-type": "application/octet-stream"}
        )
        assert answer.headers["content-type"] == "application/octet-stream"
        assert tensors(answer) == expected

    async def test_requests_share_a_batch_and_keep_their_rows(self, connect: Connect) -> None:
        fakes = make_fakes({"prices": total("oil", "gas")})
        client = connect(fakes)
        bodies = [
            binary([("x", "FP64", np.array([[n, 1], [n, 2]]) * 1.0)], parameters={"binary_data_output": n % 2 == 0})
            for n in range(10)
        ]
        answers = await asyncio.gather(
            *(client.post(f"{PRICES}/infer", content=body, headers=headers) for body, headers in bodies)
        )
        assert [tensors(answer)["output"] for answer in answers] == [[n + 1, n + 2] for n in range(10)]
        assert len(fakes.runner.batches) < 10

    async def test_binary_tensors_need_no_alignment(self, connect: Connect) -> None:
        client = connect(make_fakes({"m": mirror(*columns("x"))}))
        array = np.array([1.5, 2.5])
        for padding in range(8):  # the bytes begin wherever the JSON ends
            body, headers = binary([("x", "FP64", array)], id="x" * padding)
            answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
            assert tensors(answer) == {"x": [1.5, 2.5]}


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class TestCompression:
    @pytest.mark.parametrize("in_binary", [True, False])
    @pytest.mark.parametrize("accepted", ["gzip", "deflate", "identity"])
    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
    async def test_bodies_are_compressed_both_ways(
        self, connect: Connect, encoding: str, accepted: str, in_binary: bool
    ) -> None:
        limits = replace(HTTP_LIMITS, gzip_bytes=100)
        fakes: Fakes = make_fakes({"m": mirror(*columns("x"))}, http_limits=limits)
        array = np.arange(500.0)
        if in_binary:
            body, headers = binary([("x", "FP64", array)], parameters={"binary_data_output": True})
        else:
            body, headers = json.dumps({"inputs": [given("x", "FP64", array.tolist())]}).encode(), {}
        packed = COMPRESS.get(encoding, bytes)(body)
        headers |= {"accept-encoding": accepted} | ({} if encoding == "identity" else {"content-encoding": encoding})
        answer = await connect(fakes).post("/v2/models/m/infer", content=packed, headers=headers)
        assert answer.headers.get("content-encoding", "identity") == accepted
        assert tensors(answer) == {"x": array.tolist()}  # the header counts the bytes of the plain JSON
        assert (HEADER in answer.headers) == in_binary
