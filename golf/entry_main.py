"""Trains, packs and scores the language model of this entry, or scores its artifact.

torchrun --standalone --nproc_per_node=8 train_gpt.py --data DIR   the whole run, into --out
python train_gpt.py --score artifact.bin --data DIR                scores an artifact in this process
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from golf.config import RunConfig
from golf.data.manifest import open_dataset
from golf.evaluate import EvaluateConfig, main_evaluate
from golf.pack.fit import BudgetError
from golf.results import print_results
from golf.run import (
    LiveTrainer,
    RunContext,
    ScoringOptions,
    average_stage,
    calibrate_stage,
    collect_results,
    pack_stage,
    score_stage,
    train_stage,
)
from golf.run_folder import RunFolder
from golf.score.windows import WindowConfig
from golf.system.cli import STOPPED, run_program
from golf.system.device import choose_runtime, device_kind, read_world
from golf.system.distributed import World
from golf.system.files import require_writable, write_json
from golf.system.log import RunLog
from golf.system.stored import ConfigError
from golf.train.loop import Interrupted
from golf.ttt.sgd import TTTConfig

CONFIG = RunConfig()
"""The configuration of this entry; fields that are not written have their default."""


def own_config(kind: type, values: Any) -> Any:
    """The part of CONFIG of class `kind`; ConfigError unless an artifact's `values` are the same."""
    pending: list[Any] = [CONFIG]
    while not isinstance(part := pending.pop(), kind):
        pending += [value for value in vars(part).values() if is_dataclass(value)]
    if values != json.loads(json.dumps(asdict(part))):
        raise ConfigError(
            f"the artifact is of another entry: its {kind.__name__} is not the one of this script"
        )
    return part


def own_settings(header: dict[str, Any], how: EvaluateConfig) -> tuple[WindowConfig, TTTConfig]:
    """Windows and test-time training: those of this entry, which the artifact must state too."""
    return own_config(WindowConfig, header.get("score")), own_config(TTTConfig, header.get("ttt"))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; SystemExit for one that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards, tokenizer, manifest.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--max-tokens", type=int, help="score this many validation tokens only")
    train = parser.add_argument_group("training")
    train.add_argument(
        "--out", type=Path, default=Path("run"), help="run folder; a stopped run goes on there"
    )
    train.add_argument("--resume", type=Path, help="run folder of a run that was stopped")
    train.add_argument("--seed", type=int, help="another seed than the entry's")
    score = parser.add_argument_group("scoring")
    score.add_argument(
        "--score", type=Path, metavar="ARTIFACT", help="score this artifact and do nothing else"
    )
    score.add_argument("--ttt", action="store_true", help="score with test-time training, too")
    score.add_argument("--no-plain", action="store_true", help="do not score without test-time training")
    score.add_argument("--max-seconds", type=float, help="limit on test-time training")
    score.add_argument("--json", type=Path, help="file for the figures")
    score.add_argument("--per-document", type=Path, help="file for nats, tokens and bytes of each document")
    return parser.parse_args(arguments)


def train_and_score(options: argparse.Namespace, world: World) -> None:
    """The run of this entry, from text to results.json; goes on with what its folder holds."""
    folder = RunFolder(options.resume or options.out)
    if world.is_first:
        require_writable(folder.path, "--out")
        folder.path.mkdir(parents=True, exist_ok=True)
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    config = CONFIG if options.seed is None else replace(CONFIG, seed=options.seed)
    dataset = open_dataset(options.data)
    vocabulary = dataset.vocabulary
    if (vocabulary.size, vocabulary.bos_id) != (config.model.vocab_size, config.model.bos_id):
        raise ConfigError(f"the tokenizer of {options.data} is not the one that this entry was made for")
    log = RunLog(folder.log_stem) if world.is_first else RunLog(quiet=True)
    log.info(f"on {runtime.describe()}, seed {config.seed}")
    scoring = ScoringOptions(options.device, options.max_tokens, options.eager)
    line = shlex.join(["python", *sys.argv])
    run = RunContext(config, dataset, runtime, log, scoring=scoring, name=folder.path.name, command=line)
    live, code = LiveTrainer(), Path(__file__).read_bytes
    training = train_stage(folder, run, live, code)
    averaging = average_stage(folder, run, live)
    if not world.is_first:
        return
    calibrate_stage(folder, run)
    packing = pack_stage(folder, run, code)
    scores = score_stage(folder, run, live)
    results = collect_results(run, training, averaging, packing, scores)
    print_results(results, log)
    write_json(folder.results, asdict(results))
    log.info(f"results: {folder.results}")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 stopped."""
    options = parse_arguments(arguments)

    def work() -> int:
        if options.score is not None:
            how = EvaluateConfig(
                max_tokens=options.max_tokens,
                max_seconds=options.max_seconds,
                device=options.device,
                eager=options.eager,
                json=options.json,
                per_document=options.per_document,
            )
            main_evaluate(options.score, options.data, how, not options.no_plain, options.ttt)
            return 0
        world = read_world()
        with world.joined(device_kind(options.device)):
            train_and_score(options, world)
        return 0

    return run_program("train_gpt.py", work, {BudgetError: 1, Interrupted: STOPPED})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
