"""Write `RESULTS.md` from the results of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.paths import HERE
from benchmarks.record import Results
from benchmarks.report import HEADINGS, TEXTS, cells, encoding_cells
from benchmarks.summary import best, rows
from benchmarks.systems import ALL, OURS
from benchmarks.targets import MEGABYTE, judge
from benchmarks.workloads import ALL_WORKLOADS

PATH = HERE / "RESULTS.md"
_ENCODINGS = """\
One request with 1,000 rows of 100 double columns passes through the gateway's application in one process; the model
adds up its columns. The figures cover parsing, validation, batching and encoding, without network, Ray and MLflow.
They are CPU times, medians of interleaved rounds.
"""


def write(results: Results) -> None:
    """Write the page."""
    PATH.write_text("\n".join(_lines(results)) + "\n")


def _lines(results: Results) -> Iterator[str]:
    machine = results.machine
    yield "# Results\n"
    yield (
        f"`make bench` wrote this page on {results.date}. It ran {results.rounds} rounds. Each round started every "
        f"system in turn, measured it for {results.seconds:g} s per workload and stopped it; the order rotated. "
        "Figures are medians over the rounds. Compare ratios within one run: absolute figures drift with the machine. "
        "The [README](README.md) describes the method and the tuning of the peers.\n"
    )
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, which server and load generator share, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}.\n"
    )
    yield "![Requests per second of each system](results.png)\n"
    yield "## Targets\n"
    yield "A target that is met by less than 5 % says by how much.\n"
    yield from _table(
        ("target", "result", ""),
        [
            (one.target, one.found.text if one.found else "–", f"**{one.words}**" if one.met is False else one.words)
            for one in judge(results)
        ],
        texts=3,
    )
    yield "## Systems\n"
    known = [one for one in ALL if one.name in results.systems]
    yield from _table(
        ("system", "", "version"),
        [(one.name, one.title, f"{one.package} {results.versions.get(one.name, '–')}") for one in known],
        texts=3,
    )
    for workload in ALL_WORKLOADS:
        found = cells(results, workload.name)
        if found:
            yield f"## {workload.title}\n"
            yield from _table(HEADINGS, found, TEXTS)
    yield from _many(results)
    yield from _grown(results)
    yield "## Memory and start\n"
    yield (
        "`MB` is the memory of all processes of a system after `linear-64`: the sum of their proportional set sizes, "
        "in which a page that processes share counts once. `start s` is the time from the start of the program to the "
        "first correct answer. Peers load their model from disk; `ml-serve up` also starts Ray and reads the "
        "registry.\n"
    )
    measured = sorted(rows(results, "linear-64"), key=lambda row: row.memory().median)
    yield from _table(
        ("system", "MB", "start s", "min–max"),
        [
            (
                row.system,
                f"{row.memory().median / MEGABYTE:,.0f}",
                f"{row.start_s.median:.1f}",
                f"{row.start_s.least:.1f}–{row.start_s.most:.1f}",
            )
            for row in measured
        ],
        texts=1,
    )
    own = next((row for row in measured if row.system == OURS), None)
    if own:
        parts = own.records[-1].memory
        yield (
            f"Processes of `{OURS}`: "
            + ", ".join(f"{kind} {max(found) / MEGABYTE:,.0f} MB" for kind, found in sorted(parts.items()))
            + ".\n"
        )
    if results.encodings:
        yield "## CPU time of an encoding in the gateway (`encodings.py`)\n"
        yield _ENCODINGS
        yield from _table(("encoding", "CPU ms", "ratio"), encoding_cells(results), texts=1)
    if results.failures or results.notes:
        yield "## Failures and notes\n"
        yield from (f"- {' '.join(text.split())[:300]}" for text in (*results.failures, *results.notes))


def _many(results: Results) -> Iterator[str]:
    found = [record.extra for record in results.records if record.workload == "many" and record.extra]
    if found:
        last = found[-1]
        hit = f" (p50 {last['hit_p50_ms']:.1f} ms)" if "hit_p50_ms" in last else ""
        yield (
            f"In the last round {last['ready'][0]} to {last['ready'][1]} models were resident at a time. "
            f"{last['always_ready']} of them stayed resident; they received {last['hit_share']:.0%} of the requests"
            f"{hit}. The pool evicted {last['evictions']} models, and its replica used at most "
            f"{last['most_rss_bytes'] / MEGABYTE:,.0f} MB of memory.\n"
        )


def _grown(results: Results) -> Iterator[str]:
    """Yield the cost of a request by how many models the requests go to."""
    lines = []
    for workload in ALL_WORKLOADS:
        row = best(results, workload.name, OURS) if workload.kind == "grown" else None
        if row is not None:
            cost = 1e6 * row.cores.median / row.rate.median
            lines.append((f"{workload.models:,}", f"{row.rate.median:,.0f}", f"{cost:,.0f}"))
    if lines:
        yield "## Cost of a request as models grow\n"
        yield "A thousand models are registered; the requests go to some of them in turn, which are all in memory.\n"
        yield from _table(("models called", "req/s", "CPU µs per request"), lines, texts=0)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> Iterator[str]:
    """Yield a Markdown table. Columns from number `texts` on are aligned to the right."""
    yield f"| {' | '.join(headings)} |"
    yield f"| {' | '.join('---' if at < texts else '---:' for at in range(len(headings)))} |"
    yield from (f"| {' | '.join(line)} |" for line in lines)
    yield ""
