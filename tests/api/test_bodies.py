"""Bodies with many faults, or long ones, are refused at little cost and in few words."""

from __future__ import annotations

from typing import Any

import pytest

from app.api.bodies import Body, PredictRequest, ServeRequest
from app.api.mlflow.bodies import InvocationsRequest
from app.errors import MalformedBody
from tests.cpu import within_cpu_seconds

MANY_KEYS = {f"k{number}": 1 for number in range(300_000)}


@pytest.mark.parametrize(
    ("body", "given", "words"),
    [
        (PredictRequest, {"entities": [1] * 1_000_000}, "'entities.0': must be a valid dictionary"),
        (ServeRequest, {"model_name": "m", "entity_id": [[]] * 100_000}, "0.int': must be a valid integer"),
        (ServeRequest, {"model_name": "m", **MANY_KEYS}, "300000 wrong keys or values; 'k0' is not a key of this body"),
        (InvocationsRequest, {"dataframe_split": {"data": [], **MANY_KEYS}}, "300000 wrong keys or values"),
        (ServeRequest, {"model_name": "m", "k" * 1_000_000: 1}, "is not a key of this body"),
    ],
    ids=["list of wrong items", "union of wrong items", "wrong keys", "wrong keys further down", "a long key"],
)
def test_a_refusal_costs_little_and_is_short(body: type[Body], given: Any, words: str) -> None:
    with within_cpu_seconds(5), pytest.raises(MalformedBody, match=words) as refused:
        body.read(given)
    assert len(refused.value.message) < 500
    assert len(str(refused.value.details)) < 1500


def test_a_few_faults_are_all_named() -> None:
    with pytest.raises(MalformedBody) as refused:
        ServeRequest.read({"model_name": "", "action": "stop", "x": 1})
    assert [fault["where"] for fault in refused.value.details["faults"]] == ["model_name", "action", "x"]
