"""Asks the scorer that gives an artifact its score whether it keeps the rules.

Shapes: N targets, T tokens, V vocabulary, D channels.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.audit.probes import (
    AuditConfig,
    ProbeReport,
    Replay,
    affordable_targets,
    choose_documents,
    choose_stream,
    choose_targets,
    largest_difference,
    probe_bytes,
    probe_causality,
    probe_document_start,
    probe_ledger,
    probe_normalisation,
)
from golf.data.manifest import Dataset, open_dataset
from golf.evaluate import EvaluateConfig, load_model, read_settings
from golf.model.gpt import GPT
from golf.run_folder import RunFolder, find_artifacts
from golf.score.ledger import Ledger, LegalityError
from golf.score.scorer import Scoring, score
from golf.score.windows import ResolvedWindows, plan_windows
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, environment, repeatable_kernels
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.ttt.documents import DOCUMENT_ORDER
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig

NOISE_FACTOR = 8.0
"""On a GPU, whose kernels may add in another order each time, this multiple of what two replays of the same
stream differ by is tolerated; on a CPU nothing may move at all."""
MIN_GPU_TOLERANCE, MAX_GPU_TOLERANCE = 1e-5, 0.05
"""In nats: the least that is tolerated on a GPU, and what no measured noise can excuse."""
SIDE_INFORMATION = "Replaced text keeps its BOS tokens: where documents start counts as known."
BATCH_INFORMATION = f" So do their lengths: they are graded in batches, {DOCUMENT_ORDER}."
AUDIT_BATCH_DOCUMENTS = 2
"""Documents that learn side by side, and that a phase waits for, while probed: a short stream has batches
and phases enough."""


class ArtifactScorer:
    """The project's scorer of one artifact, as the probes ask for it: each call starts from its weights."""

    def __init__(
        self,
        model: GPT,
        dataset: Dataset,
        windows: ResolvedWindows,
        ttt: TTTConfig | None,
        chunk_tokens: int,
    ):
        self.model, self.dataset, self.windows, self.ttt = model, dataset, windows, ttt
        self.chunk_tokens = chunk_tokens
        self._weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self._learners: dict[Any, Any] = {}

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """Scores the stream, up to the last of the wanted targets if any, and keeps their distributions."""
        self.model.load_state_dict(self._weights)
        log_probs: dict[int, np.ndarray] = {}

        def observe(seen_N: np.ndarray, log_probs_NV: Tensor) -> None:
            for row in np.flatnonzero(np.isin(seen_N, list(targets))):
                log_probs[int(seen_N[row])] = log_probs_NV[row].cpu().numpy()

        scoring = Scoring(self.model, tokens, self.dataset.vocabulary, self.windows, observe=observe)
        if self.ttt is not None and self.ttt.method == "lora":
            # To the end each time: documents cut short would be other documents, and other batches.
            result = score_adapting(scoring, self.ttt, learners=self._learners)
            return Replay(result.nats_N, log_probs, result.ledger)
        reach = max(targets) + 1 + self.windows.stride if len(targets) else len(tokens)
        scoring = replace(scoring, max_tokens=max(reach, self.windows.context))
        if self.ttt is None:
            result = score(scoring, self.chunk_tokens)
        else:
            result = score_adapting(scoring, replace(self.ttt, chunk_tokens=self.chunk_tokens))
        return Replay(result.nats_N, log_probs, result.ledger)

    def features(self, tokens: np.ndarray) -> np.ndarray:
        """The input of the first block (T, D): embedding, bigram and smeared previous token; T <= context."""
        self.model.load_state_dict(self._weights)
        device = next(self.model.parameters()).device
        with torch.no_grad():
            x_BTD = self.model.embed(torch.from_numpy(tokens.astype(np.int64))[None].to(device))
        return x_BTD[0].float().cpu().numpy()


def audit_artifact(
    artifact_path: Path, data_folder: Path, config: EvaluateConfig, how: AuditConfig, log: RunLog, ttt: bool
) -> dict[str, Any]:
    """Runs every probe on an artifact's scorer; returns what audit.json holds.

    Plain scoring is probed, and test-time training if `ttt` or if the artifact asks for it. Raises ValueError
    as `evaluate` does.
    """
    started = time.perf_counter()
    ends = None if how.max_seconds is None else started + how.max_seconds
    artifact = artifact_path.read_bytes()
    runtime = choose_runtime(config.device, eager=config.eager)
    device = runtime.device
    model, header = load_model(artifact, device)
    if runtime.compiled:
        model.compile(dynamic=False)
    windows, ttt_config = read_settings(header, config)
    windows = windows.resolve(model.config.context, device.type)
    clock = StageClock()
    with clock.stage("score"):
        dataset = open_dataset(data_folder)
        tokens = dataset.validation_tokens(clock)
    on_gpu = device.type != "cpu"
    chunk_tokens = how.chunk_tokens or (ttt_config.chunk_tokens if on_gpu else 2 * windows.context)
    stream = choose_stream(tokens, how.chunks * chunk_tokens + 1, dataset.vocabulary.bos_id, how.seed)
    reports = {"validation text": audit_data(dataset, tokens, windows)}
    streams = {"sliding windows": stream, "test-time training": stream}
    by_document = ttt_config.method == "lora"
    if by_document:
        ttt_config = replace(
            ttt_config,
            lora=replace(ttt_config.lora, batch_documents=AUDIT_BATCH_DOCUMENTS),
            phases=(AUDIT_BATCH_DOCUMENTS,) if ttt_config.phases else (),
        )
        bos_id = dataset.vocabulary.bos_id
        streams["test-time training"] = choose_documents(tokens, bos_id, windows.context, how)
    scorers = {"sliding windows": ArtifactScorer(model, dataset, windows, None, chunk_tokens)}
    if ttt or ttt_config.enabled:
        scorers["test-time training"] = ArtifactScorer(model, dataset, windows, ttt_config, chunk_tokens)
    found: dict[str, dict[str, float]] = {}
    with repeatable_kernels(device):
        for name, scorer in scorers.items():
            log.info(f"probing: {name}")
            # The first scorer leaves most of the time to the second, whose replays train as well.
            share = 1.0 if name == list(scorers)[-1] else 0.25
            left = None if ends is None else share * (ends - time.perf_counter())
            reports[name], found[name] = audit_scorer(scorer, streams[name], how, on_gpu, left, log)
    flat = [{"scorer": name, **asdict(report)} for name, each in reports.items() for report in each]
    return {
        "passed": all(not report["violations"] for report in flat),
        "probes": flat,
        "stream_tokens": max(len(streams[name]) for name in scorers),
        "chunk_tokens": chunk_tokens,
        "windows": asdict(windows),
        "ttt": asdict(ttt_config) if len(scorers) > 1 else None,
        "scorers": found,
        "seed": how.seed,
        "side_information": SIDE_INFORMATION + BATCH_INFORMATION * (by_document and len(scorers) > 1),
        "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
        "validation_sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
        "environment": environment(device),
        "seconds": time.perf_counter() - started,
    }


def audit_path(
    path: Path,
    data_folder: Path,
    config: EvaluateConfig,
    log: RunLog,
    ttt: bool,
    max_seconds: float | None = None,
) -> bool:
    """Audits an artifact, or every one in a folder; writes audit.json there and says whether all passed.

    Raises ValueError for a folder without an artifact, and as `audit_artifact` does.
    """
    artifacts = find_artifacts(path) if path.is_dir() else [path]
    if not artifacts:
        raise ValueError(f"{path}: holds no artifact; expected artifact.bin or artifact_seed<N>.bin")
    audits = {}
    for artifact in artifacts:
        audit = audit_artifact(artifact, data_folder, config, AuditConfig(max_seconds=max_seconds), log, ttt)
        audits[artifact.stem.removeprefix("artifact_seed")] = audit
        print_audit(artifact.name, audit, log)
    passed = all(audit["passed"] for audit in audits.values())
    merged = audits.popitem()[1] if len(audits) == 1 else {"passed": passed, "seeds": audits}
    target = RunFolder(path if path.is_dir() else path.parent).audit
    write_json(target, merged)
    log.info(f"{'passed' if passed else 'NOT passed'}: {target}")
    return passed


def print_audit(name: str, audit: dict[str, Any], log: RunLog) -> None:
    """A line a probe, and one for each violation."""
    rows = [
        (probe["scorer"], probe["probe"], "FAILED" if probe["violations"] else "passed", probe["checked"])
        for probe in audit["probes"]
    ]
    log.table(f"audit of {name}, {audit['seconds']:.1f} s", ("scorer", "probe", "", "on"), rows)
    for probe in audit["probes"]:
        for violation in probe["violations"]:
            log.info(f"{probe['scorer']}, {probe['probe']}: {violation}")


def audit_scorer(
    scorer: ArtifactScorer,
    stream: np.ndarray,
    how: AuditConfig,
    on_gpu: bool,
    left_seconds: float | None,
    log: RunLog,
) -> tuple[list[ProbeReport], dict[str, float]]:
    """Every probe of a scorer on one stream, and what decided how it was probed.

    On a GPU the tolerance follows from the difference of two replays, in nats; where time is short fewer
    targets are probed than were chosen.
    """
    vocabulary, windows = scorer.dataset.vocabulary, scorer.windows
    size, bos_id = vocabulary.size, vocabulary.bos_id
    targets = choose_targets(stream, windows, scorer.chunk_tokens, bos_id, how)
    start = next((target for target in targets if stream[target + 1] == bos_id), 0)
    around = stream[max(0, start + 1 - windows.context // 2) : start + 1 + windows.context // 2]
    starts = np.flatnonzero(around[1:] == bos_id)[-1:].tolist()
    ledger = probe_ledger(scorer, stream)
    began = time.perf_counter()
    before = scorer(stream, targets)
    replay_seconds = time.perf_counter() - began
    noise = replay_noise(before, scorer(stream, targets)) if on_gpu else 0.0
    tolerance = max(MIN_GPU_TOLERANCE, NOISE_FACTOR * noise) if on_gpu else 0.0
    if left_seconds is not None:
        left_seconds -= (3 if on_gpu else 2) * replay_seconds
    probed = affordable_targets(targets, replay_seconds, left_seconds)
    log.info(
        f"{len(probed)} of {len(targets)} targets, {replay_seconds:.1f} s a replay, noise {noise:.2g} nats"
    )
    arguments = scorer, stream, probed, size, bos_id, how.seed, before, min(tolerance, MAX_GPU_TOLERANCE)
    reports = [
        ledger,
        probe_causality(*arguments),
        probe_normalisation(*arguments),
        probe_document_start(scorer.features, around, starts, size, bos_id, how.seed),
    ]
    return reports, {
        "targets_chosen": len(targets),
        "targets_probed": len(probed),
        "replay_seconds": replay_seconds,
        "noise_nats": noise,
    }


def replay_noise(first: Replay, second: Replay) -> float:
    """The largest difference of a grade, or of a kept log probability, between two replays of a stream."""
    found = float(np.abs(first.nats_N - second.nats_N).max(initial=0.0))
    for target, log_probs_V in first.log_probs.items():
        found = max(found, largest_difference(log_probs_V, second.log_probs[target]))
    return found


def audit_data(dataset: Dataset, tokens: np.ndarray, windows: ResolvedWindows) -> list[ProbeReport]:
    """Whether the plan grades every target of the validation text once, and its bytes are those of the text.

    That the files have the manifest's sha256 was checked as they were opened.
    """
    vocabulary, num_targets = dataset.vocabulary, len(tokens) - 1
    ledger, violations = Ledger(num_targets), []
    try:
        for window in plan_windows(num_targets, windows.context, windows.stride):
            ledger.grade(window.end - window.num_graded, window.end, "a window")
        ledger.close(num_targets)
    except LegalityError as error:
        violations.append(str(error))
    return [
        ProbeReport("coverage", f"all {num_targets:,} targets, files by sha256", violations),
        probe_bytes(
            vocabulary.count_bytes,
            vocabulary.decode_tokens,
            tokens,
            vocabulary.bos_id,
            dataset.manifest.val_text_bytes,
        ),
    ]
