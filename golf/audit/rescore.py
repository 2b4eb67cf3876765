"""Asks the scorer that gives an artifact its score whether it keeps the rules.

Shapes: N targets, T tokens, V vocabulary, D channels.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.audit.isolate import Limits, run_project
from golf.data.manifest import Dataset, open_dataset
from golf.evaluate import EvaluateConfig, read_model, read_settings
from golf.run_folder import RunFolder, find_artifacts
from golf.score.documents import per_document
from golf.score.ledger import Ledger, LegalityError
from golf.score.scorer import Scoring, score, token_tensor
from golf.score.windows import ResolvedWindows, plan_windows
from golf.stats import sample_of, welch
from golf.system.cli import run_program
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, environment, repeatable_kernels
from golf.system.files import write_json, write_sealed_json
from golf.system.foreign import MAX_JSON_BYTES, read_object
from golf.system.log import RunLog
from golf.ttt.documents import LENGTH_ORDER, plan_documents, split_documents
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig

SUM_TOLERANCE = 1e-4
"""How far the probabilities of a distribution may add up to something else than 1."""
GRADE_TOLERANCE_NATS = 1e-4
"""How far a grade may lie from the distribution that was fixed before the target was read."""
MEMORY_DOCUMENTS, MEMORY_TOKENS, MIN_MEMORY_DOCUMENTS = 64, 128, 8
"""Documents of each text whose cost is compared, and the tokens from their starts that are taken; of fewer
documents nothing is said."""
MEMORY_SHARD_TOKENS = 1 << 22
"""Of a training shard, from which these documents are taken."""
MEMORY_SHARE, MEMORY_PROBABILITY = 0.05, 1e-6
"""Validation text must not cost less than training text by more than this share of it; how improbable it must
be that it does by chance (Welch's test over documents)."""
MAX_AUDIT_SECONDS = 86_400.0
_ARTIFACT, _AUDIT = "artifact.bin", "audit.json"
_MOST_TOLD = 5


@dataclass(frozen=True)
class Replay:
    """What a scorer did with a stream."""

    nats_N: np.ndarray
    """The grade of each target; it may end after the last one asked about."""
    log_probs: dict[int, np.ndarray]
    """For each target asked about, the log probability of every token (V,), fixed before it is read."""
    ledger: Ledger
    """What was graded and trained on, when."""


ProbedScorer = Callable[[np.ndarray, Sequence[int]], Replay]
"""Takes a stream and the targets whose distributions are wanted."""


@dataclass(frozen=True)
class Probing:
    """A stream, and what is asked about it."""

    tokens: np.ndarray
    targets: Sequence[int]
    vocab_size: int
    bos_id: int
    seed: int = 0
    """Of what replaces tokens."""
    tolerance_nats: float = 0.0
    """How far nats may move that must not move."""
    before: Replay | None = None
    """A replay of the stream with these targets, if there is one."""

    def replay(self, scorer: ProbedScorer) -> Replay:
        """The stream as it is."""
        return scorer(self.tokens, self.targets) if self.before is None else self.before

    def replaced(self, start: int, end: int, draw: np.random.Generator) -> np.ndarray:
        """A copy of the stream in which tokens [start, end) are other ones, none BOS; BOS tokens stay."""
        others = np.delete(np.arange(self.vocab_size), self.bos_id)
        changed = self.tokens.copy()
        old = self.tokens[start:end].astype(np.int64)
        shifts = draw.integers(1, len(others), len(old))
        new = others[(old - (old > self.bos_id) + shifts) % len(others)]
        changed[start:end] = np.where(old == self.bos_id, old, new)
        return changed


@dataclass(frozen=True)
class ProbeReport:
    """What a probe looked at and what it found."""

    probe: str
    checked: str
    violations: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.violations


def probe_causality(scorer: ProbedScorer, asked: Probing) -> ProbeReport:
    """Replaces what comes at and after each target, and the target alone: nothing before it may move.

    Compares all earlier grades and the whole distribution at the target. BOS tokens stay where they are.
    """
    draw, before, tolerance = np.random.default_rng(asked.seed), asked.replay(scorer), asked.tolerance_nats
    violations = []
    for target in asked.targets:
        for what, end in (("everything from it on", len(asked.tokens)), ("it alone", target + 2)):
            changed = asked.replaced(target + 1, end, draw)
            if np.array_equal(changed, asked.tokens):
                continue
            after = scorer(changed, [target])
            moved = ~(np.abs(after.nats_N[:target] - before.nats_N[:target]) <= tolerance)
            if moved.any():
                first = int(moved.argmax())
                violations.append(
                    f"replacing target {target} ({what}) moved the grade of target {first} "
                    f"from {before.nats_N[first]:.6g} to {after.nats_N[first]:.6g} nats"
                )
            here = largest_difference(before.log_probs[target], after.log_probs[target])
            if not here <= tolerance:
                violations.append(
                    f"replacing target {target} ({what}) moved the distribution at it by {here:.3g} nats"
                )
    amount = f"to {tolerance:g} nats" if tolerance else "to the bit"
    return ProbeReport("causality", f"{_listed(asked.targets)}, {amount}", violations)


def probe_normalization(scorer: ProbedScorer, asked: Probing) -> ProbeReport:
    """Requires at each target a distribution over the whole vocabulary that adds up to 1 and is what grades.

    The target is graded, and so is another token put in its place: each must get the probability that the
    distribution gave it before, to GRADE_TOLERANCE_NATS or the tolerance asked for, whichever is more.
    """
    draw, before = np.random.default_rng(asked.seed), asked.replay(scorer)
    tolerance = max(asked.tolerance_nats, GRADE_TOLERANCE_NATS)
    violations = []
    for target in asked.targets:
        log_probs_V = before.log_probs[target].astype(np.float64)
        if log_probs_V.shape != (asked.vocab_size,):
            violations.append(f"the distribution at target {target} has shape {log_probs_V.shape}")
            continue
        total = float(np.exp(log_probs_V).sum())
        if not abs(total - 1.0) <= SUM_TOLERANCE:
            violations.append(f"the probabilities at target {target} add up to {total:.6g}")
        changed = asked.replaced(target + 1, target + 2, draw)
        grades = {int(asked.tokens[target + 1]): float(before.nats_N[target])}
        grades[int(changed[target + 1])] = float(scorer(changed, [target]).nats_N[target])
        for token, nats in grades.items():
            if not abs(nats + log_probs_V[token]) <= tolerance:
                violations.append(
                    f"target {target}, were it token {token}, is graded {nats:.6g} nats; the distribution "
                    f"gives it {-log_probs_V[token]:.6g}"
                )
    checked = f"the sum within {SUM_TOLERANCE:g}, 1 other token(s) in each place"
    return ProbeReport("normalisation", f"{_listed(asked.targets)}, {checked}", violations)


def probe_ledger(scorer: ProbedScorer, tokens: np.ndarray) -> ProbeReport:
    """Requires every target to be graded once, and to be trained on only after that, warm-up included."""
    violations = []
    try:
        replay = scorer(tokens, [])
        replay.ledger.close(len(tokens) - 1)
        if len(replay.nats_N) != len(tokens) - 1:
            violations.append(f"{len(replay.nats_N):,} grades were given for {len(tokens) - 1:,} targets")
        elif not np.isfinite(replay.nats_N).all():
            violations.append(f"target {int((~np.isfinite(replay.nats_N)).argmax())} has no finite grade")
    except LegalityError as error:
        violations.append(str(error))
    return ProbeReport("ledger", f"{len(tokens) - 1:,} targets", violations)


def probe_bytes(
    count_bytes: Callable[[np.ndarray, np.ndarray], np.ndarray],
    decode: Callable[[Sequence[int]], str],
    tokens: np.ndarray,
    bos_id: int,
    stated_bytes: int,
) -> ProbeReport:
    """Requires each document's tokens to count as many bytes as its decoded text has, and so the stream's.

    A last document that was cut inside a character is left out of the comparison by document.
    """
    counted_N = count_bytes(tokens[:-1], tokens[1:])
    starts = [*np.flatnonzero(tokens == bos_id).tolist(), len(tokens)]

    def wrong_documents() -> Iterator[str]:
        for number, (start, end) in enumerate(pairwise(starts)):
            text = decode(tokens[start + 1 : end].tolist())
            counted, actual = int(counted_N[start : end - 1].sum()), len(text.encode())
            is_cut = end == len(tokens) and text.endswith("�")
            if counted != actual and not is_cut:
                yield f"document {number} is counted as {counted:,} bytes; its decoded text has {actual:,}"

    violations = list(wrong_documents())
    if len(violations) > _MOST_TOLD:
        more = len(violations) - _MOST_TOLD
        violations[_MOST_TOLD:] = [f"{more:,} more documents are counted wrong"]
    if (total := int(counted_N.sum())) != stated_bytes:
        violations.append(f"{total:,} bytes are counted; the manifest says {stated_bytes:,}")
    return ProbeReport("bytes", f"{len(starts) - 1:,} documents against their decoded text", violations)


def probe_memory(validation_D: np.ndarray, training_D: np.ndarray) -> ProbeReport:
    """Requires documents of the validation text to cost no less than those of the training text.

    Takes the nats per token of documents. Weights that learned the one as well as the other are found, not
    those that hold a small part of it.
    """
    validation, training = sample_of(validation_D), sample_of(training_D)
    probability = welch(validation, training, MEMORY_SHARE * training.mean)
    violations = []
    if probability is not None and probability < MEMORY_PROBABILITY:
        violations.append(
            f"the validation text costs {validation.mean:.4g} nats a token, the training text "
            f"{training.mean:.4g}: the weights hold some of the validation text"
        )
    checked = f"starts of {len(validation_D):,} validation and {len(training_D):,} training documents"
    return ProbeReport("memory", checked, violations)


def probe_document_start(features: Callable[[np.ndarray], np.ndarray], asked: Probing) -> ProbeReport:
    """Requires what enters the network (T, D) at a BOS and after it not to see the document before.

    The targets are the BOS tokens to look at; `features` maps a stream to what its attention reads.
    """
    draw, before_TD = np.random.default_rng(asked.seed), features(asked.tokens)
    violations = []
    for target in asked.targets:
        start = target + 1
        after_TD = features(asked.replaced(0, start, draw))
        if not np.array_equal(after_TD[start:], before_TD[start:]):
            violations.append(
                f"replacing the document before target {target}, a BOS, moved what enters the network there"
            )
    return ProbeReport("document start", _listed(asked.targets), violations)


def largest_difference(left_V: np.ndarray, right_V: np.ndarray) -> float:
    """Between two arrays of log probabilities; infinities of one sign in the same place are alike."""
    same_infinities = np.isinf(left_V) & (left_V == right_V)
    return float(np.where(same_infinities, 0.0, np.abs(left_V - right_V)).max())


def _listed(targets: Sequence[int]) -> str:
    return f"targets {', '.join(str(target) for target in targets)}"


NOISE_FACTOR = 8.0
"""On a GPU, whose kernels may add in another order each time, this multiple of what two replays of the same
stream differ by is tolerated; on a CPU nothing may move at all."""
MIN_GPU_TOLERANCE, MAX_GPU_TOLERANCE = 1e-5, 0.05
"""In nats: the least that is tolerated on a GPU, and what no measured noise can excuse."""
SIDE_INFORMATION = "Replaced text keeps its BOS tokens: where documents start counts as known."
BATCH_INFORMATION = f" So do their lengths: they are graded in batches, {LENGTH_ORDER}."
AUDIT_BATCH_DOCUMENTS = 2
"""Documents that learn side by side, and that a phase waits for, while probed: a short stream has batches
and phases enough."""
MIN_TARGETS = 2
"""Targets that an audit looks at however little time it has."""
REPLAYS_PER_TARGET = 3
"""Of the stream: two for causality, one for normalisation."""


@dataclass(frozen=True)
class AuditConfig:
    """How hard the probes look."""

    seed: int = 0
    """Of the stream's place in the text, of the targets and of what replaces them."""
    targets: int = 6
    """Targets that each probe looks at: half of them where windows, chunks and documents meet."""
    chunks: int = 3
    """Chunks of the stream that is replayed."""
    max_seconds: float | None = None
    """Where it is known how long a replay takes, look at fewer targets, MIN_TARGETS at the least, to keep to
    about so many seconds."""


class ArtifactScorer:
    """The project's scorer of one artifact, as the probes ask for it: each call starts from its weights."""

    def __init__(self, scoring: Scoring, ttt: TTTConfig | None, chunk_tokens: int):
        self.scoring, self.ttt, self.chunk_tokens = scoring, ttt, chunk_tokens
        weights = scoring.model.state_dict()
        self._weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self._learners: dict[Any, Any] = {}

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """Scores the stream, up to the last of the wanted targets if any, and keeps their distributions."""
        self.scoring.model.load_state_dict(self._weights)
        log_probs: dict[int, np.ndarray] = {}

        def observe(seen_N: np.ndarray, log_probs_NV: Tensor) -> None:
            for row in np.flatnonzero(np.isin(seen_N, list(targets))):
                log_probs[int(seen_N[row])] = log_probs_NV[row].cpu().numpy()

        scoring = replace(self.scoring, tokens=tokens, observe=observe)
        if self.ttt is not None and self.ttt.method == "lora":
            # To the end each time: documents cut short would be other documents, and other batches.
            result = score_adapting(scoring, self.ttt, learners=self._learners)
            return Replay(result.nats_N, log_probs, result.ledger)
        windows = scoring.resolved_windows()
        reach = max(targets) + 1 + windows.stride if len(targets) else len(tokens)
        scoring = replace(scoring, max_tokens=max(reach, windows.context))
        if self.ttt is None:
            result = score(scoring, self.chunk_tokens)
        else:
            result = score_adapting(scoring, replace(self.ttt, chunk_tokens=self.chunk_tokens))
        return Replay(result.nats_N, log_probs, result.ledger)

    def features(self, tokens: np.ndarray) -> np.ndarray:
        """The input of the first block (T, D): embedding, n-grams, smeared previous token; T <= context."""
        self.scoring.model.load_state_dict(self._weights)
        with torch.no_grad():
            x_BTD = self.scoring.model.embed(token_tensor(tokens[None], self.scoring.device))
        return x_BTD[0].float().cpu().numpy()


def audit_artifact(
    artifact_path: Path, data_folder: Path, config: EvaluateConfig, how: AuditConfig, log: RunLog, ttt: bool
) -> dict[str, Any]:
    """Runs every probe on an artifact's scorer; returns what audit.json holds.

    Plain scoring is probed, and test-time training if `ttt` or if the artifact asks for it. Raises ValueError
    as `evaluate` does.
    """
    started = time.perf_counter()
    runtime = choose_runtime(config.device, eager=config.eager)
    device = runtime.device
    artifact, model, header = read_model(artifact_path, device)
    if runtime.compiled:
        model.compile(dynamic=False)
    windows, ttt_config = read_settings(header, config)
    clock = StageClock()
    with clock.stage("score"):
        dataset = open_dataset(data_folder)
        tokens = dataset.validation_tokens(clock)
    scoring = Scoring(model, tokens, dataset.vocabulary, windows)
    windows = scoring.resolved_windows()
    on_gpu, bos_id = device.type != "cpu", dataset.vocabulary.bos_id
    chunk_tokens = ttt_config.chunk_tokens if on_gpu else 2 * windows.context
    adapts, by_document = ttt or ttt_config.enabled, ttt_config.method == "lora"
    takes_lengths = adapts and by_document and ttt_config.order == "length"
    stream = choose_stream(tokens, how.chunks * chunk_tokens + 1, bos_id, how.seed)
    probed = {"sliding windows": (stream, ArtifactScorer(scoring, None, chunk_tokens))}
    if by_document:
        ttt_config = replace(
            ttt_config,
            lora=replace(ttt_config.lora, batch_documents=AUDIT_BATCH_DOCUMENTS),
            phases=(AUDIT_BATCH_DOCUMENTS,) if ttt_config.phases else (),
        )
        stream = choose_documents(tokens, bos_id, windows.context, how.seed, ttt_config.order == "length")
    if adapts:
        probed["test-time training"] = stream, ArtifactScorer(scoring, ttt_config, chunk_tokens)
    reports = {"validation text": audit_data(scoring, dataset.manifest.val_text_bytes)}
    reports["validation text"] += audit_memory(scoring, dataset)
    found: dict[str, dict[str, float]] = {}
    with repeatable_kernels(device):
        for name, (stream, scorer) in probed.items():
            log.info(f"probing: {name}")
            # The first scorer leaves most of the time to the second, whose replays train as well.
            share = 1.0 if name == list(probed)[-1] else 0.25
            spent = time.perf_counter() - started
            left = None if how.max_seconds is None else share * (how.max_seconds - spent)
            reports[name], found[name] = audit_scorer(scorer, stream, how, on_gpu, left, log)
    flat = [{"scorer": name, **asdict(report)} for name, each in reports.items() for report in each]
    return {
        "passed": all(not report["violations"] for report in flat),
        "probes": flat,
        "stream_tokens": max(len(stream) for stream, _ in probed.values()),
        "chunk_tokens": chunk_tokens,
        "windows": asdict(windows),
        "ttt": asdict(ttt_config) if adapts else None,
        "scorers": found,
        "seed": how.seed,
        "side_information": SIDE_INFORMATION + BATCH_INFORMATION * takes_lengths,
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
    isolated: bool = False,
) -> bool:
    """Audits an artifact, or every one in a folder; writes audit.json there and says whether all passed.

    A stranger's artifact is decoded and scored in an `isolated` process. Raises ValueError for a folder
    without an artifact, and as `audit_artifact` does.
    """
    artifacts = find_artifacts(path) if path.is_dir() else [path]
    if not artifacts:
        raise ValueError(f"{path}: holds no artifact; expected artifact.bin or artifact_seed<N>.bin")
    audits = {}
    for artifact in artifacts:
        run_audit = _audit_isolated if isolated else audit_artifact
        audit = run_audit(artifact, data_folder, config, AuditConfig(max_seconds=max_seconds), log, ttt)
        audits[artifact.stem.removeprefix("artifact_seed")] = audit
        print_audit(artifact.name, audit, log)
    passed = all(audit["passed"] for audit in audits.values())
    target = RunFolder(path if path.is_dir() else path.parent).audit
    _keep_proofs(target, audits)
    merged = audits.popitem()[1] if len(audits) == 1 else {"passed": passed, "seeds": audits}
    write_sealed_json(target, merged)
    log.info(f"{'passed' if passed else 'NOT passed'}: {target}")
    return passed


def audits_in(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The audits of an audit.json: it is that of one artifact, or has those of several seeds."""
    seeds = fields.get("seeds")
    found = (fields, *(seeds.values() if isinstance(seeds, dict) else ()))
    return [each for each in found if isinstance(each, dict)]


def _keep_proofs(path: Path, audits: dict[str, dict[str, Any]]) -> None:
    """Puts the proofs of an earlier audit.json into the audits of the same artifacts."""
    if not path.is_file():
        return
    try:
        earlier = read_object(path)
    except ValueError:
        # It is replaced.
        return
    for old in audits_in(earlier):
        for audit in audits.values():
            known = old.get("artifact_sha256") == audit["artifact_sha256"]
            if known and "proofs" in old and old.get("validation_sha256") == audit.get("validation_sha256"):
                audit["proofs"] = old["proofs"]


def _audit_isolated(
    artifact: Path, data_folder: Path, config: EvaluateConfig, how: AuditConfig, log: RunLog, ttt: bool
) -> dict[str, Any]:
    """As `audit_artifact`, in a process of its own."""
    asked = {name: vars(config)[name] for name in ("context", "stride", "method", "order", "device", "eager")}
    told = {"data": str(data_folder.resolve()), "config": asked, "how": asdict(how), "ttt": ttt}
    with tempfile.TemporaryDirectory() as folder:
        done = run_project(
            "golf.audit.rescore:main_audit",
            [json.dumps(told)],
            inputs={_ARTIFACT: artifact},
            outputs={_AUDIT: MAX_JSON_BYTES},
            into=Path(folder),
            visible=[data_folder],
            limits=Limits(seconds=MAX_AUDIT_SECONDS),
            device=config.device,
            show=lambda data: log.pass_on(data.decode(errors="replace")),
        )
        if done.returncode == 2 and not done.stopped_by:
            raise ValueError(f"{artifact}: {done.last_words.removeprefix('audit: ')}")
        if done.failure or _AUDIT not in done.files:
            raise ValueError(f"{artifact}: the audit {done.failure or 'left no result'}")
        return {**read_object(done.files[_AUDIT]), "isolation": done.mechanism}


def main_audit(arguments: list[str]) -> int:
    """Audits the artifact in the current folder, as `arguments` say in JSON, into a file beside it."""

    def work() -> int:
        told = json.loads(arguments[0])
        asked = EvaluateConfig(**told["config"]), AuditConfig(**told["how"]), RunLog(), told["ttt"]
        write_json(Path(_AUDIT), audit_artifact(Path(_ARTIFACT), Path(told["data"]), *asked))
        return 0

    return run_program("audit", work)


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
    windows, vocabulary = scorer.scoring.resolved_windows(), scorer.scoring.vocabulary
    size, bos_id, context = vocabulary.size, vocabulary.bos_id, windows.context
    targets = choose_targets(stream, windows, scorer.chunk_tokens, bos_id, how)
    ledger = probe_ledger(scorer, stream)
    began = time.perf_counter()
    before = scorer(stream, targets)
    replay_seconds = time.perf_counter() - began
    noise = tolerance = 0.0
    if on_gpu:
        noise = replay_noise(before, scorer(stream, targets))
        tolerance = min(MAX_GPU_TOLERANCE, max(MIN_GPU_TOLERANCE, NOISE_FACTOR * noise))
    if left_seconds is not None:
        left_seconds -= (3 if on_gpu else 2) * replay_seconds
    probed = affordable_targets(targets, replay_seconds, left_seconds)
    log.info(
        f"{len(probed)} of {len(targets)} targets, {replay_seconds:.1f} s a replay, noise {noise:.2g} nats"
    )
    asked = Probing(stream, probed, size, bos_id, how.seed, tolerance, before)
    start = next((target for target in targets if stream[target + 1] == bos_id), 0)
    around = stream[max(0, start + 1 - context // 2) : start + 1 + context // 2]
    starts = np.flatnonzero(around[1:] == bos_id)[-1:].tolist()
    reports = [
        ledger,
        probe_causality(scorer, asked),
        probe_normalization(scorer, asked),
        probe_document_start(scorer.features, Probing(around, starts, size, bos_id, how.seed)),
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


def audit_data(scoring: Scoring, stated_bytes: int) -> list[ProbeReport]:
    """Whether the plan grades every target of the validation text once, and its bytes are those of the text.

    That the files have the manifest's sha256 was checked as they were opened.
    """
    tokens, vocabulary, windows = scoring.tokens, scoring.vocabulary, scoring.resolved_windows()
    num_targets = len(tokens) - 1
    ledger, violations = Ledger(num_targets), []
    try:
        for window in plan_windows(num_targets, windows.context, windows.stride):
            ledger.grade(window.end - window.num_graded, window.end, "a window")
        ledger.close(num_targets)
    except LegalityError as error:
        violations.append(str(error))
    count_bytes, decode, bos_id = vocabulary.count_bytes, vocabulary.decode_tokens, vocabulary.bos_id
    return [
        ProbeReport("coverage", f"all {num_targets:,} targets, files by sha256", violations),
        probe_bytes(count_bytes, decode, tokens, bos_id, stated_bytes),
    ]


def audit_memory(scoring: Scoring, dataset: Dataset) -> Iterator[ProbeReport]:
    """Whether the weights hold the validation text; asked where the folder has training text to compare."""
    files = [file for file in dataset.manifest.files if file.split == "train"]
    found = next((file for file in files if (dataset.folder / file.name).exists()), None)
    if found is None:
        yield ProbeReport("memory", "nothing: there is no training text here", [])
        return
    texts = scoring.tokens, dataset.open_shard(found)[:MEMORY_SHARD_TOKENS]
    context, bos_id = scoring.resolved_windows().context, scoring.vocabulary.bos_id
    disjoint = replace(scoring.windows, stride=context)

    def cost(tokens: np.ndarray) -> np.ndarray:
        spans = [span for span in split_documents(tokens, len(tokens) - 1, bos_id) if span.num_targets > 1]
        spans = spans[:: max(1, len(spans) // MEMORY_DOCUMENTS)][:MEMORY_DOCUMENTS]
        starts = [tokens[span.start : min(span.end, span.start + MEMORY_TOKENS)] for span in spans]
        stream = np.concatenate([*starts, [bos_id] * context])
        documents = per_document(
            score(replace(scoring, tokens=stream, windows=disjoint)).nats_N, stream, scoring.vocabulary
        )
        return documents.nats_D[: len(spans)] / documents.tokens_D[: len(spans)]

    validation_D, training_D = map(cost, texts)
    if min(len(validation_D), len(training_D)) >= MIN_MEMORY_DOCUMENTS:
        yield probe_memory(validation_D, training_D)


def choose_stream(tokens: np.ndarray, length: int, bos_id: int, seed: int) -> np.ndarray:
    """`length` tokens in a row from the start of a short document, drawn by `seed`; else the first ones."""
    starts = np.flatnonzero(tokens == bos_id)
    ends = np.append(starts[1:], len(tokens))
    good = starts[(starts + length <= len(tokens)) & (ends - starts < length)]
    start = int(np.random.default_rng(seed).choice(good)) if len(good) else 0
    return tokens[start : start + length]


def choose_documents(
    tokens: np.ndarray, bos_id: int, context: int, seed: int, by_length: bool = True
) -> np.ndarray:
    """Some documents drawn by seed, cut to a window and less, as a stream in the order of their grading.

    The probes take a stream to be graded from its start to its end. The first may be longer than a
    window, so that windows slide; of a text with fewer than five documents all are taken.
    """
    spans = split_documents(tokens, len(tokens), bos_id)
    longest = [context + context // 4, context, context // 2, context // 4, context // 8]
    chosen = np.random.default_rng(seed).permutation(len(spans))[: len(longest)]
    pieces = [
        tokens[spans[place].start : spans[place].end][: max(2, most)]
        for place, most in zip(chosen, longest, strict=False)
    ]
    stream = np.concatenate(pieces)
    batches = plan_documents(split_documents(stream, len(stream), bos_id), (1,), (), 1, by_length)
    return np.concatenate([stream[start:end] for batch in batches for start, end in batch.documents])


def choose_targets(
    stream: np.ndarray, windows: ResolvedWindows, chunk_tokens: int, bos_id: int, how: AuditConfig
) -> list[int]:
    """Targets to probe: some where documents, windows or chunks meet, the others anywhere."""
    num_targets = len(stream) - 1
    draw = np.random.default_rng(how.seed)
    chunks = range(chunk_tokens, num_targets, chunk_tokens)
    edges = {windows.context, windows.context + windows.stride, *chunks}
    meeting = [*edges, *(edge - 1 for edge in edges)]
    meeting = [target for target in meeting if 0 < target < num_targets]
    chosen = set(draw.permutation(meeting)[: how.targets // 2].tolist())
    chosen |= set(draw.permutation(np.flatnonzero(stream[1:] == bos_id))[:1].tolist())
    anywhere = draw.permutation(num_targets)[: how.targets].tolist()
    return sorted([*chosen, *[target for target in anywhere if target not in chosen]][: how.targets])


def affordable_targets(
    targets: Sequence[int], replay_seconds: float, left_seconds: float | None
) -> list[int]:
    """As many of the targets, evenly taken, as can be probed in the seconds that are left."""
    if left_seconds is None:
        return list(targets)
    most = int(left_seconds / (REPLAYS_PER_TARGET * max(replay_seconds, 1e-9)))
    count = min(len(targets), max(MIN_TARGETS, most))
    return [targets[place * len(targets) // count] for place in range(count)]
