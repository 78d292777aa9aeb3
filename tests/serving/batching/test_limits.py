import pytest

from app.serving.batching.limits import BatchLimits, BatchOverrides, read_tags
from app.settings import BatchSettings

SETTINGS = BatchSettings(max_rows=100, max_bytes=1000, max_in_flight=8, wait_ms=500)


def test_settings_hold_where_a_tag_is_missing() -> None:
    assert BatchOverrides().over(SETTINGS) == BatchLimits(100, 1000, 8, 0.5)
    assert BatchOverrides(max_rows=7).over(SETTINGS) == BatchLimits(7, 1000, 8, 0.5)
    assert BatchOverrides(wait_ms=0, max_in_flight=2).over(SETTINGS) == BatchLimits(100, 1000, 2, 0.0)


def test_other_tags_are_ignored() -> None:
    assert read_tags({"serving.pool": "gpu", "team": "serving.batch.max_rows"}) == (BatchOverrides(), ())


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("max_rows", "0"),
        ("max_rows", "-1"),
        ("max_rows", "1.5"),
        ("max_rows", ""),
        ("max_rows", "9" * 5000),
        ("max_in_flight", "0"),
        ("max_in_flight", "none"),
        ("wait_ms", "-0.1"),
        ("wait_ms", "nan"),
        ("wait_ms", "inf"),
        ("wait_ms", "5 ms"),
        ("row_wise", "yes"),
        ("row_wise", ""),
    ],
)
def test_an_invalid_tag_is_reported_and_ignored(tag: str, text: str) -> None:
    overrides, (problem,) = read_tags({f"serving.batch.{tag}": text, "serving.batch.max_rows ": "2"})
    assert overrides == BatchOverrides()
    assert f"serving.batch.{tag}" in problem
    assert len(problem) < 200


@pytest.mark.parametrize(("text", "declared"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_a_tag_declares_whether_a_model_is_row_wise(text: str, declared: bool) -> None:
    assert read_tags({"serving.batch.row_wise": text}) == (BatchOverrides(row_wise=declared), ())
