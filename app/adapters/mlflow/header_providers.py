"""Providers of headers for MLflow's HTTP requests, which other installed packages add to MLflow."""
# ruff: noqa: PLC0415 - the import of MLflow reads its settings

from __future__ import annotations


def leave_out_feast() -> None:
    """Keep MLflow from importing Feast in every process that calls an MLflow server, which takes 6 s of CPU and 40 MB.

    Feast's provider adds a header only to requests that Feast makes itself.
    """
    from mlflow.utils import plugins

    every = plugins.get_entry_points
    plugins.get_entry_points = lambda group: [one for one in every(group) if one.name != "feast"]
    try:
        import mlflow.tracking.request_header.registry  # noqa: F401 - it loads the providers once, now
    finally:
        plugins.get_entry_points = every
