from __future__ import annotations

import contextvars
import subprocess
import sys
import threading

import pytest

from app.adapters.mlflow.timeouts import BoundedCalls

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


def fail(error: Exception) -> None:
    raise error


def test_a_call_returns_and_raises_as_the_work_does() -> None:
    calls = BoundedCalls()
    assert calls.run(lambda: 3, 10) == 3
    with pytest.raises(KeyError):
        calls.run(lambda: fail(KeyError("x")), 10)


def test_the_work_sees_its_callers_context() -> None:
    TENANT.set("desk")
    assert BoundedCalls().run(TENANT.get, 10) == "desk"


def test_no_call_is_made_while_eight_hang() -> None:
    calls = BoundedCalls()
    release = threading.Event()
    begun: list[int] = []

    def hang() -> None:
        begun.append(1)
        release.wait(30)

    before = threading.active_count()
    for _ in range(12):
        with pytest.raises(TimeoutError):
            calls.run(hang, 0.01)
    assert len(begun) == 8
    release.set()
    while threading.active_count() > before:
        release.wait(0)
    assert calls.run(lambda: 3, 10) == 3


def test_a_timeout_error_of_the_work_does_not_count_as_hanging() -> None:
    calls = BoundedCalls()
    for _ in range(20):
        with pytest.raises(TimeoutError, match="its own"):
            calls.run(lambda: fail(TimeoutError("its own")), 10)


def test_a_hanging_call_does_not_keep_the_process_from_ending() -> None:
    code = (
        "import time; from app.adapters.mlflow.timeouts import BoundedCalls\n"
        "BoundedCalls().run(lambda: time.sleep(300), 0.1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("TimeoutError: did not answer within 0.1 s\n")
