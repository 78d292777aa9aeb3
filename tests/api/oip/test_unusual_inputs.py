"""Tensors without rows, of different lengths, and for columns without names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.api.oip.payloads import binary, given, mirror, named, tensors, unnamed
from tests.connect import Connect
from tests.fakes import columns, make_fakes


async def test_columns_without_names_match_by_order(connect: Connect) -> None:
    client = connect(make_fakes({"m": mirror({"type": "double"}, {"type": "long"})}))
    inputs = [given("y", "FP64", [1.5]), given("x", "INT64", [2])]
    assert tensors(await client.post("/v2/models/m/infer", json={"inputs": inputs})) == {"0": [1.5], "1": [2]}
    promised = [given("1", "INT64", [2]), given("0", "FP64", [1.5])]
    assert tensors(await client.post("/v2/models/m/infer", json={"inputs": promised})) == {"0": [1.5], "1": [2]}


async def test_named_tensors_may_differ_in_length(connect: Connect) -> None:
    client = connect(make_fakes({"m": mirror(named("x", "float64", -1), named("y", "int64", -1))}))
    inputs = [given("x", "FP64", [1.5]), given("y", "INT64", [1, 2, 3])]
    assert tensors(await client.post("/v2/models/m/infer", json={"inputs": inputs})) == {"x": [1.5], "y": [1, 2, 3]}


@pytest.mark.parametrize("as_binary", [False, True])
@pytest.mark.parametrize(
    ("specs", "shape"), [(columns("x"), [0]), ([unnamed("float64", -1, 2)], [0, 2]), ([named("x", "float64", -1)], [0])]
)
async def test_tensors_may_have_no_rows(
    connect: Connect, specs: list[dict[str, Any]], shape: list[int], as_binary: bool
) -> None:
    client = connect(make_fakes({"m": mirror(*specs)}))
    if as_binary:
        body, headers = binary([("x", "FP64", np.ones(shape))])
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
    else:
        answer = await client.post("/v2/models/m/infer", json={"inputs": [given("x", "FP64", [], shape)]})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["shape"], output["data"]) == (shape, [])
