"""Values from bytes: every text of bytes becomes some value, and a small change of the bytes a similar one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64)
_FLOATS = (0.0, -0.0, 0.5, 1e-320, 3.5e38, 1e308, -1e308, 16777217.0, 9.3e18)
_TEXTS = (
    "", "a", "x", "é", "\U0001f600", "\x00", "2024-02-29", "2024-01-01T00:00:00.123456789+23:59", "0001-01-01T00:00:00",
    "9999-12-31T23:59:59Z", "AQID", "AQI=\n", "=", "true", "1e400", "null", "7",
)  # fmt: skip
_KEYS = ("x", "n", "s", "a", "b", "any", "times", "y", "", "0", "boolean", "long", "datetime", "binary", "string")
_DEEPEST = 6


class Source:
    """Reads values from bytes; where they have ended, zeros follow."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def has_ended(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def choose(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def number(self) -> int:
        """Return a small number, one at a bound of a type, or any one."""
        kind = self.byte()
        if kind < 128:
            return kind % 8
        return self.choose(_NUMBERS) if kind < 224 else int.from_bytes(self.take(9), "little", signed=True)

    def text(self) -> str:
        kind = self.byte()
        if kind < 128:
            return self.choose(_TEXTS)
        return self.take(kind % 32).decode("utf-8", "replace") * (1 if kind < 250 else 2000)

    def json(self, depth: int = 0) -> Any:
        """Return a JSON value; those of a model's inputs are likely."""
        kind = self.byte() % (10 if depth < _DEEPEST else 7)
        match kind:
            case 0:
                return self.choose((None, True, False))
            case 1 | 2:
                return self.number()
            case 3 | 4:
                return self.choose(_FLOATS)
            case 5 | 6:
                return self.text()
            case 7 | 8:
                return [self.json(depth + 1) for _ in range(self.byte() % 4)]
            case _:
                return {self._key(): self.json(depth + 1) for _ in range(self.byte() % 5)}

    def _key(self) -> str:
        return self.choose(_KEYS) if self.byte() < 224 else self.text()
