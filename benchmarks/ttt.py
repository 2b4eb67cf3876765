"""What test-time training gains on an artifact, by method, and settings to try on training text.

    python -m benchmarks.ttt ARTIFACT_OR_ENTRY --data DIR [--json FILE]
    python -m benchmarks.ttt --device cuda [--speed.shard FILE]

Without an artifact, how fast a preset's network would be graded and learned from: benchmarks/ttt_steps.py.
Seconds are the wall's, with all of the machine's threads. With `--grid` settings of the adapters, and epochs
of gradient descent by chunks, are tried on the end of the training text, which trainings hold out: nobody
tunes on validation.
"""

import sys
import time
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from benchmarks.ttt_steps import SpeedOptions, measure_operations, measure_speeds
from golf.data.manifest import Dataset, open_dataset
from golf.data.vocabulary import Vocabulary
from golf.entry.compare import BITS_PER_NAT
from golf.evaluate import EvaluateConfig, load_model, read_settings
from golf.model.gpt import GPT
from golf.run_folder import find_artifact, find_data
from golf.score.documents import per_document
from golf.score.scorer import ScoreResult, Scoring, score
from golf.score.windows import ResolvedWindows
from golf.stats import paired_bootstrap
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, environment
from golf.system.log import RunLog
from golf.ttt.document_scorer import score_documents
from golf.ttt.lora import LoraLearner
from golf.ttt.methods import plan_lora, score_adapting
from golf.ttt.sgd import TTTConfig


@dataclass(frozen=True)
class TTTBenchmark:
    """What to measure."""

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """An artifact, or a folder with one; without, speeds of a preset are measured."""
    speed: SpeedOptions = field(default_factory=SpeedOptions)
    """What speeds to measure without an artifact."""
    data: Path | None = None
    """Dataset folder; by default the entry's own."""
    max_tokens: int | None = None
    """Score this many tokens of the validation text only."""
    grid: bool = False
    """Try settings of the adapters on training text, instead of measuring the artifact's."""
    grid_tokens: int = 8_192
    """Tokens of training text to try settings on."""
    rates: tuple[float, ...] = (0.001, 0.002, 0.004)
    """Learning rates to try."""
    ranks: tuple[int, ...] = (8, 64)
    """Ranks to try; alpha keeps its proportion to the rank."""
    chunks: tuple[int, ...] = (24, 48)
    """Chunks of long documents to try; those of shorter ones are at most as large."""
    boosts: tuple[float, ...] = (0.0, 2.6)
    """Boosts of the n-gram tilt to try; 0 is none."""
    epochs: tuple[int, ...] = (1, 3)
    """Passes over each graded chunk of the method sgd to try."""
    speed_documents: int = 16
    """Documents of the comparison of speeds, of `speed_tokens` each."""
    speed_tokens: int = 256
    """Tokens of such a document."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the figures here."""


class Bench:
    """An artifact's network and what to score it on."""

    def __init__(self, options: TTTBenchmark):
        assert options.path is not None
        self.options, self.runtime = options, choose_runtime(options.device)
        self.artifact = find_artifact(options.path).read_bytes()
        self.dataset: Dataset = open_dataset(find_data(options.data, options.path))
        model, header = load_model(self.artifact, self.runtime.device)
        windows, self.ttt = read_settings(header, EvaluateConfig())
        self.windows = windows.resolve(model.config.context, self.runtime.device.type)
        self.vocabulary: Vocabulary = self.dataset.vocabulary

    def model(self) -> GPT:
        """The network as the artifact holds it, whatever was done with the last one."""
        return load_model(self.artifact, self.runtime.device)[0]

    def adapting(
        self, tokens: np.ndarray, ttt: TTTConfig, windows: ResolvedWindows | None = None
    ) -> ScoreResult:
        """The score with test-time training."""
        limit = self.options.max_tokens
        windows = windows or self.windows
        return score_adapting(Scoring(self.model(), tokens, self.vocabulary, windows, max_tokens=limit), ttt)

    def sliding(self, tokens: np.ndarray) -> ScoreResult:
        """The score by sliding windows."""
        limit = self.options.max_tokens
        return score(Scoring(self.model(), tokens, self.vocabulary, self.windows, max_tokens=limit))


def measure_gains(bench: Bench) -> dict[str, Any]:
    """Bits per byte by sliding windows, what each method takes off, and p that adapters are no better."""
    clock = StageClock()
    with clock.stage("score"):
        tokens = bench.dataset.validation_tokens(clock)
    seconds, results = {}, {}
    for name in ("sliding", "sgd", "lora"):
        started = time.perf_counter()
        ttt = replace(bench.ttt, method="sgd" if name == "sgd" else "lora")
        results[name] = bench.sliding(tokens) if name == "sliding" else bench.adapting(tokens, ttt)
        seconds[name] = time.perf_counter() - started
    # A prefix ends with a window in one case and with a token in the other.
    graded = min(len(result.nats_N) for result in results.values())
    documents = {
        name: per_document(result.nats_N[:graded], tokens, bench.vocabulary)
        for name, result in results.items()
    }
    bytes_D = documents["lora"].bytes_D

    def compare(better: str, worse: str) -> Any:
        bits_a_D, bits_b_D = (documents[name].nats_D * BITS_PER_NAT for name in (better, worse))
        return paired_bootstrap(bits_a_D, bits_b_D, bytes_D)

    lora = compare("lora", "sliding")
    return {
        "sliding_bpb": results["sliding"].tally.bits_per_byte,
        "sgd_gain_bpb": compare("sgd", "sliding").gain,
        "lora_gain_bpb": lora.gain,
        "p_paired": lora.p_improvement,
        "p_paired_over_sgd": compare("lora", "sgd").p_improvement,
        "documents": len(bytes_D),
        "tokens_scored": graded,
        **{f"{name}_tokens_per_second": graded / seconds[name] for name in results},
        "unadapted_documents": results["lora"].notes["unadapted_documents"],
    }


def measure_speedup(bench: Bench) -> dict[str, Any]:
    """Tokens per second with adapters, documents together against one at a time, and how far apart.

    The documents are of one length, cut from training text.
    """
    options, config = bench.options, replace(bench.ttt.lora, batch_documents=bench.options.speed_documents)
    tokens = held_out_text(bench.dataset, options.speed_documents * options.speed_tokens + 1).copy()
    tokens[tokens == bench.vocabulary.bos_id] = tokens[1]
    tokens[:: options.speed_tokens] = bench.vocabulary.bos_id
    context = bench.windows.context
    nats, speeds = {}, {}
    for rows in (1, options.speed_documents):
        windows = replace(bench.windows, batch_tokens=rows * context)
        model, batches = bench.model(), plan_lora(tokens, bench.vocabulary.bos_id, config)
        scoring = Scoring(model, tokens, bench.vocabulary, windows)
        score_documents(scoring, batches, LoraLearner(model, config, rows))
        learner = LoraLearner(model, config, rows)
        started = time.perf_counter()
        result = score_documents(scoring, batches, learner)
        speeds[rows] = result.tally.num_tokens / (time.perf_counter() - started)
        nats[rows] = result.nats_N
    one, together = speeds[1], speeds[options.speed_documents]
    return {
        "one_document_tokens_per_second": one,
        "batched_tokens_per_second": together,
        "batched_speedup": together / one,
        "batched_largest_difference_nats": float(np.abs(nats[1] - nats[options.speed_documents]).max()),
    }


def held_out_text(dataset: Dataset, num_tokens: int) -> np.ndarray:
    """The last tokens of the training text, from the start of a document; ValueError if it has too few."""
    shard = dataset.train_shards()[-1]
    starts = np.flatnonzero(shard[: max(0, len(shard) - num_tokens + 1)] == dataset.vocabulary.bos_id)
    if not len(starts):
        raise ValueError(f"the last training shard has {len(shard):,} tokens; {num_tokens:,} are asked for")
    return np.array(shard[starts[-1] : starts[-1] + num_tokens])


def try_settings(bench: Bench, log: RunLog) -> list[dict[str, Any]]:
    """Bits per byte of held-out training text under each setting of the grid, the best first."""
    options = bench.options
    tokens = held_out_text(bench.dataset, options.grid_tokens + 1)
    sliding = bench.sliding(tokens).tally.bits_per_byte
    rows = []
    for name, ttt in grid_of(options, bench.ttt):
        started = time.perf_counter()
        gain = sliding - bench.adapting(tokens, ttt).tally.bits_per_byte
        rows.append({"setting": name, "gain_bpb": gain, "seconds": time.perf_counter() - started})
        log.event("setting", **rows[-1])
    return sorted(rows, key=lambda row: -row["gain_bpb"])


def grid_of(options: TTTBenchmark, ttt: TTTConfig) -> list[tuple[str, TTTConfig]]:
    """Every setting of the grid and its name: adapters in all combinations, then sgd by epochs."""
    grid = []
    adapters = product(options.rates, options.ranks, options.chunks, options.boosts)
    for rate, rank, chunk, boost in adapters:
        chunks = (*(min(chunk, usual) for usual in ttt.lora.chunk_tokens[:-1]), chunk)
        alpha = rank * ttt.lora.alpha / ttt.lora.rank
        lora = replace(ttt.lora, rate=rate, rank=rank, alpha=alpha, chunk_tokens=chunks)
        name = f"lora rate {rate:g} rank {rank} chunk {chunk} boost {boost:g}"
        grid.append((name, replace(ttt, method="lora", lora=lora, tilt=replace(ttt.tilt, boost=boost))))
    # So that there are chunks to learn from before the text ends.
    chunk_tokens = min(ttt.chunk_tokens, max(1, options.grid_tokens // 8))
    for epochs in options.epochs:
        sgd = replace(ttt, method="sgd", epochs=epochs, chunk_tokens=chunk_tokens)
        grid.append((f"sgd epochs {epochs}", sgd))
    return grid


def report_speeds(options: TTTBenchmark, log: RunLog) -> None:
    """The speeds of each arm, and a step's operations."""
    runtime, speed = choose_runtime(options.device), options.speed
    rows = measure_speeds(speed, runtime, log)
    # A figure a line, an arm a column: there are more figures than arms.
    lines = [[name, *(row[name] for row in rows)] for name in list(rows[0])[1:]]
    log.table("grading and learning", ("figure", *(row["arm"] for row in rows)), lines)
    counts = measure_operations(speed, log) if speed.operations else []
    if options.json:
        figures: dict[str, Any] = {"speeds": rows, "operations": counts}
        write_figures(options.json, figures, options, environment(runtime.device))


def run_command(options: TTTBenchmark) -> None:
    """Measures gains and speed-up, or tries the grid, and prints the table."""
    log = RunLog()
    timing = TTTBenchmark(None, options.speed, device=options.device, json=options.json)
    if options.path is None and options != timing:
        raise ValueError("no artifact is given; --data and the like go with one, --speed.* without")
    if options.path is not None and options.speed != SpeedOptions():
        raise ValueError("--speed.* goes without an artifact: it times random weights on made-up documents")
    if options.path is None:
        report_speeds(options, log)
        return
    bench = Bench(options)
    rows = try_settings(bench, log) if options.grid else [measure_gains(bench) | measure_speedup(bench)]
    if options.grid:
        title = "adapters on held-out training text"
        log.table(title, list(rows[0]), [list(row.values()) for row in rows])
    else:
        log.table("test-time training", ("figure", "value"), list(rows[0].items()))
    if options.json:
        figures: dict[str, Any] = {"grid": rows} if options.grid else rows[0]
        write_figures(options.json, figures, options, environment(bench.runtime.device))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("ttt", TTTBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
