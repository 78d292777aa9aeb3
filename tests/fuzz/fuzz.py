"""Fuzz every target, each in a process of its own: ``python -m tests.fuzz.fuzz --seconds 600``.

The processes run one after the other and divide the time. Atheris measures which lines of `app` an input reaches, and
keeps those that reach new ones, in ``.reports/fuzz``. An input on which the product fails is written to
``.reports/fuzz/crashes`` and named. Once the fault is fixed, move it to ``tests/fuzz/findings``: the tests run it then.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".reports" / "fuzz"
_MOST_BYTES = {"parquet": 16_384, "json_text": 16_384}
_MEMORY_MB = 3072
_HANG_S = 30
_START_S = 180
"""Seconds in which a process starts and ends, on a busy machine."""
_LAST_STATUS = re.compile(r"^#(\d+)\s.*?\bcov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_DONE = re.compile(r"^Done (\d+) runs", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """What the run of one target has shown."""

    target: str
    runs: int
    edges: int
    corpus: int
    crashes: list[Path]
    output: str
    is_complete: bool

    def __str__(self) -> str:
        shown = f"{self.target:14} {self.runs:9,} runs {self.edges:6,} edges {self.corpus:5,} inputs kept"
        names = ", ".join(map(str, self.crashes))
        return f"{shown}  FAILED on {names}" if names else shown


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns 1 if a target failed."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the parsers of what callers send.")
    parser.add_argument("targets", nargs="*", help="names of targets, or 'module:function'; all by default")
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # folder of crashes
    given = parser.parse_args(arguments)
    if given.inside:
        _fuzz(given.targets[0], max(1, round(given.seconds)), given.inside)
    from tests.fuzz.targets import TARGETS

    names = given.targets or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS and ":" not in name]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; the targets are {', '.join(TARGETS)}")
    results = []
    for name in names:
        results.append(run(name, given.seconds / len(names)))
        _say(str(results[-1]))
        if results[-1].crashes or not results[-1].is_complete:
            _say(results[-1].output[-6000:])
    failed = [result for result in results if result.crashes or not result.is_complete]
    _say(f"{len(results)} targets, {sum(result.runs for result in results):,} runs, {len(failed)} failed")
    return 1 if failed else 0


def run(target: str, seconds: float, crashes: Path = WORK / "crashes") -> Result:
    """Fuzz one target in a process of its own."""
    folder = crashes / target.rpartition(":")[2]
    folder.mkdir(parents=True, exist_ok=True)
    before = {*folder.iterdir()}
    command = [sys.executable, "-m", "tests.fuzz.fuzz", "--inside", str(folder), "--seconds", f"{seconds}", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + _START_S, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    statuses = _LAST_STATUS.findall(output)
    runs, edges, _, corpus = map(int, statuses[-1]) if statuses else (0, 0, 0, 0)
    complete = _DONE.search(output)
    found = sorted({*folder.iterdir()} - before)
    return Result(target, int(complete[1]) if complete else runs, edges, corpus, found, output, complete is not None)


def _fuzz(name: str, seconds: int, crashes: Path) -> None:
    """Fuzz a target in this process, which ends with it."""
    import atheris

    warnings.simplefilter("error")  # as in the tests
    corpus: list[bytes] = []
    dictionary = [b"word"]  # libFuzzer refuses an empty one
    module, _, function = name.rpartition(":")
    if module:
        target, name = atheris.instrument_func(getattr(import_module(module), function)), function
    else:
        with atheris.instrument_imports(include=["app"], enable_loader_override=False):
            from tests.fuzz.seeds import seeds, words
            from tests.fuzz.targets import TARGETS
        target, corpus, dictionary = TARGETS[name], seeds(name), words()
    first, kept = WORK / "seeds" / name, WORK / "corpus" / name
    for folder in (first, kept):
        folder.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(corpus):
        (first / f"{index:04}").write_bytes(seed)
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in dictionary]
    (WORK / "words").write_text("".join(f'"{line}"\n' for line in lines))
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_MOST_BYTES.get(name, 4096)}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-timeout={_HANG_S}",
        f"-dict={WORK / 'words'}",
        f"-artifact_prefix={crashes}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(kept), str(first)], target)
    atheris.Fuzz()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
