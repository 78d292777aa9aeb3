"""`ModelPool`: the deployment whose replicas hold and run models."""

from __future__ import annotations

from typing import Any

from ray import serve

from app.deployments.affinity_router import HELD
from app.deployments.pool_member import PoolMember
from app.deployments.process import configure_logging, prepare_for_requests
from app.deployments.rpc import Handle
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output
from app.settings import Settings


@serve.deployment
class ModelPool:
    """One replica of a pool: a `PoolMember` in a process of its own.

    The constructor returns when what should be held has been loaded once, so that Serve sends calls to warm replicas
    only.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, name: str, settings: Settings, releases: Handle
    ) -> None:
        configure_logging(settings)
        replica_id = serve.get_replica_context().replica_id.unique_id
        self._member = PoolMember(name, settings, releases, replica_id)
        await self._member.start()
        prepare_for_requests()

    # The router reads the first and the last argument of these two.

    async def describe(self, version: ModelVersion, note: CallNote) -> ModelSpec:
        """What the version is; it is loaded for that."""
        return await self._member.describe(ModelVersion(*version))

    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        """Predict one batch."""
        return await self._member.predict(ModelVersion(*version), batch, note)

    async def record_routing_stats(self) -> dict[str, list[ModelVersion]]:
        """Called by Serve every second: what the router of every caller should know."""
        return {HELD: sorted(self._member.held())}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve several times in a look-back period: what the scaling policy should know."""
        return self._member.scaling_stats()

    async def usage(self) -> dict[str, Any]:
        """This replica's own figures, for `ml-serve status`."""
        return self._member.usage()

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        self._member.check()

    async def __del__(self) -> None:
        """Called by Serve when the replica ends in an orderly way, after its last call."""
        if hasattr(self, "_member"):
            await self._member.stop()
