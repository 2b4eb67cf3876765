"""The command line of a run: its options over a preset, and which runs in which folders it asks for."""

import dataclasses
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from golf.config import RunConfig
from golf.evaluate import EvaluateConfig
from golf.presets import PRESETS
from golf.system.stored import ConfigError, config_from_dict
from golf.time_plan import planned_train_minutes

RUN_SUMMARY = (
    "Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed "
    "bytes. Also: --score ARTIFACT --data DIR scores an artifact; --doctor shows what this machine has."
)


def default_preset() -> str:
    """What a run is that is not told: ten minutes of the frontier's recipe on a GPU, one minute without."""
    return "h100-10min" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class RunOptions:
    """What a run is called, where it reads and writes, and what it runs on."""

    preset: str = "cpu"
    """Which preset to start from; by default `h100-10min` on a GPU and `cpu` without one."""
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
    eager: bool = False
    """On a GPU, without torch.compile, at a fraction of its speed: for machines without a C compiler."""
    total_minutes: float | None = None
    """Minutes to aim at for a whole run, from its data on: compiling, training, packing, scoring, audit; of
    several seeds each. Training gets at most 60% of them unless --minutes says otherwise; test-time training
    stops in time for the audit, and the audit looks at fewer targets when time is short."""
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
    plain: bool = True
    """Score without test-time training."""
    how: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)


def parse_run(arguments: list[str]) -> RunCommand:
    """The command line over its preset; ConfigError for options that contradict each other."""
    named = [value for flag, value in itertools.pairwise(arguments) if flag == "--preset"]
    named += [argument.split("=")[1] for argument in arguments if argument.startswith("--preset=")]
    preset = named[-1] if named else default_preset()
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}; there are {', '.join(PRESETS)}")
    default = PRESETS[preset].config
    open_budget = dataclasses.replace(default, minutes=None, steps=None)
    default_command = RunCommand(RunOptions(preset=preset), open_budget)
    command = tyro.cli(RunCommand, args=arguments, default=default_command, description=RUN_SUMMARY)
    config = command.config
    if config.minutes is not None and config.steps is not None:
        raise ConfigError("--minutes and --steps are two budgets; give one of them")
    total = command.options.total_minutes
    if total is not None and not 0 < total < math.inf:
        raise ConfigError(f"--total-minutes is {total:g}; expected a number above 0")
    if total is not None and config.minutes is not None and config.minutes >= total:
        raise ConfigError(f"--minutes {config.minutes:g} leaves nothing of --total-minutes {total:g}")
    if config.minutes is None and config.steps is None:
        minutes = default.minutes
        if total is not None and minutes is not None:
            minutes = planned_train_minutes(total, minutes)
        config = dataclasses.replace(config, minutes=minutes, steps=default.steps)
    return dataclasses.replace(command, config=config)


def stored_run(folder: Path, arguments: list[str]) -> RunCommand:
    """The command that made a run folder; ConfigError if it is none, or if more than --resume was given."""
    if sum(argument.startswith("--") for argument in arguments) > 1:
        raise ConfigError("--resume takes every option from the run; give it alone")
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.json")
    stored = read_config(path)
    if "options" not in stored:
        raise ConfigError(f"{folder} is not train_gpt.py's: the command that made it goes on with it")
    options = {
        key: Path(value) if key in ("data", "out", "resume") and value else value
        for key, value in stored["options"].items()
    }
    return RunCommand(RunOptions(**options), config_from_dict(RunConfig, stored["config"]))


def stored_command(folder: Path) -> str | None:
    """The command line that began a run; None where its folder does not say."""
    path = folder / "config.json"
    return read_config(path).get("command") if path.is_file() else None


def read_config(path: Path) -> dict[str, Any]:
    """A run folder's config.json; ConfigError, naming it, for a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def stored_options(options: RunOptions) -> dict[str, Any]:
    """Options as JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


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
