"""Plugin for ``mlflow deployments``: the target ``ml-serve``, which MLflow finds by the package's entry point.

A deployment is a registered model and has its name. The gateway serves every registered model; to deploy one is to
choose its version, and to load and warm it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from ml_serve_client import DEFAULT_URL, ApiError, Client, ClientError, Model

KEY_VARIABLE = "ML_SERVE_API_KEY"
"""Variable with the API key or token of the calls."""
FLAVOR = "python_function"
"""The only flavor: the gateway serves every model as pyfunc."""
_SCHEME = "ml-serve"
_URI = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")
_STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_OPTIONS = {"promote": "true or false", "force": "true or false", "alias": "an alias", "timeout": "seconds"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def target_help() -> str:
    """Return the text of ``mlflow deployments help -t ml-serve``."""
    return f"""\
Target URI: ml-serve:http://HOST:PORT, the URL of a running gateway; ml-serve alone is {DEFAULT_URL}.

A deployment is a registered model and has its name. predict also takes name@alias and name/versions/N.

  create   loads the version of --model-uri (models:/NAME/VERSION or models:/NAME@ALIAS) on every replica of its pool
  update   does the same and moves the default alias to the version, so that the bare name stands for it
  get      shows the model: its versions and their states, its aliases, its default version
  list     shows every registered model
  predict  predicts; the input is a DataFrame, a dict of columns or tensors, or an array
  delete   unloads every version of the model; it stays registered, and the next call loads it again

Config:
  promote  true or false: move an alias to the version; create: false, update: true
  alias    the alias to move, instead of the default one
  force    true: promote an incompatible version, or one that fails its own input example
  timeout  seconds that a load may take
"""


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Deploy to the gateway on this machine, which ``ml-serve up`` starts; arguments are those of create."""
    MlServeDeploymentClient(_SCHEME).create_deployment(name, model_uri, flavor, config)


class MlServeDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]  # mlflow's types are not read
    """Deployment client of a gateway for the models of the MLflow registry.

    Every method raises `MlflowException`. Endpoints, and flavors other than ``python_function``, are refused.

    Args:
        target_uri: ``ml-serve:http://host:port``; ``ml-serve`` is the gateway on this machine.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._url = target_uri.partition(":")[2] or DEFAULT_URL
        try:
            Client(self._url).close()
        except ValueError as error:
            _refuse(f"the target must be ml-serve:http://HOST:PORT: {error}")

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Load a version; return once it is warm on every replica of its pool. A second call changes nothing.

        `target_help` describes the model URI and the config.

        Returns:
            The result of `get_deployment`, and the loaded ``version``.
        """
        return self._deploy(name, model_uri, flavor, config, endpoint, promote=False)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Load a version and move the default alias to it: `create_deployment` with ``promote`` by default."""
        if model_uri is None:
            _refuse(f"no version; give a model URI such as models:/{name}/2")
        return self._deploy(name, model_uri, flavor, config, endpoint, promote=True)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Unload every version of the model, or one version where the name is a reference.

        The model stays registered, and the next call loads it again. An unknown model is no error.
        """
        with self._calling(endpoint) as client:
            _options(config)
            try:
                model = client.model(name)
                if name != model.name:
                    client.unload(name)
                    return
                for version, facts in model.versions.items():
                    if facts.state != "cold":
                        client.unload(f"{name}/versions/{version}")
            except ApiError as error:
                if error.code != "model_not_found":
                    raise

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """List every registered model in the form of `get_deployment`."""
        with self._calling(endpoint) as client:
            return [_described(model) for model in client.models()]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Get a registered model: ``name``, ``flavor`` and the fields of `ml_serve_client.Model` as JSON values."""
        with self._calling(endpoint) as client:
            return _described(client.model(name))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Predict rows, columns or tensors.

        Args:
            deployment_name: a registered model's name, or ``name@alias``, ``name/versions/N``.
            inputs: a DataFrame, a Series, an array, a list of rows; or a dict of lists, arrays or values by column or
                tensor. Missing values become null.

        Returns:
            ``predictions``, ``model_name`` and ``model_version``. Predictions have the form of MLflow's scoring server,
            except that a Series is a list of its values.
        """
        with self._calling(endpoint) as client:
            if deployment_name is None:
                _refuse("no model; give the name of a deployment")
            answer = client.predict_inputs(deployment_name, _json_values(inputs))
        return PredictionsResponse(
            predictions=answer.predictions, model_name=answer.model, model_version=answer.version
        )

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> NoReturn:
        """Refuse: the gateway does not stream."""
        raise MlflowException("the target ml-serve does not stream: use predict", ErrorCode.Value("NOT_IMPLEMENTED"))

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> NoReturn:
        """Refuse: the gateway does not explain predictions."""
        raise MlflowException("the target ml-serve does not explain predictions", ErrorCode.Value("NOT_IMPLEMENTED"))

    def _deploy(
        self,
        name: str,
        model_uri: str,
        flavor: str | None,
        config: Mapping[str, Any] | None,
        endpoint: str | None,
        *,
        promote: bool,
    ) -> dict[str, Any]:
        with self._calling(endpoint) as client:
            if flavor not in (None, FLAVOR):
                _refuse(f"flavor '{flavor}' is not supported; the gateway serves every model as {FLAVOR}")
            ref = _reference(name, model_uri)
            options = {"promote": promote, **_options(config)}
            timeout, alias, force = options.get("timeout"), options.get("alias"), options.get("force", False)
            if not options["promote"] and (alias or force):
                _refuse("config 'alias' and 'force' need 'promote'")
            loaded = client.load(ref, timeout=timeout)
            if options["promote"]:
                client.promote(name, loaded.version, alias=alias, force=force, timeout=timeout)
            return {**_described(client.model(name)), "version": loaded.version}

    @contextmanager
    def _calling(self, endpoint: str | None) -> Iterator[Client]:
        """Make a client whose errors become `MlflowException`. Refuse an endpoint."""
        if endpoint is not None:
            _refuse("the target ml-serve has no endpoints; give the name of a deployment")
        try:
            with Client(self._url, api_key=os.environ.get(KEY_VARIABLE) or None) as client:
                yield client
        except ApiError as error:
            invalid = "INVALID_PARAMETER_VALUE" if 400 <= error.status < 500 else "INTERNAL_ERROR"
            raise MlflowException(str(error), ErrorCode.Value(_STATUSES.get(error.status, invalid))) from error
        except ClientError as error:
            hint = "is the gateway running? start it with: ml-serve up"
            raise MlflowException(f"{error}; {hint}", ErrorCode.Value("TEMPORARILY_UNAVAILABLE")) from error
        except (ValueError, TypeError) as error:
            raise MlflowException(str(error), ErrorCode.Value("INVALID_PARAMETER_VALUE")) from error


def _reference(name: str, model_uri: str) -> str:
    """Convert a model URI to a reference."""
    match = _URI.fullmatch(model_uri)
    if match is None:
        if model_uri.startswith("models:/"):
            _refuse(f"'{model_uri}' names no version: write models:/NAME/VERSION or models:/NAME@ALIAS")
        register = f"mlflow.register_model('{model_uri}', '{name}')"
        _refuse(f"the gateway serves registered models only; call {register}, then deploy models:/{name}/VERSION")
    registered, version, alias = match["name"], match["version"], match["alias"]
    if registered != name:
        _refuse(f"a deployment has the name of its model: '{registered}', not '{name}'")
    return f"{name}@{alias}" if alias else f"{name}/versions/{version}"


def _options(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parse the config, whose values are text on the command line."""
    options: dict[str, Any] = {}
    for key, value in (config or {}).items():
        text = str(value).lower()
        if key in ("promote", "force") and text in _TRUTH:
            options[key] = _TRUTH[text]
        elif key == "alias" and isinstance(value, str) and value:
            options[key] = value
        elif key == "timeout" and re.fullmatch(r"\d+(\.\d+)?", text) and float(text) > 0:
            options[key] = float(text)
        elif key in _OPTIONS:
            _refuse(f"config '{key}' is '{value}', expected {_OPTIONS[key]}")
        else:
            _refuse(f"config '{key}' is unknown; known are {', '.join(_OPTIONS)}")
    return options


def _described(model: Model) -> dict[str, Any]:
    return {"name": model.name, "flavor": FLAVOR, **asdict(model), "problems": list(model.problems)}


def _json_values(inputs: Any) -> Any:
    """Convert inputs to lists and values, by name where they have names; missing values become None."""
    if isinstance(inputs, pd.DataFrame | Mapping):
        return {str(name): _json_values(value) for name, value in inputs.items()}
    if isinstance(inputs, pd.Series):
        return inputs.astype(object).where(inputs.notna(), None).tolist()
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "M":
        return np.datetime_as_string(inputs).tolist()
    if isinstance(inputs, np.ndarray):
        return np.where(pd.isna(inputs), np.array(None), inputs).tolist()
    return inputs


def _refuse(message: str) -> NoReturn:
    raise MlflowException(message, ErrorCode.Value("INVALID_PARAMETER_VALUE"))
