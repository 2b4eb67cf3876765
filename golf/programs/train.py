"""Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed bytes.

golf train                                  the whole run, with what this machine has
golf train --resume runs/NAME               goes on with a run that was stopped
golf train --out runs/NAME --requeue        begins a run, or goes on with it: for schedulers
golf train --score artifact.bin --data DIR  scores an artifact in this process
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

from golf.command import (
    PROGRAM,
    RunCommand,
    RunOptions,
    entry_of,
    is_finished,
    open_run,
    parse_run,
    planned_runs,
    run_score,
)
from golf.doctor import print_diagnosis
from golf.entry.build import build
from golf.entry.finalize import charged_script, finalize_run
from golf.entry.results import read_results
from golf.pack.fit import BudgetError
from golf.results import Results, print_results
from golf.run import (
    LiveTrainer,
    average_stage,
    calibrate_stage,
    collect_results,
    how_to_resume,
    pack_stage,
    score_stage,
    train_stage,
)
from golf.run_folder import RunFolder
from golf.system.cli import Stopped, run_program
from golf.system.device import device_kind, read_world
from golf.system.distributed import World
from golf.system.lock import owned_folder
from golf.system.log import RunLog
from golf.system.stored import config_to_dict, flat_fields


def run_pipeline(arguments: list[str], program: str) -> None:
    """Every planned run, from text to results and audit, then the entry over them.

    Of several processes all train, and the first does the rest.
    """
    world, asked = read_world(), parse_run(arguments, program)
    with world.joined(device_kind(asked.options.device)):
        world.require_same(flat_fields(config_to_dict(asked.config)))
        runs = world.broadcast(lambda: planned_runs(arguments, program))
        folders, asked = [folder for _, folder in runs], runs[0][0].options
        if all(world.broadcast(partial(is_finished, command, folder)) for command, folder in runs):
            entry = world.broadcast(partial(entry_of, folders, Path("records"), asked.record_track))
            if entry is not None:
                if world.is_first:
                    print(f"{', '.join(map(str, folders))}: finished already\nentry: {entry}")
                return
        for command, folder in runs:
            with owned_folder(folder.path) if world.is_first else nullcontext():
                if not world.broadcast(partial(is_finished, command, folder)):
                    run_stages(command, folder, world)
    if world.is_first:
        paths, who = [folder.path for folder in folders], (asked.author, asked.github_id)
        entry = build(paths, Path("records"), asked.record_track, None, None, *who)
        print_closing([read_results(folder.results) for folder in folders], RunLog())
        print(f"entry: {entry}\nnext: {next_step(entry, asked)}")


def print_closing(results: Sequence[Results], log: RunLog) -> None:
    """One table of finished runs, a row a seed: what counts, whose audits have passed."""
    rows = []
    for run in results:
        quantized, size = run.stage("quantized"), run.packing
        assert quantized is not None
        rows.append(
            (
                str(run.seed),
                f"{run.final.tally.bits_per_byte:.4f}",
                f"{quantized.tally.bits_per_byte:.4f}",
                f"{size.total_bytes:,}",
                f"{size.limit_bytes - size.total_bytes:,}",
                f"{run.training.steps:,}",
                f"{sum(run.seconds.values()) / 60:.1f}",
            )
        )
    what = (
        "seed",
        "bits per byte",
        "without test-time training",
        "bytes",
        "bytes left",
        "steps",
        "minutes before audit",
    )
    log.table("finished, audit passed" + (" (scored in part)" if results[0].partial else ""), what, rows)


def next_step(entry: Path, options: RunOptions) -> str:
    """What a person can do with an entry."""
    if options.record_track == "local":
        return f"golf chat {entry}; golf report shows all entries; golf train --help-all has every switch"
    return f"golf verify {entry} computes its figures again; golf report shows all entries"


def run_stages(command: RunCommand, folder: RunFolder, world: World) -> None:
    """One run, from text to results and audit."""
    try:
        go_through_stages(command, folder, world)
    except Stopped as stop:
        if not str(stop) and folder.config.is_file():
            raise Stopped(f"stopped; {how_to_resume(folder, world)}", stop.signum) from stop
        raise


def go_through_stages(command: RunCommand, folder: RunFolder, world: World) -> None:
    """The stages of a run, each of which is done or found done."""
    run, live = open_run(command, folder, world), LiveTrainer()
    with run.log:
        code = cache(partial(charged_script, run.config, command.options.shipped_form, run.log))
        training = train_stage(folder, run, live, code)
        averaging = average_stage(folder, run, live)
        if not world.is_first:
            live.release(run.runtime)
            return
        calibrate_stage(folder, run)
        packing = pack_stage(folder, run, code)
        scores = score_stage(folder, run, live)
        results = collect_results(run, training, averaging, packing, scores)
        print_results(results, run.log)
        finalize_run(folder, run, results)


def main(arguments: list[str], program: str = PROGRAM) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1."""
    if arguments == ["--doctor"]:
        work = partial(print_diagnosis, RunLog(), Path("data"))
    elif any(argument.split("=")[0] == "--score" for argument in arguments):
        work = partial(run_score, arguments, program)
    else:
        work = partial(run_pipeline, arguments, program)
    return run_program(program, work, {BudgetError: 1})
