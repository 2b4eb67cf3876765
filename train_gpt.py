"""Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed bytes.

python train_gpt.py                                  the whole run, with what this machine has
python train_gpt.py --resume runs/NAME               goes on with a run that was stopped
python train_gpt.py --score artifact.bin --data DIR  scores an artifact in this process
"""

import dataclasses
import itertools
import json
import shlex
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from golf.config import (
    PRESETS,
    ConfigError,
    RunConfig,
    config_from_dict,
    config_to_dict,
    fit_to_vocabulary,
)
from golf.data.manifest import Dataset, open_dataset
from golf.files import write_json
from golf.log import RunLog
from golf.pack.budget import BudgetError
from golf.run import Run
from golf.runtime import choose_runtime, environment, read_world, release_memory
from golf.score.evaluate import EvaluateConfig, evaluate, print_scores
from golf.summary import cost, print_results
from golf.train.budget import shards_to_read
from golf.train.loop import Interrupted
from golf.world import World

SUMMARY = (
    "Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed "
    "bytes. Also: --score ARTIFACT --data DIR scores an artifact; --doctor shows what this machine has."
)


@dataclass(frozen=True)
class RunOptions:
    """What a run is called, where it reads and writes, and what it runs on."""

    preset: str = "cpu"
    """Which preset to start from; by default `seed` on a GPU and `cpu` without one."""
    data: Path | None = None
    """Dataset folder; by default the preset's own text, made or fetched on first use."""
    name: str | None = None
    """Name of the run and of its entry; by default the preset's."""
    out: Path | None = None
    """Run folder to make; by default runs/<time>_<name>."""
    resume: Path | None = None
    """Run folder to go on with; every other option comes from there."""
    track: Literal["local", "track_non_record_16mb", "track_10min_16mb"] = "local"
    """Folder under records/ for the entry; `local` is for trial runs, which git ignores."""
    seeds: str | None = None
    """Several seeds, comma-separated: one run each, then one entry over them."""
    form: Literal["readable", "packed"] | None = None
    """Form of the script that is shipped and charged: as it reads, or minified and compressed; by default
    packed for the presets of the challenge, whose bytes are all needed, and readable for the others."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    max_tokens: int | None = None
    """Score this many validation tokens only; the entry then says `partial`."""
    dollars_per_hour: float | None = None
    """Price of the machine, to say what the run cost."""


@dataclass(frozen=True)
class RunCommand:
    """A run: its options and its configuration."""

    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


@dataclass(frozen=True)
class ScoreCommand:
    """Scores an artifact in this process, from its bytes alone."""

    score: Path
    """The artifact."""
    data: Path
    """Dataset folder with the validation text and its tokenizer."""
    ttt: bool = False
    """Score with test-time training, too."""
    how: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)


def parse_run(arguments: list[str]) -> RunCommand:
    """The command line over its preset; ConfigError for options that contradict each other."""
    named = [value for flag, value in itertools.pairwise(arguments) if flag == "--preset"]
    named += [argument.split("=")[1] for argument in arguments if argument.startswith("--preset=")]
    preset = named[-1] if named else "seed" if torch.cuda.is_available() else "cpu"
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}; there are {', '.join(PRESETS)}")
    default = PRESETS[preset].config
    open_budget = dataclasses.replace(default, minutes=None, steps=None)
    default_command = RunCommand(RunOptions(preset=preset), open_budget)
    command = tyro.cli(RunCommand, args=arguments, default=default_command, description=SUMMARY)
    config = command.config
    if config.minutes is not None and config.steps is not None:
        raise ConfigError("--minutes and --steps are two budgets; give one of them")
    if config.minutes is None and config.steps is None:
        config = dataclasses.replace(config, minutes=default.minutes, steps=default.steps)
    return dataclasses.replace(command, config=config)


def stored_run(folder: Path, arguments: list[str]) -> RunCommand:
    """The command that made a run folder; ConfigError if it is none, or if more than --resume was given."""
    if sum(argument.startswith("--") for argument in arguments) > 1:
        raise ConfigError("--resume takes every option from the run; give it alone")
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    options = {
        key: Path(value) if key in ("data", "out", "resume") and value else value
        for key, value in stored["options"].items()
    }
    return RunCommand(RunOptions(**options), config_from_dict(RunConfig, stored["config"]))


def stored_options(options: RunOptions) -> dict[str, Any]:
    """Options as JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


def has_toolkit() -> bool:
    """Whether the project stands beside this script; an entry's own script runs without it."""
    return find_spec("golf") is not None


def open_or_prepare(options: RunOptions, config: RunConfig, log: RunLog) -> Dataset:
    """The dataset that was asked for, or the preset's own, made or fetched when it is not there yet."""
    source, vocab_size = PRESETS[options.preset].source, config.model.vocab_size
    folder = options.data or Path("data") / (f"docs_{vocab_size}" if source == "docs" else "fineweb_sp1024")
    if options.data is None and not (folder / "manifest.json").is_file():
        if not has_toolkit():
            raise ConfigError(f"no data at {folder}; give --data DIR")
        from golf.data.prepare import prepare_default

        num_shards = shards_to_read(config.budget(), config.train.batch_tokens)
        prepare_default(source, folder, vocab_size, log, num_shards)
    dataset = open_dataset(folder)
    manifest = dataset.manifest
    sizes = ", ".join(f"{manifest.num_tokens(split):,} {split} tokens" for split in ("train", "val"))
    log.say(f"data {folder}: {manifest.name}, {sizes}")
    return dataset


def charged_script(form: str, log: RunLog) -> bytes:
    """The one file that a run is charged for: this script with the project's modules pasted in."""
    if not has_toolkit():
        return Path(__file__).read_bytes()
    from golf.record.closing import flattened_script

    return flattened_script(Path(__file__), form, log)


def doctor() -> int:
    """What this machine has and what a run will therefore use."""
    if not has_toolkit():
        raise ConfigError("--doctor needs the toolkit beside this script")
    from golf.doctor import print_diagnosis

    print_diagnosis(RunLog(), Path("data"))
    return 0


def train_pack_score(command: RunCommand, folder: Path, world: World) -> None:
    """One run in one folder, from text to results.json and audit.json; goes on with what the folder holds.

    Of several processes all train, and the first does the rest.
    """
    options, config = command.options, command.config
    runtime = choose_runtime(options.device, world=world)
    config.check(runtime.device.type)
    console = RunLog(quiet=not world.is_first)
    preset = PRESETS[options.preset]
    console.say(f"preset {options.preset}: {preset.purpose}")
    console.say(f"on {runtime.describe()}")
    dataset = world.first_on_each_machine(lambda: open_or_prepare(options, config, console))
    config = fit_to_vocabulary(config, preset.config, dataset.vocabulary.size, dataset.vocabulary.bos_id)
    if not world.is_first:
        Run(folder, config, dataset, runtime, console).train()
        release_memory(runtime.device)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder / "run")
    log.say(f"run {folder}, seed {config.seed}")
    run = Run(folder, config, dataset, runtime, log)
    described = {"options": stored_options(options), "config": config_to_dict(config), "header": run.header}
    write_json(folder / "config.json", described)
    log.record("environment", **environment(runtime.device, world))
    log.record("config", **config_to_dict(config))
    code = charged_script(options.form or ("packed" if preset.source == "challenge" else "readable"), log)
    try:
        training = run.train()
    except Interrupted as stop:
        log.say(f"{stop}; go on with: python {sys.argv[0]} --resume {folder}")
        raise
    packed = run.pack(code)
    scores = run.score(training["averaging"]["output"], options.device, options.max_tokens)
    results = {
        "name": options.name or options.preset,
        "preset": options.preset,
        "seed": config.seed,
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": config_to_dict(config),
        **training,
        **packed,
        **scores,
        "seconds": run.clock.seconds,
        "environment": environment(runtime.device, world),
        "dollars": cost(options.dollars_per_hour, run.clock.seconds),
    }
    print_results(results, log)
    if has_toolkit():
        from golf.record.closing import close_run

        close_run(folder, results, dataset, options.device, log)
    else:
        write_json(folder / "results.json", results)
    log.close()


def planned_runs(arguments: list[str]) -> list[tuple[RunCommand, Path]]:
    """What to run in which folder: one run, one to resume, or one a seed of --seeds.

    The same command with the same --out takes up several seeds where they were stopped.
    """
    command = parse_run(arguments)
    options = command.options
    if options.resume is not None:
        return [(stored_run(options.resume, arguments), options.resume)]
    name = options.name or options.preset
    folder = options.out or Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{name}"
    if options.seeds is not None:
        configs = [dataclasses.replace(command.config, seed=int(seed)) for seed in options.seeds.split(",")]
        return [(RunCommand(options, config), folder / f"seed{config.seed}") for config in configs]
    if (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds a run already; go on with --resume {folder}")
    return [(command, folder)]


def whole_run(arguments: list[str]) -> int:
    """Every planned run, then the entry over them."""
    world = read_world()
    with world.joined("cuda" if torch.cuda.is_available() else "cpu"):
        world.require_same({"command line": shlex.join(arguments)})
        runs = world.share(lambda: planned_runs(arguments))
        if has_toolkit():
            from golf.record.runs import check_plan

            for command, _ in runs:
                check_plan(command.options.track, command.options.max_tokens, command.config.minutes)
        for command, folder in runs:
            if not world.share((folder / "results.json").is_file):
                train_pack_score(command, folder, world)
    if not world.is_first:
        return 0
    if has_toolkit():
        from golf.record.build import build

        print(f"entry: {build([folder for _, folder in runs], Path('records'), runs[0][0].options.track)}")
    else:
        print(f"results: {runs[0][1] / 'results.json'}; no entry, for the toolkit is not beside this script")
    return 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 stopped."""
    try:
        if arguments == ["--doctor"]:
            return doctor()
        if any(argument.split("=")[0] == "--score" for argument in arguments):
            command = tyro.cli(ScoreCommand, args=arguments, description=SUMMARY)
            log = RunLog()
            print_scores(evaluate(command.score, command.data, command.how, log, ttt=command.ttt), log)
            return 0
        return whole_run(arguments)
    except Interrupted:
        return 130
    except BudgetError as error:
        print(f"train_gpt.py: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"train_gpt.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
