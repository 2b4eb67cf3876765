"""The picture of a study: held-out bits per byte along training, a band of one deviation an arm."""

from pathlib import Path

import numpy as np

from golf.lab.outcome import ArmOutcome
from golf.system.files import atomic_write

SKIPPED_SHARE = 0.2
"""First part of each curve that does not set the scale."""


def mean_curve(curves: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean tokens, mean bits per byte and their deviation at each look that every seed has taken."""
    looks = min(map(len, curves))
    stacked = np.array([curve[:looks] for curve in curves], dtype=np.float64).reshape(len(curves), looks, 2)
    deviation = stacked[..., 1].std(0, ddof=1) if len(curves) > 1 else np.zeros(looks)
    return stacked[..., 0].mean(0), stacked[..., 1].mean(0), deviation


def write_curves(path: Path, outcomes: list[ArmOutcome]) -> bool:
    """Draws the arms that have curves; False when none has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [(o, mean_curve([row["curve"] for row in o.measured])) for o in outcomes if o.measured]
    drawn = [(outcome, curve) for outcome, curve in drawn if len(curve[0])]
    if not drawn:
        return False
    figure, axis = pyplot.subplots(figsize=(9.0, 5.4), layout="constrained")
    colours = matplotlib.colormaps["tab20" if len(drawn) > 10 else "tab10"].colors
    lows, highs = [], []
    for index, (outcome, (tokens, mean, deviation)) in enumerate(drawn):
        colour = "black" if index == 0 else colours[(index - 1) % len(colours)]
        axis.plot(tokens, mean, color=colour, linewidth=1.8, label=outcome.arm.name)
        axis.fill_between(tokens, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        settled = int(SKIPPED_SHARE * len(mean))
        lows.append(float((mean - deviation)[settled:].min()))
        highs.append(float((mean + deviation)[settled:].max()))
    margin = 0.05 * max(max(highs) - min(lows), 1e-3)
    axis.set_ylim(min(lows) - margin, max(highs) + margin)
    axis.set_xlabel("tokens trained on")
    axis.set_ylabel("bits per byte, held-out training text")
    axis.grid(True, color="#e3e7eb", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, ncols=1 + len(drawn) // 14, loc="upper right", frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)
    return True
