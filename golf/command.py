"""The command line of a run: its options over a preset, the runs that it asks for, and a run made ready."""

import dataclasses
import hashlib
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tyro

from golf.checks import LEAST, POSITIVE, check_artifact, check_config, check_data, check_entry, check_machine
from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import MANIFEST_NAME, Dataset, open_dataset
from golf.entry.results import EntryError, read_json, read_results
from golf.entry.runs import Track, check_plan
from golf.entry.submission import SUBMISSION_NAME
from golf.evaluate import SCORE_LEAST, EvaluateConfig, main_evaluate
from golf.prepare.sources import prepare_default
from golf.presets import PRESETS
from golf.run import RunContext, ScoringOptions
from golf.run_folder import RunFolder, new_run_folder
from golf.system.cli import invocation
from golf.system.device import choose_runtime, device_kind, environment
from golf.system.distributed import World
from golf.system.files import read_sealed_json, require_writable, write_sealed_json
from golf.system.log import RunLog
from golf.system.options import named_values, read_options
from golf.system.stored import ConfigError, Renamed, config_from_dict, config_to_dict, rename
from golf.time_plan import TimePlan, planned_train_minutes
from golf.track.start import Trackers, check_trackers
from golf.train.config import shards_to_read

RUN_SUMMARY = (
    "Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed "
    "bytes. Also: --score ARTIFACT --data DIR scores an artifact; --doctor shows what this machine has."
)
PROGRAM = "golf train"
CHANGEABLE = (
    "data", "name", "record_track", "form", "device", "eager", "total_minutes", "max_tokens",
    "dollars_per_hour", "track", "author", "github_id",
)  # fmt: skip
"""A run's own options that may be given anew when it is resumed; of `data` the place, not the text."""
RENAMED_OPTIONS: dict[str, Renamed] = {
    # The name was that of the record's track, a text, before it was that of trackers, a list.
    "track": lambda value: {"record_track" if isinstance(value, str) else "track": value},
    "trackers": "track",
}
"""Earlier options in stored runs."""
LATER_PARTS = ("pack", "score", "ttt")
"""Parts of the configuration that may be, too."""
RUN_LEAST = {**LEAST, "total_minutes": POSITIVE, "max_tokens": 1}
"""The smallest values of a run's numbers, where that is not 0."""


def default_preset(device: str = "auto") -> str:
    """The preset of a run that names none: `h100-10min` on a GPU, the one minute of `cpu` without."""
    return "h100-10min" if device_kind(device) == "cuda" else "cpu"


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
    """Run folder to go on with; all options come from there. Those of pack, score, ttt and the run's own but
    --preset, --data, --out and --seeds may be given anew, and what depends on them is done again."""
    requeue: bool = False
    """Go on with the run that --out holds, or begin it there: for schedulers, which repeat a command."""
    record_track: Track = "local"
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
    author: str = ""
    """Who submits the entry; by default as submission.json says, else git's user.name."""
    github_id: str = ""
    """The author's name on GitHub; by default as submission.json says, else git's github.user."""
    track: tuple[str, ...] = ()
    """Trackers that the run goes to besides its log, separated by spaces: trackio, wandb, tensorboard."""

    @property
    def shipped_form(self) -> Literal["readable", "packed"]:
        """Form of the script that is charged."""
        return self.form or ("packed" if PRESETS[self.preset].source == "challenge" else "readable")


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
    """Whether it is scored without test-time training."""
    how: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)


def run_score(arguments: list[str], program: str = PROGRAM) -> None:
    """Scores an artifact in this process."""
    command = read_options(ScoreCommand, arguments, program, RUN_SUMMARY, least=SCORE_LEAST)
    main_evaluate(command.score, command.data, command.how, command.plain, command.ttt)


def value_of(option: str, arguments: list[str]) -> str | None:
    """The last value that a command line gives an option, before it is read as a whole; None without one."""
    found = None
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def parse_run(arguments: list[str], program: str = PROGRAM) -> RunCommand:
    """The command line over its preset, or over the run that it resumes.

    ConfigError for options that contradict each other, or that the run to resume cannot change.
    """
    resumed = value_of("--resume", arguments)
    if "--requeue" in arguments and (resumed is not None or value_of("--out", arguments) is None):
        raise ConfigError(
            "--requeue goes on with the run in --out DIR, or begins it: give --out and leave out --resume"
        )
    if resumed is not None:
        return parse_resumed(RunFolder(resumed), arguments, program)
    preset = value_of("--preset", arguments)
    preset = default_preset(value_of("--device", arguments) or "auto") if preset is None else preset
    if preset not in PRESETS:
        raise ConfigError(f"--preset is {preset!r}; there are {', '.join(PRESETS)}")
    default = PRESETS[preset].config
    open_budget = dataclasses.replace(default, minutes=None, steps=None)
    default_command = RunCommand(RunOptions(preset=preset), open_budget)
    command = read_run(arguments, default_command, program)
    config = command.config
    if config.minutes is not None and config.steps is not None:
        raise ConfigError("--minutes and --steps are two budgets; give one of them")
    total = command.options.total_minutes
    if total is not None and config.minutes is not None and config.minutes >= total:
        raise ConfigError(f"--minutes {config.minutes:g} leaves nothing of --total-minutes {total:g}")
    if config.minutes is None and config.steps is None:
        minutes = default.minutes
        if total is not None and minutes is not None:
            minutes = planned_train_minutes(total, minutes)
        config = dataclasses.replace(config, minutes=minutes, steps=default.steps)
    return dataclasses.replace(command, config=config)


def read_run(arguments: list[str], default: RunCommand, program: str = PROGRAM) -> RunCommand:
    """The command line over `default`, each option checked by itself."""
    command = read_options(RunCommand, arguments, program, RUN_SUMMARY, default, RUN_LEAST)
    name = command.options.name
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w. -]*", name, re.ASCII):
        raise ConfigError(f"--name is {name!r}; expected letters, digits, spaces, '.', '_' and '-' alone")
    check_trackers(command.options.track)
    for text in (command.options.author, command.options.github_id):
        if not text.isprintable():
            raise ConfigError(f"--author and --github-id are one line of text; found {text!r}")
    return command


def parse_resumed(folder: RunFolder, arguments: list[str], program: str = PROGRAM) -> RunCommand:
    """The command of a run, with the options that are given anew; ConfigError for one that training read."""
    command = read_run(arguments, stored_run(folder), program)
    require_same_training(folder, command)
    return command


def require_same_training(folder: RunFolder, command: RunCommand) -> None:
    """ConfigError for an option that the training in the folder read, and that is another one now."""
    for name, (before, now) in changed_options(folder, command).items():
        if not is_later(name):
            raise ConfigError(
                f"{folder} was begun with {name} {before}; it cannot go on with {now}, as training depends "
                f"on it. What may change is pack.*, score.*, ttt.* and {', '.join(CHANGEABLE)}"
            )


def changed_options(folder: RunFolder, command: RunCommand) -> dict[str, tuple[Any, Any]]:
    """The options that differ from those of the run that a folder holds: both values by name.

    The vocabulary, which is the data's, and what says which run is resumed do not count.
    """
    before, now = dict(named_values(stored_run(folder))), dict(named_values(command))
    names = now.keys() - {"resume", "requeue", "model.vocab_size", "model.bos_id"}
    return {name: (before[name], now[name]) for name in sorted(names) if before[name] != now[name]}


def is_later(name: str) -> bool:
    """Whether nothing of an option is read before the calibration."""
    return name in CHANGEABLE or name.split(".")[0] in LATER_PARTS


def read_config(folder: RunFolder) -> dict[str, Any]:
    """A run folder's config.json; DamagedFileError, naming it, for a damaged one."""
    return read_sealed_json(folder.config)


def stored_run(folder: RunFolder) -> RunCommand:
    """The command that made a run folder; ConfigError if it is none."""
    if not folder.config.is_file():
        raise ConfigError(f"{folder} is no run folder: it has no {folder.config.name}")
    stored = read_config(folder)
    if "options" not in stored:
        raise ConfigError(f"{folder} is not train_gpt.py's: the command that made it goes on with it")
    try:
        values = stored["options"]
        if isinstance(values, dict):
            values = rename(RENAMED_OPTIONS, values)
        options = msgspec.convert(values, RunOptions, dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{folder.config}: {error}") from error
    return RunCommand(options, config_from_dict(RunConfig, stored["config"]))


def planned_runs(arguments: list[str], program: str = PROGRAM) -> list[tuple[RunCommand, RunFolder]]:
    """What to run in which folder: one run, one to resume, or one a seed of --seeds.

    The same command with the same --out takes up several seeds where they were stopped, and one run with
    --requeue.
    """
    command = parse_run(arguments, program)
    options = command.options
    seeds = read_seeds(options.seeds) if options.seeds is not None else []
    check_plan(options.record_track, options.max_tokens, command.config.minutes)
    if options.resume is not None:
        return [(command, RunFolder(options.resume))]
    out = options.out or new_run_folder(options.name or options.preset)
    if seeds:
        configs = [dataclasses.replace(command.config, seed=seed) for seed in seeds]
        runs = [(RunCommand(options, config), RunFolder(out / f"seed{config.seed}")) for config in configs]
    else:
        runs = [(command, RunFolder(out))]
        if not options.requeue and runs[0][1].config.exists():
            raise ConfigError(f"{out} holds a run already; go on with --resume {out}")
    for one, folder in runs:
        if folder.config.is_file():
            require_same_training(folder, one)
    return runs


def read_seeds(text: str) -> list[int]:
    """Different whole numbers from 0 on, comma-separated; ConfigError for anything else."""
    named = [seed.strip() for seed in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,15}", seed) for seed in named):
        raise ConfigError(f"--seeds is {text!r}; expected whole numbers, comma-separated: 42,1337")
    seeds = list(map(int, named))
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError(f"--seeds names {seed} twice; an entry has one run a seed")
    return seeds


def is_finished(command: RunCommand, folder: RunFolder) -> bool:
    """Whether nothing of a run is left to do: it has results of these options, and its audit passed."""
    if not (folder.results.is_file() and folder.audit.is_file()):
        return False
    if changed_options(folder, command).keys() - {"record_track", "track"}:
        return False
    return read_sealed_json(folder.audit).get("passed") is True


def forget_changed(folder: RunFolder, command: RunCommand) -> None:
    """Forgets what a run did with options that are others now."""
    changed = changed_options(folder, command)
    if "pack.calibration_tokens" in changed:
        folder.forget_from("calibrate")
    # The artifact states all of pack, score and ttt.
    elif "form" in changed or any(name.split(".")[0] in LATER_PARTS for name in changed):
        folder.forget_from("pack")


def entry_of(folders: list[RunFolder], records: Path, track: str) -> Path | None:
    """The entry of these runs that exists in a track: that with their seeds' artifacts; None without one."""
    wanted = {}
    for folder in folders:
        results = read_results(folder.results)
        wanted[str(results.seed)] = results.packing.artifact_sha256
    for path in sorted((records / track).glob(f"*/{SUBMISSION_NAME}")):
        with suppress(EntryError, AttributeError):
            seeds = read_json(path).get("seed_results", {})
            if {seed: figures.get("artifact_sha256") for seed, figures in seeds.items()} == wanted:
                return path.parent
    return None


def open_or_prepare(options: RunOptions, config: RunConfig, log: RunLog) -> Dataset:
    """The dataset that was asked for, or the preset's own, made or fetched when it is not there yet."""
    source, vocab_size = PRESETS[options.preset].source, config.model.vocab_size
    prefix = "docs_" if source == "docs" else "fineweb_sp"
    folder = options.data or Path("data") / f"{prefix}{vocab_size}"
    if options.data is None and not (folder / MANIFEST_NAME).is_file():
        num_shards = shards_to_read(config.budget(), config.train.batch_tokens)
        prepare_default(source, folder, vocab_size, log, num_shards)
    dataset = open_dataset(folder)
    manifest = dataset.manifest
    sizes = ", ".join(f"{manifest.num_tokens(split):,} {split} tokens" for split in ("train", "val"))
    log.info(f"data {folder}: {manifest.name}, {sizes}")
    return dataset


def open_run(command: RunCommand, folder: RunFolder, world: World) -> RunContext:
    """A run made ready in its folder, or taken up there.

    Nothing is written before everything that can be checked was. A run whose later options have changed does
    the stages again that depend on them.
    """
    options, config = command.options, command.config
    if world.is_first:
        require_writable(folder.path, "--out")
        check_entry(Path("records"), options.record_track, options.author, options.github_id)
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    check_config(config, runtime.device.type)
    check_artifact(config, runtime.device.type, options.max_tokens)
    console, preset = RunLog(quiet=not world.is_first), PRESETS[options.preset]
    console.info(f"preset {options.preset}: {preset.purpose}")
    console.info(f"on {runtime.describe()}")
    dataset = world.local_rank0_first(lambda: open_or_prepare(options, config, console))
    config = fit_to_vocabulary(config, preset.config, dataset.vocabulary.size, dataset.vocabulary.bos_id)
    if world.is_first:
        check_data(config, dataset)
        check_machine(config, runtime, folder)
    total = None if options.total_minutes is None else 60 * options.total_minutes
    plan = TimePlan(total, folder.spent_seconds if world.is_first else None)
    words = invocation()
    line = shlex.join([*words, *sys.argv[2 if words[0] == "golf" else 1 :]])
    if not world.is_first:
        return RunContext(config, dataset, runtime, console, plan)
    folder.path.mkdir(parents=True, exist_ok=True)
    inputs = {file.name: file.sha256 for file in dataset.manifest.files}
    inputs[dataset.manifest.tokenizer] = dataset.manifest.tokenizer_sha256
    code = source_sha256()
    if folder.config.is_file():
        stored = read_config(folder)
        line = stored.get("command") or line
        require_same_inputs(stored.get("inputs") or inputs, inputs, dataset.folder)
        if stored.get("source_sha256", code) != code:
            console.info("the code of this toolkit has changed since the run began")
        forget_changed(folder, command)
    name = options.name or options.preset
    trackers = Trackers(
        options.track, folder.events, folder.trackers, f"{name}-seed{config.seed}", runtime.device
    )
    run = RunContext(
        config,
        dataset,
        runtime,
        RunLog(folder.log_stem, trackers=trackers),
        plan,
        scoring=ScoringOptions(options.device, options.max_tokens, options.eager),
        name=name,
        preset=options.preset,
        command=line,
        dollars_per_hour=options.dollars_per_hour,
    )
    run.log.info(f"run {folder}, seed {config.seed}")
    plan.say_start(config.minutes, run.log)
    described = {
        "command": line,
        "options": msgspec.to_builtins(options, enc_hook=str),
        "config": config_to_dict(config),
    }
    facts = {"header": run.header, "inputs": inputs, "source_sha256": code}
    write_sealed_json(folder.config, {**described, **facts})
    run.log.record("environment", **environment(runtime.device, world))
    run.log.record("config", **described["config"])
    return run


def require_same_inputs(before: dict[str, str], now: dict[str, str], folder: Path) -> None:
    """Raises ConfigError, naming a file, if a run would go on with other data; both are sha256 by file."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"the run began with another {folder / name}: its sha256 was {before.get(name, 'none')} and "
                f"is {now.get(name, 'none')}; the run can go on with the data it began with alone"
            )


def source_sha256() -> str:
    """Hexadecimal sha256 of the toolkit's code."""
    found, package = hashlib.sha256(), Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return found.hexdigest()
