"""The Open Inference Protocol over HTTP, on models in memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from app import __version__
from app.oip.binary import decode, encode, encode_elements
from app.serving.comparison.statistics import Statistics
from app.serving.rows import Array, Batch, Output
from tests.connect import Connect
from tests.fakes import HTTP_LIMITS, FakeModel, Fakes, columns, make_fakes, tensor, total

HEADER = "inference-header-content-length"
PRICES = "/v2/models/prices"
ROW = [
    {"name": "oil", "shape": [1], "datatype": "FP64", "data": [75.5]},
    {"name": "gas", "shape": [1], "datatype": "FP64", "data": [3.2]},
]


def named(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def unnamed(dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def mirror(*inputs: dict[str, Any], **more: Any) -> FakeModel:
    """A model that answers its input: arrays by name, or the only one."""

    def predict(batch: Batch) -> Output:
        kind = batch.layout.kind
        return Output(kind, tuple(map(str, batch.layout.names)), batch.arrays, batch.count)

    return FakeModel(predict, inputs or None, **more)


def frame(**answers: Sequence[Any] | Array) -> FakeModel:
    """A model that answers the same columns, whatever it is asked."""
    arrays = tuple(np.asarray(values) for values in answers.values())
    return FakeModel(lambda batch: Output("columns", tuple(answers), arrays, batch.count), columns("x"))


def given(name: str, datatype: str, data: Any, shape: Sequence[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape or [len(data)]), "data": data}


def binary(inputs: Sequence[tuple[str, str, Array] | dict[str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A body whose tensors are behind its JSON, but for those that are given as JSON, and its header."""
    described, tail = [], b""
    for one in inputs:
        if isinstance(one, dict):
            described.append(one)
            continue
        name, datatype, array = one
        raw = encode(array)
        described.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        tail += raw
    text = json.dumps({"inputs": described, **more}).encode()
    return text + tail, {HEADER: str(len(text))}


def tensors(answer: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer as nested lists, wherever their values are."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(HEADER, len(answer.content)))
    text, tail = answer.content[:length], answer.content[length:]
    found = {}
    for output in json.loads(text)["outputs"]:
        if "data" in output:
            data = np.empty(len(output["data"]), dtype=object)
            data[:] = output["data"]
            found[output["name"]] = data.reshape(output["shape"]).tolist()
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = decode(output["name"], output["datatype"], output["shape"], tail[:size]).tolist()
        tail = tail[size:]
    assert tail == b""
    return found


def described(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    body: dict[str, Any] = json.loads(answer.content[: int(answer.headers.get(HEADER, len(answer.content)))])
    return body


class TestServer:
    async def test_the_server_tells_what_it_is(self, connect: Connect) -> None:
        answer = await connect(make_fakes({})).get("/v2")
        extensions = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]
        assert answer.json() == {"name": "ml-serve", "version": __version__, "extensions": extensions}

    async def test_live_and_ready(self, connect: Connect) -> None:
        fakes = make_fakes({})
        client = connect(fakes)
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        fakes.manager.ready = False
        not_ready = await client.get("/v2/health/ready")
        assert (not_ready.status_code, not_ready.json()) == (503, {"ready": False})
        assert (await client.get("/v2/health/live")).status_code == 200

    async def test_models_are_listed(self, connect: Connect) -> None:
        answer = await connect(make_fakes({"prices": total("x"), "gold": total("x")})).get("/v2/models")
        assert answer.json() == {"models": ["gold", "prices"]}

    async def test_what_is_not_there_is_told_in_the_dialect(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("x")}))
        for method, path, status in (("GET", "/v2/nothing", 404), ("GET", "/v2/models/prices/infer", 400)):
            answer = await client.request(method, path)
            assert (answer.status_code, type(answer.json()["error"])) == (status, str)


class TestMetadata:
    @pytest.mark.parametrize(
        ("model", "inputs", "outputs"),
        [
            (
                FakeModel(
                    lambda batch: tensor(np.zeros(batch.count)),
                    [*columns("oil"), *columns("grade", type="string"), *columns("n", type="long")],
                    [{"type": "double", "name": "low"}, {"type": "boolean", "name": "ok"}],
                ),
                [("oil", "FP64", [-1]), ("grade", "BYTES", [-1]), ("n", "INT64", [-1])],
                [("low", "FP64", [-1]), ("ok", "BOOL", [-1])],
            ),
            (
                mirror(unnamed("float32", -1, 28, 28), outputs=[unnamed("float32", -1, 10)]),
                [("input", "FP32", [-1, 28, 28])],
                [("output", "FP32", [-1, 10])],
            ),
            (
                mirror(named("q", "int64", -1, -1), named("p", "str", -1), outputs=[named("y", "uint8", -1, 2)]),
                [("q", "INT64", [-1, -1]), ("p", "BYTES", [-1])],
                [("y", "UINT8", [-1, 2])],
            ),
            (mirror(), [], []),
        ],
        ids=["columns", "tensor", "named tensors", "no signature"],
    )
    async def test_tensors_are_those_of_the_signature(
        self, connect: Connect, model: FakeModel, inputs: Any, outputs: Any
    ) -> None:
        client = connect(make_fakes({"m": model}))

        def tensors(described: Any) -> Any:
            return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in described]

        assert (await client.get("/v2/models/m")).json() == {
            "name": "m",
            "versions": ["1"],
            "platform": "fake_mlflow",
            "inputs": tensors(inputs),
            "outputs": tensors(outputs),
        }
        config = (await client.get("/v2/models/m/config")).json()
        assert (config["name"], config["backend"], config["max_batch_size"]) == ("m", "mlflow", 0)
        types = {"BYTES": "TYPE_STRING"}
        for described, expected in ((config["input"], inputs), (config["output"], outputs)):
            assert described == [
                {"name": name, "data_type": types.get(datatype, f"TYPE_{datatype}"), "dims": shape}
                for name, datatype, shape in expected
            ]

    @pytest.mark.parametrize(
        ("ref", "versions"),
        [
            ("prices", ["1", "2", "10"]),
            ("prices/versions/2", ["2"]),
            ("prices/versions/champion", ["1"]),
            ("prices@new", ["10"]),
            ("prices%40new", ["10"]),
        ],
    )
    async def test_versions_are_told(self, connect: Connect, ref: str, versions: list[str]) -> None:
        models = {f"prices/versions/{n}": total("oil", "gas") for n in (1, 2, 10)}
        client = connect(make_fakes(models, aliases={"prices": {"champion": "1", "new": "10"}}))
        metadata = (await client.get(f"/v2/models/{ref}")).json()
        assert (metadata["name"], metadata["versions"]) == ("prices", versions)

    async def test_ready_is_what_is_loaded(self, connect: Connect) -> None:
        models = {f"prices/versions/{n}": total("oil", "gas") for n in (1, 2)}
        client = connect(make_fakes(models, aliases={"prices": {"champion": "1", "new": "2"}}))
        assert (await client.get(f"{PRICES}/ready")).status_code == 503
        assert (await client.get(f"{PRICES}/ready")).json() == {"name": "prices", "ready": False}
        assert (await client.post("/v2/repository/models/prices/load")).json() == {}
        for ref in ("prices", "prices/versions/1", "prices/versions/champion", "prices@champion"):
            answer = await client.get(f"/v2/models/{ref}/ready")
            assert (answer.status_code, answer.json()) == (200, {"name": "prices", "ready": True})
        for ref in ("prices/versions/2", "prices@new", "prices/versions/new"):
            assert (await client.get(f"/v2/models/{ref}/ready")).status_code == 503
        for ref in ("gold", "prices/versions/3", "prices@old"):
            assert (await client.get(f"/v2/models/{ref}/ready")).status_code == 404

    async def test_statistics_have_tritons_form(self, connect: Connect) -> None:
        fakes = make_fakes({"prices/versions/1": total("x"), "prices/versions/2": total("x")})
        fakes.manager.counted = Statistics(5, 20, 2, 3, 0.25, 0.125)
        answer = await connect(fakes).get("/v2/models/prices/versions/2/stats")
        assert answer.json() == {
            "model_stats": [
                {
                    "name": "prices",
                    "version": "2",
                    "inference_count": 20,
                    "execution_count": 3,
                    "inference_stats": {
                        "success": {"count": 5, "ns": 250_000_000},
                        "fail": {"count": 2, "ns": 0},
                        "compute_infer": {"count": 3, "ns": 125_000_000},
                    },
                }
            ]
        }


class TestRepository:
    async def test_versions_are_loaded_and_let_go(self, connect: Connect) -> None:
        models = {f"prices/versions/{n}": total("x") for n in (1, 2)}
        client = connect(make_fakes({**models, "gold": total("x")}, aliases={"prices": {"champion": "1"}}))

        async def states(**body: Any) -> dict[tuple[str, str], str]:
            entries = (await client.post("/v2/repository/index", json=body)).json()
            assert all(entry.keys() == {"name", "version", "state", "reason"} for entry in entries)
            return {(entry["name"], entry["version"]): entry["state"] for entry in entries}

        cold = {("gold", "1"): "UNAVAILABLE", ("prices", "1"): "UNAVAILABLE", ("prices", "2"): "UNAVAILABLE"}
        assert await states() == cold
        assert (await client.post("/v2/repository/models/prices/versions/2/load", json={})).status_code == 200
        assert await states() == {**cold, ("prices", "2"): "READY"}
        assert await states(ready=True) == {("prices", "2"): "READY"}
        assert (await client.post("/v2/repository/models/prices@champion/load")).status_code == 200
        assert await states(ready=True) == {("prices", "1"): "READY", ("prices", "2"): "READY"}
        body = {"parameters": {"unload_dependents": False}}
        assert (await client.post("/v2/repository/models/prices/versions/1/unload", json=body)).json() == {}
        assert await states(ready=True) == {("prices", "2"): "READY"}
        await client.post("/v2/repository/models/prices/load")
        await client.post("/v2/repository/models/prices/unload")  # every version
        assert await states(ready=True) == {}

    async def test_an_index_needs_no_body(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("x")}))
        for body in (b"", b" ", b"{}"):
            assert len((await client.post("/v2/repository/index", content=body)).json()) == 1

    async def test_what_cannot_be_loaded_is_told(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("x")}))
        assert (await client.post("/v2/repository/models/gold/load")).status_code == 404
        assert (await client.post("/v2/repository/models/gold/unload")).status_code == 404
        for name in ("config", "file:1/model.onnx"):
            body = {"parameters": {name: "{}"}}
            answer = await client.post("/v2/repository/models/prices/load", json=body)
            assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
            assert "registry" in answer.json()["error"]


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
    async def test_columns_are_flat_or_upright(self, connect: Connect, shape: list[int], data: Any) -> None:
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
    async def test_every_datatype_goes_in_and_out(
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

    async def test_null_is_nan_on_its_way_in(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil")}))
        answer = await client.post(f"{PRICES}/infer", json={"inputs": [given("oil", "FP32", [None, 1])]})
        assert tensors(answer) == {"output": [None, 1]}

    async def test_answers_that_are_no_numbers_are_text(self, connect: Connect) -> None:
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

    async def test_without_a_signature_the_tensors_are_what_they_are(self, connect: Connect) -> None:
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
    async def test_several_outputs_are_given_in_the_order_that_is_asked_for(self, connect: Connect, kind: Any) -> None:
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

    async def test_an_array_of_several_columns_is_one_tensor_each(self, connect: Connect) -> None:
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

    async def test_parameters_reach_the_model_and_never_share_a_batch(self, connect: Connect) -> None:
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

    async def test_a_timeout_ends_the_wait(self, connect: Connect) -> None:
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


class TestBinary:
    async def test_all_inputs_may_be_behind_the_json(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("oil", "gas")}))
        oil, gas = np.array([1.5, 2.5]), np.array([1, 2], "i2")
        body, headers = binary([("oil", "FP64", oil), ("gas", "INT16", gas)])
        answer = await client.post(f"{PRICES}/infer", content=body, headers=headers)
        assert answer.headers["content-type"] == "application/json"
        assert tensors(answer) == {"output": [2.5, 4.5]}

    async def test_tensors_behind_the_json_come_in_the_order_of_the_inputs(self, connect: Connect) -> None:
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
    async def test_outputs_are_binary_where_that_is_asked_for(
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

    async def test_bytes_are_bytes_both_ways(self, connect: Connect) -> None:
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

    async def test_floats_of_16_bits(self, connect: Connect) -> None:
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

    async def test_a_matrix_of_all_columns(self, connect: Connect) -> None:
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
    async def test_a_body_of_bytes_alone(self, connect: Connect, model: FakeModel, raw: bytes, expected: Any) -> None:
        answer = await connect(make_fakes({"m": model})).post(
            "/v2/models/m/infer", content=raw, headers={HEADER: "0", "content-type": "application/octet-stream"}
        )
        assert answer.headers["content-type"] == "application/octet-stream"
        assert tensors(answer) == expected

    async def test_ten_requests_at_once_share_a_batch_and_keep_their_rows(self, connect: Connect) -> None:
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

    async def test_tensors_may_stand_at_any_address(self, connect: Connect) -> None:
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
