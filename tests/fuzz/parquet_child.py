"""Parquet files decoded in a child process with bounded memory, as `app.deployments.parquet_process` does with Ray."""

from __future__ import annotations

import asyncio
import atexit
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.api.mlflow.parquet import parquet_table
from app.api.mlflow.tables import Table, TableLimits
from app.errors import MalformedBody, ServingError

_MEMORY_BYTES = 2**30
_MOST_S = 30.0


class ParquetChild:
    """Reads one file after the other. A file that ends the process is malformed; `ended` counts those."""

    def __init__(self) -> None:
        self.ended = 0
        self._process: Any = None
        self._pipe: Any = None

    def read(self, body: bytes, required: Collection[str], limits: TableLimits) -> Table:
        """Read a file as `parquet_table` does; blocks.

        Raises:
            TimeoutError: the file takes too long.
        """
        if self._process is None:
            self._start()
        try:
            self._pipe.send((body, tuple(required), limits))
            if not self._pipe.poll(_MOST_S):
                self.close()
                raise TimeoutError("a Parquet file takes too long to decode")
            found = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.ended += 1
            self.close()
            raise MalformedBody("the body is not valid Parquet: decoding it ended the process") from None
        if isinstance(found, Exception):
            raise found
        table: Table = found
        return table

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        own, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno())],
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},  # its own pool reserves a gigabyte at once
                pass_fds=[other.fileno()],
                stderr=subprocess.DEVNULL,  # what the library says when it ends the process
            )
        self._pipe = Connection(own.detach())


def _answer(pipe: Connection[Any, Any]) -> None:
    import pyarrow.parquet  # noqa: F401 - before the bound

    status = Path("/proc/self/status").read_text().splitlines()
    most = next(int(line.split()[1]) * 1024 for line in status if "VmData" in line) + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            body, required, limits = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(parquet_table(body, required, limits))
        except ServingError as error:
            pipe.send(type(error)(error.message, error.details))
        except Exception as error:
            pipe.send(AssertionError(f"{type(error).__name__}: {error}"))


CHILD = ParquetChild()
atexit.register(CHILD.close)


async def read_parquet(body: bytes, required: Collection[str], limits: TableLimits) -> Table:
    """Read a file in the child."""
    return await asyncio.to_thread(CHILD.read, body, required, limits)


if __name__ == "__main__":
    _answer(Connection(int(sys.argv[1])))
