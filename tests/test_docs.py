"""What exists is documented, and what is documented exists."""

import re
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from app.api.app import create_app
from app.api.oip.grpc import CODES, InferenceServicer
from app.errors import ServingError, StartupError
from app.metrics.predictions import PredictionMetrics
from app.metrics.releases import ReleaseMetrics
from app.oip import inference_pb2 as pb
from app.serving.comparison.ledger import Ledger
from tests.fakes import HTTP_LIMITS, make_fakes
from tests.platform import ROOT
from tests.test_errors import TREE

HTTP = (ROOT / "docs" / "http.md").read_text() + (ROOT / "docs" / "oip.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_every_endpoint_is_documented() -> None:
    fakes = make_fakes({})
    paths = create_app(fakes.service, fakes.manager, HTTP_LIMITS).openapi()["paths"]
    shown = {path.replace("{ref:path}", "{ref}").replace("/v1/models/{ref}:", ":") for path in paths}
    assert [path for path in shown - {"/v1/models/{ref}"} if path not in HTTP] == []


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    registry = CollectorRegistry()
    PredictionMetrics(Ledger(), registry)
    ReleaseMetrics(registry)
    InferenceServicer(cast(Any, None), 1.0, registry)
    ours = set(registry._names_to_collectors)
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}
    documented = set(re.findall(r"`((?:ml_serve|grpc)_(?!port)\w+)`", OPERATIONS))
    assert {name for name in families if f"{name}_total" not in families} == documented


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_code_that_a_caller_can_meet_is_documented(kind: type[ServingError]) -> None:
    assert kind is StartupError or f"`{kind.code}`" in HTTP


def test_every_grpc_call_and_code_is_documented() -> None:
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert [name for name in [*methods, *(code.name for code in CODES.values())] if f"`{name}`" not in HTTP] == []


def test_pages_that_are_linked_exist() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
