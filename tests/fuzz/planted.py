"""A target with a fault, which the fuzzer must find."""

from __future__ import annotations


def planted(data: bytes) -> None:
    """Fail on three certain bytes, one after the other."""
    if data[:1] == b"b" and data[1:2] == b"u" and data[2:3] == b"g":
        raise AssertionError("a planted fault")
