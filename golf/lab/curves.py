"""The picture of a study: held-out bits per byte during training, a band of one deviation an arm."""

import numpy as np
from matplotlib.figure import Figure

from golf.lab.outcome import ArmOutcome
from golf.plotting import INK, line_style, new_figure, settled_limits, style_axes

SKIPPED_SHARE = 0.2
"""First part of each curve that does not set the scale."""


def mean_curve(curves: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean tokens, mean bits per byte and their deviation at each evaluation that every seed has."""
    evaluations = min(map(len, curves))
    shortened = [curve[:evaluations] for curve in curves]
    stacked = np.array(shortened, dtype=np.float64).reshape(len(curves), evaluations, 2)
    deviation = stacked[..., 1].std(0, ddof=1) if len(curves) > 1 else np.zeros(evaluations)
    return stacked[..., 0].mean(0), stacked[..., 1].mean(0), deviation


def drawn_arms(outcomes: list[ArmOutcome]) -> list[ArmOutcome]:
    """The arms that have a curve."""
    return [one for one in outcomes if one.measured and all(row["curve"] for row in one.measured)]


def draw_curves(outcomes: list[ArmOutcome], legend: bool) -> Figure:
    """The curves of the arms, the first of which is the baseline; `legend` adds their names."""
    figure = new_figure(*(10.0, 5.4) if legend else (7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    settled = []
    for index, outcome in enumerate(outcomes):
        tokens, mean, deviation = mean_curve([row["curve"] for row in outcome.measured])
        style = line_style(index - 1)
        axes.plot(tokens, mean, linewidth=1.8, label=outcome.arm.name, **style)
        band = {"color": style["color"], "alpha": 0.12 if len(outcomes) < 10 else 0.05, "linewidth": 0}
        axes.fill_between(tokens, mean - deviation, mean + deviation, **band)
        settled += [mean - deviation, mean + deviation]
    limits = settled_limits(settled, SKIPPED_SHARE)
    if limits is not None:
        axes.set_ylim(*limits)
    style_axes(axes, "tokens trained on", "bits per byte, held-out training text" if legend else "")
    if legend:
        figure.legend(fontsize=9, loc="outside right upper", frameon=False, labelcolor=INK)
    return figure
