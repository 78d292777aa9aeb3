from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from app.api.oip.bodies import IndexEntry
from app.api.oip.service import InferenceService, InferRequest, earliest, model_parameters, raw_input
from app.errors import DeadlineExceeded, InvalidRequest, MalformedBody, ModelNotFound, Unsupported
from app.serving.callers import ANYBODY
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelRef, ModelVersion
from app.serving.rows import Array, Batch, Output
from app.serving.signatures.signature import Signature
from tests.fakes import FakeModel, Fakes, columns, make_fakes, total

PRICES = ModelRef("prices")
TENSORS = {"oil": np.array([75.5]), "gas": np.array([3.2])}


def served(fakes: Fakes) -> InferenceService:
    return InferenceService(fakes.service, fakes.manager)


def request(ref: ModelRef = PRICES, inputs: Any = TENSORS, *outputs: str, **parameters: Any) -> InferRequest:
    return InferRequest(ref, asyncio.get_running_loop().time() + 5, inputs, outputs, parameters)


def tensors(dtype: str, *shape: int) -> Signature:
    return Signature.compile([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}])


async def test_reference_decides_the_version() -> None:
    models = {"prices/versions/1": total("oil", "gas"), "prices/versions/2": total("oil", "gas", offset=100)}
    service = served(make_fakes(models, aliases={"prices": {"champion": "1", "new": "2"}}))
    for ref, version in ((PRICES, "1"), (ModelRef("prices", "new"), "2"), (ModelRef("prices", None, "2"), "2")):
        answer = await service.infer(request(ref))
        assert answer.version == ModelVersion("prices", version)
        assert answer.outputs[0].array.tolist() == [78.7 if version == "1" else 178.7]


async def test_requested_outputs_come_in_their_order() -> None:
    arrays = (np.array([1]), np.array([2]), np.array([3]))
    model = FakeModel(lambda batch: Output("columns", ("a", "b", "c"), arrays, 1), columns("x"))
    service = served(make_fakes({"m": model}))
    ref, inputs = ModelRef("m"), {"x": np.ones(1)}
    assert [one.name for one in (await service.infer(request(ref, inputs))).outputs] == ["a", "b", "c"]
    assert [one.name for one in (await service.infer(request(ref, inputs, "c", "a"))).outputs] == ["c", "a"]
    with pytest.raises(InvalidRequest, match="no output 'd'; its outputs are: a, b, c"):
        await service.infer(request(ref, inputs, "a", "d"))


async def test_request_without_tensors_never_reaches_the_model() -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    with pytest.raises(MalformedBody, match="no tensor"):
        await served(fakes).infer(request(PRICES, {}))
    assert fakes.runner.batches == []


async def test_only_the_models_own_parameters_reach_it() -> None:
    seen: list[str] = []

    def predict(batch: Batch) -> Output:
        seen.append(batch.layout.params)
        return Output("tensor", (), batch.arrays, batch.count)

    specs = [{"name": "top", "type": "long", "default": 1, "shape": None}]
    models = {"with": FakeModel(predict, columns("x"), params=specs), "without": FakeModel(predict, columns("x"))}
    service = served(make_fakes(models))
    protocol = {"binary_data_output": True, "timeout": 0, "priority": 1, "triton_x": 1, "headers": {}, "sequence_id": 0}
    for name, parameters in (("with", {"top": 5}), ("without", {"top": 5}), ("with", {})):
        await service.infer(request(ModelRef(name), {"x": np.ones(1)}, **protocol, **parameters))
    assert seen == ['{"top":5}', "", ""]
    with pytest.raises(InvalidRequest, match="no parameter 'tops'"):
        await service.infer(request(ModelRef("with"), {"x": np.ones(1)}, tops=5))


@pytest.mark.parametrize("name", ["sequence_id", "sequence_start", "sequence_end"])
def test_sequences_are_not_supported(name: str) -> None:
    with pytest.raises(Unsupported, match="sequences"):
        model_parameters({name: 1})
    assert model_parameters({name: 0, "a": None}) == {"a": None}


def test_timeout_is_microseconds_from_the_request() -> None:
    assert earliest(100.0, 10.0, {}) == 100.0
    assert earliest(100.0, 10.0, {"timeout": None}) == 100.0
    assert earliest(100.0, 10.0, {"timeout": 0}) == 100.0
    assert earliest(100.0, 10.0, {"timeout": 2_500_000}) == 12.5
    assert earliest(100.0, 10.0, {"timeout": 2**63}) == 100.0
    wrongs: list[Any] = [-1, 1.5, "1000", True, False, [1], {}]
    for wrong in wrongs:
        with pytest.raises(InvalidRequest, match="'timeout'"):
            earliest(100.0, 10.0, {"timeout": wrong})


@pytest.mark.parametrize(
    ("signature", "data", "expected"),
    [
        (Signature.compile(columns("x")), np.array([1.0, 2.0]), {"x": [1.0, 2.0]}),
        (Signature.compile(columns("x", type="long")), np.array([1, 2]), {"x": [1, 2]}),
        (tensors("float32", -1, 2), np.array([[1, 2], [3, 4]], "f4"), {"input": [[1, 2], [3, 4]]}),
        (tensors("int16", 2, -1), np.array([[1, 2, 3], [4, 5, 6]], "i2"), {"input": [[1, 2, 3], [4, 5, 6]]}),
        (tensors("uint8", 2), np.array([1, 2], "u1"), {"input": [1, 2]}),
        (tensors("bool", -1), np.array([True, False]), {"input": [True, False]}),
    ],
)
async def test_raw_body_is_the_only_input(signature: Signature, data: Array, expected: Any) -> None:
    payload = await raw_input(data.tobytes())(signature)
    assert payload.form == "tensors"
    assert {name: array.tolist() for name, array in payload.value.items()} == expected


@pytest.mark.parametrize(
    ("signature", "size", "words"),
    [
        (Signature.compile(columns("a", "b")), 16, r"one's inputs are: 'a \(FP64\)', 'b \(FP64\)'"),
        (Signature.compile(columns("s", type="string")), 16, r"'s \(BYTES\)'"),
        (Signature.compile(None), 16, "unknown"),
        (Signature.compile(columns(*map(str, range(500)))), 16, "and 480 more"),
        (tensors("float32", -1, -1), 16, "does not follow"),
        (tensors("float32", -1, 2), 12, "has 12 bytes, expected 8"),
        (tensors("float32", -1, 2), 4, "has 4 bytes, expected 0"),
        (tensors("float32", -1, 2), 0, "the body is empty"),
        (tensors("float32", 3), 8, "has 8 bytes, expected 12"),
        (tensors("float32", -1, 0), 8, "has 8 bytes, expected 0"),
    ],
)
async def test_raw_body_that_fits_no_input_is_refused(signature: Signature, size: int, words: str) -> None:
    with pytest.raises(MalformedBody, match=words):
        await raw_input(bytes(size))(signature)


async def test_raw_body_keeps_its_deadline_while_a_model_loads() -> None:
    fakes = make_fakes({"prices": total("x")})
    held = asyncio.Event()

    async def describe(version: ModelVersion) -> Any:
        await held.wait()

    fakes.runner.describe = describe  # type: ignore[method-assign]
    asked = request(PRICES, raw_input(bytes(8)))
    asked.deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(DeadlineExceeded):
        await served(fakes).infer(asked)
    assert fakes.recorder.failures == [("prices", "deadline_exceeded")]
    held.set()


async def test_metadata_of_a_bare_name_lists_all_versions() -> None:
    models = {f"prices/versions/{n}": total("oil", "gas") for n in (1, 2, 10)}
    service = served(make_fakes(models, aliases={"prices": {"champion": "2"}}))
    bare = await service.metadata(PRICES)
    assert (bare.name, bare.versions, bare.platform) == ("prices", ["1", "2", "10"], "fake_mlflow")
    assert [one.name for one in bare.inputs] == ["oil", "gas"]
    assert (await service.metadata(ModelRef("prices", "champion"))).versions == ["2"]
    assert (await service.metadata(ModelRef("prices", None, "10"))).versions == ["10"]


async def test_loads_and_unloads_change_readiness() -> None:
    models = {f"prices/versions/{n}": total("oil", "gas") for n in (1, 2, 3)}
    fakes = make_fakes(models, aliases={"prices": {"champion": "1"}})
    service = served(fakes)
    first, second = ModelRef("prices", None, "1"), ModelRef("prices", None, "2")

    async def ready() -> list[str]:
        return [entry.version for entry in await service.index(ANYBODY, ready=True)]

    assert await ready() == []
    assert [entry.version for entry in await service.index(ANYBODY, ready=False)] == ["1", "2", "3"]
    await service.load(first)
    await service.load(second)
    assert await ready() == ["1", "2"]
    for ref in (PRICES, first, second, ModelRef("prices", None, "3")):
        assert await service.is_ready(ref)
    assert fakes.directory.aliases == {"prices": {"champion": "1"}}
    await service.unload(second)
    assert await ready() == ["1"]
    await service.load(second)
    await service.unload(PRICES)  # all of them
    assert await ready() == []
    assert await service.is_ready(PRICES)  # a call loads it again


async def test_only_loaded_versions_are_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = make_fakes({f"prices/versions/{n}": total("oil") for n in (1, 2, 3)})
    service, let_go = served(fakes), []
    await service.load(ModelRef("prices", None, "2"))
    unload = fakes.manager.unload

    async def remembered(ref: ModelRef) -> ModelVersion:
        let_go.append(str(ref))
        return await unload(ref)

    monkeypatch.setattr(fakes.manager, "unload", remembered)
    await service.unload(PRICES)
    assert let_go == ["prices/versions/2"]


async def test_index_says_why_a_version_is_unavailable() -> None:
    broken = FakeModel(lambda batch: Output("tensor", (), (), 0), error=ModelNotFound("its artifacts are gone"))
    fakes = make_fakes({"broken": broken, "prices": total("oil")})
    service = served(fakes)
    with pytest.raises(Exception, match="artifacts"):
        await service.load(ModelRef("broken"))
    assert await service.index(ANYBODY, ready=False) == [
        IndexEntry("broken", "1", "UNAVAILABLE", "its artifacts are gone"),
        IndexEntry("prices", "1", "UNAVAILABLE", "unloaded"),
    ]
    assert await service.names() == ["broken", "prices"]


async def test_statistics_of_a_version() -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.manager.counted = Statistics(requests=3)
    assert await served(fakes).statistics(PRICES) == (ModelVersion("prices", "1"), Statistics(requests=3))
    with pytest.raises(ModelNotFound):
        await served(fakes).statistics(ModelRef("other"))


def test_statistics_add_up() -> None:
    one, other = Statistics(1, 2, 3, 4, 5.0, 6.0), Statistics(10, 20, 30, 40, 50.0, 60.0)
    assert one + other == Statistics(11, 22, 33, 44, 55.0, 66.0)


async def test_ready_follows_the_manager() -> None:
    fakes = make_fakes({})
    assert served(fakes).ready
    fakes.manager.ready = False
    assert not served(fakes).ready
