"""Run a real PostgreSQL in a temporary folder. Debian: ``apt-get install postgresql``."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from tests.ports import free_port
from tests.stores.processes import Processes, need

_PASSWORD = "passwordofthetests"


@dataclass
class Postgres:
    """A server with a database `mlflow`, which a test can kill and restart."""

    port: int
    command: list[str]
    user: str | None
    processes: Processes
    process: Popen[bytes] | None = None

    def uri(self, user: str = "mlflow", password: str = _PASSWORD) -> str:
        """Return MLflow's URI of the database. It names the driver, because SQLAlchemy's default may change."""
        return f"postgresql+psycopg2://{user}:{password}@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        self.process = self.processes.start(
            "postgres",
            self.command,
            self._accepts_queries,
            user=self.user,
            ends_on=signal.SIGINT,  # does not wait for clients to disconnect
        )

    def kill(self) -> None:
        """Simulate a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def run(self, *statements: str, database: str = "mlflow") -> None:
        """Run SQL as the owner of the databases."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="mlflow", password=_PASSWORD, dbname=database
        )
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _accepts_queries(self) -> bool:
        """Return False while the server recovers from a crash: it listens, and refuses queries."""
        import psycopg2

        try:
            self.run("SELECT 1", database="postgres")
        except psycopg2.OperationalError:
            return False
        return True


@contextmanager
def running(folder: Path, prepared: Path | None = None) -> Iterator[Postgres]:
    """Run the server. Every user must be able to read `folder`, because PostgreSQL does not run as root.

    Args:
        folder: where it keeps its files.
        prepared: folder of a server that has ended, whose data this one gets a copy of.
    """
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    need("initdb", "postgres", package="postgresql", folders=[str(path) for path in binaries])
    path = os.pathsep.join([*map(str, reversed(binaries)), os.environ.get("PATH", "")])
    initdb, server = (shutil.which(program, path=path) or program for program in ("initdb", "postgres"))
    user = "postgres" if os.geteuid() == 0 else None
    port, data, secret = free_port(), folder / "data", folder / "password"
    secret.write_text(_PASSWORD)
    if user is not None:
        for owned in (folder, secret):
            shutil.chown(owned, user, user)
    command = [server, "-D", str(data), "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    with Processes(folder) as processes:
        if prepared is None:
            how = ["--auth=scram-sha-256", f"--pwfile={secret}", "--username=mlflow", "--encoding=UTF8", "--locale=C"]
            processes.run(initdb, "-D", str(data), *how, user=user)
        else:
            processes.run("cp", "-a", str(prepared / "data"), str(data))
        postgres = Postgres(port, command, user, processes)
        postgres.start()
        if prepared is None:
            postgres.run("CREATE DATABASE mlflow", database="postgres")
        yield postgres
