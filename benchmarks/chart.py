"""Draw `results.png`: requests per second of each system, for one row and for tables."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

from benchmarks.paths import HERE
from benchmarks.record import Results
from benchmarks.summary import Row, rows
from benchmarks.systems import BY_NAME

PATH = HERE / "results.png"
_OURS, _PEERS = "#0b6e4f", "#b8c0c8"
_PANELS = (
    ("linear-64", "Linear model, one row, 64 connections"),
    ("forest-64", "Random forest, one row, 64 connections"),
    ("table-binary", "1,000 × 100 table, 4 connections"),
)


def draw(results: Results) -> None:
    """Draw the measured panels. Bars are medians, lines are ranges over the rounds."""
    panels = [(title, _fastest(rows(results, name))) for name, title in _PANELS if rows(results, name)]
    if not panels:
        return
    heights = [len(found) for _, found in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, 0.36 * sum(heights) + 1.1 * len(panels)), height_ratios=heights, squeeze=False
    )
    for axis, (title, found) in zip(axes[:, 0], panels, strict=True):
        found.reverse()
        rates = [row.rate for row in found]
        medians = [rate.median for rate in rates]
        reach = [[rate.median - rate.least for rate in rates], [rate.most - rate.median for rate in rates]]
        colors = [_OURS if BY_NAME[row.system].is_ours else _PEERS for row in found]
        axis.barh([BY_NAME[row.system].title for row in found], medians, color=colors, xerr=reach, ecolor="#555555")
        for at, (row, rate) in enumerate(zip(found, rates, strict=True)):
            text = f"  {rate.median:,.0f}/s · p99 {row.latency('p99_ms').median:,.0f} ms"
            axis.text(rate.most, at, text, va="center", fontsize=8)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlim(0, max(rate.most for rate in rates) * 1.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel(f"requests per second, {results.machine['cores']} cores, {results.date}", fontsize=8)
    figure.tight_layout()
    figure.savefig(PATH, dpi=130)
    plt.close(figure)


def _fastest(found: list[Row]) -> list[Row]:
    """Return each system once, in its fastest dialect."""
    kept: dict[str, Row] = {}
    for row in found:
        kept.setdefault(row.system, row)
    return list(kept.values())
