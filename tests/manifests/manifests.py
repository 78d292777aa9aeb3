"""Load the manifests under `k8s/` and the schemas of their kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "schemas"

Object = dict[str, Any]


def _read(folder: Path) -> Iterator[tuple[str, Object]]:
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            name = f"{path.relative_to(folder)}:{document['kind']}/{document['metadata']['name']}"
            yield name, document


MANIFESTS = dict(_read(ROOT / "k8s"))
BUILT_IN_GROUPS = re.compile(r"(v1|apps/v1|.*\.k8s\.io/v1)$")
BUILT_IN = {name: document for name, document in MANIFESTS.items() if BUILT_IN_GROUPS.match(document["apiVersion"])}
CUSTOM = {name: document for name, document in MANIFESTS.items() if name not in BUILT_IN}


def the(kind: str, name: str) -> Object:
    """Return the only manifest of this kind and name."""
    (found,) = [d for d in MANIFESTS.values() if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


RAY_SERVICE: Object = the("RayService", "ray-serve-cluster")["spec"]
CLUSTER: Object = RAY_SERVICE["rayClusterConfig"]
PODS: dict[str, Object] = {
    "head": CLUSTER["headGroupSpec"]["template"],
    "worker": CLUSTER["workerGroupSpecs"][0]["template"],
}
CONTAINERS: dict[str, Object] = {role: pod["spec"]["containers"][0] for role, pod in PODS.items()}


def pins(name: str) -> dict[str, set[str]]:
    """Return the versions that `requirements/<name>.txt` locks; several if they differ by Python version."""
    versions: dict[str, set[str]] = {}
    locked = (ROOT / f"requirements/{name}.txt").read_text()
    for package, version in re.findall(r"^([\w.\-]+)(?:\[.*\])?==(\S+)", locked, re.M):
        versions.setdefault(package, set()).add(version)
    return versions


def closed(schema: Any) -> Any:
    """Convert a CRD's structural schema to a JSON schema that rejects unknown fields, as `kubectl apply` does.

    CEL rules (`x-kubernetes-validations`) are not evaluated.
    """
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if "items" in schema:
        result["items"] = closed(schema["items"])
    if "properties" in schema:
        result["properties"] = {key: closed(value) for key, value in schema["properties"].items()}
    if schema.get("x-kubernetes-embedded-resource"):
        implied: dict[str, Any] = {"apiVersion": {}, "kind": {}, "metadata": {}}
        result["properties"] = {**implied, **result.get("properties", {})}
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return {"anyOf": [{"type": "null"}, result]} if schema.get("nullable") else result


@cache
def validator_of(api_version: str, kind: str) -> Any:
    """Return the validator of one version of a custom resource."""
    group, _, version = api_version.partition("/")
    (text,) = [
        text
        for path in (SCHEMAS / "crds").glob(f"*/{group}_*.yaml")
        if f"\n    kind: {kind}\n" in (text := path.read_text())
    ]
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [entry["schema"]["openAPIV3Schema"] for entry in versions if entry["name"] == version]
    result = closed(schema)
    # The API server validates metadata against its own type, not against the CRD.
    result["properties"]["metadata"] = {"type": "object"}
    return Draft4Validator(result)


def faults_of(document: Object) -> list[str]:
    validator = validator_of(document["apiVersion"], document["kind"])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
