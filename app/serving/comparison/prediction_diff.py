"""How far two models' answers to the same rows are apart; pure, one call per copied request."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from app.serving.rows import Array, Output

_NUMBERS = frozenset("fc")
_LABELS = frozenset("iub")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two answers compared.

    `mismatched_rows` are those with another label (text, a whole number, a truth value, an object), or with a number
    where the other has none. `difference` is the mean and `largest` the greatest absolute difference of the numbers,
    `relative` the mean of them in relation to the greater of both, from 0 to 2; None where there are no numbers.
    """

    rows: int
    mismatched_rows: int
    difference: float | None = None
    largest: float | None = None
    relative: float | None = None


def disagreement(mine: Output, base: Output) -> Disagreement | None:
    """Compare an answer with the base's; None where they have another form: other columns, shapes or rows."""
    if (mine.names, mine.count, len(mine.arrays)) != (base.names, base.count, len(base.arrays)):
        return None
    if any(one.shape != other.shape for one, other in zip(mine.arrays, base.arrays, strict=True)):
        return None
    mismatched: Array | None = None
    absolute: list[Array] = []
    relative: list[Array] = []
    for one, other in zip(mine.arrays, base.arrays, strict=True):
        if _are_numbers(one, other):
            difference, ratio, differ = _differences(one, other)
            absolute.append(difference)
            relative.append(ratio)
        else:
            differ = _labels_differ(one, other)
        if differ is not None:
            by_row = np.asarray(differ.any(axis=tuple(range(1, differ.ndim))))
            mismatched = by_row if mismatched is None else np.logical_or(mismatched, by_row)
    rows = 0 if mismatched is None else int(np.count_nonzero(mismatched))
    numbers = _joined(absolute)
    if not numbers.size:
        return Disagreement(base.count, rows)
    return Disagreement(base.count, rows, _mean(numbers), float(numbers.max()), float(_joined(relative).mean()))


def mean_prediction(output: Output) -> float | None:
    """The mean of all numbers, whole ones and truth values among them, of an answer; None where it has none."""
    numbers = [array for array in output.arrays if array.dtype.kind in "fiub" and array.size]
    if not numbers:
        return None
    values = np.concatenate([array.ravel().astype(np.float64) for array in numbers]) if len(numbers) > 1 else numbers[0]
    mean = _mean(values)
    if isfinite(mean):
        return mean
    finite = values[np.isfinite(values)]
    return _mean(finite) if finite.size else None


def _mean(values: Array) -> float:
    """Finite where all of the values are, also where their sum is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean(dtype=np.float64))
        return mean if isfinite(mean) else float((values / values.size).sum(dtype=np.float64))


def _are_numbers(one: Array, other: Array) -> bool:
    kinds = {one.dtype.kind, other.dtype.kind}
    return bool(kinds & _NUMBERS) and kinds <= _NUMBERS | _LABELS


def _differences(one: Array, other: Array) -> tuple[Array, Array, Array | None]:
    """Differences of the numbers, absolute and relative to the greater of both, and the cells that cannot have any.

    These are where only one of the two is a finite number; None where both always are, which is the usual case.
    """
    wide = np.complex128 if "c" in (one.dtype.kind, other.dtype.kind) else np.float64
    mine, base = one.astype(wide, copy=False), other.astype(wide, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(mine - base)
    scale = np.maximum(np.abs(mine), np.abs(base))
    differ = None
    if difference.size and not isfinite(difference.max()):  # which a NaN goes through
        same = (mine == base) | (np.isnan(mine) & np.isnan(base))
        difference[same] = scale[same] = 0.0
        known = np.isfinite(difference)
        difference, scale, differ = difference[known], scale[known], ~known
    scale[scale == 0.0] = 1.0  # both are zero: they differ by nothing
    return difference, difference / scale, differ


def _labels_differ(one: Array, other: Array) -> Array:
    if one.dtype.kind != "O" and other.dtype.kind != "O":
        try:
            # Times that are missing on both sides are the same.
            return np.asarray((one != other) & ~((one != one) & (other != other)), dtype=bool)  # noqa: PLR0124
        except TypeError:  # such as times beside numbers
            return np.ones(one.shape, dtype=bool)
    pairs = zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
    return np.fromiter((not _is_same(mine, base) for mine, base in pairs), bool, one.size).reshape(one.shape)


def _is_same(mine: Any, base: Any) -> bool:
    """Equal, or both not a number; in an object column values may be lists, objects and arrays."""
    if isinstance(mine, np.ndarray) or isinstance(base, np.ndarray):
        return np.shape(mine) == np.shape(base) and bool(np.all(np.asarray(mine) == np.asarray(base)))
    try:
        return bool(mine == base or (mine != mine and base != base))  # noqa: PLR0124
    except (TypeError, ValueError, ArithmeticError):  # arrays within lists, signalling NaN
        return repr(mine) == repr(base)


def _joined(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
