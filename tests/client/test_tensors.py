"""Arrays and DataFrames through `infer`, against the real application over fakes."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from app.oip.datatypes import DTYPES
from app.serving.rows import Output
from ml_serve_client import ApiError, AsyncClient, Client, TensorPrediction
from tests.fakes import FakeModel, Fakes, columns, make_fakes, tensor, total


def tensors(**specs: tuple[str, list[int]]) -> list[dict[str, Any]]:
    """The inputs of a tensor signature; one called ``_`` has no name."""
    return [
        {
            **({} if name == "_" else {"name": name}),
            "type": "tensor",
            "tensor-spec": {"dtype": dtype, "shape": shape},
        }
        for name, (dtype, shape) in specs.items()
    ]


def echo(**types: str) -> FakeModel:
    """A model that answers its columns as they are."""
    specs = [{"name": name, "type": type, "required": True} for name, type in types.items()]
    return FakeModel(lambda batch: Output("columns", tuple(types), batch.arrays, batch.count), specs)


def same(*dtypes: str) -> dict[str, FakeModel]:
    """For each dtype a model that answers the tensor that it is given, called as the dtype is."""
    return {
        dtype: FakeModel(lambda batch: tensor(batch.arrays[0]), tensors(_=(dtype, [-1, 2])))
        for dtype in dtypes
    }  # fmt: skip


NUMBERS = [dtype.name for name, dtype in DTYPES.items() if name not in ("BF16", "BYTES")]
LISTS = {"name": "x", "type": "array", "required": True, "items": {"type": "double"}}


@pytest.fixture
def fakes() -> Fakes:
    return make_fakes(
        {
            "sum": total("a", "b"),
            "sum/versions/2": total("a", "b", offset=100),
            "mixed": echo(x="double", n="long", ok="boolean", word="string"),
            "word": echo(word="string"),
            "when": echo(t="datetime"),
            "raw": echo(x="binary"),
            "lists": FakeModel(lambda batch: tensor(np.array([sum(row) for row in batch.arrays[0]])), [LISTS]),
            "twice": FakeModel(
                lambda batch: Output(
                    "tensors", ("sum", "pair"), (batch.arrays[0].sum(1), batch.arrays[0]), batch.count
                ),
                tensors(x=("float32", [-1, 2])),
            ),
            "matrix": FakeModel(lambda batch: tensor(batch.arrays[0]), tensors(_=("float64", [-1, 3]))),
            "cube": FakeModel(lambda batch: tensor(batch.arrays[0]), tensors(_=("float64", [-1, 2, 2]))),
            "scaled": FakeModel(
                lambda batch: tensor(batch.arrays[0] * json.loads(batch.layout.params)["factor"]),
                columns("a"),
                params=[{"name": "factor", "type": "double", "default": 1.0, "shape": None}],
            ),
            **same(*NUMBERS),
        },
        aliases={"sum": {"champion": "1", "challenger": "2"}},
    )


@pytest.fixture
def client(fakes: Fakes) -> AsyncClient:
    return AsyncClient("http://gateway", transport=httpx.ASGITransport(fakes.app))


def sent(data: Any, **options: Any) -> httpx.Request:
    """The request that `infer` makes of these data."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"outputs": [], "model_name": "m", "model_version": "1"})

    Client(transport=httpx.MockTransport(handle)).infer("m", data, **options)
    return requests[0]


# What may be given


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"a": [1, 3], "b": [2.5, 4]}),
        pd.DataFrame({"b": [2.5, 4], "a": [1, 3]}, index=["x", "y"]),
        {"a": np.array([1, 3]), "b": np.array([[2.5], [4]])},
        {"a": [1, 3], "b": (2.5, 4)},
        {"a": pd.Series([1, 3], index=[7, 8]), "b": np.array([2.5, 4], ">f8")},
        np.array([[1, 2.5], [3, 4]]),
        np.asfortranarray([[1, 2.5], [3, 4]]),
    ],
)
async def test_frames_mappings_and_matrices_are_columns(client: AsyncClient, data: Any, binary: bool) -> None:
    answer = await client.infer("sum", data, binary=binary)
    assert (answer.model, answer.version) == ("sum", "1")
    assert answer.request_id
    assert answer.array.dtype == np.float64
    assert answer.array.tolist() == [3.5, 7]


async def test_predict_gives_frames_and_arrays_to_infer(client: AsyncClient) -> None:
    answer: TensorPrediction = await client.predict("sum", pd.DataFrame({"a": [1], "b": [2]}), version=2)
    assert answer.array.tolist() == [103]
    assert (await client.predict("sum", np.array([[1, 2]]), alias="challenger")).array.tolist() == [103]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", NUMBERS)
async def test_every_type_of_numbers_comes_back_as_it_was(client: AsyncClient, dtype: str, binary: bool) -> None:
    bounds = np.finfo(dtype) if dtype.startswith("f") else None if dtype == "bool" else np.iinfo(dtype)
    array = np.array([[0, 1], [bounds.min, bounds.max] if bounds else [1, 0]], dtype=dtype)
    answer = (await client.infer(dtype, array, binary=binary)).array
    assert answer.dtype == array.dtype
    assert np.array_equal(answer, array)


async def test_columns_of_several_types_go_together(client: AsyncClient) -> None:
    frame = pd.DataFrame({"x": [1.5, np.nan], "n": [2**62 + 1, -1], "ok": [True, False], "word": ["a", "é\x00漢"]})
    for binary in (True, False):
        answer = (await client.infer("mixed", frame, binary=binary)).frame()
        pd.testing.assert_frame_equal(answer, frame)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2], dtype="Int64"),
        pd.Series([1, 2], dtype="category"),
        pd.Series([1, 2], dtype="int64[pyarrow]"),
        pd.Series([1, 2], dtype=object),
        pd.Series([1, 2], dtype="Sparse[int]"),
        pd.Series([1, 2], dtype="uint8"),
    ],
    ids=lambda column: str(column.dtype),
)
async def test_the_kinds_of_columns_of_pandas_are_their_values(client: AsyncClient, column: "pd.Series[Any]") -> None:
    assert (await client.infer("sum", pd.DataFrame({"a": column, "b": [0, 0]}))).array.tolist() == [1, 2]


async def test_missing_numbers_are_nan(client: AsyncClient) -> None:
    for column in (pd.Series([1.5, None], dtype="Float64"), pd.Series([1.5, None], dtype="category")):
        answer = (await client.infer("sum", pd.DataFrame({"a": column, "b": [1, 1]}))).array
        assert answer[0] == 2.5
        assert np.isnan(answer[1])
    frame = pd.DataFrame({"x": [1.0, 1], "n": pd.Series([1, None], dtype="Int64"), "ok": True, "word": "a"})
    with pytest.raises(ApiError, match="whole number"):
        await client.infer("mixed", frame)


@pytest.mark.parametrize(
    "texts",
    [
        np.array(["a", "é"]),
        np.array([b"a", "é".encode()]),
        pd.Series(["a", "é"], dtype="string"),
        pd.Series(["a", "é"], dtype="string[pyarrow]"),
        pd.Series(["a", "é"], dtype="category"),
        np.array(["a", "é"], dtype=np.dtypes.StringDType()),
        ["a", "é"],
    ],
)
async def test_text_of_every_kind_is_text(client: AsyncClient, texts: Any) -> None:
    assert (await client.infer("word", {"word": texts})).array.tolist() == ["a", "é"]


async def test_bytes_stay_bytes_where_they_are_no_text(client: AsyncClient) -> None:
    assert (await client.infer("raw", {"x": [b"\x00\xff", b"a"]})).array.tolist() == [b"\x00\xff", b"a"]
    assert (await client.infer("raw", {"x": [b"\x00\xff"]}, binary=False)).array.tolist() == ["AP8="]


@pytest.mark.parametrize(
    "times",
    [
        np.array(["2026-01-02T03:04:05.000000006"], dtype="datetime64[ns]"),
        pd.Series(pd.to_datetime(["2026-01-02T03:04:05.000000006"])),
        pd.Series(pd.to_datetime(["2026-01-02T04:04:05.000000006"])).dt.tz_localize("Europe/Berlin"),
        pd.Series([pd.Timestamp("2026-01-02T03:04:05.000000006")], dtype=object),
    ],
)
async def test_times_keep_their_nanoseconds_and_zones(client: AsyncClient, times: Any) -> None:
    (answer,) = (await client.infer("when", {"t": times})).array.tolist()
    assert answer == "2026-01-02T03:04:05.000000006"


async def test_dates_and_times_of_python_are_sent_too(client: AsyncClient) -> None:
    frame = pd.DataFrame({"t": [date(2026, 1, 2), datetime(2026, 1, 2, 1, tzinfo=UTC)]})
    assert (await client.infer("when", frame)).array.tolist() == ["2026-01-02T00:00:00", "2026-01-02T01:00:00"]


async def test_lists_go_as_a_tensor_or_one_by_one(client: AsyncClient) -> None:
    assert (await client.infer("lists", {"x": np.array([[1.0, 2], [3, 4]])})).array.tolist() == [3, 7]
    ragged = pd.DataFrame({"x": [[1.0, 2.0], np.array([3.0])]})
    assert (await client.infer("lists", ragged)).array.tolist() == [3, 3]


async def test_parameters_reach_the_model(client: AsyncClient) -> None:
    assert (await client.infer("scaled", {"a": [2.0]}, params={"factor": 10})).array.tolist() == [20]


# What cannot be sent


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"w": ["a", None]}, "row 1 of 'w' is missing"),
        (pd.DataFrame({"w": ["a", np.nan]}), "row 1 of 'w' is missing"),
        (pd.DataFrame({"w": pd.Series(["a", pd.NA], dtype="string")}), "row 1 of 'w' is missing"),
        (pd.DataFrame({"w": pd.Series([True, pd.NA], dtype="boolean")}), "row 1 of 'w' is missing"),
        ({"t": np.array(["2026-01-02", "NaT"], dtype="datetime64[s]")}, "row 1 of 't' is missing"),
        (pd.DataFrame({"t": [pd.Timestamp(0, tz="UTC"), pd.NaT]}), "row 1 of 't' is missing"),
        (pd.DataFrame({"d": pd.to_timedelta([1, 2])}), "timedelta64"),
        (pd.DataFrame({"p": pd.period_range("2026", periods=2, freq="M")}), "row 0 of 'p' is a Period"),
        ({"c": np.array([1j])}, "complex128"),
        ({"f": np.array([1], dtype=np.longdouble)}, "longdouble|float128"),
        ({"o": [object()]}, "row 0 of 'o' is a object"),
        ({"o": np.array([["a", "b"], ["c", 1]], dtype=object)}, "row 1 of 'o' is a int"),
        ({"s": 1.0}, "'s' is a single value"),
        (np.float64(1), "'input' is a single value"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns called 'a'"),
        (pd.DataFrame(), "no column"),
        ({}, "no column"),
    ],
)  # fmt: skip
def test_what_no_tensor_holds_is_refused_before_it_is_sent(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sent(data)


@pytest.mark.parametrize("data", [None, [[1, 2]], "text", 3])
def test_other_data_are_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="give a DataFrame, an array, or a mapping"):
        sent(data)


def test_infinities_need_the_binary_form() -> None:
    sent({"a": [np.inf]})
    with pytest.raises(ValueError, match="JSON"):
        sent({"a": [np.inf]}, binary=False)


async def test_a_mistake_is_told_by_the_gateway(client: AsyncClient) -> None:
    with pytest.raises(ApiError, match="the input lacks 'b'") as caught:
        await client.infer("sum", {"a": [1.0], "c": [1.0]})
    assert (caught.value.status, caught.value.code) == (400, "invalid_input")


# On the wire


def test_the_body_is_binary_by_default_and_json_where_asked() -> None:
    request = sent(pd.DataFrame({"a": np.array([1, 2], "int32"), 0: ["x", "yz"]}), params={"k": 1})
    length = int(request.headers["inference-header-content-length"])
    assert request.url.path == "/v2/models/m/infer"
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["accept-encoding"] == "identity"
    assert json.loads(request.content[:length]) == {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}},
            {"name": "0", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
        ],
        "parameters": {"k": 1, "binary_data_output": True},
    }
    assert request.content[length:] == bytes.fromhex("0100000002000000") + b"\x01\0\0\0x\x02\0\0\0yz"
    request = sent({"a": np.array([[1.5, np.nan]])}, binary=False, outputs=["o"])
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP64", "data": [1.5, None]}],
        "outputs": [{"name": "o"}],
        "parameters": {"binary_data_output": False},
    }


def answer(content: str, **output: Any) -> bytes:
    """An answer with one output, and bytes behind it."""
    body = {"model_name": "m", "model_version": "1", "outputs": [{"name": "o", "shape": [1], **output}]}
    return json.dumps(body).encode() + content.encode()


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b'{"outputs": []}', None),
        (answer("", datatype="FP64"), None),
        (answer("", datatype="X", data=[1]), None),
        (answer("", datatype="FP64", data=["a"]), None),
        (answer("", datatype="FP64", data=[1, 2]), None),
        (answer("", datatype="FP64", data=[1]), "x"),
        (answer("1234", datatype="FP64", parameters={"binary_data_size": 8}), -4),
        (answer("1234", datatype="BYTES", parameters={"binary_data_size": 4}), -4),
    ],
)
def test_an_answer_that_is_not_of_the_protocol_is_an_error(content: bytes, length: int | str | None) -> None:
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    if isinstance(length, int):
        headers["inference-header-content-length"] = str(len(content) + length)
    client = Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=content, headers=headers)))
    with pytest.raises(ApiError, match="does not answer as an ml-serve gateway"):
        client.infer("m", {"a": [1]})


# Answers


async def test_outputs_are_chosen_and_come_in_that_order(client: AsyncClient) -> None:
    data = {"x": np.array([[1, 2], [3, 4]], "float32")}
    both = await client.infer("twice", data)
    assert list(both.outputs) == ["sum", "pair"]
    assert both.outputs["pair"].dtype == np.float32
    assert list((await client.infer("twice", data, outputs=["pair", "sum"])).outputs) == ["pair", "sum"]
    assert (await client.infer("twice", data, outputs=["sum"])).array.tolist() == [3, 7]
    with pytest.raises(ValueError, match="2 outputs, not one: sum, pair"):
        _ = both.array
    with pytest.raises(ApiError, match="no output 'third'"):
        await client.infer("twice", data, outputs=["third"])


async def test_a_frame_has_a_row_for_each_row(client: AsyncClient) -> None:
    two = (await client.infer("twice", {"x": np.array([[1, 2], [3, 4]], "float32")})).frame()
    assert list(two.columns) == ["sum", "pair"]
    assert [list(cell) for cell in two["pair"]] == [[1, 2], [3, 4]]
    one = (await client.infer("sum", {"a": [1, 3], "b": [2, 4]})).frame()
    assert one.to_dict("list") == {"output": [3, 7]}
    matrix = (await client.infer("matrix", np.arange(6.0).reshape(2, 3))).frame()
    assert matrix.shape == (2, 3)
    assert matrix[2].tolist() == [2, 5]
    cube = (await client.infer("cube", np.arange(8.0).reshape(2, 2, 2))).frame()
    assert cube["output"][1].tolist() == [[4, 5], [6, 7]]
    narrow = TensorPrediction({"o": np.array([[1], [2]])}, "m", "1").frame()
    assert narrow["o"].tolist() == [1, 2]


async def test_arrays_of_an_answer_may_be_changed(client: AsyncClient) -> None:
    answer = (await client.infer("sum", {"a": [1.0], "b": [2.0]})).array
    answer += 1
    assert answer.flags.aligned
    assert answer.tolist() == [4]


def test_arrays_are_sent_without_pandas() -> None:
    script = """
import sys, httpx, numpy as np
sys.modules["pandas"] = None
from ml_serve_client import Client
output = {"name": "o", "datatype": "FP64", "shape": [1], "data": [2]}
body = {"model_name": "m", "model_version": "1", "outputs": [output]}
client = Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=body)))
assert client.infer("m", {"a": np.array([1.0])}).array.tolist() == [2.0]
assert client.predict("m", np.array([[1.0]])).array.tolist() == [2.0]
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
