from __future__ import annotations

from typing import Any

import pytest

from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import column, one, refused


class TestParams:
    SIGNATURE = Signature.compile(
        [column("double", "x")],
        None,
        [
            {"name": "top", "type": "long", "default": 3, "shape": None},
            {"name": "rate", "type": "double", "default": 0.5, "shape": None},
            {"name": "tags", "type": "string", "default": ["a"], "shape": [-1]},
            {"name": "since", "type": "datetime", "default": "2024-01-01", "shape": None},
            {"name": "deep", "type": "object", "default": {}, "properties": {"k": {"type": "long"}}, "shape": None},
        ],
    )

    def canonical(self, params: Any) -> str:
        return self.SIGNATURE.rows("records", [{"x": 1.0}], params).layout.params

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            (None, ""),
            ({}, ""),
            ({"top": 1}, '{"top":1}'),
            ({"top": 1.0, "rate": 1}, '{"rate":1.0,"top":1}'),
            ({"tags": ["b", "a"], "rate": None}, '{"rate":null,"tags":["b","a"]}'),
            ({"since": "2024-05-05"}, '{"since":"2024-05-05"}'),
            ({"since": "20240505"}, '{"since":"2024-05-05"}'),
            ({"since": "2024-05-05T10:00:00+02:00"}, '{"since":"2024-05-05T08:00:00"}'),
            ({"deep": {"k": 1}}, '{"deep":{"k":1}}'),
        ],
    )
    def test_parameters_have_one_form(self, params: Any, expected: str) -> None:
        assert self.canonical(params) == expected

    @pytest.mark.parametrize(
        "params",
        [
            {"topp": 1},
            {"top": "1"},
            {"top": True},
            {"top": 1.5},
            {"rate": "x"},
            {"tags": "a"},
            {"tags": [1]},
            {"since": 5},
            {"deep": None},
            {"deep": {"k": "x"}},
            [],
            "top",
        ],
    )
    def test_wrong_parameters_are_refused(self, params: Any) -> None:
        refused(lambda: self.canonical(params))

    def test_unknown_parameter_is_reported_with_the_known_ones(self) -> None:
        error = refused(lambda: self.canonical({"tops": 1}))
        assert "did you mean 'top'?" in error.message
        assert error.details["expected"] == ["top", "rate", "tags", "since", "deep"]

    @pytest.mark.parametrize("signature", [one("double"), Signature.compile(None)])
    def test_model_without_parameters_accepts_none(self, signature: Signature) -> None:
        assert "takes no parameters" in refused(lambda: signature.rows("records", [{"x": 1.0}], {"a": 1})).message
        assert signature.rows("records", [{"x": 1.0}], {}).layout.params == ""

    def test_parameters_need_no_input_schema(self) -> None:
        specs = [{"name": "top", "type": "long", "default": 3, "shape": None}]
        signature = Signature.compile(None, None, specs)
        assert signature.rows("instances", [1], {"top": 2}).layout.params == '{"top":2}'
