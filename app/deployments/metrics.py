"""Prometheus metrics of the models, recorded by each gateway replica."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from app.serving.model_ref import ModelVersion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_MAX_NAMES = 1000
_OTHER = "other"


class PrometheusRecorder:
    """Counts predictions, errors and batches by model and version.

    Names come from callers, so they are bounded: beyond a thousand different ones, new ones are counted as ``other``.
    """

    def __init__(self) -> None:
        model = ("model", "version")
        self._requests = Counter("ml_serve_requests", "Requests answered.", model)
        self._rows = Counter("ml_serve_rows", "Rows predicted.", model)
        self._seconds = Histogram("ml_serve_request_seconds", "Time to answer a request.", model, buckets=_SECONDS)
        self._errors = Counter("ml_serve_errors", "Requests answered with an error.", ("model", "code"))
        self._calls = Histogram("ml_serve_batch_seconds", "Time to predict one batch.", model, buckets=_SECONDS)
        self._batch_rows = Histogram("ml_serve_batch_rows", "Rows in one batch.", model, buckets=_ROWS)
        self._batch_requests = Histogram("ml_serve_batch_requests", "Requests in one batch.", model, buckets=_ROWS)
        self._answered: dict[ModelVersion, tuple[Counter, Counter, Histogram]] = {}
        self._called: dict[ModelVersion, tuple[Histogram, Histogram, Histogram]] = {}
        self._names: set[str] = set()

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        meters = self._answered.get(version)
        if meters is None:
            labels = (self._bounded(version.name), version.version)
            meters = self._answered[version] = (
                self._requests.labels(*labels),
                self._rows.labels(*labels),
                self._seconds.labels(*labels),
            )
        meters[0].inc()
        meters[1].inc(rows)
        meters[2].observe(seconds)

    def failed(self, name: str, code: str) -> None:
        self._errors.labels(self._bounded(name), code).inc()

    def called(self, version: ModelVersion, requests: int, rows: int, seconds: float) -> None:
        meters = self._called.get(version)
        if meters is None:
            labels = (self._bounded(version.name), version.version)
            meters = self._called[version] = (
                self._calls.labels(*labels),
                self._batch_rows.labels(*labels),
                self._batch_requests.labels(*labels),
            )
        meters[0].observe(seconds)
        meters[1].observe(rows)
        meters[2].observe(requests)

    def _bounded(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= _MAX_NAMES:
            return _OTHER
        self._names.add(name)
        return name
