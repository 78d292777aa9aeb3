import asyncio
import io
import json
import re
from importlib.metadata import version
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from app.errors import Overloaded
from app.serving.references import parse_ref
from app.serving.rows import Output
from tests.connect import Connect
from tests.fakes import LIMITS, FakeModel, columns, failing, make_fakes, tensor, total

ROW = {"oil": 75.5, "gas": 3.2}
FRAME = pd.DataFrame([ROW])
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"


def parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, **options)
    return file.getvalue()


def fault(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, whose shape is checked."""
    body = answer.json()
    assert set(body) == {"error_code", "message", "details", "request_id"}
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["error_code"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", {"dataframe_split": {"columns": ["gas", "oil"], "data": [[3.2, 75.5]], "index": [7]}}),
        ("application/json", {"dataframe_records": [ROW]}),
        ("application/json", {"instances": [ROW]}),
        ("application/json", {"instances": [[75.5, 3.2]]}),
        ("application/json", {"inputs": {"oil": [75.5], "gas": [3.2]}}),
        ("application/json; charset=utf-8", {"inputs": ROW}),
        ('Application/JSON;charset="UTF-8";', {"inputs": ROW}),
        ("", {"inputs": ROW}),
        (CSV, FRAME.to_csv(index=False)),
        (f"{CSV}; charset=utf-8", FRAME.to_csv()),
        (PARQUET, parquet(FRAME)),
    ],
)
@pytest.mark.parametrize("path", ["/invocations", "/invocations/prices", "/models/prices/invocations"])
async def test_every_path_accepts_every_format(connect: Connect, path: str, content_type: str, body: Any) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.default_model = parse_ref("prices")
    content = json.dumps(body) if isinstance(body, dict) else body
    headers = {"content-type": content_type} if content_type else {}
    answer = await connect(fakes).post(path, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": [78.7]}
    assert answer.headers["x-model-version"] == "1"


@pytest.mark.parametrize("ref", ["prices@champion", "prices/versions/1", "prices%40champion", "prices%2Fversions%2F1"])
@pytest.mark.parametrize("path", ["/invocations/{}", "/models/{}/invocations"])
async def test_references_name_aliases_and_versions(connect: Connect, path: str, ref: str) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}, aliases={"prices": {"champion": "1"}}))
    answer = await client.post(path.format(ref), json={"dataframe_records": [ROW]})
    assert answer.json() == {"predictions": [78.7]}


async def test_default_model_may_be_an_alias(connect: Connect) -> None:
    models = {"m/versions/1": total("x"), "m/versions/2": total("x", offset=100)}
    fakes = make_fakes(models, aliases={"m": {"champion": "1", "next": "2"}})
    fakes.default_model = parse_ref("m@next")
    answer = await connect(fakes).post("/invocations", json={"inputs": {"x": [1]}})
    assert (answer.json(), answer.headers["x-model-version"]) == ({"predictions": [101]}, "2")


async def test_bare_path_without_default_model_says_what_to_do(connect: Connect) -> None:
    answer = await connect(make_fakes({"m": total("x")})).post("/invocations", json={"inputs": {"x": [1]}})
    assert fault(answer) == (404, "ENDPOINT_NOT_FOUND")
    assert "ML_SERVE_DEFAULT_MODEL" in answer.json()["message"]
    assert "/invocations/{ref}" in answer.json()["message"]


async def test_ping_succeeds_once_models_are_loaded(connect: Connect) -> None:
    fakes = make_fakes({})
    client = connect(fakes)
    answer = await client.get("/ping")
    assert (answer.status_code, answer.text) == (200, "\n")
    fakes.manager.ready = False
    assert fault(await client.get("/ping")) == (503, "TEMPORARILY_UNAVAILABLE")


async def test_version_is_mlflows(connect: Connect) -> None:
    answer = await connect(make_fakes({})).get("/version")
    assert (answer.status_code, answer.text) == (200, version("mlflow"))


async def test_different_parameters_never_share_a_batch(connect: Connect) -> None:
    seen: list[str] = []

    def predict(batch: Any) -> Output:
        seen.append(batch.layout.params)
        return tensor(np.zeros(batch.count))

    model = FakeModel(predict, columns("x"), params=[{"name": "top", "type": "long", "default": 1, "shape": None}])
    client = connect(make_fakes({"m": model}))
    bodies = [{"dataframe_records": [{"x": 1}], "params": {"top": n % 2}} for n in range(10)]
    await asyncio.gather(*(client.post("/invocations/m", json=body) for body in bodies))
    assert set(seen) == {'{"top":0}', '{"top":1}'}


async def test_concurrent_requests_of_all_formats_share_batches(connect: Connect) -> None:
    fakes = make_fakes({"m": total("x")})
    fakes.runner.delay_s = 0.01
    client = connect(fakes)
    json_bodies = [{"dataframe_split": {"columns": ["x"], "data": [[float(n)]]}} for n in range(20)]
    answers = await asyncio.gather(
        *(client.post("/invocations/m", json=body) for body in json_bodies),
        *(client.post("/invocations/m", content=f"x\n{n}\n", headers={"content-type": CSV}) for n in range(20)),
    )
    assert [answer.json()["predictions"] for answer in answers] == [[float(n)] for n in range(20)] * 2
    assert len(fakes.runner.batches) < 40


async def test_missing_values_are_nan_in_and_null_out(connect: Connect) -> None:
    fakes = make_fakes({"m": total("x")})
    client = connect(fakes)
    bodies = [
        ("application/json", b'{"dataframe_split": {"columns": ["x"], "data": [[null], [NaN], [1]]}}'),
        (CSV, b"x\nNA\nnull\n1\n"),
        (PARQUET, parquet(pd.DataFrame({"x": [None, float("nan"), 1]}))),
    ]
    for content_type, body in bodies:
        answer = await client.post("/invocations/m", content=body, headers={"content-type": content_type})
        assert answer.content == b'{"predictions":[null,null,1.0]}'


async def test_dataframe_output_is_records(connect: Connect) -> None:
    frame = FakeModel(
        lambda batch: Output("columns", ("id", "ok"), (np.array([2**53 + 1]), np.array([True])), 1), columns("x")
    )
    answer = await connect(make_fakes({"m": frame})).post("/invocations/m", json={"inputs": {"x": [1]}})
    assert answer.json() == {"predictions": [{"id": 2**53 + 1, "ok": True}]}


SPLIT = {"columns": ["oil", "gas"], "data": [[1, 2]]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "must be a JSON object"),
        ({}, "exactly one of dataframe_split, dataframe_records, instances, inputs; the body has none of them"),
        ({"instances": [ROW], "inputs": ROW}, "the body has 'instances' and 'inputs'"),
        ({"instances": [ROW], "signature_name": "x"}, "'signature_name': is not a key"),
        ({"dataframe_split": {"columns": [], "data": [[]]}}, "rows but no columns"),
        ({"dataframe_split": SPLIT | {"index": [[1]]}}, "'dataframe_split.index' has [1], expected text, a number"),
        ({"dataframe_records": ROW}, "'dataframe_records'"),
        ({"dataframe_split": [ROW]}, "'dataframe_split'"),
        ({"dataframe_split": {"columns": ["oil", "gas"]}}, "'dataframe_split.data': is missing"),
        ({"dataframe_split": SPLIT | {"dtype": "x"}}, "'dataframe_split.dtype': is not a key"),
        ({"dataframe_split": SPLIT | {"data": [[1, 2], [3]]}}, "row 1 of 'dataframe_split.data' has 1 values, exp"),
        ({"dataframe_split": SPLIT | {"data": [[1, 2], 3]}}, "row 1 of 'dataframe_split.data' is 3, expected a list"),
        ({"dataframe_split": {"data": [3]}}, "row 0 of 'dataframe_split.data' is 3"),
        ({"dataframe_split": SPLIT | {"columns": ["oil"]}}, "row 0 of 'dataframe_split.data' has 2 values"),
        ({"dataframe_split": SPLIT | {"columns": ["oil", "oil"]}}, "has 'oil' 2 times"),
        ({"dataframe_split": SPLIT | {"columns": ["oil", True]}}, "has true, expected text or a whole number"),
        ({"dataframe_split": SPLIT | {"columns": []}}, "row 0 of 'dataframe_split.data' has 2 values"),
        ({"dataframe_split": SPLIT | {"index": [1, 2]}}, "has 2 labels for the 1 rows"),
        ({"dataframe_split": {"data": []}}, "lacks 'oil', 'gas'"),
        ({"dataframe_split": SPLIT | {"columns": ["oil", "gass"]}}, "did you mean 'gas'?"),
        ({"dataframe_split": SPLIT | {"data": [[1, 2], [3, "x"]]}}, "column 'gas', row 1 is 'x'"),
        ({"instances": [ROW], "params": {"top": 1}}, "'top'"),
        ({"instances": [ROW], "params": [1]}, "'params' is [1], expected an object"),
    ],
)
async def test_bad_body_is_a_400_in_mlflows_shape(connect: Connect, body: Any, words: str) -> None:
    answer = await connect(make_fakes({"prices": total("oil", "gas")})).post("/invocations/prices", json=body)
    assert fault(answer)[0] == 400
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (CSV, b"", "the body is empty"),
        (CSV, b"oil\n1\n", "lacks 'gas'"),
        (CSV, b"oil,gas,x\n1,2,3\n", "'x', which is not among the columns"),
        (CSV, b"oil,gas,oil\n1,2,3\n", "2 columns are named 'oil'"),
        (CSV, b"oil,gas\n1,2\n3\n", "Expected 2 columns, got 1"),
        (CSV, b"oil,gas\n1,2\n3,x4\n", "column 'gas', row 1 is 'x4', expected a number"),
        (CSV, b"oil,gas\n1,0x1F\n", "column 'gas', row 0 is '0x1F', expected a number"),
        (CSV, b"oil,gas\n1,1_000\n", "column 'gas', row 0 is '1_000', expected a number"),
        (CSV, b"oil,\xff\n1,2\n", "not valid CSV"),
        (CSV, b"oil,gas\n1,\xff\n", "not valid CSV"),
        (CSV, b'"' + b"x" * 200_000, "not valid CSV"),
        (PARQUET, b"", "not valid Parquet"),
        (PARQUET, parquet(FRAME)[:-9], "not valid Parquet"),
        (PARQUET, parquet(FRAME[["oil"]]), "lacks 'gas'"),
        (PARQUET, parquet(FRAME.assign(gas="x")), "column 'gas', row 0 is 'x', expected a number"),
    ],
)
async def test_bad_table_is_a_400_that_names_the_fault(
    connect: Connect, content_type: str, body: bytes, words: str
) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post("/invocations/prices", content=body, headers={"content-type": content_type})
    assert fault(answer)[0] == 400
    assert words in answer.json()["message"]
    assert not re.search(r"/(tmp|home|usr|work)|\.(py|cc)\b", answer.text)


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("application/json; charset=latin-1", "unsupported charset 'latin-1'; send UTF-8"),
        ("application/json; format=pandas-split", "'format'"),
        ("application/x-www-form-urlencoded", "send application/json, text/csv or application/vnd.apache.parquet"),
        ("text/csv; header=absent", "'header'"),
    ],
)
async def test_other_content_types_are_a_415(connect: Connect, content_type: str, words: str) -> None:
    client = connect(make_fakes({"m": total("x")}))
    answer = await client.post("/invocations/m", content=b"{}", headers={"content-type": content_type})
    assert fault(answer) == (415, "BAD_REQUEST")
    assert words in answer.json()["message"]


async def test_errors_have_mlflows_codes(connect: Connect) -> None:
    full = Overloaded("too much is queued", {"retry_after_s": 2})
    models = {"m": total("x"), "bad": failing(ValueError("secret"), "x"), "full": failing(full, "x")}
    fakes = make_fakes(models)
    client = connect(fakes)
    body = {"inputs": {"x": [1]}}
    assert fault(await client.post("/invocations/none", json=body)) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert fault(await client.post("/invocations/m/x", json=body)) == (400, "INVALID_PARAMETER_VALUE")
    assert fault(await client.post("/models//invocations", json=body)) == (400, "INVALID_PARAMETER_VALUE")
    assert fault(await client.get("/invocations/m")) == (405, "INVALID_PARAMETER_VALUE")
    assert fault(await client.get("/models/m")) == (404, "ENDPOINT_NOT_FOUND")
    assert fault(await client.post("/invocations/m", content=b"x" * 1_000_001)) == (413, "BAD_REQUEST")
    assert fault(await client.post("/invocations/m", json={"inputs": {"x": [1] * 1001}})) == (413, "BAD_REQUEST")
    assert fault(await client.post("/invocations/m", json={"inputs": {"y": [1]}})) == (400, "INVALID_PARAMETER_VALUE")
    assert fault(await client.post("/invocations/m", json={"inputs": {"x": ["y"]}})) == (400, "BAD_REQUEST")
    overloaded = await client.post("/invocations/full", json=body)
    assert fault(overloaded) == (429, "RESOURCE_EXHAUSTED")
    assert overloaded.headers["retry-after"] == "2"
    failed = await client.post("/invocations/bad", json=body)
    assert fault(failed) == (500, "INTERNAL_ERROR")
    assert "secret" not in failed.text
    fakes.directory.down = True
    gone = await client.post("/invocations/m/versions/9", json=body)
    assert fault(gone) == (503, "TEMPORARILY_UNAVAILABLE")


async def test_deadline_holds_for_every_format(connect: Connect) -> None:
    fakes = make_fakes({"m": total("x")})
    fakes.runner.delay_s = 5
    headers = {"x-request-timeout-seconds": "0.05"}
    for content_type, body in (("application/json", b'{"inputs": {"x": [1]}}'), (CSV, b"x\n1\n")):
        answer = await connect(fakes).post(
            "/invocations/m", content=body, headers={**headers, "content-type": content_type}
        )
        assert fault(answer) == (504, "DEADLINE_EXCEEDED")


async def test_table_failures_are_recorded(connect: Connect) -> None:
    fakes = make_fakes({"m": total("x")}, limits=LIMITS)
    await connect(fakes).post("/invocations/m", content=b"y\n1\n", headers={"content-type": CSV})
    assert fakes.recorder.failures == [("m", "invalid_input")]


async def test_too_many_columns_are_a_413_in_every_format(connect: Connect) -> None:
    client = connect(make_fakes({"m": FakeModel(lambda batch: tensor(np.zeros(batch.count)))}))
    frame = pd.DataFrame([range(101)], columns=[f"c{n}" for n in range(101)])
    for content_type, body in ((CSV, frame.to_csv(index=False)), (PARQUET, parquet(frame))):
        answer = await client.post("/invocations/m", content=body, headers={"content-type": content_type})
        assert fault(answer) == (413, "BAD_REQUEST")


async def test_openapi_has_every_format(connect: Connect) -> None:
    schema = (await connect(make_fakes({})).get("/openapi.json")).json()
    assert set(schema["paths"]["/invocations"]["post"]["requestBody"]["content"]) == {"application/json", CSV, PARQUET}
    assert "$defs" not in json.dumps(schema)
