"""Signatures and readers for the tests of this package."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidInput
from app.serving.rows import Rows, stack
from app.serving.signatures.signature import Signature

LONGEST_MESSAGE = 1500
EARLIEST, LATEST = datetime.fromisoformat("1678-01-01"), datetime.fromisoformat("2262-01-01")


def column(kind: str, name: str | int | None = None, *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": kind, "required": required, **more} | ({} if name is None else {"name": name})


def columns(*specs: dict[str, Any]) -> Signature:
    return Signature.compile(specs, None, None)


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {**spec, "name": name}


def one(kind: str, *, required: bool = True) -> Signature:
    return columns(column(kind, "x", required=required))


def read(signature: Signature, *values: Any) -> Any:
    """The array that the model gets for the values of the only column."""
    batch = stack([signature.rows("records", [{"x": value} for value in values])])
    assert batch.arrays[0].dtype == np.dtype(batch.layout.dtypes[0])
    return batch.arrays[0]


def lists(rows: Rows) -> list[Any]:
    """Each column as nested lists."""
    return [np.asarray(values).tolist() for values in rows.columns]


def refused(call: Callable[[], Any]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert len(caught.value.message) < LONGEST_MESSAGE
    json.dumps(caught.value.details)
    return caught.value


ABC = columns(column("double", "a"), column("long", "b"), column("string", "c"))
ROW = {"a": 1.5, "b": 2, "c": "z"}
