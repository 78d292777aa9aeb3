"""Server, metadata and repository of the Open Inference Protocol over HTTP, on models in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app import __version__
from app.errors import ModelUnavailable
from app.serving.comparison.statistics import Statistics
from tests.api.oip.payloads import mirror, named, unnamed
from tests.connect import Connect
from tests.fakes import FakeModel, columns, make_fakes, tensor, total


class TestServer:
    async def test_server_metadata(self, connect: Connect) -> None:
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

    async def test_unknown_paths_are_errors_in_the_dialect(self, connect: Connect) -> None:
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
    async def test_metadata_lists_versions(self, connect: Connect, ref: str, versions: list[str]) -> None:
        models = {f"prices/versions/{n}": total("oil", "gas") for n in (1, 2, 10)}
        client = connect(make_fakes(models, aliases={"prices": {"champion": "1", "new": "10"}}))
        metadata = (await client.get(f"/v2/models/{ref}")).json()
        assert (metadata["name"], metadata["versions"]) == ("prices", versions)

    async def test_what_a_call_loads_is_ready_and_what_failed_is_not(self, connect: Connect) -> None:
        broken = replace(total("oil", "gas"), error=ModelUnavailable("its library is missing"))
        models = {"prices/versions/1": total("oil", "gas"), "prices/versions/2": broken}
        client = connect(make_fakes(models, aliases={"prices": {"champion": "1", "new": "2"}}))
        for request in (None, "load", "unload"):
            if request is not None:
                assert (await client.post(f"/v2/repository/models/prices/{request}")).json() == {}
            for ref in ("prices", "prices/versions/1", "prices/versions/champion", "prices@champion"):
                answer = await client.get(f"/v2/models/{ref}/ready")
                assert (answer.status_code, answer.json()) == (200, {"name": "prices", "ready": True})
        assert (await client.post("/v2/repository/models/prices@new/load")).status_code == 503
        for ref in ("prices/versions/2", "prices@new", "prices/versions/new"):
            answer = await client.get(f"/v2/models/{ref}/ready")
            assert (answer.status_code, answer.json()) == (503, {"name": "prices", "ready": False})
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
    async def test_versions_are_loaded_and_unloaded(self, connect: Connect) -> None:
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

    async def test_refused_loads_say_why(self, connect: Connect) -> None:
        client = connect(make_fakes({"prices": total("x")}))
        assert (await client.post("/v2/repository/models/gold/load")).status_code == 404
        assert (await client.post("/v2/repository/models/gold/unload")).status_code == 404
        for name in ("config", "file:1/model.onnx"):
            body = {"parameters": {name: "{}"}}
            answer = await client.post("/v2/repository/models/prices/load", json=body)
            assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
            assert "registry" in answer.json()["error"]
