"""Ablation: the seed's recipe, the frontier's, and the frontier's with one technique changed, on real text.

    python -m benchmarks.recipe --data DIR [--seconds 75] [--seeds 3] [--rows FILE] [--json FILE]
    python -m benchmarks.recipe --data DIR --seconds 0 --tokens 614400 [--arms frontier "less smear"]

All arms train for equal seconds, seed and frontier for equal tokens as well; with `--seconds 0` all arms
train for equal tokens, which is exact on a machine that does other work. Each is scored on the validation
text from its own best average, in fp32 masters, before packing. One line of JSON a run: a run that has its
line is not made again, so a stopped benchmark goes on where it was. Arms alternate within a seed, so that a
machine that grows slower does so for all. Two processes on two cores may share the lines, each with seeds of
its own (`--seeds 2` and `--first-seed 3 --seeds 1`); the same command for all seeds then makes the table.

On one thread the runs of equal tokens come out to the last digit again.
"""

import hashlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from benchmarks.recipe_arms import Scale, all_recipes
from golf.checks import check_config
from golf.config import RunConfig
from golf.data.manifest import Dataset, open_dataset
from golf.run import LiveTrainer, RunContext, average_stage, exported_model, train_stage
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.stats import differences_to_base
from golf.system.clock import StageClock
from golf.system.device import Runtime, choose_runtime, environment, scoring_dtype
from golf.system.log import RunLog
from golf.system.stored import config_to_dict
from golf.train.checkpoint import load_weights
from golf.train.schedule import Budget, forecast_run, plan_phases

RECIPE_VERSION = 2
"""Of what equal fields mean; rows of another version are not taken for runs of this one."""


@dataclass(frozen=True)
class RecipeBenchmark:
    """What to compare, for how long."""

    data: Path
    """Dataset folder."""
    rows: Path = Path("runs/recipe.jsonl")
    """One line a run; what it holds already is not run again."""
    json: Path | None = None
    """Also write the comparison here."""
    seconds: float = 75.0
    """Training seconds of each run; 0 for runs at equal tokens alone, then of all arms."""
    tokens: int = 262_144
    """Tokens of the runs at equal tokens, of seed and frontier; 0 leaves them out."""
    seeds: int = 3
    """Runs of each arm."""
    first_seed: int = 1
    """Seed of the first of them; the others follow."""
    threads: int = 1
    """Threads of a process on a CPU."""
    arms: tuple[str, ...] = ()
    """Only these: seed, frontier, less TECHNIQUE, with ADDITION; by default all."""
    max_tokens: int = 131_072
    """Validation tokens to score, at most."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    scale: Annotated[Scale, tyro.conf.arg(name="")] = field(default_factory=Scale)
    """Sizes of the networks and of a step."""


def plan_arms(options: RecipeBenchmark) -> dict[str, RunConfig]:
    """The arms asked for; ValueError for one that is none, and without a budget."""
    if not options.seconds and not options.tokens:
        raise ValueError("nothing to run: --seconds and --tokens are both 0")
    arms = all_recipes(options.scale)
    for name in options.arms:
        if name not in arms:
            raise ValueError(f"there is no arm {name!r}; there are {', '.join(arms)}")
    return {name: config for name, config in arms.items() if not options.arms or name in options.arms}


def plan_runs(options: RecipeBenchmark) -> Iterator[tuple[str, str, RunConfig]]:
    """Arm, budget and configuration of every run, arms alternating."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, config in plan_arms(options).items():
            config = replace(config, seed=seed)
            if options.seconds:
                yield name, "seconds", replace(config, minutes=options.seconds / 60)
            if options.tokens and (name in ("seed", "frontier") or not options.seconds):
                yield name, "tokens", replace(config, steps=steps_for_tokens(config, options.tokens))


def steps_for_tokens(config: RunConfig, tokens: int) -> int:
    """Steps that train on about that many tokens, whatever the growth of the batch."""
    phases = plan_phases(config.model.context, config.train.batch_tokens, False, config.schedule)
    one_step = forecast_run(phases, (1, 1), phases[0], 0.0, Budget(steps=1))
    return round(tokens / one_step.tokens)


def run_arm(
    config: RunConfig,
    dataset: Dataset,
    runtime: Runtime,
    max_tokens: int,
    log: RunLog,
    clock: StageClock | None = None,
    live: LiveTrainer | None = None,
) -> dict[str, Any]:
    """Trains and scores one configuration; `live` holds the trainer meanwhile."""
    live, clock = live or LiveTrainer(), clock or StageClock()
    with tempfile.TemporaryDirectory() as folder:
        files, run = RunFolder(folder), RunContext(config, dataset, runtime, log, clock=clock)
        training, averaging = train_stage(files, run, live), average_stage(files, run, live)
        weights = load_weights(files.weights)
    windows = WindowConfig(stride=config.model.context // 2)
    tally = grade_weights(replace(config, score=windows), weights, dataset, runtime, max_tokens)
    return {
        "bpb": tally.bits_per_byte,
        "tokens_scored": tally.num_tokens,
        "parameters": training.model_parameters,
        "steps": training.steps,
        "train_tokens": training.train_tokens,
        "train_seconds": run.clock.elapsed("train"),
        "average": averaging.output,
    }


def grade_weights(
    config: RunConfig, weights: dict[str, Tensor], dataset: Dataset, runtime: Runtime, max_tokens: int
) -> Tally:
    """The score of weights by the config's windows, in the dtype of every score on this device."""
    dtype = scoring_dtype(runtime.device, runtime.compute_dtype)
    model, tokens = (
        exported_model(config, weights, dtype, runtime.device),
        dataset.validation_tokens(StageClock()),
    )
    limit = min(max_tokens, len(tokens) - 1)
    return score(Scoring(model, tokens, dataset.vocabulary, config.score, max_tokens=limit)).tally


def changed_fields(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults: a field that is added later leaves it as it was."""
    changed = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = changed_fields(value, defaults[name])
        if value != ({} if isinstance(value, dict) else defaults[name]):
            changed[name] = value
    return changed


def digest(config: RunConfig, dataset: Dataset, *settings: object) -> str:
    """What a run depends on, its machine aside; `settings` are JSON values."""
    files = [file.sha256 for file in dataset.manifest.files]
    fields = changed_fields(config_to_dict(config), config_to_dict(RunConfig()))
    text = json.dumps([RECIPE_VERSION, fields, files, *settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The runs made so far; a last line that was cut off counts for nothing."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a run."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation and steps of each arm, and its difference to the frontier with interval and p."""
    table = [line for budget in ("seconds", "tokens") for line in compare_budget(rows, budget)]
    figures: dict[str, Any] = {"rows": table}
    for line in table:
        if line["arm"] == "seed" and line["minus_frontier_bpb"] is not None:
            figures[f"frontier_minus_seed_bpb_equal_{line['budget']}"] = -line["minus_frontier_bpb"]
            figures[f"p_equal_{line['budget']}"] = line["p"]
    return figures


def compare_budget(rows: list[dict[str, Any]], budget: str) -> list[dict[str, Any]]:
    """The lines of the arms that trained for equal `budget`, the best first.

    Of a run that was made several times the mean counts.
    """
    runs: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["budget"] == budget:
            runs[row["arm"], row["seed"]].append(row)
    arms = list(dict.fromkeys(sorted((arm for arm, _ in runs), key=lambda arm: arm != "frontier")))
    seeds = sorted({seed for _, seed in runs})
    scores_AS = np.full((len(arms), len(seeds)), np.nan)
    for (arm, seed), same in runs.items():
        scores_AS[arms.index(arm), seeds.index(seed)] = np.mean([row["bpb"] for row in same])
    has_base = arms[:1] == ["frontier"]
    differences = differences_to_base(scores_AS) if has_base else [None] * len(arms)
    lines = []
    for arm, scores_S, difference in zip(arms, scores_AS, differences, strict=True):
        own_S = scores_S[~np.isnan(scores_S)]
        own = [row for (name, _), same in runs.items() if name == arm for row in same]
        found = {} if difference is None else vars(difference)
        lines.append(
            {
                "arm": arm,
                "budget": budget,
                "n": len(own),
                "mean_bpb": float(own_S.mean()),
                "deviation_bpb": float(own_S.std(ddof=1)) if len(own_S) > 1 else None,
                "minus_frontier_bpb": found.get("mean"),
                **{name: found.get(name) for name in ("low", "high", "p", "p_holm")},
                "mean_steps": float(np.mean([row["steps"] for row in own])),
            }
        )
    return sorted(lines, key=lambda line: line["mean_bpb"])


def run_command(options: RecipeBenchmark) -> None:
    """Makes the runs that are missing and prints the comparison."""
    log = RunLog()
    dataset, runtime = open_dataset(options.data), choose_runtime(options.device)
    runs = list(plan_runs(options))
    for _, _, config in runs:
        check_config(config, runtime.device.type)
    torch.set_num_threads(options.threads)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    vocabulary = dataset.vocabulary
    wanted = []
    for number, (arm, budget, config) in enumerate(runs, 1):
        model = replace(config.model, vocab_size=vocabulary.size, bos_id=vocabulary.bos_id)
        config = replace(config, model=model)
        key = digest(config, dataset, options.max_tokens, options.threads)
        wanted.append(key)
        if key in {row["key"] for row in read_rows(options.rows)}:
            continue
        figures = run_arm(config, dataset, runtime, options.max_tokens, RunLog(quiet=True))
        row = {"key": key, "arm": arm, "budget": budget, "seed": config.seed, **figures}
        append_row(options.rows, {**row, "threads": torch.get_num_threads()})
        log.event(
            "run",
            run=f"{number}/{len(runs)}",
            **{k: row[k] for k in ("arm", "budget", "seed", "bpb", "steps")},
        )
    figures = compare([row for row in read_rows(options.rows) if row["key"] in wanted])
    columns = [
        "arm",
        "equal",
        "n",
        "bpb",
        "deviation",
        "less frontier",
        "low",
        "high",
        "p",
        "p (Holm)",
        "steps",
    ]
    size = f"{options.scale.layers} layers of width {options.scale.width}"
    log.table(
        f"bits per byte on {dataset.manifest.name}, {size}",
        columns,
        [[as_cell(value) for value in row.values()] for row in figures["rows"]],
    )
    if options.json:
        write_figures(options.json, figures, options, environment(runtime.device))


def as_cell(value: object) -> object:
    """A value as a table shows it."""
    return "" if value is None else round(value, 5) if isinstance(value, float) else value


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("recipe", RecipeBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
