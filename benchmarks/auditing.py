"""What an audit costs, as a share of the scoring that it stands beside.

python -m benchmarks.auditing ARTIFACT_OR_ENTRY --data DIR [--json FILE]
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.audit.rescore import AuditConfig, audit_artifact
from golf.evaluate import EvaluateConfig, evaluate
from golf.run_folder import find_artifact, find_data
from golf.system.files import write_json
from golf.system.log import RunLog


@dataclass(frozen=True)
class AuditBenchmark:
    """What to measure."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one."""
    data: Path | None = None
    """Dataset folder; by default the entry's own."""
    max_tokens: int | None = None
    """Score this many tokens only, and scale the seconds to the whole text."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the figures here."""


def main() -> None:
    """Scores and audits once each, with test-time training, and prints the share."""
    options = tyro.cli(AuditBenchmark, description=__doc__)
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
        write_json(options.json, {"rows": [row], "environment": scores.environment})


if __name__ == "__main__":
    main()
