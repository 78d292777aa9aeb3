"""Traffic splits and shadow requests, through the whole service."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidInput, ModelFailed, ModelNotFound, PoolUnavailable, ReplicaDied
from app.serving.features import FeatureQuery
from app.serving.placement.load import Backlog
from app.serving.prediction.enrichment import FeatureRequest
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.references import ModelRef, ModelVersion, parse_ref
from app.serving.releases.traffic import Traffic, Variant
from app.serving.rows import Batch, Output
from app.serving.signatures.signature import Signature
from app.settings import ShadowSettings
from tests.fakes import LIMITS, FakeFeatureStore, FakeModel, Fakes, columns, failing, make_fakes, tensor, total
from tests.virtual_time import run

SPLIT = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))
SHADOW = Traffic((), Variant("challenger", "2"))
ROW = Payload("records", [{"a": 1.0, "b": 2.0}])
V1, V2 = ModelVersion("m", "1"), ModelVersion("m", "2")


def fakes_of(second: FakeModel, traffic: Traffic | None = SHADOW, **further: Any) -> Fakes:
    fakes = make_fakes(
        {"m": total("a", "b"), "m/versions/2": second, "m/versions/3": total("a", "b", offset=300)},
        aliases={"m": {"champion": "1", "challenger": "2"}},
        **further,
    )
    if traffic is not None:
        fakes.directory.traffics["m"] = traffic
    return fakes


def request(ref: str = "m", payload: Any = ROW, **further: Any) -> PredictionRequest:
    return PredictionRequest(parse_ref(ref), asyncio.get_running_loop().time() + 60, payload, **further)


async def ask(fakes: Fakes, ref: str = "m", **further: Any) -> str:
    return (await fakes.service.predict(request(ref, **further))).version.version


async def settled(fakes: Fakes) -> None:
    """Wait until every shadow request has ended."""
    while fakes.service._shadowing.requests:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(1)


def named(session: str) -> Callable[[], str]:
    return lambda: session


def test_only_requests_for_the_bare_name_are_split() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b", offset=100), SPLIT)
        shares = Counter([await ask(fakes) for _ in range(300)])
        assert 100 <= shares["1"] <= 200
        for ref, version in (("m@champion", "1"), ("m@challenger", "2"), ("m/versions/3", "3")):
            assert {await ask(fakes, ref) for _ in range(20)} == {version}

    run(main())


def test_each_answer_comes_from_the_version_that_it_names() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b", offset=100), SPLIT)
        predictions = [await fakes.service.predict(request()) for _ in range(50)]
        assert {(one.version.version, one.output.arrays[0][0]) for one in predictions} == {("1", 3.0), ("2", 103.0)}

    run(main())


def test_a_session_stays_with_one_version_on_every_replica() -> None:
    async def main() -> None:
        replicas = [fakes_of(total("a", "b"), SPLIT) for _ in range(3)]
        sessions = [f"session-{n}" for n in range(40)]
        seen = {
            session: {await ask(fakes, session=named(session)) for fakes in replicas for _ in range(3)}
            for session in sessions
        }
        assert {len(versions) for versions in seen.values()} == {1}
        assert set.union(*seen.values()) == {"1", "2"}

    run(main())


def features(**given: Any) -> FeatureRequest:
    return FeatureRequest(FeatureQuery("daily", None), **given)


def store() -> FakeFeatureStore:
    return FakeFeatureStore({"daily": {f"e{n}": {"a": float(n), "b": 0.5} for n in range(40)}})


def test_an_entity_stays_with_one_version_in_every_form() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), SPLIT, features=store())
        by_id = [await ask(fakes, payload=None, features=features(ids=[f"e{n}", "e0"])) for n in range(40)]
        by_key = [await ask(fakes, payload=None, features=features(entities=[{"id": f"e{n}"}])) for n in range(40)]
        assert by_id == by_key
        assert set(by_id) == {"1", "2"}

    run(main())


def test_a_session_takes_precedence_over_the_entity() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), SPLIT, features=store())
        sessions = {
            await ask(fakes, payload=None, features=features(ids=[f"e{n}"]), session=named("one")) for n in range(40)
        }
        assert len(sessions) == 1

    run(main())


def test_entities_are_identified_by_all_join_keys_in_any_order() -> None:
    one, same, other = {"x": 1, "y": "a"}, {"y": "a", "x": 1}, {"x": 1, "y": "b"}
    assert features(entities=[one]).first == features(entities=[same, other]).first
    assert features(entities=[one]).first != features(entities=[other]).first
    assert features(entities=[]).first is None
    assert features(ids=[]).first is None


def test_the_session_is_read_only_for_a_split() -> None:
    async def main() -> None:
        def never() -> str:
            raise AssertionError("read")

        for traffic in (None, SHADOW):
            fakes = fakes_of(total("a", "b"), traffic)
            assert await ask(fakes, session=never) == "1"
            await settled(fakes)

    run(main())


def test_a_split_needs_no_call_to_the_registry() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), SPLIT)
        fakes.directory.down = True
        assert {await ask(fakes) for _ in range(50)} == {"1", "2"}

    run(main())


def test_only_predictions_follow_the_split() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), Traffic((Variant("challenger", "2", 100.0),)))
        assert await ask(fakes) == "2"
        assert (await fakes.service.model(ModelRef("m"))).spec.version == "1"
        assert await fakes.service.resolve(ModelRef("m")) == V1

    run(main())


def test_errors_are_counted_by_version_where_it_is_known() -> None:
    async def main() -> None:
        fakes = fakes_of(failing(ModelFailed("it raised"), "a", "b"), Traffic((Variant("challenger", "2", 100.0),)))
        with pytest.raises(ModelFailed):
            await ask(fakes)
        with pytest.raises(InvalidInput):
            await ask(fakes, "m@champion", payload=Payload("records", [{}]))
        with pytest.raises(ModelNotFound):
            await ask(fakes, "m/versions/9")
        assert fakes.recorder.blamed == [(V2, "model_failed"), (V1, "invalid_input"), (None, "model_not_found")]
        assert fakes.recorder.divided_failures == [(V2, "model_failed")]

    run(main())


def test_only_requests_with_traffic_count_for_a_comparison() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), None)
        await ask(fakes)
        fakes.directory.traffics["m"] = SHADOW
        await ask(fakes, "m@champion")
        assert fakes.recorder.divisions == []
        await ask(fakes)
        assert fakes.recorder.divisions == [(V1, 3.0)]

    run(main())


def test_the_shadow_answers_and_is_compared() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b", offset=1))
        assert await ask(fakes) == "1"
        assert fakes.recorder.shadows == []
        await settled(fakes)
        ((pair, result),) = fakes.recorder.shadows
        assert pair == ("m", "1", "2")
        assert (result.outcome, result.rows) == ("compared", 1)
        assert result.disagreement is not None
        assert result.disagreement.difference == 1.0
        assert [version for version, _ in fakes.runner.batches] == [V1, V2]

    run(main())


def test_only_answers_of_other_versions_are_copied() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), Traffic((Variant("challenger", "2", 100.0),), Variant("challenger", "2")))
        await ask(fakes)
        await ask(fakes, "m@champion")
        await ask(fakes, "m/versions/3")
        fakes.directory.traffics["m"] = SHADOW
        with pytest.raises(InvalidInput):
            await ask(fakes, payload=Payload("records", [{}]))
        assert fakes.service._shadowing.requests == 0

    run(main())


def test_a_slow_shadow_delays_no_caller() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        await ask(fakes, "m@challenger")
        predict = fakes.runner.predict

        async def slow(version: ModelVersion, batch: Batch, backlog: Backlog, **how: Any) -> Output:
            await asyncio.sleep(5 if version == V2 else 0)
            return await predict(version, batch, backlog, **how)

        fakes.runner.predict = slow  # type: ignore[method-assign]
        started = asyncio.get_running_loop().time()
        for _ in range(3):
            await ask(fakes)
        assert asyncio.get_running_loop().time() == started
        await settled(fakes)
        assert len(fakes.recorder.shadows) == 3

    run(main())


@pytest.mark.parametrize(
    ("shadow", "code"),
    [
        (failing(ModelFailed("it raised"), "a", "b"), "model_failed"),
        (failing(ReplicaDied("it died"), "a", "b"), "replica_died"),
        (failing(PoolUnavailable("no replica"), "a", "b"), "pool_unavailable"),
        (failing(RuntimeError("unexpected"), "a", "b"), "internal"),
        (total("a", "c"), "invalid_input"),
        (FakeModel(lambda batch: tensor(np.zeros(7)), columns("a", "b")), "incomparable"),
        (replace(total("a", "b"), error=PoolUnavailable("no replica")), "pool_unavailable"),
    ],
    ids=["raises", "kills its replica", "no pool", "unforeseen", "other columns", "other rows", "not loaded"],
)
def test_a_failing_shadow_is_counted_and_no_caller_notices(shadow: FakeModel, code: str) -> None:
    async def main() -> None:
        fakes = fakes_of(shadow)
        assert await ask(fakes) == "1"
        await settled(fakes)
        assert [result.outcome for _, result in fakes.recorder.shadows] == [code]
        assert fakes.recorder.failures == []
        assert await ask(fakes) == "1"
        await settled(fakes)

    run(main())


def test_a_shadow_request_that_killed_a_replica_is_not_retried() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        sent: list[bool] = []

        async def dying(version: ModelVersion, batch: Batch, backlog: Backlog, **how: Any) -> Output:
            if version == V1:
                return await predict(version, batch, backlog, **how)
            sent.append(how["again"])
            raise ReplicaDied("the replica died")

        predict = fakes.runner.predict
        fakes.runner.predict = dying  # type: ignore[method-assign]
        await asyncio.gather(*(ask(fakes) for _ in range(4)))
        await settled(fakes)
        assert sent == [False]
        assert [result.outcome for _, result in fakes.recorder.shadows] == ["replica_died"] * 4

    run(main())


def test_one_bad_shadow_request_fails_alone() -> None:
    def picky(batch: Batch) -> Output:
        if (batch.arrays[0] == 13).any():
            raise ModelFailed("13")
        return tensor(np.sum(batch.arrays, axis=0))

    async def main() -> None:
        fakes = fakes_of(FakeModel(picky, columns("a", "b")))
        await ask(fakes)
        await settled(fakes)
        payloads = [Payload("records", [{"a": float(a), "b": 0.0}]) for a in (12, 13, 14)]
        await asyncio.gather(*(ask(fakes, payload=payload) for payload in payloads))
        await settled(fakes)
        outcomes = Counter(result.outcome for _, result in fakes.recorder.shadows)
        assert outcomes == {"compared": 3, "model_failed": 1}

    run(main())


def test_shadow_requests_have_their_own_deadline() -> None:
    async def main() -> None:
        shadow = ShadowSettings(max_requests=4, max_rows=100, max_bytes=1000, timeout_s=2.0)
        fakes = fakes_of(total("a", "b"), shadow=shadow)
        await ask(fakes)
        await settled(fakes)
        fakes.runner.delay_s = 3.0
        await ask(fakes)
        await settled(fakes)
        assert [result.outcome for _, result in fakes.recorder.shadows] == ["compared", "deadline_exceeded"]

    run(main())


def test_shadow_requests_are_bounded_in_number_and_rows() -> None:
    async def main() -> None:
        shadow = ShadowSettings(max_requests=2, max_rows=10, max_bytes=1000, timeout_s=10.0)
        fakes = fakes_of(total("a", "b"), shadow=shadow)
        rows = {count: Payload("columns", {"a": [1.0] * count, "b": [1.0] * count}) for count in (1, 6, 11)}
        await ask(fakes, payload=rows[11])
        assert [cause for _, cause in fakes.recorder.drops] == ["rows"]
        await asyncio.gather(*(ask(fakes, payload=rows[6]) for _ in range(2)))
        assert [cause for _, cause in fakes.recorder.drops] == ["rows", "rows"]
        await settled(fakes)
        assert fakes.service._shadowing.rows == 0
        await asyncio.gather(*(ask(fakes, payload=rows[1]) for _ in range(3)))
        assert [cause for _, cause in fakes.recorder.drops] == ["rows", "rows", "requests"]
        await settled(fakes)
        assert len(fakes.recorder.shadows) == 3

    run(main())


def test_shadow_requests_are_bounded_in_bytes() -> None:
    async def main() -> None:
        shadow = ShadowSettings(max_requests=9, max_rows=99, max_bytes=240, timeout_s=10.0)
        fakes = fakes_of(total("a", "b"), shadow=shadow)
        rows = {count: Payload("columns", {"a": [1.0] * count, "b": [1.0] * count}) for count in (1, 5, 10, 11)}
        await ask(fakes, payload=rows[11])  # of 24 bytes each, the prediction included
        assert [cause for _, cause in fakes.recorder.drops] == ["bytes"]
        await ask(fakes, payload=rows[10])
        await ask(fakes, payload=rows[1])
        assert [cause for _, cause in fakes.recorder.drops] == ["bytes", "bytes"]
        await settled(fakes)
        assert fakes.service._shadowing.nbytes == 0
        await ask(fakes, payload=rows[5])
        await ask(fakes, payload=rows[5])
        assert fakes.service._shadowing.nbytes == 240
        await settled(fakes)
        assert len(fakes.recorder.shadows) == 3
        assert len(fakes.recorder.drops) == 2

    run(main())


def test_long_texts_count_as_bytes_of_a_shadow_request() -> None:
    async def main() -> None:
        texts = FakeModel(lambda batch: tensor(np.array(["x" * 900] * batch.count, dtype=object)), columns("a", "b"))
        shadow = ShadowSettings(max_requests=9, max_rows=99, max_bytes=1000, timeout_s=10.0)
        fakes = fakes_of(texts, Traffic((Variant("challenger", "2", 100.0),), Variant("other", "3")), shadow=shadow)
        await ask(fakes)
        await ask(fakes)
        assert [cause for _, cause in fakes.recorder.drops] == ["bytes"]
        await settled(fakes)

    run(main())


def test_large_answers_are_compared_off_the_event_loop() -> None:
    class Spy:
        threads: set[int] = set()  # noqa: RUF012

        def __eq__(self, other: object) -> bool:
            self.threads.add(threading.get_ident())
            return True

        __hash__ = None  # type: ignore[assignment]

    def spies(batch: Batch) -> Output:
        return Output("columns", ("spy",), (np.fromiter((Spy() for _ in range(batch.count)), object),), batch.count)

    async def main() -> None:
        limits = LIMITS.model_copy(update={"rows": 9000})
        shadow = ShadowSettings(max_requests=1, max_rows=9000, max_bytes=10_000_000)
        fakes = fakes_of(FakeModel(spies, columns("a", "b")), limits=limits, shadow=shadow)
        models: Any = fakes.runner._models
        models[V1] = models[V2]
        for count, is_beside in ((1, False), (9000, True)):
            Spy.threads.clear()
            await ask(fakes, payload=Payload("columns", {"a": [1.0] * count, "b": [1.0] * count}))
            await settled(fakes)
            assert (threading.get_ident() not in Spy.threads) is is_beside
        assert [result.outcome for _, result in fakes.recorder.shadows] == ["compared", "compared"]

    run(main())


def test_a_limit_of_zero_sends_no_shadow_requests() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), shadow=ShadowSettings(max_requests=0))
        await ask(fakes)
        assert [cause for _, cause in fakes.recorder.drops] == ["requests"]

    run(main())


def test_shadow_requests_use_no_admission_of_callers() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        fakes.runner.delay_s = 1.0
        await asyncio.gather(*(ask(fakes) for _ in range(3)))
        assert fakes.service._shadowing.requests == 3
        admission = fakes.service.admission
        assert (admission.requests, admission.rows, admission.nbytes) == (0, 0, 0)
        await settled(fakes)

    run(main())


def test_a_shadow_request_outlives_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    def noting(batch: Batch) -> Output:
        seen.append(variable.get())
        return tensor(np.sum(batch.arrays, axis=0))

    async def main() -> None:
        fakes = fakes_of(FakeModel(noting, columns("a", "b")))

        async def caller() -> None:
            variable.set("the caller's")
            await ask(fakes)

        await asyncio.create_task(caller())
        await settled(fakes)
        assert seen == [""]
        assert [result.outcome for _, result in fakes.recorder.shadows] == ["compared"]

    run(main())


def test_features_are_read_once_for_caller_and_shadow() -> None:
    async def main() -> None:
        view = {"daily": {"oil": {"a": 1.0, "b": 2.0, "c": 40.0}}}
        fakes = fakes_of(total("b", "c"), features=FakeFeatureStore(view))
        assert fakes.features is not None
        await ask(fakes, payload=None, features=features(ids=["oil"], overrides={"b": 3.0}))
        await settled(fakes)
        assert fakes.features.reads == [["oil"]]
        ((_, result),) = fakes.recorder.shadows
        assert result.disagreement is not None
        assert result.disagreement.difference == 43.0 - 4.0

    run(main())


def test_a_payload_that_needs_the_signature_is_parsed_again() -> None:
    async def main() -> None:
        async def read(signature: Signature) -> Payload:
            return Payload("columns", {column.name: [1.0] for column in signature.columns})

        fakes = fakes_of(total("c", "d", "e"))
        await ask(fakes, payload=read)
        await settled(fakes)
        ((_, result),) = fakes.recorder.shadows
        assert result.disagreement is not None
        assert result.disagreement.difference == 1.0

    run(main())


@pytest.mark.parametrize(("names", "reads"), [(("a", "b"), 1), (("a",), 2)])
def test_a_shadow_with_equal_columns_reuses_the_rows(names: tuple[str, ...], reads: int) -> None:
    async def main() -> None:
        read_for = []

        async def read(signature: Signature) -> Payload:
            read_for.append(signature)
            return Payload("columns", {column.name: [1.0] for column in signature.columns})

        fakes = fakes_of(total(*names, offset=1))
        await ask(fakes, payload=read)
        await settled(fakes)
        ((_, result),) = fakes.recorder.shadows
        assert result.disagreement is not None
        assert result.disagreement.difference == 1.0 - (2 - len(names))
        assert len(read_for) == reads

    run(main())


def test_large_shadow_requests_are_split_into_batches() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b", offset=1))
        many = Payload("columns", {"a": [1.0] * 250, "b": list(map(float, range(250)))})
        await ask(fakes, payload=many)
        await settled(fakes)
        ((_, result),) = fakes.recorder.shadows
        assert result.disagreement is not None
        assert (result.rows, result.disagreement.largest) == (250, 1.0)
        assert max(batch.count for _, batch in fakes.runner.batches) <= 100

    run(main())


def test_an_answer_of_another_form_is_incomparable() -> None:
    async def main() -> None:
        fakes = fakes_of(FakeModel(lambda batch: tensor(np.zeros((batch.count, 2))), columns("a", "b")))
        await ask(fakes)
        await settled(fakes)
        ((_, result),) = fakes.recorder.shadows
        assert (result.outcome, result.rows, result.disagreement) == ("incomparable", 1, None)

    run(main())


def test_a_forgotten_version_is_loaded_again_for_the_shadow() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b", offset=1))
        await ask(fakes)
        await settled(fakes)
        fakes.service.forget("m")
        fakes.runner._models = {**fakes.runner._models, V2: total("a", offset=5)}
        await ask(fakes, payload=Payload("records", [{"a": 1.0, "b": 2.0}]))
        await settled(fakes)
        assert [result.outcome for _, result in fakes.recorder.shadows] == ["compared", "invalid_input"]

    run(main())


def test_the_backlog_includes_waiting_shadow_requests() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        reported: list[int] = []
        predict = fakes.runner.predict

        async def noting(version: ModelVersion, batch: Batch, backlog: Backlog, **how: Any) -> Output:
            if version == V2:
                reported.append(backlog.rows)
                await asyncio.sleep(5)
            return await predict(version, batch, backlog, **how)

        fakes.runner.predict = noting  # type: ignore[method-assign]
        await ask(fakes)
        await asyncio.sleep(1)
        await asyncio.gather(*(ask(fakes) for _ in range(3)))
        await asyncio.sleep(1)
        await ask(fakes, "m@challenger")
        assert reported[:2] == [0, 3]
        await settled(fakes)

    run(main())
