import pytest

from app.errors import InvalidReference
from app.serving.references import ModelRef, ModelVersion, make_ref, parse_ref


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("price", ModelRef("price")),
        ("price@champion", ModelRef("price", "champion")),
        ("price/versions/3", ModelRef("price", None, "3")),
        ("price/versions/007", ModelRef("price", None, "7")),
        ("Prices of oil (v2)", ModelRef("Prices of oil (v2)")),
        ("ölpreis", ModelRef("ölpreis")),
        ("ölpreis@größer", ModelRef("ölpreis", "größer")),
        ("a@b@c", ModelRef("a@b", "c")),
        ("a@b/versions/1", ModelRef("a@b", None, "1")),
        ("a.b+c%20(d)", ModelRef("a.b+c%20(d)")),
    ],
)
def test_every_form_is_understood(text: str, ref: ModelRef) -> None:
    assert parse_ref(text) == ref


@pytest.mark.parametrize("text", ["price", "price@champion", "price/versions/3"])
def test_a_reference_reads_as_it_was_written(text: str) -> None:
    assert str(parse_ref(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "a/versions",
        "a/versions/",
        "a/versions/x",
        "a/versions/-1",
        "a/versions/1/2",
        "a@",
        "a@b c",
        "models:/a/1",
        "a\n",
        "x" * 300,
        "../etc",
        "a/versions/" + "9" * 30,
    ],
)
def test_anything_else_is_refused_with_the_three_forms(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_ref(text)
    assert len(caught.value.message) < 300


def test_a_version_and_an_alias_exclude_each_other() -> None:
    with pytest.raises(InvalidReference, match="not both"):
        make_ref("a", "b", "1")


def test_a_pinned_reference_is_its_version() -> None:
    assert parse_ref("a/versions/2").pinned == ModelVersion("a", "2")
    assert parse_ref("a@b").pinned is None
