"""Build the settings from the environment and a YAML file, and describe errors."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasChoices, BaseModel, ValidationError

from app.errors import StartupError
from app.settings.groups import PREFIX, PoolSettings
from app.settings.model import OVERRIDES, Settings
from app.settings.observation import ENDPOINT_VARIABLE

CONFIG_VARIABLE = "ML_SERVE_CONFIG"
URL_VARIABLE = "ML_SERVE_URL"
"""URL of the gateway for client commands. Not a setting of the gateway."""
KEY_VARIABLE = "ML_SERVE_API_KEY"
"""API key or token that client commands send. Not a setting of the gateway."""

_PRIVATE = ("secret", "token", "key", "uri", "url", "endpoint")
"""A setting with one of these words in its name may hold a credential. Error messages omit its value."""
_NOT_JSON = re.compile(r'error parsing value for field "(\w+)"')
"""pydantic-settings names the field only in its message."""


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings from the environment and an optional YAML file.

    Args:
        config: the YAML file; by default the file that ``ML_SERVE_CONFIG`` names, if any.
        overrides: fields set by command-line options, which override every source; None means not given.

    Raises:
        StartupError: an unknown key, an invalid value or an unreadable file. Names the key and the allowed values.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    from_file = _read_yaml(config) if config else {}
    faults = [
        *_unknown_variables(os.environ),
        *_unknown_keys(from_file, str(config)),
        *_unknown_keys(overrides, "the arguments"),
    ]
    if faults:
        raise StartupError("\n".join(faults))
    try:
        given = {key: value for key, value in overrides.items() if value is not None}
        return Settings.model_validate({**from_file, OVERRIDES: given})
    except ValidationError as error:
        raise StartupError("\n".join(_describe(error, config))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StartupError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        # The error's own text quotes the file, including secrets.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise StartupError(f"the configuration file {path} is not valid YAML{where}") from None
    if not isinstance(content, dict | None):
        raise StartupError(f"the configuration file {path} must be a mapping of settings")
    return content or {}


def environment_names() -> Iterator[tuple[str, str]]:
    """Yield every environment variable, with the dotted name of its field."""
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [f"{PREFIX}{name.upper()}"]
        for choice in names:
            yield str(choice), name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner in field.annotation.model_fields:
                yield f"{PREFIX}{name.upper()}__{inner.upper()}", f"{name}.{inner}"
    yield ENDPOINT_VARIABLE, "traces.endpoint"


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = {name for name, _ in environment_names()} | {CONFIG_VARIABLE, URL_VARIABLE, KEY_VARIABLE}
    return [
        f"unknown setting {variable}{_did_you_mean(variable, known)}"
        for variable in sorted(environment)
        if variable.startswith(PREFIX) and variable not in known and not variable.startswith(f"{PREFIX}POOLS__")
    ]


def _unknown_keys(content: Mapping[str, Any], source: str) -> list[str]:
    known = list(Settings.model_fields)
    return [
        f"unknown setting '{key}' in {source}{_did_you_mean(str(key), known)}" for key in content if key not in known
    ]


def _did_you_mean(word: str, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {written(close[0])}?" if close else "; see docs/settings.md"


def _describe(error: ValidationError, config: Path | None) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        loc = [str(part) for part in fault["loc"]]
        dotted = ".".join(loc)
        if not loc:
            not_json = _NOT_JSON.search(fault["msg"])
            yield f"bad setting {_variable(not_json[1])}: it must be JSON" if not_json else "the settings are invalid"
        elif fault["type"] == "extra_forbidden":
            yield _unknown_nested(loc, config)
        else:
            shown = isinstance(fault["input"], str | int | float) and not any(word in dotted for word in _PRIVATE)
            value = f"={fault['input']!r}" if shown else ""
            yield f"bad setting {_named(dotted, config)}{value}: {fault['msg']}"


def _unknown_nested(loc: list[str], config: Path | None) -> str:
    """Describe an unknown key of a group, such as ``limits.rwos``."""
    *path, key = loc
    group: Any = PoolSettings if path[0] == "pools" else Settings.model_fields[path[0]].annotation
    is_variable = bool(os.environ.get(_variable(".".join(loc))))

    def written(name: str) -> str:
        dotted = ".".join([*path, name])
        return _variable(dotted) if is_variable else f"'{dotted}'"

    parents = (_variable(".".join(path)), _variable(path[0]))
    source = None if is_variable else next((name for name in parents if os.environ.get(name)), config)
    where = f" in {source}" if source else ""
    return f"unknown setting {written(key)}{where}{_did_you_mean(key, group.model_fields, written)}"


def _named(dotted: str, config: Path | None) -> str:
    """Name the setting as the operator wrote it: as a variable, or as a key of the file."""
    variable = _variable(dotted)
    return variable if os.environ.get(variable) else f"'{dotted}'" + (f" in {config}" if config else "")


def _variable(dotted: str) -> str:
    """Return the variable of a setting; of several, the one that is set."""
    names = (name for name, field in environment_names() if field == dotted and os.environ.get(name))
    return next(names, PREFIX + dotted.upper().replace(".", "__"))
