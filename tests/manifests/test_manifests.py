"""Find errors in `k8s/` that `kubectl apply` would reject, and some that it would accept."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings, environment_names, load
from tests.manifests.manifests import (
    BUILT_IN,
    CLUSTER,
    CONTAINERS,
    CUSTOM,
    MANIFESTS,
    PODS,
    RAY_SERVICE,
    ROOT,
    SCHEMAS,
    Object,
    faults_of,
    pins,
    the,
)
from tests.missing import missing

# kubernetes-validate does not close its schema files.
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed file:pytest.PytestUnraisableExceptionWarning")

KUBERNETES = "1.32"


@pytest.fixture(scope="module")
def schemas() -> Path:
    if not SCHEMAS.is_dir():
        missing(f"the CRDs and Kong's route table are not there: {SCHEMAS}")
    return SCHEMAS


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_object_is_valid_and_has_no_unknown_field(name: str) -> None:
    kubernetes_validate.validate(BUILT_IN[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", CUSTOM)
@pytest.mark.usefixtures("schemas")
def test_a_custom_resource_is_valid_and_has_no_unknown_field(name: str) -> None:
    assert faults_of(CUSTOM[name]) == []
    # Its metadata are of the type that all objects have.
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": CUSTOM[name]["metadata"]}, KUBERNETES, strict=True
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "replica"), 3),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "imag"), "x"),
        (("spec", "serveService", "spec"), {"ports": [{"port": 8000, "targetport": "http"}]}),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"), "ten"),
    ],
)
@pytest.mark.usefixtures("schemas")
def test_a_slip_in_a_custom_resource_is_noticed(path: tuple[str | int, ...], value: object) -> None:
    document = json.loads(json.dumps(the("RayService", "ray-serve-cluster")))
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(faults_of(document)) == 1


def test_every_object_has_one_name_and_an_existing_namespace() -> None:
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in MANIFESTS.values()]
    assert len(names) == len(set(names))
    namespaces = {name for kind, _, name in names if kind == "Namespace"}
    assert namespaces == {"data-platform", "ray-system"}
    assert {namespace for kind, namespace, _ in names if kind != "Namespace"} <= namespaces


# The Ray cluster.

_INSPECT = """
import importlib, inspect, json, sys
from ray.serve.schema import ServeDeploySchema
from app.deployments import APPLICATION
from app.deployments.runtime import GRPC_SERVICER
from app.main import build
config = ServeDeploySchema.model_validate(json.load(sys.stdin))
module, _, attribute = config.applications[0].import_path.partition(":")
target = getattr(importlib.import_module(module), attribute)
print(json.dumps({
    "names": [application.name for application in config.applications],
    "application": APPLICATION,
    "route_prefix": config.applications[0].route_prefix,
    "port": config.http_options.port,
    "grpc_port": config.grpc_options.port,
    "calls": config.grpc_options.grpc_servicer_functions == [GRPC_SERVICER],
    "is_ours": target is build,
    "parameters": len(inspect.signature(target).parameters),
}))
"""


def test_ray_accepts_the_serve_config_of_our_application() -> None:
    config = yaml.safe_load(RAY_SERVICE["serveConfigV2"])
    seen = subprocess.run(
        [sys.executable, "-c", _INSPECT],
        input=json.dumps(config),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout.splitlines()[-1]) == {
        "names": ["ml-serve"],
        "application": "ml-serve",
        "route_prefix": "/",
        "port": 8000,
        "grpc_port": 9000,
        "calls": True,
        "is_ours": True,
        "parameters": 1,  # Serve calls a builder with the application's arguments
    }


def test_the_ray_version_is_the_locked_one() -> None:
    assert pins("image")["ray"] == {CLUSTER["rayVersion"]}


@pytest.mark.parametrize("role", PODS)
def test_pods_carry_the_labels_that_people_select_by(role: str) -> None:
    assert PODS[role]["metadata"]["labels"] == {"app": "ray-serve", "component": role}


def test_workers_scale_between_the_bounds() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (3, 3, 10)
    assert CLUSTER["enableInTreeAutoscaling"]
    (spread,) = PODS["worker"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == PODS["worker"]["metadata"]["labels"]


def environment_of(role: str) -> dict[str, str]:
    """Return the variables of a container, with "secret" for values from a secret."""
    return {entry["name"]: entry.get("value", "secret") for entry in CONTAINERS[role]["env"]}


def test_pods_get_only_known_variables_equal_on_every_node() -> None:
    assert environment_of("head").keys() <= {name for name, _ in environment_names()}
    assert CONTAINERS["head"]["env"] == CONTAINERS["worker"]["env"]


def test_the_pods_environment_makes_valid_settings_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of("worker").items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.is_cluster
    assert settings.tracking_uri == "http://mlflow.data-platform.svc.cluster.local:5000"
    assert settings.storage_environment().keys() == {
        "MLFLOW_S3_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }


def test_credentials_come_from_the_secret_alone() -> None:
    secrets = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in CONTAINERS["worker"]["env"]
        if "valueFrom" in entry
    }
    assert secrets == dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "minio-credentials")


@pytest.mark.parametrize("role", PODS)
def test_the_model_cache_is_on_a_claim_that_outlives_the_pods(role: str) -> None:
    folder = environment_of(role)["ML_SERVE_MODEL_CACHE"]
    (mount,) = [mount for mount in CONTAINERS[role]["volumeMounts"] if mount["mountPath"] == folder]
    (volume,) = [volume for volume in PODS[role]["spec"]["volumes"] if volume["name"] == mount["name"]]
    claim = the("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("role", PODS)
def test_pods_pass_the_restricted_pod_security_level(role: str) -> None:
    pod = PODS[role]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(volume.keys() == {"name", "persistentVolumeClaim"} for volume in pod["volumes"])
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    # KubeRay copies the worker's security context to its init container; the autoscaler has its own.
    for contexts in (CONTAINERS[role]["securityContext"], CLUSTER["autoscalerOptions"]["securityContext"]):
        assert contexts == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_only_the_head_holds_the_token_of_the_service_account() -> None:
    account = the("ServiceAccount", "ray-serve")
    assert account["automountServiceAccountToken"] is False
    assert {pod["spec"]["serviceAccountName"] for pod in PODS.values()} == {"ray-serve"}
    assert PODS["head"]["spec"]["automountServiceAccountToken"] is True
    assert "automountServiceAccountToken" not in PODS["worker"]["spec"]


def quantity(text: str) -> float:
    """Parse CPU cores or bytes."""
    number, unit = re.fullmatch(r"([\d.]+)(m|Ki|Mi|Gi|)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


@pytest.mark.parametrize("owner", [*CONTAINERS.values(), CLUSTER["autoscalerOptions"]])
def test_requests_do_not_exceed_limits(owner: Object) -> None:
    requests, limits = owner["resources"]["requests"], owner["resources"]["limits"]
    assert requests.keys() == limits.keys() == {"cpu", "memory"}
    for name in requests:
        assert quantity(requests[name]) <= quantity(limits[name]), name


# The Services and Kong.


def test_the_service_routes_http_grpc_and_dashboard() -> None:
    spec = the("Service", "ray-serve-service")["spec"]
    for pod in PODS.values():
        assert spec["selector"].items() <= pod["metadata"]["labels"].items()
    answering = {
        port["port"]: [
            role
            for role, container in CONTAINERS.items()
            if {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
        ]
        for port in spec["ports"]
    }
    assert answering == {8000: ["worker"], 9000: ["worker"], 8265: ["head"]}


def test_kong_sends_to_the_service_that_kuberay_switches() -> None:
    service = RAY_SERVICE["serveService"]["metadata"]
    (path,) = the("Ingress", "ray-serve")["spec"]["rules"][0]["http"]["paths"]
    # KubeRay's Service has one port: the one that the head declares as `serve`.
    (serve,) = [port for port in CONTAINERS["head"]["ports"] if port["name"] == "serve"]
    assert path["backend"]["service"] == {"name": service["name"], "port": {"number": serve["containerPort"]}}
    assert the("KongUpstreamPolicy", service["annotations"]["konghq.com/upstream-policy"])
    timeout_s = int(service["annotations"]["konghq.com/read-timeout"]) / 1000
    assert timeout_s > Settings().load_timeout_s


def test_the_route_matches_as_kongs_router_did(schemas: Path) -> None:
    """`schemas/kong-routes.csv` records what Kong did. This test models how the controller translates our Ingress."""
    ingress = the("Ingress", "ray-serve")
    annotations = ingress["metadata"]["annotations"]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["pathType"], annotations["konghq.com/strip-path"]) == (
        "api.254carbon.com",
        "Prefix",
        "true",
    )
    prefix = re.escape(path["path"])
    lines = [line for line in (schemas / "kong-routes.csv").read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        matched = re.match(f"{prefix}(?:$|/)", row["request_path"])
        is_routed = matched and row["method"] in annotations["konghq.com/methods"].split(",")
        upstream = "/" + row["request_path"][matched.end() :] if matched and is_routed else "NO MATCH"
        assert upstream == row["upstream_style_B"], row
