"""The bound on what a model may answer."""

from __future__ import annotations

from app.errors import ModelFailed


def check_answer(nbytes: int, most_bytes: int) -> None:
    """Raise `ModelFailed` for an answer of more bytes than allowed."""
    if nbytes > most_bytes:
        raise ModelFailed(
            f"the model's answer has {nbytes} bytes; the setting limits.answer_bytes allows {most_bytes}",
            {"answer_bytes": nbytes, "allowed_bytes": most_bytes},
        )
