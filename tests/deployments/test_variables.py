import os

import pytest

from app.deployments.variables import drop_emptied, without_secrets


def test_variables_that_look_like_secrets_are_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (
        "ML_SERVE_AUTH__PROXY_SECRET", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI",
        "HF_TOKEN", "DB_PASSWORD", "OPENAI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "PGPASSWORD", "kept_token"
    )  # fmt: skip
    for name in (*secret, "LISTED_TOKEN", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "KEYBOARD"):
        monkeypatch.setenv(name, "hunter2")
    found = without_secrets(["LISTED_TOKEN"])
    assert {*secret} <= found.keys()
    assert {"LISTED_TOKEN", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "KEYBOARD", "PATH"}.isdisjoint(found)
    assert {*found.values()} == {""}


def test_only_emptied_secrets_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HF_TOKEN", ""), ("KEPT_TOKEN", "x"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    drop_emptied()
    assert "HF_TOKEN" not in os.environ
    assert (os.environ["KEPT_TOKEN"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("x", "")  # empty: no GPU
