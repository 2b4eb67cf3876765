"""A study's report: README.md, curves.png, results.json, and index.html from templates/study.html.j2."""

import math
import re

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from golf.lab.outcome import ArmOutcome
from golf.lab.study import Study
from golf.lab.trial import STATED_BITS
from golf.plotting import INK, line_style, new_figure, save_png, settled_limits, style_axes, to_svg
from golf.site.render import html_environment
from golf.system.files import atomic_write, write_json
from golf.system.stored import config_to_dict, flat_fields

COLUMNS = (
    "arm", "bits per byte", "deviation", "difference", "95% interval", "p", "p (Holm)", "runs",
    "held-out", "tokens", "tokens/s", "parameters", "bytes",
)  # fmt: skip
CURVES_NAME = "curves.png"
CHART_LABEL = "held-out bits per byte during training"


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
        f"seed. `bytes` is the artifact at {STATED_BITS:g} bits a weight."
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
    """Writes README.md, index.html, curves.png and results.json into the study's folder."""
    study.folder.mkdir(parents=True, exist_ok=True)
    rows = [cells(outcome) for outcome in outcomes]
    compared = claims(study, outcomes)
    how = conditions(study, outcomes)
    drawn = drawn_arms(outcomes)
    if drawn:
        save_png(draw_curves(drawn, legend=True), study.folder / CURVES_NAME)
    parts = [f"# {study.title}", study.intro, f"    {command}", how, markdown_table(COLUMNS, rows)]
    parts += [f"![{CHART_LABEL}]({CURVES_NAME})"] if drawn else []
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
            chart=to_svg(draw_curves(drawn, legend=False), CHART_LABEL) if drawn else "",
            drawn=[outcome.arm.name for outcome in drawn],
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
