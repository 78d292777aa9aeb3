"""`app.main:build`, as `serve run` and a RayService's serveConfigV2 call it. Nothing is started here."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from app.errors import StartupError
from app.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from app.main import build

pytestmark = pytest.mark.filterwarnings("ignore")


def deployment(node: Any) -> Any:
    return node._bound_deployment


def composed(**arguments: Any) -> dict[str, Any]:
    """The deployments of the application by name."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    gateway = deployment(call(build, arguments))
    settings, releases, pools, features = gateway.init_args
    assert isinstance(settings, Settings)
    behind = [releases, *pools.values(), *([features] if features is not None else [])]
    return {one.name: one for one in [gateway, *map(deployment, behind)]}


def test_the_application_has_a_deployment_for_each_pool(tmp_path: Path) -> None:
    found = composed(home=str(tmp_path), pools={"gpu": {"num_gpus": 0.5, "memory_bytes": 10**9}})
    assert set(found) == {"Gateway", "Releases", "ModelPool-default", "ModelPool-gpu"}
    assert found["ModelPool-gpu"].ray_actor_options["num_gpus"] == 0.5
    assert found["ModelPool-gpu"].ray_actor_options["memory"] == 10**9


def test_a_feast_repository_adds_the_features_deployment(tmp_path: Path) -> None:
    assert "Features" in composed(home=str(tmp_path), feast_repo=str(tmp_path))


def test_replicas_scale_as_the_settings_say(tmp_path: Path) -> None:
    scaling = {"max_replicas": 7, "target_ongoing_requests": 3}
    found = composed(home=str(tmp_path), profile="cluster", gateway=scaling, auth={"open": True})
    gateway = found["Gateway"]._deployment_config.autoscaling_config
    assert (gateway.min_replicas, gateway.max_replicas) == (2, 7)
    assert gateway.policy.policy_kwargs == {"target_ongoing_requests": 3}
    pool = found["ModelPool-default"]._deployment_config.autoscaling_config
    assert (pool.min_replicas, pool.max_replicas) == (2, 10)


def test_serves_own_limits_are_far_above_ours(tmp_path: Path) -> None:
    found = composed(home=str(tmp_path))
    assert found["Gateway"].max_ongoing_requests > 2 * Settings(home=tmp_path).limits.queued_requests
    assert {one.max_queued_requests for one in found.values()} == {-1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rowz": 5}, "unknown setting 'rowz' in the arguments"),
        ({"limits": {"rowz": 5}}, "did you mean 'limits.rows'"),
        ({"http_port": "x"}, "http_port"),
        ({"default_model": "a/b"}, "default_model: 'a/b' is not understood"),
    ],
)
def test_invalid_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(StartupError, match=words):
        composed(**arguments)
