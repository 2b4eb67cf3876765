"""Cost of an audit, as a share of the scoring that it checks.

python -m benchmarks.auditing ARTIFACT_OR_ENTRY --data DIR [--json FILE]
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from golf.audit.rescore import AuditConfig, audit_artifact
from golf.evaluate import EvaluateConfig, evaluate
from golf.run_folder import find_artifact, find_data
from golf.system.log import RunLog


@dataclass(frozen=True)
class AuditBenchmark:
    """The artifact, the data and the size of the measurement."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one."""
    data: Path | None = None
    """Dataset folder; by default the entry's own."""
    max_tokens: int | None = None
    """Number of tokens to score; by default all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """File for the results as JSON."""


def run_command(options: AuditBenchmark) -> None:
    """Scores and audits once each, with test-time training, and prints the share."""
    log = RunLog()
    artifact, data = find_artifact(options.path), find_data(options.data, options.path)
    config = EvaluateConfig(max_tokens=options.max_tokens, device=options.device)
    scores = evaluate(artifact, data, config, log, ttt=True)
    started = time.perf_counter()
    audit = audit_artifact(artifact, data, config, AuditConfig(), log, ttt=True)
    audit_seconds = time.perf_counter() - started
    scored = sum(stage.seconds or 0.0 for stage in scores.stages)
    coverage = audit["probes"][0]["checked"]
    row = {
        "tokens_scored": scores.stages[0].tally.num_tokens,
        "score_seconds": scored,
        "audit_seconds": audit_seconds,
        "audit_share_of_scoring": audit_seconds / scored,
    }
    log.table(f"cost of an audit ({coverage})", list(row), [list(row.values())])
    if options.json:
        write_figures(options.json, {"rows": [row]}, options, scores.environment)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("auditing", AuditBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
