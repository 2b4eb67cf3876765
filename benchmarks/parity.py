"""The recipes beside public scripts: networks of one size, the same batches, equal steps.

    python -m benchmarks.parity --data DIR [--seeds 3] [--rows FILE] [--json FILE]
    python -m benchmarks.parity --data DIR --seeds 3 --write FOLDER
    python -m benchmarks.parity --data DIR --seeds 3 --scripts FOLDER

Four layers of width 256, 300 steps of 2,048 tokens in windows of 256, bfloat16, one thread. Scored by
disjoint windows on the first 131,072 targets of the validation text, before packing: the last weights, and
the average that the recipe exports. One line of JSON a run: a run that has its line is not made again. The
table has the figures of the public scripts beside them, as measured on the first build on other hardware.

`--write` makes no runs. It leaves the batches of each seed as two shards, inputs and targets (row after row,
step after step), the scored text as a third, and protocol.json with sizes, settings and the bytes of the
scored targets, so that a script whose loader reads them trains on the same. `--scripts` shows such scripts
in the table, each by NAME_SEED.npy: the nats of every scored target.

The arm `frontier` lets the context grow, so that its windows are cut otherwise; the others' are the same.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.command import find_preset, run_benchmark
from benchmarks.figures import write_figures
from benchmarks.recipe import (
    append_row,
    as_cell,
    changed_fields,
    digest,
    grade_weights,
    read_rows,
)
from benchmarks.recipe_arms import Scale, frontier_recipe, seed_recipe
from golf.checks import check_config
from golf.config import RunConfig
from golf.data.manifest import Dataset, open_dataset
from golf.data.shards import write_shard
from golf.run import LiveTrainer, RunContext, average_stage, build_batches, train_stage
from golf.run_folder import RunFolder
from golf.score.scorer import tally_targets
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import Runtime, choose_runtime, dtype_name, environment
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.system.stored import config_to_dict
from golf.train.averaging import AveragingConfig
from golf.train.checkpoint import load_weights
from golf.train.schedule import ScheduleConfig


@dataclass(frozen=True)
class ParityBenchmark:
    """What to compare; the defaults are the protocol of the published figures."""

    data: Path
    """Dataset folder."""
    rows: Path = Path("runs/parity.jsonl")
    """One line a run; what it holds already is not run again."""
    json: Path | None = None
    """Also write the comparison here."""
    write: Path | None = None
    """Write the batches of every seed, the scored text and the settings to this folder, and run nothing."""
    scripts: Path | None = None
    """Also show the public scripts whose nats of the scored targets lie in this folder as NAME_SEED.npy."""
    arms: tuple[str, ...] = ()
    """Only these: seed, pr334, pr1855, frontier; by default all."""
    seeds: int = 1
    """Runs of each arm."""
    first_seed: int = 1
    """Seed of the first of them; the others follow."""
    steps: int = 300
    """Steps of a run."""
    batch_tokens: int = 2_048
    """Tokens of a step."""
    width: int = 256
    """Of the networks."""
    layers: int = 4
    """Blocks of the networks."""
    context: int = 256
    """Tokens of context, and of a window of the score."""
    max_tokens: int = 131_072
    """Validation targets to score, at most."""
    threads: int = 1
    """Threads on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    compute_dtype: str = "bfloat16"
    """In which training computes: bfloat16 or float32."""


class Published(NamedTuple):
    """Bits per byte of the first build's comparison, by seed from 1 on."""

    last: tuple[float, ...]
    average: tuple[float, ...] = ()


PUBLISHED = {
    "naive baseline's script": Published((2.6169,)),
    "#334's script": Published((2.4773,), (2.4879,)),
    "#1855's script": Published((2.4789, 2.4688, 2.4713), (2.4804, 2.4624, 2.4768)),
    "seed": Published((2.5016,), (2.5020,)),
    "pr1855": Published((2.4940, 2.4760, 2.4886), (2.4880, 2.4638, 2.4871)),
    "frontier": Published((2.4501,), (2.4514,)),
}
"""The public scripts, adapted to this protocol alone, and this project's arms as they were then."""
COUNTERPARTS = {"pr334": "#334's script", "pr1855": "#1855's script"}


def at_scale(preset: RunConfig, scale: Scale, **model: Any) -> RunConfig:
    """A preset with the benchmark's sizes, hidden units in proportion, and `model`'s fields changed."""
    sizes = seed_recipe(scale)
    names = ("vocab_size", "num_layers", "width", "num_heads", "num_kv_heads", "context")
    hidden = preset.model.mlp_hidden * scale.width // preset.model.width
    own = {name: vars(sizes.model)[name] for name in names} | {"mlp_hidden": hidden} | model
    return replace(
        sizes,
        model=replace(preset.model, **own),
        train=replace(sizes.train, micro_batch_tokens=scale.batch_tokens),
        optim=preset.optim,
        schedule=preset.schedule,
        averaging=preset.averaging,
    )


def pr1855_recipe(scale: Scale) -> RunConfig:
    """The frontier's network at the settings of openai/parameter-golf #1855, windows as shares of its steps.

    These were 4,931. The block before the middle runs three times, the last one has two lanes.
    """
    frontier = find_preset("h100-107min")
    looped = max(0, scale.layers // 2 - 1)
    config = at_scale(
        frontier,
        scale,
        activation_slope=0.5,
        qk_gain=5.0,
        recurrence_first=looped,
        recurrence_last=looped,
        recurrence=3,
        parallel_residual_blocks=1,
    )
    return replace(
        config,
        optim=replace(frontier.optim, matrix_lr=0.026),
        schedule=ScheduleConfig(
            warmdown=0.85,
            warmdown_shape="linear",
            floor=0.1,
            momentum_warmup=1500 / 4931,
            momentum_start=0.92,
            recurrence_start=0.35,
        ),
        # The EMA of decay 0.9965 forgets by a factor e in 1 / 0.0035 steps.
        averaging=AveragingConfig(output="ema", ema_window=1 / 0.0035 / 4931),
    )


ARMS = {
    "seed": lambda scale: at_scale(find_preset("seed"), scale),
    "pr334": lambda scale: at_scale(find_preset("pr334"), scale),
    "pr1855": pr1855_recipe,
    # Its step has a quarter of the tokens of the scale, which are the seed's.
    "frontier": lambda scale: frontier_recipe(replace(scale, batch_tokens=4 * scale.batch_tokens)),
}


def plan_runs(options: ParityBenchmark, dataset: Dataset) -> Iterator[tuple[str, RunConfig]]:
    """Arm and configuration of every run, arms alternating; ValueError for an arm that is none."""
    scale = Scale(options.width, options.layers, options.context, options.batch_tokens)
    for name in options.arms:
        if name not in ARMS:
            raise ValueError(f"there is no arm {name!r}; there are {', '.join(ARMS)}")
    if options.seeds < 1:
        raise ValueError(f"seeds is {options.seeds}; expected at least 1")
    vocabulary = dataset.vocabulary
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.arms or ARMS:
            config = ARMS[name](scale)
            model = replace(config.model, vocab_size=vocabulary.size, bos_id=vocabulary.bos_id)
            windows = WindowConfig(stride=options.context)
            yield name, replace(config, seed=seed, steps=options.steps, model=model, score=windows)


def run_arm(config: RunConfig, dataset: Dataset, runtime: Runtime, max_tokens: int) -> dict[str, Any]:
    """Trains one configuration; scores its last weights and the average that it exports."""
    with tempfile.TemporaryDirectory() as folder:
        files, live = RunFolder(folder), LiveTrainer()
        run = RunContext(config, dataset, runtime, RunLog(quiet=True))
        training = train_stage(files, run, live)
        assert live.trainer is not None
        last = {name: weight.clone() for name, weight in live.trainer.average.outputs()["last"].items()}
        averaging = average_stage(files, run, live)
        own = load_weights(files.weights)
    last_tally = grade_weights(config, last, dataset, runtime, max_tokens)
    return {
        "last_bpb": last_tally.bits_per_byte,
        "average_bpb": grade_weights(config, own, dataset, runtime, max_tokens).bits_per_byte,
        "average": averaging.output,
        "tokens_scored": last_tally.num_tokens,
        "parameters": training.model_parameters,
        "steps": training.steps,
        "train_tokens": training.train_tokens,
        "train_seconds": run.clock.elapsed("train"),
    }


def scored_tokens(options: ParityBenchmark, dataset: Dataset) -> np.ndarray:
    """The validation text that is scored (N + 1): whole windows, the last target included."""
    tokens = dataset.validation_tokens(StageClock())
    num_windows = min(options.max_tokens, len(tokens) - 1) // options.context
    if num_windows < 1:
        raise ValueError(f"max_tokens is {options.max_tokens}; one window alone grades {options.context}")
    return tokens[: num_windows * options.context + 1]


def write_protocol(options: ParityBenchmark, dataset: Dataset, folder: Path) -> None:
    """Leaves the batches of every seed, the scored text and the settings in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = list(plan_runs(options, dataset))
    defaults, config = config_to_dict(RunConfig()), runs[0][1]
    seedless = {name: config_to_dict(replace(each, seed=RunConfig().seed)) for name, each in runs}
    for seed in sorted({each.seed for _, each in runs}):
        batches = build_batches(replace(config, seed=seed), dataset)
        num_sequences = options.batch_tokens // options.context
        windows = [batches.next(num_sequences, options.context) for _ in range(options.steps)]
        for place, part in enumerate(("inputs", "targets")):
            tokens_N = torch.stack([window[place] for window in windows]).flatten().numpy()
            write_shard(folder / f"{part}_{seed}.bin", tokens_N)
    tokens_N1 = scored_tokens(options, dataset)
    write_shard(folder / "validation.bin", tokens_N1)
    no_nats = np.zeros(len(tokens_N1) - 1, dtype=np.float32)
    model = {name: vars(config.model)[name] for name in ("num_heads", "num_kv_heads", "vocab_size", "bos_id")}
    sizes = ("steps", "batch_tokens", "context", "layers", "width", "compute_dtype")
    write_json(
        folder / "protocol.json",
        {
            **{name: vars(options)[name] for name in sizes},
            **model,
            "scored_targets": len(no_nats),
            "scored_bytes": tally_targets(no_nats, tokens_N1, dataset.vocabulary).num_bytes,
            "arms": {name: changed_fields(each, defaults) for name, each in seedless.items()},
        },
    )


def script_rows(options: ParityBenchmark, dataset: Dataset) -> list[dict[str, Any]]:
    """A row for each NAME_SEED.npy of `options.scripts`; ValueError for one that does not fit the targets."""
    rows = []
    tokens_N1 = scored_tokens(options, dataset)
    for path in sorted(options.scripts.glob("*_*.npy")) if options.scripts else []:
        name, _, seed = path.stem.rpartition("_")
        if not seed.isdecimal():
            raise ValueError(f"{path}: its name ends in {seed!r}; expected NAME_SEED.npy")
        try:
            nats_N = np.load(path, allow_pickle=False)
        except (EOFError, OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read ({error})") from error
        if nats_N.shape != (expected := (len(tokens_N1) - 1,)) or nats_N.dtype.kind != "f":
            raise ValueError(
                f"{path}: {nats_N.dtype} of shape {nats_N.shape}; expected the nats of the scored targets, "
                f"floats of shape {expected}"
            )
        tally = tally_targets(nats_N, tokens_N1, dataset.vocabulary)
        rows.append({"arm": f"{name}, here", "seed": int(seed), "last_bpb": tally.bits_per_byte})
    if options.scripts and not rows:
        raise ValueError(f"{options.scripts}: has no NAME_SEED.npy")
    return rows


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the arms in their order, then the published figures; a run made twice counts once."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = {row["seed"]: row for row in rows if row["arm"] == arm}
        last = {seed: own[seed]["last_bpb"] for seed in sorted(own)}
        averages = [row["average_bpb"] for row in own.values() if "average_bpb" in row]
        lines.append(_line(arm, list(last.values()), averages, COUNTERPARTS.get(arm)))
    for name, figures in PUBLISHED.items():
        lines.append(_line(f"{name} (first build)", list(figures.last), list(figures.average)))
    return lines


def _line(
    name: str, last: list[float], averages: list[float], counterpart: str | None = None
) -> dict[str, Any]:
    mean = float(np.mean(last))
    return {
        "arm": name,
        "n": len(last),
        "last_bpb": mean,
        "average_bpb": float(np.mean(averages)) if averages else None,
        "less_script_bpb": mean - float(np.mean(PUBLISHED[counterpart].last)) if counterpart else None,
        "last_bpb_by_seed": last,
    }


def run_command(options: ParityBenchmark) -> None:
    """Writes the batches, or makes the runs that are missing and prints the comparison."""
    log = RunLog()
    dataset = open_dataset(options.data)
    runtime = choose_runtime(options.device, options.compute_dtype)
    runs = list(plan_runs(options, dataset))
    for _, config in runs:
        check_config(config, runtime.device.type)
    if options.write is not None:
        write_protocol(options, dataset, options.write)
        log.info(f"wrote protocol.json and the batches of each seed to {options.write}")
        return
    torch.set_num_threads(options.threads)
    shown = script_rows(options, dataset)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    dtype = dtype_name(runtime.compute_dtype)
    wanted = []
    for number, (arm, config) in enumerate(runs, 1):
        key = digest(config, dataset, options.max_tokens, options.threads, dtype)
        wanted.append(key)
        if key in {row["key"] for row in read_rows(options.rows)}:
            continue
        row = {"key": key, "arm": arm, "seed": config.seed}
        row |= run_arm(config, dataset, runtime, options.max_tokens)
        append_row(options.rows, {**row, "threads": torch.get_num_threads()})
        log.event(
            "run",
            run=f"{number}/{len(runs)}",
            **{name: row[name] for name in ("arm", "seed", "last_bpb", "average_bpb")},
        )
    found = [row for row in read_rows(options.rows) if row["key"] in wanted]
    lines = compare([*sorted(found, key=lambda row: wanted.index(row["key"])), *shown])
    log.table(
        f"bits per byte on {dataset.manifest.name}, {options.layers} layers of width {options.width}, "
        f"{options.steps} steps of {options.batch_tokens} tokens; (first build): published figures, measured "
        "on the first build on other hardware, at 4 layers of width 256 and 300 steps of 2048",
        ["arm", "n", "last", "own average", "less its script", "last by seed"],
        [[_cell(value) for value in line.values()] for line in lines],
    )
    if options.json:
        write_figures(options.json, {"rows": lines}, options, environment(runtime.device))


def _cell(value: object) -> object:
    return " ".join(f"{each:.4f}" for each in value) if isinstance(value, list) else as_cell(value)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("parity", ParityBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
