"""Inference with JSON over HTTP, on models in memory."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest

from app.serving.rows import Batch, Output
from tests.api.oip.payloads import HEADER, PRICES, ROW, binary, described, frame, given, mirror, named, tensors, unnamed
from tests.connect import Connect
from tests.fakes import FakeModel, columns, make_fakes, tensor, total


class TestJson:
    async def test_columns_in_and_a_tensor_out(self, connect: Connect) -> None:
        answer = await connect(make_fakes({"prices": total("oil", "gas")})).post(
            f"{PRICES}/infer", json={"inputs": ROW}
        )
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-model-version"] == "1"
        assert HEADER not in answer.headers
        assert answer.json() == {
            "model_name": "prices",
            "model_version": "1",
            "outputs": [{"name": "output", "datatype": "FP64", "shape": [1], "data": [78.7]}],
        }

    @pytest.mark.parametrize(
        "data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[1.0, 2], [3, 4.0]]], ids=["flat", "nested", "mixed numbers"]
    )
    async def test_flat_and_nested_values_are_the_same(self, connect: Connect, data: Any) -> None:
        client = connect(make_fakes({"m": mirror(unnamed("float32", -1, 2))}))
        answer = await client.post("/v2/models/m/infer", json={"inputs": [given("x", "FP32", data, [2, 2])]})
        (output,) = answer.json()["outputs"]
        assert output == {"name": "output", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}

    @pytest.mark.parametrize(
        ("shape", "data"), [([2], [1, 2]), ([2, 1], [1, 2]), ([2, 1], [[1], [2]])], ids=["[n]", "[n,1]", "nested"]
    )
    async def test_columns_may_have_shape_n_or_n_1(self, connect: Connect, shape: list[int], data: Any) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        inputs = [given(name, "INT32", data, shape) for name in ("oil", "gas")]
        assert tensors(await client.post(f"{PRICES}/infer", json={"inputs": inputs})) == {"output": [2, 4]}

    async def test_all_columns_may_be_one_tensor(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        inputs = [given("input-0", "FP64", [1, 2, 3, 4], [2, 2])]
        assert tensors(await client.post(f"{PRICES}/infer", json={"inputs": inputs})) == {"output": [3, 7]}

    @pytest.mark.parametrize(
        ("datatype", "dtype", "values"),
        [
            ("BOOL", "bool", [True, False]),
            ("INT8", "int8", [-128, 127]),
            ("INT16", "int16", [-(2**15), 2**15 - 1]),
            ("INT32", "int32", [-(2**31), 2**31 - 1]),
            ("INT64", "int64", [-(2**63), 2**63 - 1]),
            ("UINT8", "uint8", [0, 255]),
            ("UINT16", "uint16", [0, 2**16 - 1]),
            ("UINT32", "uint32", [0, 2**32 - 1]),
            ("UINT64", "uint64", [2**63 + 1, 2**64 - 1]),
            ("FP16", "float16", [0.5, -65504.0]),
            ("FP32", "float32", [0.5, -65536.25]),
            ("FP64", "float64", [0.1, 1e308]),
            ("BYTES", "str", ["a", "\u00e5 \U0001f6e2"]),
        ],
    )
    async def test_every_datatype_round_trips(
        self, connect: Connect, datatype: str, dtype: str, values: list[Any]
    ) -> None:
        fakes = make_fakes({"m": mirror(named("x", dtype, -1))})
        client = connect(fakes)
        answer = await client.post("/v2/models/m/infer", json={"inputs": [given("x", datatype, values)]})
        (output,) = answer.json()["outputs"]
        assert output == {"name": "x", "datatype": datatype, "shape": [2], "data": values}
        array = np.array(values, object if datatype == "BYTES" else dtype)
        if datatype == "BYTES":
            array[:] = [value.encode() for value in values]
        body, headers = binary([("x", datatype, array)], parameters={"binary_data_output": True})
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
        assert tensors(answer) == {"x": array.tolist()}
        assert described(answer)["outputs"][0]["datatype"] == datatype
        assert [batch.arrays[0].tolist() for _, batch in fakes.runner.batches] == [values, values]

    async def test_nan_and_infinities_are_null(self, connect: Connect) -> None:
        client = connect(make_fakes({"m": frame(y=[np.nan], z=[-np.inf], f=np.array([np.inf], "f4"))}))
        answer = await client.post("/v2/models/m/infer", json={"inputs": [given("x", "FP64", [1])]})
        assert tensors(answer) == {"y": [None], "z": [None], "f": [None]}

    @pytest.mark.parametrize("datatype", ["FP64", "FP32"])
    async def test_the_constants_of_pythons_json_are_read(self, connect: Connect, datatype: str) -> None:
        fakes = make_fakes({"m": FakeModel(lambda batch: tensor(np.isposinf(batch.arrays[0])), columns("x"))})
        values = [math.nan, math.inf, -math.inf]
        text = json.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": [3], "data": values}]})
        assert "[NaN, Infinity, -Infinity]" in text
        answer = await connect(fakes).post("/v2/models/m/infer", content=text)
        assert answer.json()["outputs"][0]["data"] == [False, True, False]
        (batch,) = [batch for _, batch in fakes.runner.batches]
        assert np.array_equal(batch.arrays[0], [np.nan, np.inf, -np.inf], equal_nan=True)

    async def test_null_input_is_nan(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil")}))
        answer = await client.post(f"{PRICES}/infer", json={"inputs": [given("oil", "FP32", [None, 1])]})
        assert tensors(answer) == {"output": [None, 1]}

    async def test_outputs_other_than_numbers_are_text(self, connect: Connect) -> None:
        cells = np.empty(2, dtype=object)
        cells[:] = [{"a": [1]}, None]
        model = frame(
            text=["a", "b"],
            raw=np.array([b"\xff", b"a"]),
            when=np.array(["2024-01-01", "NaT"], "M8[ns]"),
            cell=cells,
        )
        client = connect(make_fakes({"m": model}))
        inputs = [given("x", "FP64", [1, 2])]
        answer = await client.post("/v2/models/m/infer", json={"inputs": inputs})
        assert {output["datatype"] for output in answer.json()["outputs"]} == {"BYTES"}
        assert tensors(answer) == {
            "text": ["a", "b"],
            "raw": ["/w==", "YQ=="],
            "when": ["2024-01-01T00:00:00", ""],
            "cell": ['{"a":[1]}', ""],
        }
        parameters = {"binary_data_output": True}
        answer = await client.post("/v2/models/m/infer", json={"inputs": inputs, "parameters": parameters})
        assert tensors(answer) == {
            "text": [b"a", b"b"],
            "raw": [b"\xff", b"a"],
            "when": [b"2024-01-01T00:00:00", b""],
            "cell": [b'{"a":[1]}', b""],
        }

    async def test_tensors_without_a_signature_keep_their_dtype(self, connect: Connect) -> None:
        fakes = make_fakes({"m": mirror()})
        client = connect(fakes)
        inputs = [given("a", "FP32", [0.5]), given("b", "BYTES", ["x"]), given("c", "UINT8", [7])]
        assert tensors(await client.post("/v2/models/m/infer", json={"inputs": inputs})) == {
            "a": [0.5], "b": ["x"], "c": [7],
        }  # fmt: skip
        assert fakes.runner.batches[0][1].layout.dtypes == ("float32", "object", "uint8")
        image = [given("image", "UINT8", [1, 2, 3, 4], [1, 2, 2])]
        assert tensors(await client.post("/v2/models/m/infer", json={"inputs": image})) == {
            "output": [[[1, 2], [3, 4]]]
        }


class TestOutputs:
    @pytest.mark.parametrize("kind", ["columns", "tensors"])
    async def test_requested_outputs_come_in_their_order(self, connect: Connect, kind: Any) -> None:
        arrays = (np.array([[1, 2]]) if kind == "tensors" else np.array([1]), np.array([True]), np.array(["x"]))
        model = FakeModel(lambda batch: Output(kind, ("a", "b", "c"), arrays, 1), columns("x"))
        client = connect(make_fakes({"m": model}))
        inputs = [given("x", "FP64", [1])]
        everything = (await client.post("/v2/models/m/infer", json={"inputs": inputs})).json()["outputs"]
        assert [(one["name"], one["datatype"], one["shape"]) for one in everything] == [
            ("a", "INT64", [1, 2] if kind == "tensors" else [1]),
            ("b", "BOOL", [1]),
            ("c", "BYTES", [1]),
        ]
        for names in (["c", "a"], ["b"]):
            body = {"inputs": inputs, "outputs": [{"name": name} for name in names]}
            answer = await client.post("/v2/models/m/infer", json=body)
            assert [one["name"] for one in answer.json()["outputs"]] == names
        answer = await client.post("/v2/models/m/infer", json={"inputs": inputs, "outputs": []})
        assert answer.json()["outputs"] == everything

    async def test_array_of_several_columns_is_one_tensor_each(self, connect: Connect) -> None:
        outputs = [{"type": "double", "name": "low"}, {"type": "double", "name": "high"}]
        model = FakeModel(lambda batch: tensor(np.array([[1.0, 2.0], [3.0, 4.0]])), columns("x"), outputs)
        client = connect(make_fakes({"m": model}))
        for parameters in ({}, {"binary_data_output": True}):
            body = {"inputs": [given("x", "FP64", [1, 2])], "parameters": parameters}
            answer = await client.post("/v2/models/m/infer", json=body)
            assert tensors(answer) == {"low": [1, 3], "high": [2, 4]}

    async def test_id_and_parameters_are_echoed(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        parameters = {"tag": "x", "deep": {"a": [1]}, "binary_data_output": False}
        for id in ("a-1", ""):
            body = {"id": id, "parameters": parameters, "inputs": ROW}
            answer = (await client.post(f"{PRICES}/infer", json=body)).json()
            assert (answer["id"], answer["parameters"]) == (id, {"tag": "x", "deep": {"a": [1]}})
        answer = (await client.post(f"{PRICES}/infer", json={"id": None, "parameters": None, "inputs": ROW})).json()
        assert "id" not in answer
        assert "parameters" not in answer

    async def test_keys_and_parameters_of_other_servers_are_ignored(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        inputs = [{**one, "parameters": {"content_type": "np"}, "extra": 1} for one in ROW]
        body = {"inputs": inputs, "outputs": [{"name": "output", "parameters": {"x": 1}, "y": 2}], "foreign": True}
        assert tensors(await client.post(f"{PRICES}/infer", json=body)) == {"output": [78.7]}

    async def test_different_parameters_never_share_a_batch(self, connect: Connect) -> None:
        specs = [{"name": "top", "type": "long", "default": 1, "shape": None}]

        def predict(batch: Batch) -> Output:
            top = json.loads(batch.layout.params or "{}").get("top", 1)
            return tensor(np.full(batch.count, top))

        client = connect(make_fakes({"m": FakeModel(predict, columns("x"), params=specs)}))
        bodies: list[Any] = [
            {"inputs": [given("x", "FP64", [n])], "parameters": {"top": n % 3} if n % 3 else {"priority": 1}}
            for n in range(12)
        ]
        answers = await asyncio.gather(*(client.post("/v2/models/m/infer", json=body) for body in bodies))
        assert [tensors(answer)["output"] for answer in answers] == [[n % 3 or 1] for n in range(12)]
        body = {"inputs": [given("x", "FP64", [1])], "parameters": {"tops": 1}}
        answer = await client.post("/v2/models/m/infer", json=body)
        assert (answer.status_code, "did you mean 'top'" in answer.json()["error"]) == (400, True)

    async def test_timeout_parameter_ends_the_wait(self, connect: Connect) -> None:
        fakes = make_fakes({"prices": total("oil", "gas")})
        fakes.runner.delay_s = 5
        body = {"inputs": ROW, "parameters": {"timeout": 50_000}}
        answer = await connect(fakes).post(f"{PRICES}/infer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        headers = {"x-request-timeout-seconds": "0.05"}
        slow = {"inputs": ROW, "parameters": {"timeout": 10**9}}
        answer = await connect(fakes).post(f"{PRICES}/infer", json=slow, headers=headers)
        assert answer.status_code == 504

    @pytest.mark.parametrize(
        ("ref", "version"),
        [
            ("prices", "1"),
            ("prices/versions/2", "2"),
            ("prices/versions/002", "2"),
            ("prices/versions/new", "2"),
            ("prices@new", "2"),
            ("prices%40new", "2"),
            ("prices/versions/champion", "1"),
        ],
    )
    async def test_versions_and_aliases_are_followed(self, connect: Connect, ref: str, version: str) -> None:
        models = {"prices/versions/1": total("oil", "gas"), "prices/versions/2": total("oil", "gas", offset=100)}
        client = connect(make_fakes(models, aliases={"prices": {"champion": "1", "new": "2"}}))
        answer = await client.post(f"/v2/models/{ref}/infer", json={"inputs": ROW})
        assert tensors(answer) == {"output": [178.7 if version == "2" else 78.7]}
        body = answer.json()
        assert (body["model_name"], body["model_version"], answer.headers["x-model-version"]) == (
            "prices", version, version,
        )  # fmt: skip
