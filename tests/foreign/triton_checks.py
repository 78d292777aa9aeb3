"""tritonclient against the running platform; run by `test_foreign_clients.py` in the clients' own environment.

Every check is a function of a transport, ``http`` or ``grpc``, with the client's default settings: binary tensors.
"""

from __future__ import annotations

import json
import sys
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

URL = sys.argv[1]
MODULES = {"http": (tritonclient.http, URL), "grpc": (tritonclient.grpc, sys.argv[2])}
NOT_FOUND = {"http": "404", "grpc": "StatusCode.NOT_FOUND"}
BAD = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}
ROWS = np.random.default_rng(1).normal(size=(20, 3))


class Remote:
    """One transport's client, with the helpers of the checks."""

    def __init__(self, transport):
        self.transport = transport
        self.module, url = MODULES[transport]
        self.client = self.module.InferenceServerClient(url)

    def tensor(self, name, array, datatype):
        given = self.module.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array)
        return given

    def columns(self, names, rows=ROWS, datatype="FP64", dtype=np.float64):
        return [self.tensor(name, rows[:, index].astype(dtype), datatype) for index, name in enumerate(names)]

    def refused(self, status, words, call):
        found = None
        try:
            call()
        except InferenceServerException as error:
            found = error.status(), error.message()
        assert found, "it was answered"
        assert status[self.transport] in found[0], found
        assert words in found[1], found


def predictions(model, rows):
    """The predictions of the row dialect for the same rows."""
    body = json.dumps({"instances": rows}).encode()
    request = urllib.request.Request(
        f"http://{URL}/v1/models/{model}:predict", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def as_records(names, rows=ROWS):
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()]


def server_tells_of_itself(remote):
    client = remote.client
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    name = metadata["name"] if remote.transport == "http" else metadata.name
    assert name == "ml-serve", metadata


def metadata_has_the_signature(remote):
    for version in ("", "1"):
        if remote.transport == "http":
            inputs = remote.client.get_model_metadata("linear", version)["inputs"]
        else:
            inputs = remote.client.get_model_metadata("linear", version, as_json=True)["inputs"]
        found = [(one["name"], one["datatype"], [int(length) for length in one["shape"]]) for one in inputs]
        assert found == [(name, "FP64", [-1]) for name in "abc"], found


def scikit_learn_answers_columns(remote):
    answer = remote.client.infer("linear", remote.columns("abc"), request_id="one")
    expected = predictions("linear", as_records("abc"))
    np.testing.assert_allclose(answer.as_numpy("output"), expected, rtol=1e-12)
    response = answer.get_response()
    assert (response["id"] if remote.transport == "http" else response.id) == "one"


def scikit_learn_answers_one_tensor_of_all_columns(remote):
    answer = remote.client.infer("linear", [remote.tensor("input-0", ROWS, "FP64")])
    np.testing.assert_allclose(answer.as_numpy("output"), predictions("linear", as_records("abc")), rtol=1e-12)


def probabilities_have_two_dimensions(remote):
    answer = remote.client.infer("forest", remote.columns("abc")).as_numpy("output")
    assert answer.shape == (20, 2)
    assert answer.tolist() == predictions("forest", as_records("abc"))


def lightgbm_answers(remote):
    narrow = ROWS.astype(np.float32)  # single precision is widened to the columns' double
    answer = remote.client.infer("lightgbm", remote.columns("cab", narrow[:, [2, 0, 1]], "FP32", np.float32))
    expected = predictions("lightgbm", as_records("abc", narrow.astype(np.float64)))
    assert answer.as_numpy("output").tolist() == expected


def a_tensor_goes_in_by_any_name(remote):
    image = np.arange(12, dtype=np.uint8).reshape(4, 3)
    answer = remote.client.infer("one-tensor", [remote.tensor("anything", image, "UINT8")])
    assert [text.decode() for text in answer.as_numpy("output")] == predictions("one-tensor", image.tolist())


def tensors_go_in_by_name(remote):
    arrays = {
        "x": (np.random.default_rng(2).random((2, 2, 2)).astype(np.float32), "FP32"),
        "n": (np.array([2**62 + 1, -5]), "INT64"),
        "s": (np.array(["a", "å" * 40], dtype=object), "BYTES"),
        "b": (np.array([True, False]), "BOOL"),
        "h": (np.array([[0.5, 1.5], [2.0, -1.0]], dtype=np.float16), "FP16"),
    }
    given = [remote.tensor(name, array, datatype) for name, (array, datatype) in arrays.items()]
    answer = remote.client.infer("named-tensors", given).as_numpy("output")
    rows = [
        {name: array[row].tolist() if array.ndim > 1 else _plain(array[row]) for name, (array, _) in arrays.items()}
        for row in (0, 1)
    ]
    assert [text.decode() for text in answer] == predictions("named-tensors", rows)


def _plain(value):
    return value if isinstance(value, str) else value.item()


def several_outputs_and_text(remote):
    given = [
        remote.tensor("x", np.array([1.5, np.nan]), "FP64"),
        remote.tensor("n", np.array([[1], [2]]), "INT64"),
        remote.tensor("s", np.array([[b"a"], [b"b"]], dtype=object), "BYTES"),
    ]
    answer = remote.client.infer("frame", given)
    assert answer.as_numpy("double").tolist()[0] == 3.0
    assert np.isnan(answer.as_numpy("double")[1])
    assert answer.as_numpy("narrow").dtype == np.float32
    assert answer.as_numpy("count").tolist() == [2**60 + 1, 2**60 + 2]
    assert answer.as_numpy("text").tolist() == [b"A", b"B"]
    assert answer.as_numpy("large").tolist() == [True, False]
    assert answer.as_numpy("when")[0] == b"2024-01-02T00:00:00.000000001"
    wanted = [remote.module.InferRequestedOutput(name) for name in ("text", "count")]
    answer = remote.client.infer("frame", given, outputs=wanted)
    outputs = answer.get_response()["outputs"] if remote.transport == "http" else answer.get_response().outputs
    assert [one["name"] if remote.transport == "http" else one.name for one in outputs] == ["text", "count"]


def models_are_loaded_and_unloaded(remote):
    client = remote.client
    client.load_model("xgboost")
    assert client.is_model_ready("xgboost")
    index = (
        client.get_model_repository_index()
        if remote.transport == "http"
        else client.get_model_repository_index(as_json=True)["models"]
    )
    assert {"name": "xgboost", "version": "1", "state": "READY"}.items() <= next(
        one for one in index if one["name"] == "xgboost"
    ).items()
    client.unload_model("xgboost")
    assert client.is_model_ready("xgboost")  # the next call loads it again
    assert client.infer("xgboost", remote.columns("abc")).as_numpy("output").shape == (20,)


def versions_and_aliases(remote):
    rows = np.array([[75.5, 3.2, 1.18]])
    names = ["crude_oil_price", "natural_gas_price", "exchange_rate"]
    answers = {
        version: remote.client.infer("commodity_price_predictor", remote.columns(names, rows), version)
        for version in ("1", "2", "champion", "challenger")
    }
    prices = {version: answer.as_numpy("price")[0] for version, answer in answers.items()}
    assert prices["champion"] == prices["1"] != prices["2"] == prices["challenger"]


def inference_parameters(remote):
    given = [remote.tensor("a", np.array([1.0]), "FP64")]
    answer = remote.client.infer("params", given, parameters={"top": 5}).as_numpy("output")
    assert b"('top', 5)" in answer[0], answer


def compression(remote):
    rows = np.zeros((20_000, 3))
    rows[:, 0] = np.arange(20_000)
    # A forest's prediction for a row is independent of the other rows, to the last bit.
    expected = remote.client.infer("forest", remote.columns("abc", rows)).as_numpy("output")
    for algorithm in ("gzip", "deflate"):
        if remote.transport == "http":
            options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        else:
            options = {"compression_algorithm": algorithm}
        answer = remote.client.infer("forest", remote.columns("abc", rows), **options)
        assert answer.as_numpy("output").tolist() == expected.tolist()


def errors_say_what_to_fix(remote):
    client, good = remote.client, remote.columns("abc")
    remote.refused(NOT_FOUND, "no registered model 'nope'", lambda: client.infer("nope", good))
    remote.refused(NOT_FOUND, "99", lambda: client.infer("linear", good, "99"))
    remote.refused(BAD, "the input lacks 'c'", lambda: client.infer("linear", good[:2]))
    remote.refused(BAD, "'d'", lambda: client.infer("linear", remote.columns("abd")))
    text = remote.tensor("a", np.array([b"x"] * 20, dtype=object), "BYTES")
    remote.refused(BAD, "column 'a', row 0", lambda: client.infer("linear", [text, *good[1:]]))
    longer = remote.tensor("a", np.zeros(21), "FP64")
    remote.refused(BAD, "differ in length", lambda: client.infer("linear", [longer, *good[1:]]))
    unavailable = {"http": "503", "grpc": "StatusCode.UNAVAILABLE"}
    remote.refused(unavailable, "cannot be loaded", lambda: client.load_model("broken"))
    shared = remote.module.InferInput("a", [20], "FP64")
    shared.set_shared_memory("region", 160)
    unsupported = {"http": "501", "grpc": "StatusCode.UNIMPLEMENTED"}
    if remote.transport == "http":
        remote.refused(unsupported, "shared_memory_region", lambda: client.infer("linear", [shared, *good[1:]]))


def wrong_requests_harm_no_other(remote):
    """Make good and wrong calls at the same time, each from its own client: clients are not thread-safe."""
    expected = predictions("linear", as_records("abc"))

    def call(number):
        own = Remote(remote.transport)
        if number % 2:
            own.refused(BAD, "the input lacks", lambda: own.client.infer("linear", own.columns("abc")[:1]))
        else:
            answer = own.client.infer("linear", own.columns("abc")).as_numpy("output")
            np.testing.assert_allclose(answer, expected, rtol=1e-12)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(40)))


CHECKS = [
    server_tells_of_itself,
    metadata_has_the_signature,
    scikit_learn_answers_columns,
    scikit_learn_answers_one_tensor_of_all_columns,
    probabilities_have_two_dimensions,
    lightgbm_answers,
    a_tensor_goes_in_by_any_name,
    tensors_go_in_by_name,
    several_outputs_and_text,
    models_are_loaded_and_unloaded,
    versions_and_aliases,
    inference_parameters,
    compression,
    errors_say_what_to_fix,
    wrong_requests_harm_no_other,
]


def main():
    """Run every check over both transports and print a line of JSON for each: its name and its failure."""
    for transport in MODULES:
        for check in CHECKS:
            fault = None
            try:
                check(Remote(transport))
            except Exception:
                fault = traceback.format_exc()
            sys.stdout.write(json.dumps([f"{check.__name__}[{transport}]", fault]) + "\n")


main()
