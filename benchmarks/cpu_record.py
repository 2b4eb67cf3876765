"""Equal seconds on this machine: the default preset, other recipes at its size, and compressors.

    python -m benchmarks.cpu_record [--data DIR] [--seconds 60] [--seeds 3] [--clock cpu] [--plot FILE.svg]

- `default`: the preset `cpu`.
- `seed`, `pr334`: the recipes of those presets; vocabulary, width, blocks, heads and steps as in `default`.
- `gpt2`: GPT-2's shape, as many blocks and about as many parameters (without the hashed tables), under AdamW.
- Compressors, on the same validation text: alone, and primed with the training text that they read in as many
  seconds.

Networks are scored from their own best average, by windows that overlap by half, before packing. That is the
last point of a curve; those before it are the weights of then by disjoint windows, evaluated outside of the
seconds. A primed compressor needs the training text that it has read again to decompress, in compressed form:
what the table says that it keeps.

`--clock cpu` counts the time of the processor, of all threads together, which other programs on the machine
change little. One line of JSON a run: what has its line is not made again. Without `--data` the text is the
common documentation, made on first use.
"""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.command import run_benchmark
from benchmarks.compressors import Compressor, CompressorError, find_compressors, grow
from benchmarks.figures import write_figures
from benchmarks.recipe import append_row, as_cell, digest, read_rows, run_arm
from golf.checks import check_config, check_data
from golf.command import RunOptions, open_or_prepare
from golf.config import RunConfig
from golf.data.manifest import Dataset
from golf.entry.finalize import decoded_text
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.plotting import label_ends, line_style, new_figure, save_svg, style_axes
from golf.presets import CPU, GPT2_MINI, PRESETS
from golf.run import LiveTrainer, disjoint_scoring, score_disjoint
from golf.score.windows import WindowConfig
from golf.stats import sample_of
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, environment
from golf.system.log import RunLog
from golf.train.config import TrainConfig

SCALED = ("seed", "pr334")
"""Presets whose recipe is compared at the default's size."""
NETWORKS = ("default", *SCALED, "gpt2")
GPT2_RATE = 6e-3
"""AdamW's learning rate of all groups: 4.17 bits per byte, 4.24 at 3e-3 and 4.31 at 1e-3, the preset's, after
14 seconds of one core (documentation, seed 1, the first 32,768 tokens of validation)."""
SHARED_MODEL = ("vocab_size", "bos_id", "num_layers", "width", "num_heads", "num_kv_heads", "context",
                "rotary_dims", "bigram_width")  # fmt: skip
SHARED_TRAIN = ("batch_tokens", "micro_batch_tokens", "warmup_steps", "held_out_tokens")
COLUMNS = ("arm", "n", "bpb", "deviation", "read", "steps", "keeps", "seconds")
MAX_TRAINING_TOKENS = 1 << 25
MAX_TRAINING_BYTES = 1 << 27
"""Most that a compressor reads: zstd's window."""


@dataclass(frozen=True)
class CpuRecord:
    """What to compare, for how long."""

    data: Path | None = None
    """Dataset folder; by default the common documentation, made on first use."""
    seconds: float = 60.0
    """Training seconds of each run, and most of a compressor that reads training text."""
    seeds: int = 3
    """Runs of each network."""
    first_seed: int = 1
    """Seed of the first of them; the others follow."""
    clock: Literal["wall", "cpu"] = "wall"
    """Seconds of the wall, or of the processor: all threads together."""
    threads: int = 1
    """Threads of a network; compressors have one."""
    evals: int = 10
    """Points of a network's curve."""
    arms: tuple[str, ...] = ()
    """Only these networks and compressors; by default all."""
    max_tokens: int = 131_072
    """Validation tokens to score, at most."""
    rows: Path = Path("runs/cpu_record.jsonl")
    """One line a run; what it holds already is not run again."""
    json: Path | None = None
    """Also write the comparison here."""
    plot: Path | None = None
    """Also draw bits per byte over seconds here, as SVG."""


def cpu_seconds() -> float:
    """Seconds of the processor that this process and its ended children took."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": cpu_seconds}


def plan_networks(options: CpuRecord, vocab_size: int, bos_id: int) -> dict[str, RunConfig]:
    """Every network's configuration by arm, without a seed, for a vocabulary."""
    default = replace(CPU, model=replace(CPU.model, vocab_size=vocab_size, bos_id=bos_id))
    scaled = [at_size_of(default, PRESETS[name].config) for name in SCALED]
    arms = dict(zip(NETWORKS, (default, *scaled, gpt2_recipe(default)), strict=True))
    loop = {"num_evals": options.evals, "reports": 10, "checkpoint_seconds": 1e9, "reserve_seconds": 0.0}
    other = RunConfig()
    return {
        name: replace(
            config,
            minutes=options.seconds / 60,
            steps=None,
            train=replace(config.train, **loop),
            pack=other.pack,
            score=WindowConfig(stride=config.model.context // 2),
            ttt=other.ttt,
        )
        for name, config in arms.items()
    }


def at_size_of(default: RunConfig, preset: RunConfig) -> RunConfig:
    """The preset's recipe at the size of `default`; the feed-forward keeps its ratio to the width."""
    own = preset.model
    model = replace(
        own,
        **{name: vars(default.model)[name] for name in SHARED_MODEL},
        mlp_hidden=own.mlp_hidden * default.model.width // own.width,
        bigram_buckets=own.bigram_buckets and default.model.vocab_size,
    )
    return replace(preset, model=model, train=with_steps_of(default.train, preset.train))


def gpt2_recipe(default: RunConfig) -> RunConfig:
    """The preset `gpt2-mini` with the blocks of `default` and about its parameters without tables."""
    sizes = {name: vars(default.model)[name] for name in ("vocab_size", "bos_id", "num_layers", "context")}
    heads = default.model.num_heads

    def at_width(width: int) -> ModelConfig:
        shape = {"width": width, "mlp_hidden": 4 * width, "rotary_dims": width // heads}
        return replace(GPT2_MINI.model, **sizes, **shape, num_heads=heads, num_kv_heads=heads)

    # Without the tables, whose rows take no time: a token reads one of each.
    wanted = count_parameters(replace(default.model, bigram_buckets=0, ngram_buckets=()))
    widths = range(4 * heads, 4 * default.model.width, 4 * heads)
    best = min(widths, key=lambda width: abs(count_parameters(at_width(width)) - wanted))
    train = with_steps_of(default.train, GPT2_MINI.train)
    rates = dict.fromkeys(("matrix_lr", "embedding_lr", "scalar_lr"), GPT2_RATE)
    optim = replace(GPT2_MINI.optim, **rates)
    return replace(GPT2_MINI, model=at_width(best), train=train, optim=optim)


def with_steps_of(default: TrainConfig, train: TrainConfig) -> TrainConfig:
    """The training loop with the default's tokens a step."""
    return replace(train, **{name: vars(default)[name] for name in SHARED_TRAIN})


def count_parameters(model: ModelConfig) -> int:
    """Parameters of a network in training."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(model).parameters())


class CurveLog(RunLog):
    """A silent log that scores validation text whenever the held-out text was scored: training is paused."""

    def __init__(self, dataset: Dataset, tokens: np.ndarray, clock: StageClock, live: LiveTrainer):
        super().__init__(quiet=True)
        self._vocabulary, self._tokens, self._clock, self._live = dataset.vocabulary, tokens, clock, live
        self.seconds: list[float] = []
        self.bpb: list[float] = []

    def event(self, kind: str, **fields: object) -> None:
        """Adds a point of the curve where the event is `held_out`."""
        super().event(kind, **fields)
        trainer = self._live.trainer
        if kind == "held_out" and trainer is not None:
            text = self._tokens, self._vocabulary, trainer.micro_batch_tokens
            scoring = disjoint_scoring(trainer.model, *text, RunLog(quiet=True))
            self.seconds.append(round(self._clock.elapsed("train"), 3))
            self.bpb.append(score_disjoint(scoring, None).bits_per_byte)


class Comparison:
    """The runs of one command: which there are, which have their line, and what is missing."""

    def __init__(self, options: CpuRecord, log: RunLog):
        self.options, self.log = options, log
        self.timer = CLOCKS[options.clock]
        self.runtime = choose_runtime("cpu")
        arms = [*NETWORKS, *(one.name for one in find_compressors())]
        for name in options.arms:
            if name not in arms:
                raise ValueError(f"--arms: there is no arm {name!r}; there are {', '.join(arms)}")
        self.dataset = open_or_prepare(RunOptions(preset="cpu", data=options.data), CPU, log)
        vocabulary = self.dataset.vocabulary
        networks = plan_networks(options, vocabulary.size, vocabulary.bos_id)
        wanted = options.arms or arms
        self.networks = {name: config for name, config in networks.items() if name in wanted}
        self.compressors = [one for one in find_compressors() if one.name in wanted]
        for config in self.networks.values():
            check_config(config, "cpu")
            check_data(config, self.dataset)
            if options.max_tokens < config.model.context:
                raise ValueError(f"--max-tokens is {options.max_tokens}; a window has {config.model.context}")
        tokens = self.dataset.validation_tokens(StageClock())
        self.tokens = tokens[: options.max_tokens + 1]
        self.missing: dict[str, str] = {}
        """Why a compressor has no figures, by its name."""

    def run(self) -> list[dict[str, Any]]:
        """The lines of all runs, those made that were missing."""
        options, wanted = self.options, []
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(options.threads)
        for compressor in self.compressors:
            settings = compressor.name, compressor.made_by, options.max_tokens, options.seconds, options.clock
            key = digest(RunConfig(), self.dataset, *settings)
            wanted.append(self.made(key, compressor.name, lambda one=compressor: self.compress(one)))
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name, config in self.networks.items():
                config = replace(config, seed=seed)
                key = digest(config, self.dataset, options.max_tokens, options.threads, options.clock)
                wanted.append(self.made(key, name, lambda config=config: self.train(config)))
        return [row for row in wanted if row]

    def made(self, key: str, arm: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The line of a run, made if it is not there."""
        known = {row["key"]: row for row in read_rows(self.options.rows)}
        if key in known:
            return known[key]
        figures = make()
        if not figures:
            return {}
        row = {"key": key, "arm": arm, "clock": self.options.clock, **figures}
        append_row(self.options.rows, row)
        shown = {name: row[name] for name in ("arm", "bpb", "seed", "steps", "made_by") if name in row}
        self.log.event("run", **shown)
        return row

    def train(self, config: RunConfig) -> dict[str, Any]:
        """Trains and scores a network."""
        clock, live = StageClock(timer=self.timer), LiveTrainer()
        log = CurveLog(self.dataset, self.tokens, clock, live)
        figures = run_arm(config, self.dataset, self.runtime, self.options.max_tokens, log, clock, live)
        curve = {
            "curve_seconds": [*log.seconds, figures["train_seconds"]],
            "curve_bpb": [*log.bpb, figures["bpb"]],
        }
        return {"seed": config.seed, **figures, **curve, "threads": torch.get_num_threads()}

    def compress(self, compressor: Compressor) -> dict[str, Any]:
        """Compresses the validation text after more and more training text; {} where that is impossible."""
        if compressor.compress is None:
            self.missing[compressor.name] = "not installed"
            self.log.info(f"{compressor.name} is not installed: {compressor.made_by}")
            return {}
        text = decoded_text(self.tokens, self.dataset.vocabulary)
        try:
            points = grow(compressor.compress, self.training, text, self.options.seconds, self.timer)
        except CompressorError as error:
            self.missing[compressor.name] = "failed"
            self.log.info(f"{compressor.name} {error}")
            return {}
        best = {"bpb": points[-1].bpb, "made_by": compressor.made_by}
        return {**best, "points": [{**asdict(point), "bpb": point.bpb} for point in points]}

    @property
    def training(self) -> bytes:
        """Training text for compressors, from the start of the first shard."""
        if self._training is None:
            parts, left = [], MAX_TRAINING_TOKENS
            for shard in self.dataset.train_shards():
                parts.append(np.asarray(shard[:left]))
                left -= len(parts[-1])
            text = decoded_text(np.concatenate(parts), self.dataset.vocabulary)
            self._training = text[:MAX_TRAINING_BYTES]
        return self._training

    _training: bytes | None = None


def summarize(rows: list[dict[str, Any]], missing: dict[str, str]) -> list[dict[str, Any]]:
    """One line a network, one or two a compressor, the best first; those that are missing last."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        runs[row["arm"]].append(row)
    lines = []
    for arm, own in runs.items():
        if "points" in own[0]:
            first, *others = own[0]["points"]
            lines.append(compressor_line(arm, first))
            lines += [compressor_line(f"{arm}, primed", last) for last in others[-1:]]
        else:
            lines.append(network_line(arm, own))
    nothing = dict.fromkeys(COLUMNS)
    lines.sort(key=lambda line: line["bpb"])
    return lines + [{**nothing, "arm": arm, "bpb": why} for arm, why in missing.items()]


def network_line(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns of a network, means over its runs."""
    sample = sample_of(np.array([run["bpb"] for run in runs]))
    tokens, steps, seconds = (
        float(np.mean([run[name] for run in runs])) for name in ("train_tokens", "steps", "train_seconds")
    )
    return {
        "arm": arm,
        "n": sample.num_runs,
        "bpb": sample.mean,
        "deviation": sample.std,
        "read": f"{tokens / 1e6:.2f} M tokens",
        "steps": round(steps),
        "keeps": f"{runs[0]['parameters']:,} weights",
        "seconds": seconds,
    }


def compressor_line(arm: str, point: dict[str, Any]) -> dict[str, Any]:
    """The columns of a compressor, alone or primed."""
    read, kept = point["before_bytes"], point["before_compressed_bytes"]
    return {
        "arm": arm,
        "n": 1,
        "bpb": point["bpb"],
        "deviation": None,
        "read": f"{read / 1e6:.2f} MB" if read else None,
        "steps": None,
        "keeps": f"{kept:,} bytes" if read else None,
        "seconds": point["seconds"],
    }


def draw(rows: list[dict[str, Any]], title: str, unit: str, path: Path) -> None:
    """Bits per byte of the validation text over seconds: a curve each, the mean over a network's seeds."""
    runs: dict[str, list[tuple[list[float], list[float]]]] = defaultdict(list)
    for row in rows:
        if "points" in row:
            points = row["points"]
            curve = [point["seconds"] for point in points], [point["bpb"] for point in points]
        else:
            curve = row["curve_seconds"], row["curve_bpb"]
        runs[row["arm"]].append(curve)
    figure = new_figure(9.0, 5.0, layout="constrained")
    axes, ends = figure.subplots(), []
    for index, (arm, curves) in enumerate(runs.items()):
        shortest = min(len(seconds) for seconds, _ in curves)
        xs, ys = (np.mean([part[:shortest] for part in parts], axis=0) for parts in zip(*curves, strict=True))
        style = line_style(index)
        axes.plot(xs, ys, marker="o", markersize=3.5, linewidth=1.6, **style)
        if len(ys):
            ends.append((xs[-1], ys[-1], f"{arm} {ys[-1]:.3f}", style["color"]))
    axes.set_xscale("log")
    style_axes(axes, unit, title=title)
    label_ends(axes, ends)
    save_svg(figure, path, title)


def run_command(options: CpuRecord) -> None:
    """Makes the runs that are missing, prints the table, writes and draws what was asked for."""
    if options.seconds <= 0 or options.evals < 1:
        raise ValueError("--seconds must be more than 0 and --evals at least 1")
    log = RunLog()
    comparison = Comparison(options, log)
    rows = comparison.run()
    lines = summarize(rows, comparison.missing)
    if not lines:
        raise ValueError("--seeds is 0 and no compressor was asked for: there is nothing to compare")
    unit = {"wall": "seconds", "cpu": "seconds of the processor"}[options.clock]
    title = f"bits per byte on the validation text of {comparison.dataset.manifest.name}"
    log.table(
        f"{title}, equal {unit}, threads: {options.threads}",
        COLUMNS,
        [[as_cell(line[name]) for name in COLUMNS] for line in lines],
    )
    if options.json:
        write_figures(options.json, {"rows": lines}, options, environment(comparison.runtime.device))
    if options.plot:
        draw(rows, title, unit, options.plot)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("cpu_record", CpuRecord, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
