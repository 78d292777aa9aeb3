"""What a gateway replica remembers: of model versions, of which there are new ones all the time, and of requests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.serving.prediction import service
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.references import parse_ref
from app.serving.rows import Output
from tests.fakes import make_fakes, total


async def test_the_oldest_of_too_many_versions_is_described_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_VERSIONS", 3)
    refs = [f"m/versions/{number}" for number in range(1, 7)]
    fakes = make_fakes({ref: total("x") for ref in refs})

    async def answer(ref: str) -> float:
        deadline = asyncio.get_running_loop().time() + 5
        payload = Payload("columns", {"x": [2.0]})
        prediction = await fakes.service.predict(PredictionRequest(parse_ref(ref), deadline, payload))
        return float(prediction.output.arrays[0][0])

    assert [await answer(ref) for ref in refs] == [2.0] * 6
    assert [version.version for version in fakes.service._models] == ["4", "5", "6"]
    assert await answer(refs[0]) == 2.0
    assert [version.version for version in fakes.service._models] == ["5", "6", "1"]


async def test_a_body_is_dropped_when_its_rows_are_predicted() -> None:
    fakes = make_fakes({"m": total("x")})
    held = []
    predict = fakes.runner.predict

    async def watched(*args: Any, **options: Any) -> Output:
        held.append(request.body)
        return await predict(*args, **options)

    fakes.runner.predict = watched  # type: ignore[method-assign]
    deadline = asyncio.get_running_loop().time() + 5
    request = PredictionRequest(parse_ref("m"), deadline, Payload("columns", {"x": [2.0]}), body=b"{}")
    await fakes.service.predict(request)
    assert held == [None]
