from __future__ import annotations

from app.serving.rows import Rows
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import ABC, ROW


def test_rows_survive_pickling() -> None:
    import pickle

    for rows in (ABC.rows("records", [ROW]), Signature.compile(None).rows("instances", [[1, 2]])):
        copied: Rows = pickle.loads(pickle.dumps(rows))
        assert repr(copied) == repr(rows)


def test_reads_as_compares_inputs_and_parameters() -> None:
    inputs = [{"name": "a", "type": "double", "required": True}]
    params = [{"name": "top", "type": "long", "default": 3, "shape": None}]
    outputs = [{"name": "y", "type": "double", "required": True}]
    one = Signature.compile(inputs, None, params)
    assert Signature.compile([dict(inputs[0])], outputs, params).reads_as(one)
    assert Signature.compile(None).reads_as(Signature.compile([], None, []))
    for other in (
        Signature.compile(inputs),
        Signature.compile(inputs, None, [{**params[0], "default": 4}]),
        Signature.compile([{**inputs[0], "required": False}], None, params),
        Signature.compile([{**inputs[0], "type": "float"}], None, params),
        Signature.compile(None, None, params),
    ):
        assert not other.reads_as(one)
        assert not one.reads_as(other)
