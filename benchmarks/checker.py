"""`Checker`: during a load, check a few answers per second against the expected ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.endpoint import NO_ANSWER, Asker, Question, WrongAnswer

_EVERY_S = 0.3


@dataclass
class Checks:
    """Counts of the checks. `first` describes the first failure or wrong answer."""

    asked: int = 0
    failed: int = 0
    wrong: int = 0
    first: str | None = None


class Checker:
    """A thread that asks questions in turn. A context manager; read `checks` after it."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checker")
        self.checks = Checks()

    def __enter__(self) -> Checker:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with Asker() as asker:
            while not self._over.wait(_EVERY_S):
                check(asker, self._questions[self.checks.asked % len(self._questions)], self.checks)


def check(asker: Asker, question: Question, checks: Checks) -> None:
    """Ask one question and count the result."""
    checks.asked += 1
    try:
        asker.ask(question)
    except WrongAnswer as error:
        checks.wrong += 1
        checks.first = checks.first or str(error)
    except NO_ANSWER as error:
        checks.failed += 1
        checks.first = checks.first or repr(error)[:300]
