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
