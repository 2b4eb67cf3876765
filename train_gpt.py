"""Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed bytes.

python train_gpt.py                                  the whole run, with what this machine has
python train_gpt.py --resume runs/NAME               goes on with a run that was stopped
python train_gpt.py --score artifact.bin --data DIR  scores an artifact in this process
"""

import shlex
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import tyro

from golf.command import (
    RUN_SUMMARY,
    RunCommand,
    RunOptions,
    ScoreCommand,
    parse_run,
    planned_runs,
    stored_command,
    stored_options,
)
from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import Dataset, open_dataset
from golf.evaluate import EvaluateConfig, main_evaluate
from golf.pack.budget import BudgetError
from golf.presets import PRESETS
from golf.run import Run, ScoringOptions, read_stage
from golf.summary import cost, print_results
from golf.system.device import choose_runtime, device_kind, environment, read_world, release_memory
from golf.system.distributed import World, flat_fields
from golf.system.files import require_writable, write_json
from golf.system.log import RunLog
from golf.system.program import STOPPED, run_program
from golf.system.stored import ConfigError, config_to_dict
from golf.time_plan import TimePlan
from golf.train.config import shards_to_read
from golf.train.loop import Interrupted


def has_toolkit() -> bool:
    """Whether the project stands beside this script; an entry's own script runs without it."""
    return find_spec("golf") is not None


def open_or_prepare(options: RunOptions, config: RunConfig, log: RunLog) -> Dataset:
    """The dataset that was asked for, or the preset's own, made or fetched when it is not there yet."""
    source, vocab_size = PRESETS[options.preset].source, config.model.vocab_size
    prefix = "docs_" if source == "docs" else "fineweb_sp"
    folder = options.data or Path("data") / f"{prefix}{vocab_size}"
    if options.data is None and not (folder / "manifest.json").is_file():
        if not has_toolkit():
            raise ConfigError(f"no data at {folder}; give --data DIR")
        from golf.prepare.prepare import prepare_default

        num_shards = shards_to_read(config.budget(), config.train.batch_tokens)
        prepare_default(source, folder, vocab_size, log, num_shards)
    dataset = open_dataset(folder)
    manifest = dataset.manifest
    sizes = ", ".join(f"{manifest.num_tokens(split):,} {split} tokens" for split in ("train", "val"))
    log.info(f"data {folder}: {manifest.name}, {sizes}")
    return dataset


def charged_script(form: str, log: RunLog) -> bytes:
    """The one file that a run is charged for: this script with the project's modules pasted in."""
    if not has_toolkit():
        return Path(__file__).read_bytes()
    from golf.entry.finalize import flattened_script

    return flattened_script(Path(__file__), form, log)


def doctor() -> int:
    """What this machine has and what a run will therefore use."""
    if not has_toolkit():
        raise ConfigError("--doctor needs the toolkit beside this script")
    from golf.doctor import print_diagnosis

    print_diagnosis(RunLog(), Path("data"))
    return 0


def is_finished(folder: Path) -> bool:
    """Whether nothing of a run is left to do: its results are there, and its audit passed."""
    if not (folder / "results.json").is_file():
        return False
    audit = folder / "audit.json"
    return not has_toolkit() or (audit.is_file() and read_stage(audit).get("passed") is True)


def train_pack_score(command: RunCommand, folder: Path, world: World) -> None:
    """One run in one folder, from text to results.json and audit.json; goes on with what the folder holds.

    Of several processes all train, and the first does the rest.
    """
    options, config = command.options, command.config
    if world.is_first:
        require_writable(folder, "--out")
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    config.check(runtime.device.type)
    console, preset = RunLog(quiet=not world.is_first), PRESETS[options.preset]
    console.info(f"preset {options.preset}: {preset.purpose}")
    console.info(f"on {runtime.describe()}")
    dataset = world.local_rank0_first(lambda: open_or_prepare(options, config, console))
    config = fit_to_vocabulary(config, preset.config, dataset.vocabulary.size, dataset.vocabulary.bos_id)
    total = None if options.total_minutes is None else 60 * options.total_minutes
    plan = TimePlan(total, folder / "spent_seconds.txt" if world.is_first else None)
    if not world.is_first:
        Run(folder, config, dataset, runtime, console, plan).train()
        release_memory(runtime.device)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder / "run")
    log.info(f"run {folder}, seed {config.seed}")
    plan.say_start(config.minutes, log)
    run = Run(folder, config, dataset, runtime, log, plan)
    command_line = stored_command(folder) or shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    described = {
        "command": command_line,
        "options": stored_options(options),
        "config": config_to_dict(config),
    }
    write_json(folder / "config.json", {**described, "header": run.header})
    log.record("environment", **environment(runtime.device, world))
    log.record("config", **described["config"])
    packed = run.packed()
    code = b""
    if packed is None:
        form = options.form or ("packed" if preset.source == "challenge" else "readable")
        code = charged_script(form, log)
    try:
        training = run.train(code)
    except Interrupted as stop:
        log.info(f"{stop}; go on with: python {sys.argv[0]} --resume {folder}")
        raise
    packed = packed or run.pack(code)
    how = ScoringOptions(options.device, options.max_tokens, options.eager)
    scores = run.score(training["averaging"]["output"], how)
    results = {
        "name": options.name or options.preset,
        "preset": options.preset,
        "seed": config.seed,
        "command": command_line,
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
        from golf.entry.finalize import finalize_run

        how_audited = EvaluateConfig(device=options.device, eager=options.eager)
        finalize_run(folder, results, dataset, how_audited, log, plan)
    else:
        write_json(folder / "results.json", results)
    log.close()


def whole_run(arguments: list[str]) -> int:
    """Every planned run, then the entry over them."""
    world = read_world()
    with world.joined(device_kind(parse_run(arguments).options.device)):
        world.require_same(flat_fields(config_to_dict(parse_run(arguments).config)))
        runs = world.broadcast(lambda: planned_runs(arguments))
        if has_toolkit():
            from golf.entry.runs import check_plan

            for command, _ in runs:
                check_plan(command.options.track, command.options.max_tokens, command.config.minutes)
        for command, folder in runs:
            if not world.broadcast(partial(is_finished, folder)):
                train_pack_score(command, folder, world)
    if not world.is_first:
        return 0
    if has_toolkit():
        from golf.entry.build import build

        print(f"entry: {build([folder for _, folder in runs], Path('records'), runs[0][0].options.track)}")
    else:
        print(f"results: {runs[0][1] / 'results.json'}; no entry, for the toolkit is not beside this script")
    return 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 stopped."""

    def work() -> int:
        if arguments == ["--doctor"]:
            return doctor()
        if any(argument.split("=")[0] == "--score" for argument in arguments):
            command = tyro.cli(ScoreCommand, args=arguments, description=RUN_SUMMARY)
            main_evaluate(command.score, command.data, command.how, command.plain, command.ttt)
            return 0
        try:
            return whole_run(arguments)
        except Interrupted:
            return STOPPED

    return run_program("train_gpt.py", work, {BudgetError: 1})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
