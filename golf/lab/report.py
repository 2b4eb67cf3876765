"""A study's report: README.md, its charts, results.json, and index.html from templates/study.html.j2."""

import math
import re

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from golf.lab.outcome import ArmOutcome
from golf.lab.study import Study
from golf.lab.trial import STATED_BITS
from golf.plotting import (
    INK,
    PALETTE,
    SOFT,
    label_ends,
    line_style,
    new_figure,
    save_svg,
    settled_limits,
    style_axes,
    to_svg,
)
from golf.site.render import html_environment
from golf.system.files import atomic_write, write_json
from golf.system.stored import config_to_dict, flat_fields

COLUMNS = (
    "arm", "bits per byte", "deviation", "difference", "95% interval", "p", "p (Holm)", "runs",
    "held-out", "tokens", "tokens/s", "parameters", "bytes",
)  # fmt: skip
CURVES, DIFFERENCES = "held-out bits per byte during training", "differences of the scores to the first arm's"
CHARTS = {DIFFERENCES: "differences.svg", CURVES: "curves.svg"}
"""What the charts show, and the files that README.md shows."""
MAX_COLORS = len(PALETTE) - 1
"""Without the gray. Of more arms than this, only those have a color whose interval of the difference leaves
out 0, and none has a band of one deviation over the seeds."""


def number(value: float, digits: int = 4, sign: bool = False) -> str:
    """A number with so many decimals; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:{'+' if sign else ''},.{digits}f}"


def cells(outcome: ArmOutcome) -> tuple[str, ...]:
    """An arm's row under COLUMNS; an arm without a score says why in place of one."""
    name, failures = outcome.arm.name, len(outcome.failures)
    runs = f"{len(outcome.scores)}" + (f" of {len(outcome.scores) + failures}" if failures else "")
    if not outcome.scores:
        why = outcome.failures[0] if failures else "not run"
        return (name, f"failed: {why}" if failures else why, *[""] * (len(COLUMNS) - 2))
    d = outcome.difference
    compared = ("", "", "", "")
    if d is not None:
        interval = f"{number(d.low, sign=True)} to {number(d.high, sign=True)}"
        compared = (number(d.mean, sign=True), interval, f"{d.p:.2g}", f"{d.p_holm:.2g}")
    return (
        name,
        number(outcome.mean),
        number(outcome.deviation),
        *compared,
        runs,
        number(outcome.average("held_out_bpb")),
        number(outcome.average("train_tokens"), 0),
        number(outcome.tokens_per_second, 0),
        number(outcome.average("parameters"), 0),
        number(outcome.average("artifact_bytes"), 0),
    )


def differences(study: Study) -> dict[str, str]:
    """By arm, the fields in which its config is not the base's."""
    base = flat_fields(config_to_dict(study.arms[0].config))
    said = {}
    for arm in study.arms:
        own = flat_fields(config_to_dict(arm.config))
        said[arm.name] = ", ".join(f"{key} {own[key]}" for key in own if own[key] != base[key])
    return said


def conditions(study: Study, outcomes: list[ArmOutcome]) -> str:
    """One paragraph: budget, seeds, text and machine."""
    config = study.arms[0].config
    budget = f"{config.steps:,} steps" if config.steps else f"{60 * (config.minutes or 0.0):g} seconds"
    measured = [row for outcome in outcomes for row in outcome.measured]
    machine = ""
    if measured:
        first = measured[0]
        environment = first["environment"]
        machine = (
            f" The score is on {first['validation_tokens']:,} validation tokens by disjoint windows. "
            f"Machine: {environment['hardware']}, {environment['cores']} cores, torch {environment['torch']}."
        )
    return (
        f"Each run trains for {budget}; {study.seeds} seeds an arm.{machine} Lower is better. `difference` "
        "is to the first arm, seed by seed, its error pooled over all arms; `p (Holm)` corrects p for the "
        "number of arms. `held-out` is on training text that was kept back, `tokens/s` that of the fastest "
        f"seed. `bytes` is the artifact at {STATED_BITS:g} bits a weight. An interval that holds 0 is gray, "
        f"and so is the arm's curve if there are more than {MAX_COLORS} arms."
    )


def markdown_table(columns: tuple[str, ...], rows: list[tuple[str, ...]], rule: str = "---:") -> str:
    """A table in Markdown; the first column is text, the others are aligned by `rule`, as numbers."""
    rule = "|---|" + f"{rule}|" * (len(columns) - 1)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [columns, *rows]]
    return "\n".join([lines[0], rule, *lines[1:]])


def claims(study: Study, outcomes: list[ArmOutcome]) -> list[tuple[str, ...]]:
    """Rows (arm, what differs, what the source says, what came out) for the arms but the base."""
    differing = differences(study)
    rows = []
    for outcome in outcomes[1:]:
        d = outcome.difference
        found = "no difference measured" if d is None else f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
        verdict = f"{found}: {outcome.verdict}" if outcome.verdict else found
        rows.append((outcome.arm.name, f"`{differing[outcome.arm.name]}`", outcome.arm.claim, verdict))
    return rows


CLAIM_COLUMNS = ("arm", "what is set", "the source says", "here")


def prose(text: str) -> Markup:
    """Paragraphs of a text with empty lines between them, with what is between `backticks` as code."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup("\n".join(f"<p>{paragraph}</p>" for paragraph in marked.split("\n\n") if paragraph))


def write_report(study: Study, outcomes: list[ArmOutcome], command: str) -> None:
    """Writes README.md, index.html, the charts and results.json into the study's folder."""
    study.folder.mkdir(parents=True, exist_ok=True)
    rows = [cells(outcome) for outcome in outcomes]
    compared = claims(study, outcomes)
    how = conditions(study, outcomes)
    charts = {DIFFERENCES: draw_differences(outcomes), CURVES: draw_curves(outcomes)}
    charts = {label: figure for label, figure in charts.items() if figure is not None}
    for label, figure in charts.items():
        save_svg(figure, study.folder / CHARTS[label], label)
    parts = [f"# {study.title}", study.intro, f"    {command}", how, markdown_table(COLUMNS, rows)]
    parts += [f"![{label}]({CHARTS[label]})" for label in charts]
    if compared:
        parts += ["## Results against the sources' claims", markdown_table(CLAIM_COLUMNS, compared, "---")]
    parts += ["## Reading", study.reading] if study.reading else []
    with atomic_write(study.folder / "README.md") as partial:
        partial.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    page = (
        html_environment("golf.lab")
        .get_template("study.html.j2")
        .render(
            study=study,
            prose=prose,
            command=command,
            conditions=how,
            columns=COLUMNS,
            rows=rows,
            charts={label: to_svg(figure, label) for label, figure in charts.items()},
            claim_columns=CLAIM_COLUMNS,
            claims=compared,
        )
    )
    with atomic_write(study.folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    write_json(
        study.folder / "results.json",
        [
            {
                "arm": outcome.arm.name,
                "config": config_to_dict(outcome.arm.config),
                "seeds": list(outcome.seeds),
                "measured": list(outcome.measured),
                "failures": list(outcome.failures),
                "difference": vars(outcome.difference) if outcome.difference else None,
            }
            for outcome in outcomes
        ],
    )


SKIPPED_SHARE = 0.2
"""First part of each curve that does not set the scale."""


def mean_curve(curves: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean tokens, mean bits per byte and their deviation at each evaluation that every seed has."""
    evaluations = min(map(len, curves))
    shortened = [curve[:evaluations] for curve in curves]
    stacked = np.array(shortened, dtype=np.float64).reshape(len(curves), evaluations, 2)
    deviation = stacked[..., 1].std(0, ddof=1) if len(curves) > 1 else np.zeros(evaluations)
    return stacked[..., 0].mean(0), stacked[..., 1].mean(0), deviation


def is_settled(outcome: ArmOutcome) -> bool:
    """Whether the 95% interval of an arm's difference leaves out 0."""
    return outcome.difference is not None and not outcome.difference.low <= 0.0 <= outcome.difference.high


def draw_curves(outcomes: list[ArmOutcome]) -> Figure | None:
    """The arms' curves, each named at its end, the base in INK; None where there is none.

    Of more arms than there are colors, those that are not settled are gray.
    """
    drawn = [one for one in outcomes if one.measured and all(row["curve"] for row in one.measured)]
    if not drawn:
        return None
    figure = new_figure(9.0, max(4.4, 1.4 + 0.2 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    settled, ends, colors = [], [], 0
    for outcome in drawn:
        tokens, mean, deviation = mean_curve([row["curve"] for row in outcome.measured])
        style = {**line_style(-1), "linewidth": 1.8}
        if outcome.arm is not outcomes[0].arm and len(drawn) > MAX_COLORS and not is_settled(outcome):
            style = {"color": SOFT, "linewidth": 0.9}
        elif outcome.arm is not outcomes[0].arm:
            style |= line_style(colors // MAX_COLORS * len(PALETTE) + colors % MAX_COLORS)
            colors += 1
        axes.plot(tokens, mean, **style)
        if len(drawn) <= MAX_COLORS:
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(tokens, mean - deviation, mean + deviation, **band)
        settled += [mean - deviation, mean + deviation]
        ends.append((tokens[-1], mean[-1], outcome.arm.name, style["color"]))
    limits = settled_limits(settled, SKIPPED_SHARE)
    if limits is not None:
        axes.set_ylim(*limits)
    style_axes(axes, "tokens trained on", title="held-out training text, bits per byte")
    label_ends(axes, ends, 10)
    return figure


def draw_differences(outcomes: list[ArmOutcome]) -> Figure | None:
    """Each arm's difference to the base with its 95% interval, the best on top; None where there is none.

    Intervals that leave out 0 are colored, as a gain or a loss.
    """
    compared = [(one.arm.name, one.difference) for one in outcomes if one.difference is not None]
    if not compared:
        return None
    compared = sorted(compared, key=lambda pair: -pair[1].mean)
    figure = new_figure(9.0, 1.1 + 0.26 * len(compared), layout="constrained")
    axes = figure.subplots()
    for row, (_, found) in enumerate(compared):
        color = PALETTE[0] if found.high < 0 else PALETTE[1] if found.low > 0 else SOFT
        axes.plot((found.low, found.high), (row, row), color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot(found.mean, row, marker="o", markersize=6, color=color)
        axes.annotate(f"{found.mean:+.4f}", (1.02, row), xycoords=("axes fraction", "data"), color=color)
    style_axes(axes, f"bits per byte more than {outcomes[0].arm.name} has, with the 95% interval")
    axes.grid(False)
    axes.axvline(0.0, color=INK, linewidth=1)
    axes.set_yticks(range(len(compared)), [name for name, _ in compared], parse_math=False)
    for text in axes.texts:
        text.set(fontsize=9, verticalalignment="center")
    return figure
