"""The table at the end of `benchmarks.gpu`, and the few files that are worth carrying home."""

import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_jobs import Job
from golf.system.files import atomic_write

MAX_BYTES = 16 * 2**20
"""Of a file that is carried home."""
RUN_FILES = (
    "run.log", "run.jsonl", "config.json", "training.json", "averaging.json", "calibration.json",
    "pack.json", "score_weights.json", "score_quantized.json", "score_test_time_trained.json", "audit.json",
    "results.json",
)  # fmt: skip


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def write_report(path: Path, title: str, jobs: Sequence[Job], lines: Sequence[dict[str, Any]]) -> None:
    """How each stage ended, and the figures that there are."""
    parts = [f"# {title}", stage_table(jobs, lines)]
    for section in (environment_table, speed_table, run_table, score_table):
        text = section([line for line in lines if line["event"] not in ("start", "end")])
        if text:
            parts.append(text)
    with atomic_write(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def stage_table(jobs: Sequence[Job], lines: Sequence[dict[str, Any]]) -> str:
    """Each job, of earlier calls too: done, failed with its log's last line, skipped, or out of time."""
    ends = {line["job"]: line for line in lines if line["event"] == "end"}
    status = {name: end["status"] for name, end in ends.items()} | {job.name: job.status for job in jobs}
    keys = ("worked_seconds", "seconds", "reason")
    rows = [(name, status[name], *(ends.get(name, {}).get(key, "") for key in keys)) for name in status]
    return markdown(("stage", "result", "seconds", "ended at", "why"), rows)


def environment_table(lines: Sequence[dict[str, Any]]) -> str:
    """Versions, ceilings and errors, one figure a line."""
    rows = []
    for line in lines:
        if line["stage"] in ("environment", "tests", "data"):
            rows += flat(line["event"], {key: value for key, value in line.items() if key not in COMMON})
    return "## This machine\n\n" + markdown(("figure", "value"), rows) if rows else ""


def speed_table(lines: Sequence[dict[str, Any]]) -> str:
    """A row of the table for each network, context and attention kernel."""
    rows = [
        [form(line) if key in line else "-" for _, key, form in SPEED_COLUMNS]
        for line in lines
        if line["stage"] == "speed" and line["event"] == "figures"
    ]
    columns = [name for name, _, _ in SPEED_COLUMNS]
    return "## A training step\n\n" + markdown(columns, rows) if rows else ""


SPEED_COLUMNS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("network", "network", lambda line: f"{line['network']}, T {line['context']}"),
    ("attention", "attention", lambda line: line["attention"][0]),
    ("tokens/s", "tokens_per_second", lambda line: f"{line['tokens_per_second']:,.0f}"),
    ("step ms p10/p50/p90", "step_ms_p50", lambda line: "/".join(f"{line[key]:.1f}" for key in STEP_POINTS)),
    ("steps", "steps", lambda line: str(line["steps"])),
    ("optimiser ms", "optimiser_ms", lambda line: f"{line['optimiser_ms']:.1f}"),
    ("of matmul rate", "matmul_share", lambda line: f"{line['matmul_share']:.1%}"),
    ("peak GB", "peak_memory_bytes", lambda line: f"{line['peak_memory_bytes'] / 1e9:.1f}"),
    ("warm-up s", "warm_up_seconds", lambda line: f"{line['warm_up_seconds']:.0f}"),
)
"""Title, the figure that must be there, and how it is shown."""
STEP_POINTS = ("step_ms_p10", "step_ms_p50", "step_ms_p90")


def run_table(lines: Sequence[dict[str, Any]]) -> str:
    """What the real runs came to."""
    rows = []
    for line in lines:
        if line["stage"] in ("run", "fallback") and line["event"] == "figures":
            rows += flat(line["job"], {key: value for key, value in line.items() if key not in COMMON})
    return "## A run\n\n" + markdown(("figure", "value"), rows) if rows else ""


def score_table(lines: Sequence[dict[str, Any]]) -> str:
    """Packing and scoring on their own."""
    rows = []
    for line in lines:
        if line["stage"] in ("packing", "score"):
            figures = {key: value for key, value in line.items() if key not in COMMON}
            rows += flat(f"{line['job']} {line['event']}", figures)
    return "## Packing and scoring\n\n" + markdown(("figure", "value"), rows) if rows else ""


COMMON = ("stage", "job", "event", "seconds", "hardware")


def flat(name: str, value: Any) -> list[tuple[str, str]]:
    """A figure and its parts as rows."""
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in flat(f"{name}: {key}", item)]
    text = f"{value:,.6g}" if isinstance(value, float) else str(value)
    return [(name, text)]


def archive(out: Path, work: Path, runs: Sequence[Path], entry: Path | None, first_profile: str) -> list[str]:
    """Puts what is worth keeping into `out`, in a few files of at most 16 MiB; what was left out, and why."""
    left_out = []
    logs = sorted((work / "logs").glob("*"))
    with atomic_write(out / "logs.tar.gz") as partial, tarfile.open(partial, "w:gz") as tar:
        for path in logs:
            tar.add(path, f"logs/{path.name}")
        for run in runs:
            for name in RUN_FILES:
                if (run / name).is_file():
                    tar.add(run / name, f"{run.name}/{name}")
    copies = {work / "logs" / "junit.xml": "junit.xml", work / "logs" / first_profile: first_profile}
    artifacts = [run / "artifact.bin" for run in runs if (run / "artifact.bin").is_file()]
    if artifacts:
        copies[artifacts[-1]] = "artifact.bin"
    for source, name in copies.items():
        if source.is_file():
            with atomic_write(out / name) as partial:
                shutil.copyfile(source, partial)
    if entry is not None:
        with atomic_write(out / "entry.tar.gz") as partial, tarfile.open(partial, "w:gz") as tar:
            for path in sorted(entry.rglob("*")):
                if path.is_file() and path.stat().st_size < 2**20:
                    tar.add(path, f"{entry.name}/{path.relative_to(entry)}")
    for path in sorted(out.iterdir()):
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            left_out.append(f"{path.name} has {path.stat().st_size:,} bytes; a file carried home has 16 MiB")
    return left_out
