"""Charts of a report, by matplotlib."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.side_by_side.report import Report

OURS = ("#1b6ca8", "#7fb2d9", "#3f8efc")
RIVALS = ("#d1495b", "#edae49", "#66a182", "#8d6a9f", "#7a7a7a")
"""Colours, in the order in which contestants first appear."""

SPREAD = 20
"""From this factor between the smallest and the largest value on, the axis is logarithmic."""


def bars(report: Report, file: Path) -> None:
    """Draw a group of bars for each case: medians of the first figure, with the range over all rounds."""
    figure = report.figures[0]
    colours = _colours(report)
    groups = sum(len(played.contestants) for played in report.cases)
    drawn, axes = plt.subplots(figsize=(min(max(7.0, 0.75 * groups + 2.5), 18.0), 4.8), layout="constrained")
    medians, at, ticks = [], 0.0, []
    for played in report.cases:
        known = [name for name in played.contestants if played.tells(name, figure.key)]
        for place, name in enumerate(known):
            values = played.values(name, figure.key)
            median = statistics.median(values)
            medians.append(median)
            error = [[median - min(values)], [max(values) - median]]
            axes.bar(at + place, median, 0.9, color=colours[name], yerr=error, capsize=3, ecolor="#333333")
            axes.annotate(
                figure.shown(median),
                (at + place, max(values)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ticks.append((at + (len(known) - 1) / 2, played.name.replace(", ", "\n")))
        at += len(known) + 0.8
    _scale(axes, medians)
    axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=9)
    axes.set_ylabel(figure.heading + (" (more is better)" if figure.better == "more" else " (less is better)"))
    boxes = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    drawn.legend(boxes, [*colours], fontsize=9, loc="outside upper right", ncols=len(boxes))
    _finish(drawn, axes, report, file)


def lines(report: Report, file: Path, key: str, heading: str, x: Sequence[float], x_heading: str) -> None:
    """Draw a line for each contestant: medians of a figure, case by case, at the places `x`; the range as a band."""
    drawn, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    medians = []
    for name, colour in _colours(report).items():
        told = [(x, played.values(name, key)) for x, played in zip(x, report.cases, strict=True)]
        middle = [statistics.median(values) for _, values in told]
        medians += middle
        places = [at for at, _ in told]
        axes.plot(places, middle, marker="o", color=colour, label=name)
        axes.fill_between(places, [min(v) for _, v in told], [max(v) for _, v in told], color=colour, alpha=0.2)
    _scale(axes, medians)
    if max(x) / max(min(x), 1) >= SPREAD:
        axes.set_xscale("log")
    axes.set_xticks(x, [f"{place:,}" for place in x])
    axes.minorticks_off()
    axes.set_xlabel(x_heading)
    axes.set_ylabel(heading)
    axes.legend(fontsize=9)
    _finish(drawn, axes, report, file)


def _colours(report: Report) -> dict[str, str]:
    """Give each contestant a colour; ours look alike."""
    found = {name for played in report.cases for name in played.ours}
    names = dict.fromkeys(name for played in report.cases for name in played.contestants)
    own, others = ([name for name in names if (name in found) is ours] for ours in (True, False))
    return {
        **{name: OURS[place % len(OURS)] for place, name in enumerate(own)},
        **{name: RIVALS[place % len(RIVALS)] for place, name in enumerate(others)},
    }


def _scale(axes: plt.Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > SPREAD:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.margins(y=0.12)


def _finish(drawn: plt.Figure, axes: plt.Axes, report: Report, file: Path) -> None:
    axes.set_title(report.title, fontsize=11, loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    known = report.machine
    foot = f"{known['cores']} cores, PostgreSQL {known['postgresql']}, Python {known['python']}, {known['date'][:10]}"
    drawn.supxlabel(foot, x=0.995, ha="right", fontsize=6.5, color="#777777")
    drawn.savefig(file, dpi=140)
    plt.close(drawn)
