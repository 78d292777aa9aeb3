"""Accelerators: faster ways to call a model, used only where they are proven to answer the same.

MLflow gives a model a DataFrame. scikit-learn checks it and turns it into an array, and starts a job for each tree of a
forest. LightGBM and XGBoost check and convert it too. An accelerator skips that. It is used for a version if its
answers to many rows are equal to the bit, in dtype and in shape, and if it takes at most half the time. Figures:
``docs/adr/0028-accelerators.md``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mlflow.pyfunc import PyFuncModel

from app.adapters.mlflow.model_io import model_input, model_output
from app.serving.rows import Array, Batch, Layout, Output

log = logging.getLogger(__name__)

Call = Callable[[Array], Any]
"""Predicts an array of rows and columns in the order that a DataFrame has: the values of a column lie side by side."""

LEAST_GAIN = 2.0
"""How many times faster an accelerator has to be for one row."""

SLOW_S = 0.5
"""Seconds of one prediction above which nothing is proven: a proof takes about fifteen predictions."""

_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32"}
_TIMES = 5
_BATCHES = (1, 1, 1, 7, 100)
"""Rows of the batches that are predicted both ways."""


class Accelerator(NamedTuple):
    """A proven way to call a model with batches of one layout."""

    name: str
    layout: Layout
    call: Call

    def takes(self, batch: Batch) -> bool:
        """Return whether the proof holds for a batch."""
        return batch.layout == self.layout and batch.count > 0

    def predict(self, batch: Batch) -> Output:
        """Predict a batch; raises whatever the model raises."""
        return model_output(self.call(_array(batch)))


def find(model: PyFuncModel, inputs: Sequence[Mapping[str, Any]] | None) -> Accelerator | None:
    """Return the first accelerator that is proven for a model, None if there is none. Predicts several times.

    Args:
        inputs: the input part of its signature.
    """
    layout = _layout(inputs)
    if layout is None:
        return None
    batches = [*_samples(model, layout)]
    for name in _BY_NAME:
        found = named(name, model, layout)
        try:
            if found is not None and _is_proven(model, found, batches):
                return found
        except BaseException as error:
            log.info("accelerator not used: name=%s error=%s", name, type(error).__name__)
    return None


def named(name: str, model: PyFuncModel, layout: Layout) -> Accelerator | None:
    """Return an accelerator that was proven for another copy of the model; None if the model is of another kind."""
    call = _BY_NAME[name](model)
    return Accelerator(name, layout, call) if call is not None else None


def _layout(inputs: Sequence[Mapping[str, Any]] | None) -> Layout | None:
    """Return the layout of columns of one numeric type, None for any other signature."""
    types = {column["type"] for column in inputs or ()}
    names = tuple(str(column.get("name", "")) for column in inputs or ())
    if len(types) != 1 or not types <= _DTYPES.keys() or "" in names:
        return None
    return Layout("columns", names, (_DTYPES[types.pop()],) * len(names), ((),) * len(names))


def _array(batch: Batch) -> Array:
    """Return a copy of the rows as they lie in the DataFrame that the model would get.

    The model may write into it and raise then; the batch is predicted the usual way after that.
    """
    return np.stack(batch.arrays).T


# ---- The accelerators. Each returns a call for a model of its kind, or None.


def _trees(pyfunc: PyFuncModel) -> Call | None:
    """Ask each tree of a forest in turn and add the answers in the same order: scikit-learn starts a job per tree."""
    model: Any = getattr(pyfunc._model_impl, "sklearn_model", None)
    kind = f"{type(model).__module__}.{type(model).__name__}"
    asked = pyfunc._predict_fn.__name__
    if kind not in _TREES or model.n_outputs_ != 1 or asked not in ("predict", "predict_proba"):
        return None
    is_forest, is_classifier = hasattr(model, "estimators_"), kind.endswith("Classifier")
    trees = [one.tree_ for one in model.estimators_] if is_forest else [model.tree_]
    width = model.n_classes_ if is_classifier else 1

    def total(rows: Array) -> Array:
        with np.errstate(over="ignore"):
            values = rows.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("scikit-learn decides about missing and infinite values")
        if not is_forest:
            found: Array = trees[0].predict(values)
            return found[:, :width]
        answer = np.zeros((len(values), width))
        for one in trees:
            answer += one.predict(values)[:, :width]
        answer /= len(trees)
        return answer

    if asked == "predict_proba":
        return total
    if is_classifier:
        return lambda rows: model.classes_.take(np.argmax(total(rows), axis=1), axis=0)
    return lambda rows: total(rows)[:, 0]


def _boosters(pyfunc: PyFuncModel) -> Call | None:
    """Ask the booster of LightGBM or XGBoost itself: the models around it check and convert each input again."""
    if pyfunc._predict_fn.__name__ != "predict":
        return None
    model: Any = pyfunc.get_raw_model()
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if kind == "xgboost.core.Booster":
        return partial(_xgboost, model)
    if kind not in _LIGHTGBM:
        return None
    usual = type(model)().get_params()
    further = {name: value for name, value in model.get_params().items() if name not in usual}
    ask: Call = partial(model.booster_.predict, **further)  # some of them are for predictions
    if kind != _LIGHTGBM_CLASSIFIER:
        return ask

    def labels(rows: Array) -> Array:
        found = ask(rows)
        by_class = found if found.ndim == 2 else np.stack([1.0 - found, found], axis=1)
        answer: Array = model.classes_.take(np.argmax(by_class, axis=1), axis=0)
        return answer

    return labels


def _xgboost(booster: Any, rows: Array) -> Any:
    with np.errstate(over="ignore"):
        values = rows.astype(np.float32)
    if np.isinf(values).any():
        raise ValueError("XGBoost decides about infinite values")
    return booster.inplace_predict(values)


def _arrays(pyfunc: PyFuncModel) -> Call | None:
    """Give the model the array that it would make of the DataFrame."""
    predict: Call = pyfunc._predict_fn
    return predict


_TREES = {
    f"{module}{kind}"
    for module, names in (
        ("sklearn.tree._classes.", ("DecisionTree", "ExtraTree")),
        ("sklearn.ensemble._forest.", ("RandomForest", "ExtraTrees")),
    )
    for name in names
    for kind in (f"{name}Regressor", f"{name}Classifier")
}
"""Names of the classes themselves: a class that extends one may predict in another way."""
_LIGHTGBM_CLASSIFIER = "lightgbm.sklearn.LGBMClassifier"
_LIGHTGBM = {_LIGHTGBM_CLASSIFIER, "lightgbm.sklearn.LGBMRegressor"}
_BY_NAME: dict[str, Callable[[PyFuncModel], Call | None]] = {"trees": _trees, "booster": _boosters, "array": _arrays}
"""The fastest one first."""


# ---- The proof.


def _samples(model: PyFuncModel, layout: Layout) -> Iterator[Batch]:
    """Yield batches of the example's rows, of values near and far from them, and of extreme ones."""
    random = np.random.default_rng(0)
    width = len(layout.names)
    rows = _example(model, layout)
    if not len(rows):
        rows = np.ones((1, width))
    for count in _BATCHES:
        centers = rows[random.integers(len(rows), size=count)]
        spread = 10.0 ** random.integers(-3, 4, size=(count, width))
        yield _batch(layout, centers + spread * np.maximum(abs(centers), 1) * random.normal(size=(count, width)))
    yield _batch(layout, rows)
    yield _batch(layout, np.array([np.zeros(width), np.full(width, -1.0), np.full(width, 1e9), np.full(width, -1e9)]))
    if layout.dtypes[0].startswith("float"):
        yield _batch(layout, np.array([np.full(width, value) for value in (1e-300, 1e30, 1e300)]))
        yield _batch(layout, np.full((1, width), np.nan))
        yield _batch(layout, np.full((1, width), np.inf))


def _example(model: PyFuncModel, layout: Layout) -> Array:
    try:
        return np.asarray(model.input_example[list(layout.names)], dtype=float)[:100]
    except Exception:
        return np.empty((0, len(layout.names)))


def _batch(layout: Layout, rows: Array) -> Batch:
    dtype = np.dtype(layout.dtypes[0])
    if dtype.kind == "i":
        rows = np.clip(np.round(rows), np.iinfo(np.int32).min, np.iinfo(np.int32).max)
    with np.errstate(over="ignore"):
        block = np.ascontiguousarray(rows.T.astype(dtype))
    return Batch(layout, tuple(block), len(rows))


def _is_proven(model: PyFuncModel, accelerator: Accelerator, batches: Sequence[Batch]) -> bool:
    def usual(batch: Batch) -> Output:
        return model_output(model.predict(model_input(batch)))

    usual_s = _seconds(lambda: usual(batches[0]), 1)
    if usual_s > SLOW_S:
        return False
    for batch in batches:
        expected, found = _tried(partial(usual, batch)), _tried(partial(accelerator.predict, batch))
        if found is None and not _is_ordinary(batch):
            continue  # the usual way predicts such batches
        if expected is None or found is None:
            if expected is not found:
                return False
        elif not _is_equal(found, expected):
            return False
    gain = _seconds(lambda: usual(batches[0]), _TIMES) / _seconds(lambda: accelerator.predict(batches[0]), _TIMES)
    return gain >= LEAST_GAIN


def _tried(call: Callable[[], Output]) -> Output | None:
    """Return the answer, None for an error."""
    try:
        return call()
    except BaseException:
        return None


def _is_ordinary(batch: Batch) -> bool:
    """Return whether all values are finite, in 32 bits too."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.stack(batch.arrays).astype(np.float32)).all())


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the time of the fastest of some calls."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def _is_equal(first: Output, second: Output) -> bool:
    if (first.kind, first.names, first.count) != (second.kind, second.names, second.count):
        return False
    return all(
        one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()
        if one.dtype.hasobject
        else one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in zip(first.arrays, second.arrays, strict=True)
    )
