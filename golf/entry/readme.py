"""An entry's README.md: templates/entry.md.j2 filled with figures of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from golf.data.reference import text_of_size
from golf.entry.leaderboard import place_of
from golf.entry.runs import SeedRun
from golf.entry.submission import mean_and_deviation, versions
from golf.results import Results, Stage
from golf.system.stored import flat_fields
from golf.ttt.documents import STREAM_ORDER


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
    rows = []
    for first in runs[0].stages:
        stages = [stage for run in runs if (stage := run.stage(first.name))]
        outputs = ", ".join(dict.fromkeys(stage.output or "" for stage in stages))
        bpb = mean_and_deviation([stage.tally.bits_per_byte for stage in stages])
        nats = mean_and_deviation([stage.tally.nats_per_token for stage in stages])
        title = f"{first.title} ({outputs})" if outputs else first.title
        counts = first.tally.num_tokens, first.tally.num_bytes
        rows.append(StageRow(title, *bpb, *nats, _windows(first), *counts))
    return rows


def entry_templates() -> Environment:
    """The templates of what an entry says in Markdown, with the filters `cell` and `format_as`."""
    environment = Environment(
        loader=PackageLoader("golf.entry"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"cell": _cell, "format_as": format}
    return environment


def render_readme(
    runs: Sequence[SeedRun],
    readable: str,
    figures: dict[str, Any],
    pictures: Sequence[str],
    ignored: Sequence[str],
    left_out: Sequence[str],
) -> str:
    """The README as Markdown; texts in its tables are escaped.

    `readable` is their script unpacked, `figures` are those of submission.json, `pictures` the entry's PNG
    files, `ignored` artifacts too large to commit, `left_out` finished runs of the same configuration that
    are not in the entry.
    """
    results = [run.results for run in runs]
    first, unpacked = results[0], len(readable.encode())
    public_scores, compares = place_of(first, figures["val_bpb"], figures["train_seconds"])
    return (
        entry_templates()
        .get_template("entry.md.j2")
        .render(
            entry=figures,
            pictures=pictures,
            ignored=ignored,
            left_out=left_out,
            runs=results,
            first=first,
            final=first.final,
            stages=stage_rows(results),
            text=text_of_size(first.final.tally.num_bytes),
            public_scores=public_scores,
            what_compares=compares,
            largest=max(results, key=lambda run: run.packing.total_bytes),
            unpacked_bytes=unpacked if unpacked != first.packing.code_bytes else None,
            phases=list(dict.fromkeys(phase for run in results for phase in run.seconds)),
            versions=versions(first),
            config=flat_fields(first.config),
            audits=[run.audit for run in runs],
        )
    )


def _windows(stage: Stage) -> str:
    if stage.windows == "sliding" and stage.context and stage.stride:
        return f"sliding, {stage.context:,} tokens by {stage.stride}"
    if stage.windows == "by document" and stage.context:
        order = "the longest first" if stage.notes.get("order") != STREAM_ORDER else "as they stand"
        return f"by document, up to {stage.context:,} tokens, {order}"
    return stage.windows


def _cell(value: object) -> str:
    """A value as a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
