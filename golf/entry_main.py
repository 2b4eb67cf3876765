"""Trains, packs and scores the language model of this entry.

python train_gpt.py --data DIR                     trains, packs and scores in a new folder runs/<time>
python train_gpt.py --data DIR --resume RUN        continues a run that was stopped
python train_gpt.py --data DIR --score ARTIFACT    scores an artifact in this process
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from golf.config import RunConfig
from golf.data.manifest import open_dataset
from golf.evaluate import EvaluateConfig, print_scores, score_artifact
from golf.pack.budget import BudgetError
from golf.run import Run, ScoringOptions
from golf.system.device import choose_runtime, device_kind, environment, read_world, release_memory
from golf.system.distributed import World
from golf.system.files import STANDARD_OUTPUT, write_json
from golf.system.log import RunLog
from golf.system.program import STOPPED, run_program
from golf.system.stored import ConfigError
from golf.train.loop import Interrupted

CONFIG = RunConfig()
"""The configuration of this entry; fields that are not written have their default."""


def stored_config(kind: type, values: Any) -> Any:
    """The part of CONFIG that is a `kind`; ConfigError unless `values`, read from an artifact, are the same."""
    pending: list[Any] = [CONFIG]
    while not isinstance(part := pending.pop(), kind):
        pending += [value for value in vars(part).values() if dataclasses.is_dataclass(value)]
    if values != json.loads(json.dumps(dataclasses.asdict(part))):
        raise ConfigError(f"the {kind.__name__} of the artifact is not the one of this script")
    return part


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line as argparse reads it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder: shards and tokenizer")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--max-tokens", type=int, help="score this many validation tokens only")
    parser.add_argument("--seed", type=int, default=CONFIG.seed, help="seed of the run")
    parser.add_argument("--out", type=Path, help="run folder to make, runs/<time> by default")
    parser.add_argument("--resume", type=Path, help="run folder to continue")
    parser.add_argument("--score", type=Path, help="artifact to score")
    parser.add_argument("--ttt", action="store_true", help="score with test-time training, too")
    parser.add_argument("--no-plain", action="store_true", help="do not score without test-time training")
    parser.add_argument("--max-seconds", type=float, help="time limit of scoring with test-time training")
    parser.add_argument("--json", type=Path, help="where to write the scores; /dev/stdout for standard output")
    parser.add_argument("--per-document", type=Path, help="where to write the scores of each document, .npz")
    return parser.parse_args(arguments)


def score_command(options: argparse.Namespace) -> None:
    """Scores an artifact in every process that torchrun started, or in this one; the first one prints."""
    world = read_world()
    log = RunLog(quiet=not world.is_first or options.json == STANDARD_OUTPUT)
    how = EvaluateConfig(
        max_tokens=options.max_tokens,
        max_seconds=options.max_seconds,
        device=options.device,
        eager=options.eager,
        json=options.json,
        per_document=options.per_document,
    )
    settings = CONFIG.score, CONFIG.ttt
    with world.joined(device_kind(options.device)):
        figures = score_artifact(
            options.score, options.data, *settings, how, log, not options.no_plain, options.ttt, world
        )
    if world.is_first:
        print_scores(figures, log)


def train_command(options: argparse.Namespace) -> None:
    """Trains in every process that torchrun started, or in this one; the first one packs and scores."""
    world = read_world()
    with world.joined(device_kind(options.device)):
        folder = world.broadcast(lambda: options.resume or options.out or Path("runs") / time.strftime("%F_%H%M%S"))
        run_stages(options, folder, world)


def run_stages(options: argparse.Namespace, folder: Path, world: World) -> None:
    """Trains, packs and scores in `folder`; stages that are done already are not done again."""
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    config = dataclasses.replace(CONFIG, seed=options.seed)
    dataset = open_dataset(options.data)
    vocabulary = dataset.vocabulary
    if (vocabulary.size, vocabulary.bos_id) != (config.model.vocab_size, config.model.bos_id):
        raise ConfigError(f"the tokenizer of {options.data} is not the one that this entry was made for")
    if not world.is_first:
        Run(folder, config, dataset, runtime, RunLog(quiet=True)).train()
        release_memory(runtime.device)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder / "run")
    log.record("environment", **environment(runtime.device, world))
    run = Run(folder, config, dataset, runtime, log)
    code = Path(__file__).read_bytes()
    packed = run.packed()
    training = run.train(None if packed else code)
    packed = packed or run.pack(code)
    scores = run.score(training["averaging"]["output"], ScoringOptions(options.device, options.max_tokens, options.eager))
    write_json(folder / "results.json", {"seed": config.seed, **training, **packed, **scores, "seconds": run.clock.seconds})
    log.info(f"results: {folder / 'results.json'}")
    log.close()


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the size limit, 2 unusable input, 130 stopped."""
    options = parse_arguments(arguments)

    def work() -> int:
        try:
            score_command(options) if options.score else train_command(options)
        except Interrupted as stop:
            print(f"{stop}; go on with --resume", file=sys.stderr)
            return STOPPED
        return 0

    return run_program("train_gpt.py", work, {BudgetError: 1})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
