import pytest

from app.errors import Overloaded
from app.serving.prediction.admission import Admission
from app.serving.references import ModelVersion
from app.settings import Limits

A = ModelVersion("a", "1")
B = ModelVersion("b", "1")


def make(**limits: int) -> Admission:
    defaults = {"requests": 10, "requests_per_model": 10, "rows": 100, "bytes": 1000}
    return Admission(Limits(**{f"queued_{name}": limit for name, limit in {**defaults, **limits}.items()}))


@pytest.mark.parametrize("limits", [{"requests_per_model": 1}, {"rows": 7}, {"bytes": 70}])
def test_a_request_over_a_limit_is_refused_with_a_retry_time(limits: dict[str, int]) -> None:
    admission = make(**limits)
    admission.admit(A, 5, 50)
    with pytest.raises(Overloaded) as caught:
        admission.admit(A, 5, 50)
    assert caught.value.details["retry_after_s"] == 1
    admission.release(A, 5, 50)
    admission.admit(A, 5, 50)
    assert (admission.rows, admission.nbytes) == (5, 50)


def test_a_request_counts_before_its_rows_are_known() -> None:
    admission = make(requests=1)
    admission.enter()
    with pytest.raises(Overloaded):
        admission.enter()
    admission.leave()
    admission.enter()
    assert admission.requests == 1


def test_one_busy_model_does_not_keep_another_out() -> None:
    admission = make(requests_per_model=1)
    admission.admit(A, 1, 1)
    admission.admit(B, 1, 1)
    assert admission.rows == 2


def test_a_request_over_a_bound_is_admitted_when_alone() -> None:
    admission = make(rows=10)
    admission.admit(A, 50, 1)
    assert admission.rows == 50


def test_released_requests_leave_no_counts_behind() -> None:
    admission = make()
    admission.admit(A, 2, 20)
    admission.admit(A, 1, 1)
    admission.release(A, 2, 20)
    admission.release(A, 1, 1)
    assert (admission.rows, admission.nbytes, admission.requests) == (0, 0, 0)


def send(admission: Admission, version: ModelVersion, caller: str | None = None) -> bool:
    """Send a request of ten rows; return whether it was admitted."""
    try:
        admission.enter(caller)
    except Overloaded:
        return False
    try:
        admission.admit(version, 10, 10, caller)
    except Overloaded:
        admission.leave(caller)
        return False
    return True


def fill(admission: Admission, version: ModelVersion, caller: str | None = None) -> int:
    """Send requests until one is refused; return how many were admitted."""
    count = 0
    while send(admission, version, caller):
        count += 1
        assert count < 1000
    return count


@pytest.mark.parametrize("limits", [{"rows": 1200}, {"bytes": 1200}, {"requests": 120, "requests_per_model": 120}])
def test_a_greedy_model_leaves_room_for_others(limits: dict[str, int]) -> None:
    admission = make(**{"rows": 10**6, "bytes": 10**6, "requests": 10**6, "requests_per_model": 10**6, **limits})
    found = [fill(admission, ModelVersion(name, "1")) for name in "abcd"]
    for got, fair in zip(found, (60, 30, 15, 7), strict=True):  # each may use what it leaves free
        assert abs(got - fair) <= 1, found


@pytest.mark.parametrize("limits", [{"rows": 1200}, {"bytes": 1200}, {"requests": 120}])
def test_a_greedy_caller_leaves_room_for_others(limits: dict[str, int]) -> None:
    admission = make(**{"rows": 10**6, "bytes": 10**6, "requests": 10**6, "requests_per_model": 10**6, **limits})
    found = []
    for caller in "abc":
        versions = [ModelVersion(f"{caller}{number}", "1") for number in range(100)]
        found.append(sum(send(admission, version, caller) for version in versions))
    for got, fair in zip(found, (60, 30, 15), strict=True):
        assert abs(got - fair) <= 1, found


def test_a_refusal_says_whose_requests_are_too_many() -> None:
    admission = make(requests=1000, requests_per_model=1000, bytes=10**6)
    fill(admission, A)
    with pytest.raises(Overloaded, match=r"50 rows for a/versions/1 are in progress, 50 in all"):
        admission.admit(A, 10, 10)
    admission = make(requests=10, requests_per_model=1000, rows=10**6, bytes=10**6)
    fill(admission, A, "desk")
    with pytest.raises(Overloaded, match=r"5 requests of this caller are in progress"):
        admission.enter("desk")


@pytest.mark.parametrize("caller", [None, "desk"])
def test_what_has_left_leaves_nothing(caller: str | None) -> None:
    admission = make()
    for _ in range(2):
        admission.enter(caller)
        admission.admit(A, 5, 50, caller)
        admission.release(A, 5, 50, caller)
        admission.leave(caller)
    assert (admission._models, admission._callers) == ({}, {})
    assert (admission.requests, admission.rows, admission.nbytes) == (0, 0, 0)
