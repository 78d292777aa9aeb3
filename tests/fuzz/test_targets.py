"""The short form of ``make fuzz``: the seeds, the inputs that failed once, and some changed seeds of every target."""

from __future__ import annotations

import platform
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz, gateway, targets
from tests.fuzz.gateway import ERROR_BYTES, Answer, Fault, bounded, check
from tests.fuzz.parquet_child import CHILD
from tests.fuzz.seeds import FINDINGS, findings, seeds, words
from tests.fuzz.targets import TARGETS
from tests.missing import missing

EXAMPLES = {"parquet": 30, "csv": 60}
MOST_BYTES = 4096


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    CHILD.close()
    for made in (gateway.open_gateway, targets._with_keys, targets._with_tokens):
        if made.cache_info().currsize:
            found = made()
            one = found if isinstance(found, gateway.Gateway) else found[0]
            one.close()
        made.cache_clear()
    targets._servicer.cache_clear()


def changed(target: str) -> st.SearchStrategy[bytes]:
    """Seeds with some pieces replaced by words of the dictionary, by pieces of other seeds, or by any bytes."""
    corpus, dictionary = seeds(target), words()
    pieces = st.sampled_from(dictionary) | st.binary(max_size=8) | st.sampled_from([one[:64] for one in corpus])

    def apply(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, piece in changes:
            start = at % (len(seed) + 1)
            seed = seed[:start] + piece + seed[start + length :]
        return seed[:MOST_BYTES]

    change = st.tuples(st.integers(0, MOST_BYTES), st.sampled_from([0, 0, 1, 2, 4, 16]), pieces)
    return st.builds(apply, st.sampled_from(corpus), st.lists(change, max_size=4)) | st.binary(max_size=64)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_past_findings_are_answered(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_are_answered(name: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(name, 120), derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(changed(name))
    @example(b"")
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


def test_every_finding_is_of_a_target() -> None:
    folders = [path.name for path in FINDINGS.iterdir()]
    assert {*folders} <= TARGETS.keys()
    assert all(map(findings, folders))


@pytest.mark.parametrize(
    ("answer", "path", "words"),
    [
        (Answer(500, {}, b'{"error":"x"}'), "/v1", "status 500"),
        (Answer(200, {b"content-type": b"application/json"}, b'{"a":NaN}'), "/v1", "NaN in JSON"),
        (Answer(400, {}, b"x" * (ERROR_BYTES + 1)), "/v1", "an error of"),
        (Answer(400, {b"x-request-id": b"1"}, b'{"error":"x","request_id":"1"}'), "/v1", "another form"),
        (Answer(400, {b"x-request-id": b"2"}, b'{"error":"x","request_id":"1"}'), "/v1", "another request id"),
        (Answer(404, {b"retry-after": b"1\r\nx: y"}, b"{}"), "/v1", "the header"),
    ],
)
def test_a_wrong_answer_is_a_fault(answer: Answer, path: str, words: str) -> None:
    with pytest.raises(Fault, match=words):
        check(answer, path)


def test_too_much_memory_is_a_fault() -> None:
    with pytest.raises(Fault, match="of memory"), bounded():
        bytearray(random.randbytes(1)) * (gateway._peak_bytes() + 2 * gateway.MEMORY_BYTES)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has no wheels for other machines")
def test_the_fuzzer_finds_and_names_a_fault(tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        missing("atheris is not installed")
    result = fuzz.run("tests.fuzz.planted:planted", 30, tmp_path)
    (crash,) = result.crashes
    assert crash.read_bytes().startswith(b"bug")
    assert f"FAILED on {crash}" in str(result)
    assert "a planted fault" in result.output
