"""`make bench`: start each system in turn, load it, check its answers, and report."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from benchmarks import chart, environments, load, markdown, models, systems, workloads
from benchmarks.paths import BEFORE_HOMES, GROWN_HOME, MANY_HOME, ROOT, SINGLE_HOME
from benchmarks.processes import Failed
from benchmarks.record import Recorder, Results, read
from benchmarks.report import show
from benchmarks.session import Session
from benchmarks.systems import System

T = TypeVar("T")
_WIDTH = 160
console = Console(width=None if sys.stdout.isatty() else _WIDTH)


def main(  # noqa: PLR0917 - typer reads them
    chosen: Annotated[str, typer.Option("--workloads", "-w", help="Names, comma-separated; all where empty.")] = "",
    compared: Annotated[str, typer.Option("--systems", "-s", help="Names, comma-separated; all where empty.")] = "",
    before: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Another checkout of this project: the system `before`."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each system is started and measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each measurement.")] = 6,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before each measurement.")] = 2,
    again: Annotated[
        Path | None, typer.Option("--report", help="Measure nothing; write the report of these raw results.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(envvar="BENCH_LOCK", help="File to lock while a system runs.")] = None,
) -> None:
    """Measure systems side by side."""
    if again is not None:
        _report(read(again), write=True)
        return
    # A shell makes background processes ignore SIGINT. Systems that SIGINT stops would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, which stops the running system
    names = chosen.split(",") if chosen else [*workloads.BY_NAME, workloads.ENCODINGS]
    loads = _named([name for name in names if name != workloads.ENCODINGS], workloads.BY_NAME, "workload")
    found = choose(compared.split(",") if compared else [], before)
    recorder = Recorder(names, [one.name for one in found], rounds, seconds)
    if loads:
        for program in ("wrk", "h2load"):
            load.find(program)
        _prepare(found, recorder)
    if workloads.ENCODINGS in names:
        with _locked(lock):
            _encodings(recorder)
    for turn in range(rounds):
        for session in dict.fromkeys(one.session for one in loads):
            at = turn % len(found)
            for system in found[at:] + found[:at]:  # the order rotates
                own = [one for one in loads if one.session == session and system.name in one.systems]
                own = [one for one in own if one.kind != "grown" or turn == 0]  # a thousand loads take minutes
                if own and not recorder.is_failed(system.name):
                    _progress(f"round {turn + 1}: {system.name}, {session}")
                    with _locked(lock):
                        _measure(Session(system, session, own, turn, seconds, warm_up), recorder)
    _report(recorder.results, write=not (chosen or compared or before))
    console.print(f"raw results: {recorder.path.relative_to(ROOT)}", style="dim")


def choose(names: list[str], checkout: Path | None) -> list[System]:
    """Return the systems of these names, of all without names; `before` runs the other checkout.

    Raises:
        typer.BadParameter: an unknown name, or `before` without a checkout.
    """
    if systems.BEFORE in names and checkout is None:
        raise typer.BadParameter("system 'before' needs another checkout: make bench BEFORE=/path/to/checkout")
    known = {name: system for name, system in systems.BY_NAME.items() if name != systems.BEFORE}
    if checkout is not None:
        known[systems.BEFORE] = systems.before(checkout.resolve())
    return _named(names or list(known), known, "system")


def make_homes(*, for_before: bool) -> None:
    """Make the models where they are missing, and copy the registries for another checkout."""
    if not models.are_made():
        _progress("making the models")
        subprocess.run([sys.executable, "-m", "benchmarks.models"], cwd=ROOT, check=True, capture_output=True)
    for home in (SINGLE_HOME, MANY_HOME, GROWN_HOME) if for_before else ():
        copy = BEFORE_HOMES / home.name
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        shutil.copy(home / "mlflow.db", copy)


def _prepare(found: list[System], recorder: Recorder) -> None:
    """Make the models and install the systems."""
    make_homes(for_before=systems.BEFORE in {system.name for system in found})
    for system in found:
        try:
            environments.install(system, _progress)
            recorder.version(system.name, environments.version(system))
        except RuntimeError as error:
            recorder.failed(system.name, f"cannot be installed: {error}")


def _measure(session: Session, recorder: Recorder) -> None:
    """Run a session. A failure is reported, and the run continues."""
    try:
        for record in session.run(recorder.note):
            recorder.add(record)
    except (Failed, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        recorder.failed_session(session.system.name, session.name, session.turn, str(error))
        _progress(f"failed: {str(error)[:300]}")


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Hold the lock file that all measurements on this machine share."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _encodings(recorder: Recorder) -> None:
    """Run `encodings.py` in a process of its own."""
    _progress("encodings")
    command = (sys.executable, "-m", "benchmarks.encodings", "--json")
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        recorder.note(f"encodings: {done.stderr.strip()[-300:]}")
    else:
        recorder.encodings(json.loads(done.stdout))


def _report(results: Results, *, write: bool) -> None:
    """Print the results; with `write`, also write the page and the chart."""
    show(results, console)
    if write:
        markdown.write(results)
        chart.draw(results)
        console.print(f"written: {markdown.PATH.relative_to(ROOT)}, {chart.PATH.relative_to(ROOT)}", style="dim")


def _named(names: list[str], known: Mapping[str, T], what: str) -> list[T]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"unknown {what} '{unknown[0]}'; choose from: {', '.join(known)}")
    return [known[name] for name in names]


def _progress(text: str) -> None:
    console.print(f"· {time.strftime('%H:%M:%S')} {text}", style="dim", markup=False)


if __name__ == "__main__":
    typer.run(main)
