"""Parquet files are decoded in a process of their own.

A broken file can end the process that reads it, and a page of a few kilobytes may claim gigabytes before anything can
be counted. Here that process is an actor with bounded memory, which each gateway replica starts with its first file.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from app.api.mlflow.parquet import parquet_table
from app.api.mlflow.tables import Table, TableLimits
from app.deployments.environment import WITHOUT_SERVE
from app.deployments.memory_bound import MemoryBound, data_bytes
from app.errors import MalformedBody, ServingError, TooLarge

log = logging.getLogger(__name__)

_MEMORY_BYTES = 2**30
"""What one file may take, decoded, as Python's values and as the answer, beside the process itself."""

_MOST_S = 30.0
"""Seconds for one file, with the start of the process."""

_ENVIRONMENT = {
    WITHOUT_SERVE: "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own pool reserves a gigabyte at once
}


class ParquetWorker:
    """The actor. Methods return our errors, because Ray adds its own text to raised ones."""

    def __init__(self, memory_bytes: int) -> None:
        import pyarrow.parquet  # noqa: F401, PLC0415 - before the bound

        MemoryBound(data_bytes() + memory_bytes)

    def read(self, body: bytes, required: Collection[str], limits: TableLimits) -> Table | ServingError:
        """Return what `parquet_table` returns or raises."""
        try:
            return parquet_table(body, required, limits)
        except ServingError as error:
            return copy.copy(error)  # without its traceback's frames


class ParquetProcess:
    """Reads one file after the other. Use it on one event loop."""

    def __init__(self) -> None:
        self._actor: Any = None
        self._one = asyncio.Lock()

    async def read(self, body: bytes, required: Collection[str], limits: TableLimits) -> Table:
        """Read a file as `parquet_table` does; a caller who leaves ends nobody's process.

        Raises:
            MalformedBody: also if the file ended the process, or took too long.
            TooLarge: also if it took too much memory.
        """
        reading = asyncio.ensure_future(self._read(body, required, limits))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
        return await asyncio.shield(reading)

    def close(self) -> None:
        """End the process."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    async def _read(self, body: bytes, required: Collection[str], limits: TableLimits) -> Table:
        async with self._one:  # so that the file that ends the process is known
            if self._actor is None:
                self._actor = _start()
            try:
                async with asyncio.timeout(_MOST_S):
                    found: Table | ServingError = await self._actor.read.remote(body, tuple(required), limits)
            except RayTaskError as error:
                if not isinstance(error.cause, MemoryError):
                    raise
                raise TooLarge("the decoded Parquet file does not fit into memory; send fewer rows") from None
            except TimeoutError:
                self.close()
                raise MalformedBody(f"the Parquet file takes more than {_MOST_S:g} s to decode") from None
            except RayError:
                self.close()
                log.warning("a Parquet file has ended the process that decodes them: bytes=%d", len(body))
                raise MalformedBody("the body is not valid Parquet: decoding it ended the process") from None
        if isinstance(found, ServingError):
            raise found
        return found


def _start() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "runtime_env": {"env_vars": _ENVIRONMENT}, "scheduling_strategy": here}
    return _actor_class().options(**options).remote(_MEMORY_BYTES)


def _actor_class() -> Any:
    return ray.remote(ParquetWorker)
