"""``mlflow deployments`` for a gateway: the target ``ml-serve``, found by MLflow through the package's entry point.

A deployment is a registered model, called as it is registered. The gateway serves every one of them by itself; to
deploy is to choose the version, and to have it loaded and warm.
"""

from __future__ import annotations

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

FLAVOR = "python_function"
"""The only flavour: the gateway serves models as pyfunc loads them."""
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
    """What ``mlflow deployments help -t ml-serve`` shows."""
    return f"""\
Target URI: ml-serve:http://HOST:PORT, the URL of a running gateway; ml-serve alone is {DEFAULT_URL}.

A deployment is a model of the registry that the gateway reads, and has its name. predict takes name@alias and
name/versions/N too.

  create   loads the version of --model-uri (models:/NAME/VERSION or models:/NAME@ALIAS) on every replica of its pool
  update   the same, and callers of the bare name get this version from then on
  get      shows the model: its versions and their states, its aliases, what its bare name means
  list     shows every registered model
  predict  predicts; the input is a DataFrame, a dict of columns or tensors, or an array
  delete   lets every version of the model go from memory; it stays registered, and comes back when it is called

Config:
  promote  true or false: whether an alias is moved to the version; create: false, update: true
  alias    the alias that is moved, instead of the default one
  force    true: move it although the version takes other inputs than the one before, or fails its own example
  timeout  seconds that a load may take
"""


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Deploy to the gateway of this machine, which ``ml-serve up`` starts. Arguments and errors are those of create."""
    MlServeDeploymentClient(_SCHEME).create_deployment(name, model_uri, flavor, config)


class MlServeDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]  # mlflow's types are not read
    """Deploys models of the MLflow registry to a gateway.

    Every method raises `MlflowException`. Endpoints and flavours but ``python_function`` are refused.

    Args:
        target_uri: ``ml-serve:http://host:port``; ``ml-serve`` is the gateway of this machine.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._url = target_uri.partition(":")[2] or DEFAULT_URL
        try:
            Client(self._url).close()
        except ValueError as error:
            _refuse(f"the target must be ml-serve:http://HOST:PORT, for {error}")

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Load a version; returns once it is warm on every replica of its pool. Doing it again changes nothing.

        Args:
            name: the registered model's name.
            model_uri: ``models:/name/3`` or ``models:/name@alias``.
            config: ``promote``: whether callers of the bare name get this version from now on, which is not so by
                default, or those of the alias ``alias``; ``force``: also where it takes other inputs than the version
                before, or fails its own example; ``timeout``: seconds that the load may take.

        Returns:
            What `get_deployment` does, and the version loaded.
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
        """Load a version and let callers of the bare name get it: `create_deployment` with ``promote`` by default."""
        if model_uri is None:
            _refuse(f"which version? Give a model URI such as models:/{name}/2: there is nothing else to update")
        return self._deploy(name, model_uri, flavor, config, endpoint, promote=True)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Let every version of the model go from memory, or one where the name is a reference.

        The model stays registered, and comes back when it is called. One that does not exist is no error.
        """
        _check(endpoint=endpoint)
        _options(config)
        with self._calling() as client:
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
        """Every registered model, as `get_deployment` describes it."""
        _check(endpoint=endpoint)
        with self._calling() as client:
            return [_described(model) for model in client.models()]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """A registered model: ``name``, ``flavor``, and what `ml_serve_client.Model` has. JSON values only."""
        _check(endpoint=endpoint)
        with self._calling() as client:
            return _described(client.model(name))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Predict.

        Args:
            deployment_name: a registered model's name, or ``name@alias``, ``name/versions/N``.
            inputs: a DataFrame, a Series, an array, a list of rows; or a dict of lists, arrays or values by column or
                tensor. Missing values are null.

        Returns:
            ``predictions`` as MLflow's own server writes them, and ``model_name`` and ``model_version``.
        """
        _check(endpoint=endpoint)
        if deployment_name is None:
            _refuse("which model? Give the name of a deployment")
        with self._calling() as client:
            answer = client.predict_inputs(deployment_name, _json_values(inputs))
        found = {"predictions": answer.predictions, "model_name": answer.model, "model_version": answer.version}
        return PredictionsResponse(found)

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> NoReturn:
        """Not offered: predictions are answered whole."""
        raise MlflowException("the target ml-serve does not stream: use predict", _code("NOT_IMPLEMENTED"))

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> NoReturn:
        """Not offered."""
        raise MlflowException("the target ml-serve does not explain predictions", _code("NOT_IMPLEMENTED"))

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
        _check(endpoint=endpoint, flavor=flavor)
        ref = _reference(name, model_uri)
        options = _options(config)
        timeout, alias, force = options.get("timeout"), options.get("alias"), options.get("force", False)
        if not options.get("promote", promote) and (alias or force):
            _refuse("config 'alias' and 'force' go with 'promote': without it nothing is moved")
        with self._calling() as client:
            loaded = client.load(ref, timeout=timeout)
            if options.get("promote", promote):
                client.promote(name, loaded.version, alias=alias, force=force, timeout=timeout)
            return {**_described(client.model(name)), "version": loaded.version}

    @contextmanager
    def _calling(self) -> Iterator[Client]:
        """A client whose errors are MLflow's."""
        try:
            with Client(self._url) as client:
                yield client
        except ApiError as error:
            invalid = "INVALID_PARAMETER_VALUE" if 400 <= error.status < 500 else "INTERNAL_ERROR"
            raise MlflowException(str(error), _code(_STATUSES.get(error.status, invalid))) from error
        except ClientError as error:
            hint = "is the gateway running? It is started with: ml-serve up"
            raise MlflowException(f"{error}; {hint}", _code("TEMPORARILY_UNAVAILABLE")) from error
        except (ValueError, TypeError) as error:
            raise MlflowException(str(error), _code("INVALID_PARAMETER_VALUE")) from error


def _reference(name: str, model_uri: str) -> str:
    """The reference that a model URI means."""
    match = _URI.fullmatch(model_uri)
    if match is None:
        if model_uri.startswith("models:/"):
            _refuse(f"'{model_uri}' names no version: write models:/NAME/VERSION or models:/NAME@ALIAS")
        register = f"mlflow.register_model('{model_uri}', '{name}')"
        _refuse(f"the gateway serves registered models: call {register}, then deploy models:/{name}/VERSION")
    registered, version, alias = match["name"], match["version"], match["alias"]
    if registered != name:
        _refuse(f"a deployment is called as its model is registered: '{registered}', not '{name}'")
    return f"{name}@{alias}" if alias else f"{name}/versions/{version}"


def _options(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config with its types: on the command line all values are texts."""
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
            _refuse(f"config '{key}' is not known; there are {', '.join(_OPTIONS)}")
    return options


def _check(*, endpoint: str | None, flavor: str | None = None) -> None:
    if endpoint is not None:
        _refuse("the target ml-serve has no endpoints: name a deployment")
    if flavor not in (None, FLAVOR):
        _refuse(f"flavor '{flavor}' cannot be chosen: the gateway serves every model as {FLAVOR}")


def _described(model: Model) -> dict[str, Any]:
    return {"name": model.name, "flavor": FLAVOR, **asdict(model), "problems": list(model.problems)}


def _json_values(inputs: Any) -> Any:
    """Lists and values, by name where the inputs have names; what is missing is None."""
    if isinstance(inputs, pd.DataFrame):
        return {str(name): _column(column) for name, column in inputs.items()}
    if isinstance(inputs, Mapping):
        return {str(name): _json_values(value) for name, value in inputs.items()}
    if isinstance(inputs, pd.Series):
        return _column(inputs)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "M":
        return np.datetime_as_string(inputs).tolist()
    if isinstance(inputs, np.ndarray):
        return np.where(pd.isna(inputs), np.array(None), inputs).tolist()
    return inputs


def _column(column: pd.Series[Any]) -> list[Any]:
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values


def _code(name: str) -> int:
    code: int = ErrorCode.Value(name)
    return code


def _refuse(message: str) -> NoReturn:
    raise MlflowException(message, _code("INVALID_PARAMETER_VALUE"))
