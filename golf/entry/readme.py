"""An entry's README.md: templates/entry.md.j2 filled with figures of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from golf.data.reference import text_of_size
from golf.entry.leaderboard import leaderboard_rows, what_compares
from golf.entry.runs import SeedRun
from golf.entry.selfextract import readable_source
from golf.entry.submission import mean_and_deviation, versions
from golf.presets import PRESETS
from golf.results import Results, Stage
from golf.system.stored import config_to_dict, flat_fields

_GIVEN_ELSEWHERE = ("seed", "model.vocab_size", "model.bos_id")


@dataclass(frozen=True)
class Page:
    """What the README is made of."""

    runs: Sequence[SeedRun]
    submission: dict[str, Any]
    pictures: Sequence[str]
    """PNG files of the entry."""
    ignored_artifacts: Sequence[str]
    """Artifacts too large to commit."""
    left_out: Sequence[Path]
    """Finished runs of the same configuration that are not in the entry."""


@dataclass(frozen=True)
class StageRow:
    """A stage's score over the seeds of an entry; deviations are None for one seed."""

    title: str
    bpb: float
    bpb_std: float | None
    nats: float
    """Per token."""
    nats_std: float | None
    windows: str
    tokens: int
    num_bytes: int


def stage_rows(runs: Sequence[Results]) -> list[StageRow]:
    """The stages of the first run, each with mean and sample deviation over all runs."""
    named = [{stage.title: stage for stage in results.stages} for results in runs]
    rows = []
    for title, first in named[0].items():
        stages = [one[title] for one in named if title in one]
        outputs = ", ".join(dict.fromkeys(stage.output or "" for stage in stages))
        bpb = mean_and_deviation([stage.tally.bits_per_byte for stage in stages])
        nats = mean_and_deviation([stage.tally.nats_per_token for stage in stages])
        full_title = f"{title} ({outputs})" if outputs else title
        counts = first.tally.num_tokens, first.tally.num_bytes
        rows.append(StageRow(full_title, *bpb, *nats, _windows(first), *counts))
    return rows


def reproduce_options(results: Results) -> str:
    """The options with which train_gpt.py repeats the run: those that differ from its preset."""
    preset = PRESETS.get(results.preset)
    default = flat_fields(config_to_dict(preset.config)) if preset else {}
    options = [f"--preset {results.preset}", f"--seed {results.seed}"]
    for name, value in flat_fields(results.config).items():
        value = tuple(value) if isinstance(value, list) else value
        if name in _GIVEN_ELSEWHERE or value is None or value == default.get(name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            part, _, last = flag.rpartition(".")
            options.append(f"--{flag}" if value else f"--{part}.no-{last}" if part else f"--no-{last}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            options.append(" ".join((f"--{flag}", *map(str, values))))
    return " ".join(options)


def render_readme(page: Page) -> str:
    """The README as Markdown; texts in its tables are escaped."""
    environment = Environment(
        loader=PackageLoader("golf.entry"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"cell": _cell, "format_as": format}
    runs = [run.results for run in page.runs]
    first, largest = runs[0], max(runs, key=lambda results: results.packing.total_bytes)
    text = text_of_size(first.final.tally.num_bytes)
    on_gpu = int(first.environment.get("device") == "cuda")
    minutes = round(page.submission["train_seconds"] / 60, 1)
    tokenizer = f"{first.config['model']['vocab_size']:,} pieces"
    own = (page.submission["val_bpb"], page.submission["name"], page.submission["hardware"])
    script = page.runs[0].script
    unpacked = len(readable_source(script).encode())
    return environment.get_template("entry.md.j2").render(
        page=page,
        entry=page.submission,
        runs=runs,
        first=first,
        final=first.final,
        stages=stage_rows(runs),
        text=text,
        public_scores=leaderboard_rows(*own, minutes, tokenizer, text),
        what_compares=what_compares(text, on_gpu, minutes),
        largest=largest,
        unpacked_bytes=unpacked if unpacked != len(script.encode()) else None,
        phases=list(dict.fromkeys(phase for results in runs for phase in results.seconds)),
        versions=versions(first),
        config=flat_fields(first.config),
        options=[reproduce_options(results) for results in runs],
        audits=[run.audit for run in page.runs],
    )


def _windows(stage: Stage) -> str:
    if stage.windows == "sliding" and stage.context and stage.stride:
        return f"sliding, {stage.context:,} tokens by {stage.stride}"
    if stage.windows == "by document" and stage.context:
        return f"by document, up to {stage.context:,} tokens, the longest first"
    return stage.windows


def _cell(value: object) -> str:
    """A value as a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
