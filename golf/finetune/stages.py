"""The study of stages: pretraining, fine-tuning on conversations (sft) and on preferences (dpo), over seeds.

Each stage has the same scores: WikiText-2, SST-2, GSM8K, the loss of held-out answers, and the share of
held-out pairs whose chosen answer is likelier; after dpo also the share whose chosen answer gained more than
the rejected one on the model before (chance: one half).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golf.checks import check_config
from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import Dataset, open_dataset
from golf.finetune.dialogues import read_conversations, read_preferences
from golf.finetune.examples import stored_template, template_of
from golf.finetune.losses import pair_log_probs, score_preferences, score_responses
from golf.finetune.stage import (
    MAX_SETTING,
    FinetuneConfig,
    FinetuneError,
    StageName,
    finetune,
    read_examples,
    split_held_out,
)
from golf.presets import PRESETS
from golf.run import LiveTrainer, RunContext, average_stage, calibrate_stage, train_stage
from golf.run_folder import RunFolder
from golf.stats import mean_interval
from golf.system.device import choose_runtime
from golf.system.files import (
    atomic_write,
    read_sealed_json,
    require_writable,
    write_json,
    write_sealed_json,
)
from golf.system.log import RunLog
from golf.system.stored import config_to_dict
from golf.tasks.files import LongTexts
from golf.tasks.models import open_model
from golf.tasks.results import Metric, write_results
from golf.tasks.suite import check_task_files, parse_tasks, run_tasks

STAGES = ("pretrain", "sft", "dpo")


@dataclass(frozen=True)
class StagesCommand:
    """The study of stages: data, budget and measurements."""

    stages: Path
    """Folder for the runs and the table; the same command resumes what it holds."""
    data: Path
    """Dataset folder for pretraining."""
    sft: tuple[Path, ...]
    """Files of conversations."""
    preferences: tuple[Path, ...]
    """Files of preference pairs."""
    evals: Path
    """Folder with wikitext2/, sst2/ and gsm8k/, as for `golf tasks --data`."""
    preset: str = "cpu"
    """Preset of pretraining."""
    minutes: float | None = None
    """Minutes of pretraining of each seed; by default the preset's."""
    context: int | None = None
    """Context of the network; by default the preset's."""
    width: int | None = None
    """Width of the network; by default the preset's."""
    seeds: str = "42,1337,2024"
    """Seeds, comma-separated."""
    tasks: str = "wikitext2,sst2,gsm8k"
    """Tasks, comma-separated."""
    limit: int | None = None
    """Number of items of each task to measure (WikiText-2: articles); by default all."""
    long: LongTexts = "truncate"
    """Conversations and items above the context: error names the line, truncate cuts, skip drops them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    sft_tuning: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Settings of sft; `seed` and `long` are those of the study."""
    dpo_tuning: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Settings of dpo; `seed` and `long` are those of the study."""


def run_stages(command: StagesCommand, log: RunLog) -> list[dict[str, Any]]:
    """Trains and measures all stages with every seed; the rows of the table, which it writes and logs."""
    names, seeds = parse_tasks(command.tasks), read_seeds(command.seeds)
    if command.preset not in PRESETS:
        raise FinetuneError(f"preset is {command.preset!r}; expected one of {', '.join(PRESETS)}")
    for name, value in (("minutes", command.minutes), ("context", command.context), ("width", command.width)):
        if value is not None and not 0 < value <= MAX_SETTING:
            raise FinetuneError(f"{name} is {value}; expected above 0 and at most {MAX_SETTING:,}")
    # What the later stages read is read before the first one trains.
    for path in command.sft:
        read_conversations(path)
    for path in command.preferences:
        read_preferences(path)
    check_task_files(names, command.evals, command.limit)
    dataset = open_dataset(command.data)
    require_writable(command.stages, "--stages")
    measured: dict[str, list[list[Metric]]] = {stage: [] for stage in STAGES}
    for seed in seeds:
        folder = command.stages / f"seed{seed}"
        pretrain(command, seed, folder / "pretrain", dataset)
        stages: tuple[tuple[StageName, tuple[Path, ...], str, FinetuneConfig], ...] = (
            ("sft", command.sft, "pretrain", command.sft_tuning),
            ("dpo", command.preferences, "sft", command.dpo_tuning),
        )
        for stage, files, before, settings in stages:
            tuning = replace(settings, seed=seed, long=command.long)
            source = RunFolder(folder / before).weights
            (folder / stage).mkdir(parents=True, exist_ok=True)
            stage_log = RunLog(folder / stage / "run")
            tokenizer = dataset.folder / dataset.manifest.tokenizer
            finetune(stage, source, files, folder / stage, tuning, stage_log, command.device, tokenizer)
            stage_log.close()
        for stage in STAGES:
            measured[stage].append(measure_stage(command, names, seed, folder / stage, dataset, log))
    rows = summarize(measured)
    facts = {"seeds": seeds, "preset": command.preset, "limit": command.limit, "rows": rows}
    write_json(command.stages / "stages.json", facts)
    with atomic_write(command.stages / "stages.md") as partial:
        partial.write_text(stages_table(rows), encoding="utf-8")
    columns = ("stage", "score", "mean", "95% interval", "over", "chance", "after pretraining, difference")
    log.table(f"stages, {len(seeds)} seeds", columns, [row_cells(row) for row in rows])
    log.info(f"table: {command.stages / 'stages.md'}")
    return rows


def read_seeds(text: str) -> list[int]:
    """Comma-separated seeds; FinetuneError for a value that is no seed or occurs twice."""
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise FinetuneError(f"seeds are {text!r}; expected comma-separated integers") from error
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise FinetuneError(f"seeds are {text!r}; expected 0 to {2**32 - 1}")
    if len(set(seeds)) < len(seeds):
        raise FinetuneError(f"seeds are {text!r}; expected each only once")
    return seeds


def pretrain(command: StagesCommand, seed: int, folder: Path, dataset: Dataset) -> None:
    """Trains the preset as `train_gpt.py` does, up to the weights; resumes what the folder holds."""
    preset = PRESETS[command.preset].config
    changes = {"context": command.context, "width": command.width}
    model = replace(preset.model, **{name: value for name, value in changes.items() if value is not None})
    minutes = preset.minutes if command.minutes is None else command.minutes
    config: RunConfig = replace(preset, seed=seed, minutes=minutes, model=model)
    config = fit_to_vocabulary(config, preset, dataset.vocabulary.size, dataset.vocabulary.bos_id)
    runtime = choose_runtime(command.device)
    check_config(config, runtime.device.type)
    folder.mkdir(parents=True, exist_ok=True)
    run_log = RunLog(folder / "run")
    run, files, live = RunContext(config, dataset, runtime, run_log), RunFolder(folder), LiveTrainer()
    described = {
        "options": {"data": str(command.data)},
        "config": config_to_dict(config),
        "header": run.header,
    }
    stored = json.loads(json.dumps(described))
    path = files.config
    if path.is_file() and read_sealed_json(path) != stored:
        raise FinetuneError(f"{folder} holds a run of other settings; give --stages another folder")
    write_sealed_json(path, stored)
    train_stage(files, run, live)
    average_stage(files, run, live)
    calibrate_stage(files, run)
    run_log.close()


def measure_stage(
    command: StagesCommand, names: Sequence[str], seed: int, folder: Path, dataset: Dataset, log: RunLog
) -> list[Metric]:
    """All scores of a stage's weights before packing; read from stage.json if it exists."""
    path = folder / "stage.json"
    if path.is_file():
        return [Metric(**metric) for metric in read_sealed_json(path)["metrics"]]
    tokenizer = dataset.folder / dataset.manifest.tokenizer
    opened = open_model(RunFolder(folder).weights, tokenizer, command.device)
    log.info(opened.describe())
    results = run_tasks(opened, names, command.evals, command.limit, command.long, log)
    write_results(results, folder, {"limit": command.limit})
    metrics = [
        replace(metric, name=f"{result.task} {metric.name}")
        for result in results
        for metric in result.metrics
    ]
    template = stored_template(opened.header) or template_of(opened.vocabulary, str(tokenizer))
    conversations, _ = read_examples("sft", command.sft, opened, template, command.long)
    _, held_out = split_held_out(len(conversations), command.sft_tuning.held_out, seed)
    kept = [conversations[number] for number in held_out]
    metrics.append(score_responses(opened.model, kept, opened.vocabulary.size, log).loss)
    pairs, _ = read_examples("dpo", command.preferences, opened, template, command.long)
    _, held_out = split_held_out(len(pairs), command.dpo_tuning.held_out, seed)
    kept_pairs = [pairs[number] for number in held_out]
    policy_P2 = pair_log_probs(opened.model, kept_pairs, log, "held-out pairs")
    metrics += score_preferences(policy_P2, kept_pairs, None)
    if (folder / "reference.safetensors").is_file():
        figures = read_sealed_json(folder / "finetune.json")
        names_here = {metric.name for metric in metrics}
        metrics += [Metric(**metric) for metric in figures["after"] if metric["name"] not in names_here]
    write_sealed_json(path, {"metrics": [asdict(metric) for metric in metrics]})
    return metrics


def summarize(measured: dict[str, list[list[Metric]]]) -> list[dict[str, Any]]:
    """A row for each stage and score: mean over seeds, 95% interval, and paired differences.

    The differences are to pretraining and to the previous stage. The interval is Student's over seeds; with
    one seed, it is the score's own over items.
    """
    rows = []
    first: dict[str, np.ndarray] = {}
    before: dict[str, np.ndarray] = {}
    for stage, by_seed in measured.items():
        here: dict[str, np.ndarray] = {}
        for same in zip(*by_seed, strict=True):
            metric, several = same[0], len(same) > 1
            values = here[metric.name] = np.array([metric.value for metric in same])
            low, high = mean_interval(values) if several else (metric.low, metric.high)
            rows.append(
                {
                    "stage": stage,
                    "score": metric.name,
                    "mean": float(values.mean()),
                    "low": low,
                    "high": high,
                    "interval_over": "seeds" if several else "items",
                    "by_seed": values.tolist(),
                    "chance": float(np.mean([metric.chance for metric in same])),
                    **difference_fields("difference", values, first.get(metric.name)),
                    **difference_fields("difference_to_stage_before", values, before.get(metric.name)),
                    "items": metric.num_items,
                    "convention": metric.convention.split(";")[0],
                }
            )
        first, before = first or here, here
    return rows


def difference_fields(name: str, values: np.ndarray, others: np.ndarray | None) -> dict[str, Any]:
    """The fields `name` and `name`_interval: mean difference over seeds and its interval, or None."""
    if others is None:
        return {name: None, f"{name}_interval": None}
    gains = values - others
    interval = mean_interval(gains) if len(gains) > 1 else None
    return {name: float(gains.mean()), f"{name}_interval": interval}


def row_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a row in the logged table."""
    return (
        row["stage"],
        row["score"],
        f"{row['mean']:.4f}",
        f"{row['low']:.4f} to {row['high']:.4f}",
        row["interval_over"],
        f"{row['chance']:.4f}",
        change_cell(row, "difference"),
    )


def change_cell(row: dict[str, Any], name: str) -> str:
    """A difference with its interval; empty without a difference."""
    if row[name] is None:
        return ""
    change = f"{row[name]:+.4f}"
    if row[f"{name}_interval"]:
        low, high = row[f"{name}_interval"]
        change += f" ({low:+.4f} to {high:+.4f})"
    return change


def stages_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = ("stage", "score", "mean", "95% interval", "over", "chance", "difference to pretraining (95%)")
    head = (*head, "to the stage before (95%)")
    cells_of_rows = [(*row_cells(row), change_cell(row, "difference_to_stage_before")) for row in rows]
    lines = [head, tuple("---" for _ in head), *cells_of_rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
