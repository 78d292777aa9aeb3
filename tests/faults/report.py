"""Report of rehearsed faults: each test adds a line, and `make faults` writes them as a table and a plot.

Run as ``python -m tests.faults.report LINES PAGE PLOT``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

VARIABLE = "FAULTS_REPORT"
"""Names the file that gets the lines. Unset: nothing is written."""
_BEGIN, _END = "<!-- faults -->\n", "<!-- end of faults -->\n"
_ROW, _LEFT, _WIDTH = 26, 260, 420


class Fault(NamedTuple):
    """What callers saw of one fault.

    Attributes:
        requests, failed: of the callers who did not cause it.
        failing_s: seconds from the fault to the end of the last one that failed.
        slowest_s: the longest time of such a request.
        healthy_s: seconds until every replica was back and warm.
    """

    name: str
    requests: int
    failed: int
    failing_s: float
    slowest_s: float
    healthy_s: float


def report(fault: Fault) -> None:
    """Add a fault to the file that `FAULTS_REPORT` names."""
    file = os.environ.get(VARIABLE)
    if file:
        with Path(file).open("a") as lines:
            lines.write(json.dumps(fault._asdict()) + "\n")


def table(faults: list[Fault]) -> str:
    """Return the faults as a table in Markdown."""
    head = "| Fault | Requests | Failed | For | Slowest | All replicas back |\n| --- | --- | --- | --- | --- | --- |\n"
    rows = [
        f"| {one.name} | {one.requests:,} | {one.failed:,} | {_seconds(one.failing_s)} "
        f"| {one.slowest_s:.1f} s | {one.healthy_s:.0f} s |"
        for one in faults
    ]
    return head + "\n".join(rows) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value else "–"


def plot(faults: list[Fault]) -> str:
    """Return a plot in SVG: per fault the time of the slowest request and the time until all replicas are back."""
    longest = max([one.healthy_s for one in faults] + [1.0])
    height = _ROW * len(faults) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 80}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18" fill="#3f51b5">all replicas back</text>',
        f'<text x="{_LEFT + 130}" y="18" fill="#e65100">slowest request</text>',
    ]
    for number, one in enumerate(faults):
        y = 30 + _ROW * number
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{one.name}</text>')
        for seconds, top, color in ((one.healthy_s, y + 2, "#3f51b5"), (one.slowest_s, y + 12, "#e65100")):
            width = max(_WIDTH * seconds / longest, 1)
            parts.append(f'<rect x="{_LEFT}" y="{top}" width="{width:.0f}" height="8" fill="{color}"/>')
        end = _LEFT + _WIDTH * one.healthy_s / longest + 6
        parts.append(f'<text x="{end:.0f}" y="{y + 14}">{one.healthy_s:.0f} s</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(lines: Path, page: Path, picture: Path) -> None:
    """Write the table into the page, between its marks, and the plot beside it."""
    faults = [Fault(**json.loads(line)) for line in lines.read_text().splitlines()]
    text = page.read_text()
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    page.write_text(f"{before}{_BEGIN}\n{table(faults)}\n{_END}{after}")
    picture.write_text(plot(faults))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
