"""Compare the answers of two models to the same rows, once per shadow request."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from app.serving.rows import Array, Output

_NUMBERS = frozenset("fc")
_LABELS = frozenset("iub")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Differences between two answers.

    `mismatched_rows` counts rows with another label (text, integer, boolean or object), or with a number where the
    other answer has none. `difference` is the mean and `largest` the maximum absolute difference of the numbers.
    `relative` is the mean difference relative to the larger of both numbers, from 0 to 2. All three are None without
    numbers.
    """

    rows: int
    mismatched_rows: int
    difference: float | None = None
    largest: float | None = None
    relative: float | None = None


def disagreement(mine: Output, base: Output) -> Disagreement | None:
    """Compare an answer with the base's. Returns None where columns, shapes or row counts differ."""
    if (_columns(mine), mine.count, len(mine.arrays)) != (_columns(base), base.count, len(base.arrays)):
        return None
    if any(one.shape != other.shape for one, other in zip(mine.arrays, base.arrays, strict=True)):
        return None
    mismatched: Array | None = None
    absolute: list[Array] = []
    relative: list[Array] = []
    for one, other in zip(map(_typed, mine.arrays), map(_typed, base.arrays), strict=True):
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
    """Return the mean of all numbers of an answer, integers and booleans included; None without numbers."""
    numbers = [array for array in map(_typed, output.arrays) if array.dtype.kind in "fiub" and array.size]
    if not numbers:
        return None
    values = np.concatenate([array.ravel().astype(np.float64) for array in numbers]) if len(numbers) > 1 else numbers[0]
    mean = _mean(values)
    if isfinite(mean):
        return mean
    finite = values[np.isfinite(values)]
    return _mean(finite) if finite.size else None


def _typed(array: Array) -> Array:
    """Convert objects that are whole numbers beside fractions, as lists have them, to floats."""
    if array.dtype.hasobject and {*map(type, array.flat)} == {int, float}:
        with suppress(OverflowError):
            return array.astype(np.float64)
    return array


def _columns(output: Output) -> tuple[str, ...]:
    return () if output.kind == "series" else output.names


def _mean(values: Array) -> float:
    """Return the mean, which is finite for finite values even where their sum overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean(dtype=np.float64))
        return mean if isfinite(mean) else float((values / values.size).sum(dtype=np.float64))


def _are_numbers(one: Array, other: Array) -> bool:
    kinds = {one.dtype.kind, other.dtype.kind}
    return bool(kinds & _NUMBERS) and kinds <= _NUMBERS | _LABELS


def _differences(one: Array, other: Array) -> tuple[Array, Array, Array | None]:
    """Return absolute differences, relative differences, and a mask of the cells with only one finite number.

    The mask is None, the usual case, where all numbers are finite.
    """
    wide = np.complex128 if "c" in (one.dtype.kind, other.dtype.kind) else np.float64
    mine, base = one.astype(wide, copy=False), other.astype(wide, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(mine - base)
    scale = np.maximum(np.abs(mine), np.abs(base))
    differ = None
    if difference.size and not isfinite(difference.max()):  # max() returns NaN if there is one
        same = (mine == base) | (np.isnan(mine) & np.isnan(base))
        difference[same] = scale[same] = 0.0
        known = np.isfinite(difference)
        difference, scale, differ = difference[known], scale[known], ~known
    scale[scale == 0.0] = 1.0  # both are zero, and so is their difference
    return difference, difference / scale, differ


def _labels_differ(one: Array, other: Array) -> Array:
    if one.dtype.kind != "O" and other.dtype.kind != "O":
        try:
            # NaT on both sides counts as equal.
            return np.asarray((one != other) & ~((one != one) & (other != other)), dtype=bool)  # noqa: PLR0124
        except TypeError:  # such as times and numbers
            return np.ones(one.shape, dtype=bool)
    pairs = zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
    return np.fromiter((not _is_same(mine, base) for mine, base in pairs), bool, one.size).reshape(one.shape)


def _is_same(mine: Any, base: Any) -> bool:
    """Return whether two values are equal or both NaN. Values of an object column may be lists, objects and arrays."""
    if isinstance(mine, np.ndarray) or isinstance(base, np.ndarray):
        return np.shape(mine) == np.shape(base) and bool(np.all(np.asarray(mine) == np.asarray(base)))
    try:
        return bool(mine == base or (mine != mine and base != base))  # noqa: PLR0124
    except (TypeError, ValueError, ArithmeticError):  # arrays in lists, signaling NaN
        return repr(mine) == repr(base)


def _joined(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
