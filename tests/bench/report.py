# SPDX-License-Identifier: Apache-2.0
"""Figures of the benchmark: paired ratios with their interval, tables, JSON and plots.

On a shared machine absolute times mean little. Variants run in turns, a round of each, and only
figures of the same round are compared; minimums are the next best, since noise only adds.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond 30 the normal one.
_T95 = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13]
_T95 += [2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04]


class Ratio(NamedTuple):
    """Geometric mean of paired ratios and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def paired_ratio(figures: Sequence[float], base: Sequence[float]) -> Ratio:
    """Compare round by round; needs at least two rounds."""
    logs = [math.log(figure / reference) for figure, reference in zip(figures, base, strict=True)]
    mean = statistics.fmean(logs)
    degrees = len(logs) - 1
    t = _T95[degrees - 1] if degrees <= len(_T95) else 1.96
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table: first column left, all others right."""
    cells = [[str(column) for column in columns]]
    cells += [[_text(value) for value in row] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = [title, ""]
    for number, row in enumerate(cells):
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join([first, *rest]).rstrip())
        if number == 0:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*lines, ""])


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The same as a table of docs/performance.md."""
    cells = [[str(column) for column in columns], ["---"] * len(columns)]
    cells += [[_text(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def insert(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->`` on a page."""
    text = page.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- bench:{name} -->\n", "<!-- /bench -->"
        before, found, rest = text.partition(begin)
        if not found:
            raise ValueError(f"{page} has no place for {name}")
        text = f"{before}{begin}\n{part}\n\n{end}{rest.partition(end)[2]}"
    page.write_text(text)


def _text(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def save(directory: Path, name: str, results: Mapping[str, Any]) -> Path:
    """Write results as JSON; returns the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(results, indent=2, default=str) + "\n")
    return path


def plot_lines(
    path: Path,
    title: str,
    xlabel: str,
    ylabel: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    logx: bool = False,
) -> None:
    """Draw one line per series into an SVG file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for label, (xs, ys) in series.items():
        axes.plot(xs, ys, marker="o", label=label)
    if logx:
        axes.set_xscale("log")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def plot_bars(path: Path, title: str, ratios: Mapping[str, Mapping[str, float]]) -> None:
    """Draw ratios with their 95 % intervals as bars around 1."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    values = [entry["ratio"] for entry in ratios.values()]
    errors = [
        [entry["ratio"] - entry["low"] for entry in ratios.values()],
        [entry["high"] - entry["ratio"] for entry in ratios.values()],
    ]
    axes.bar(list(ratios), values, yerr=errors, capsize=6, width=0.5)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(title=title, ylabel="of direct", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def plot_groups(
    path: Path, title: str, ylabel: str, series: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw bars side by side: one group per case, one bar of each group per series."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    cases = list(dict.fromkeys(case for values in series.values() for case in values))
    width = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        places = [cases.index(case) + (number - (len(series) - 1) / 2) * width for case in values]
        axes.bar(places, list(values.values()), width=width, label=label)
    axes.set_xticks(range(len(cases)), cases)
    axes.set(title=title, ylabel=ylabel, ylim=(0, None))
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
