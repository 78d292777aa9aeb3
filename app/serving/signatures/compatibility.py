"""Tells what callers of one model version would stumble over with another one, by the two signatures alone.

`app.serving.releases.rollout` asks before an alias moves. Whatever is found here is refused there, so the rule is:
what the
old signature takes, the new one takes too, and reads in the same way. Two things are let pass, because they would
block nearly every change of a model: a caller of a new optional column who sends rows as lists has to send longer ones,
and a version without a signature checks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from app.errors import ModelUnavailable
from app.serving.signatures.columns import dtype_name
from app.serving.signatures.nested import type_name
from app.serving.signatures.scalars import FloatType
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import listed, short

Spec = Mapping[str, Any]
Specs = Sequence[Spec]

MOST_DIFFERENCES = 20
"""How many are told; a version of another model differs in every column."""

_WIDER = {"integer": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",)}
"""Types that take all values of another one. Numbers that are too long for the new type are rounded, not refused."""


def incompatibilities(
    before: Specs | None, after: Specs | None, params: tuple[Specs | None, Specs | None] = (None, None)
) -> list[str]:
    """What speaks against the one signature following the other, a sentence each without a full stop.

    Args:
        before: the inputs of a signature as MLflow's JSON, as in `ModelSpec.inputs`. None, and nothing is known of
            what callers send: nothing speaks against any other.
        after: the inputs that would follow. None takes whatever is sent.
        params: the parameters before and after, likewise.
    """
    try:
        Signature.compile(before, params=params[0])
    except ModelUnavailable:
        return []  # it answers nobody
    try:
        Signature.compile(after, params=params[1])
    except ModelUnavailable as error:
        return [error.message]
    found = [*_inputs(before or (), after or ()), *_parameters(params[0] or (), params[1] or ())]
    more = len(found) - MOST_DIFFERENCES
    return found if more <= 1 else [*found[:MOST_DIFFERENCES], f"there are {more} more differences"]


def _inputs(before: Specs, after: Specs) -> Iterator[str]:
    if not before or not after:
        return
    was_tensor, is_tensor = (specs[0]["type"] == "tensor" for specs in (before, after))
    if was_tensor and is_tensor:
        yield from _tensors(before, after)
    elif was_tensor or is_tensor:
        kinds = ("tensors", "columns") if was_tensor else ("columns", "tensors")
        yield f"the model takes {kinds[1]} instead of {kinds[0]}"
    elif _whole_rows(before) != _whole_rows(after):
        forms = ("any object", "an object of the columns")
        was, now = forms if _whole_rows(before) else forms[::-1]
        yield f"each row is {now} instead of {was}"
    else:
        yield from _columns(before, after)


def _columns(before: Specs, after: Specs) -> Iterator[str]:
    old, new = _named(before), _named(after)
    yield from _members("column", old, new, path="")
    if old.keys() == new.keys() and list(old) != list(new):
        # Nobody would be refused, which is worse: the model would get one column's values as another's.
        yield f"the columns are in another order, so rows sent as lists are read differently: {listed(list(new))}"


def _members(kind: str, old: Mapping[str, Spec], new: Mapping[str, Spec], path: str) -> Iterator[str]:
    """What differs between named values: columns, or the properties of an object."""
    for name, spec in old.items():
        where = f"{path}{kind} {short(name)}"
        if name not in new:
            yield f"{where} ({type_name(spec)}) is gone, and calls that still send it are refused"
            continue
        if _required(new[name]) and not _required(spec):
            yield f"{where} ({type_name(new[name])}) was optional and is required"
        yield from _type(spec, new[name], where, inner=bool(path))
    for name, spec in new.items():
        if name not in old and _required(spec):
            yield f"{path}{kind} {short(name)} ({type_name(spec)}) is new and required"


def _type(old: Spec, new: Spec, where: str, *, inner: bool) -> Iterator[str]:
    """What differs between two types; `inner` are those of values inside others."""
    was, now = (_plain(spec) for spec in (old, new))
    if was["type"] == now["type"]:
        if was["type"] == "object":
            yield from _members("property", was["properties"], now["properties"], f"{where}, ")
        elif was["type"] == "map":
            yield from _type(was["values"], now["values"], f"{where}, its values", inner=True)
        elif was["type"] == "array":
            # In a list `any` takes all but further lists: arrays of more dimensions come as such, not as values.
            shallow = _plain(was["items"])["type"] != "array"
            yield from _type(was["items"], now["items"], f"{where}, its items", inner=inner or shallow)
        return
    # As a column `any` takes all values too, but not for what they were: base64 becomes text, a row in a list a list.
    if not (inner and now["type"] == "any") and now["type"] not in _WIDER.get(was["type"], ()):
        yield f"{where} takes {type_name(new)} instead of {type_name(old)}"


def _plain(spec: Spec) -> Spec:
    return {"type": "array", "items": {"type": "double"}} if spec["type"] == "sparkml_vector" else spec


def _named(specs: Specs) -> dict[str, Spec]:
    """Columns by what callers call them, which is their position where they have no name."""
    return {str(spec.get("name", index)): spec for index, spec in enumerate(specs)}


def _required(spec: Spec) -> bool:
    return spec.get("required", True) is not False


def _whole_rows(specs: Specs) -> bool:
    """Whether each row is one value of an only column that has no name."""
    return len(specs) == 1 and "name" not in specs[0] and specs[0]["type"] in ("object", "map", "any")


def _tensors(before: Specs, after: Specs) -> Iterator[str]:
    old, new = ({spec.get("name") or "": spec["tensor-spec"] for spec in specs} for specs in (before, after))
    if len(old) == 1 and new.keys() == {""}:
        old = dict(zip(new, old.values(), strict=True))  # the only one without a name may be called anything
    for name, spec in old.items():
        where = f"tensor {short(name)}" if name else "the tensor"
        if name not in new:
            yield f"{where} is gone, and calls that still send it are refused" if name else "the tensor has a name now"
            continue
        was, now = (np.dtype(one["dtype"]) for one in (spec, new[name]))
        if not _takes_dtype(was, now):
            yield f"{where} takes {dtype_name(now)} instead of {dtype_name(was)}"
        if not _takes_shape(spec["shape"], new[name]["shape"]):
            yield f"{where} has the shape {list(new[name]['shape'])} instead of {list(spec['shape'])}"
    for name in new:
        if name not in old and "" not in old:
            yield f"tensor {short(name)} is new and required" if name else "the tensor has no name any more"


def _takes_dtype(was: np.dtype[Any], now: np.dtype[Any]) -> bool:
    if dtype_name(was) == dtype_name(now):
        return True
    if was.kind not in "iuf" or now.kind not in "iuf" or (was.kind == "f" and now.kind != "f"):
        return False
    low, high = _range(was)
    least, most = _range(now)
    return least <= low and high <= most


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The numbers that a tensor of the dtype takes."""
    if dtype.kind != "f":
        bounds = np.iinfo(dtype)
        return int(bounds.min), int(bounds.max)
    # What lies beyond the largest number is refused, unless it would be rounded to it.
    most = FloatType(dtype.name, dtype.name).limit
    return (-inf, inf) if most == inf else (np.nextafter(-most, 0.0), np.nextafter(most, 0.0))


def _takes_shape(was: Sequence[int], now: Sequence[int]) -> bool:
    if len(was) != len(now) or any(new not in (-1, old) for old, new in zip(was, now, strict=True)):
        return False
    # A row of a fixed shape may come flat, and one of a free shape may not.
    fixed = -1 not in was[1:]
    return list(was[1:]) == list(now[1:]) or not fixed or (len(was) == 2 and was[1] != 1)


def _parameters(before: Specs, after: Specs) -> Iterator[str]:
    new = {spec["name"]: spec for spec in after}
    for spec in before:
        where = f"parameter {short(spec['name'])}"
        now = new.get(spec["name"])
        if now is None:
            yield f"{where} is gone, and calls that still send it are refused"
        elif (spec.get("shape") is None) != (now.get("shape") is None):
            yield f"{where} {'is no list any more' if now.get('shape') is None else 'is a list now'}"
        else:
            yield from _type(spec, now, where, inner=True)
