"""Trains, packs and scores the language model of this entry, or scores its artifact.

torchrun --standalone --nproc_per_node=8 train_gpt.py      the whole run, on ./data of the challenge
python train_gpt.py --score artifact.bin --data DIR        scores an artifact in this process

A run writes logs/RUN_ID.txt and final_model_RUN_ID.bin; one that was stopped goes on from what is in logs/.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from golf.config import RunConfig
from golf.data.manifest import MANIFEST_NAME, Dataset, open_dataset, open_shards
from golf.data.reference import LIMIT_BYTES
from golf.evaluate import save_documents, score_once
from golf.pack.artifact import QUANTIZERS, decode_artifact, pack
from golf.pack.calibrate import calibrate
from golf.pack.container import ArtifactError, read_artifact, read_container
from golf.pack.fit import BudgetError, bytes_for_artifact
from golf.results import RESULTS_VERSION
from golf.run import (
    artifact_header,
    build_trainer,
    calibration_batches,
    exported_model,
    isolated_python,
)
from golf.score.scorer import ScoreResult, Scoring
from golf.system.child import run_child
from golf.system.cli import Stopped
from golf.system.clock import StageClock
from golf.system.device import (
    choose_runtime,
    device_kind,
    dtype_name,
    environment,
    read_world,
    release_memory,
    scoring_dtype,
)
from golf.system.distributed import World
from golf.system.files import write_bytes, write_json
from golf.system.log import RunLog
from golf.train.checkpoint import save_weights
from golf.train.objective import export_state_dict

CONFIG = RunConfig()
"""The configuration of this entry; fields that are not written have their default."""


def given(name: str, default: Any = None) -> Any:
    """An environment variable; an empty one counts as none."""
    return os.environ.get(name) or default


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line over the challenge's environment variables; SystemExit for one that cannot be read."""
    size, layout = CONFIG.model.vocab_size, argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("train_gpt.py", "%(prog)s [options]", __doc__, formatter_class=layout)
    folder, data_help = f"data/datasets/fineweb10B_sp{size}", "folder of shards, or $DATA_PATH"
    parser.add_argument("--data", type=Path, default=given("DATA_PATH", folder), help=data_help)
    tokenizer_help = "of shards without manifest.json, or $TOKENIZER_PATH; by default from ../../tokenizers"
    parser.add_argument("--tokenizer", type=Path, default=given("TOKENIZER_PATH"), help=tokenizer_help)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--max-tokens", type=int, help="score this many validation tokens only")
    parser.add_argument("--log-file", type=Path, help="file of the log; of a run by default logs/RUN_ID.txt")
    train = parser.add_argument_group("training")
    train.add_argument("--out", type=Path, default=".", help="folder for what a run writes")
    train.add_argument("--run-id", default=given("RUN_ID"), help="name of the run, or $RUN_ID")
    seed_help = "by default $SEED or the entry's"
    train.add_argument("--seed", type=int, default=given("SEED", CONFIG.seed), help=seed_help)
    seconds_help = "training budget, or $MAX_WALLCLOCK_SECONDS; 0 for the entry's"
    seconds = given("MAX_WALLCLOCK_SECONDS", "0")
    train.add_argument("--seconds", type=float, default=seconds, help=seconds_help)
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument("--score", type=Path, metavar="ARTIFACT", help="score this artifact and stop")
    scoring.add_argument("--ttt", action="store_true", help="score with test-time training, too")
    scoring.add_argument("--no-plain", action="store_true", help="not without test-time training")
    scoring.add_argument("--max-seconds", type=float, help="limit on test-time training")
    scoring.add_argument("--json", type=Path, help="file for the figures")
    scoring.add_argument("--per-document", type=Path, help="file for the sums of each document")
    options = parser.parse_args(arguments)
    options.run_id = options.run_id or f"seed{options.seed}"
    model = f"fineweb_{size}_bpe.model"
    options.tokenizer = options.tokenizer or options.data.absolute().parent.parent / "tokenizers" / model
    return options


def open_text(options: argparse.Namespace) -> Dataset:
    """The dataset; ValueError for another tokenizer than the entry's."""
    pinned = (options.data / MANIFEST_NAME).is_file()
    dataset = open_dataset(options.data) if pinned else open_shards(options.data, options.tokenizer)
    vocabulary = dataset.vocabulary
    if (vocabulary.size, vocabulary.bos_id) != (CONFIG.model.vocab_size, CONFIG.model.bos_id):
        raise ValueError(f"the tokenizer of {options.data} is not the one that this entry was made for")
    return dataset


def run_config(options: argparse.Namespace) -> RunConfig:
    """The configuration of a run; ValueError for options or variables that this entry cannot follow."""
    size, seconds = str(CONFIG.model.vocab_size), options.seconds
    if (asked := given("VOCAB_SIZE", size)) != size:
        raise ValueError(f"VOCAB_SIZE is {asked}; the vocabulary of this entry has {size} pieces")
    if Path(options.run_id).name != options.run_id or not options.run_id.isprintable():
        raise ValueError(f"RUN_ID is {options.run_id!r}; expected the name of a file")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"SEED is {options.seed}; expected 0 to 2**63 - 1")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"MAX_WALLCLOCK_SECONDS is {seconds}; expected a number of seconds")
    config = replace(CONFIG, seed=options.seed)
    return replace(config, minutes=seconds / 60, steps=None) if seconds else config


def train_and_pack(options: argparse.Namespace, world: World) -> None:
    """The run of this entry, from text to scores; what it has written already is not made again."""
    config, stem = run_config(options), options.out / "logs" / options.run_id
    artifact = options.out / f"final_model_{options.run_id}.bin"
    checkpoint, weights_path, figures = (
        Path(f"{stem}.{kind}") for kind in ("checkpoint.pt", "safetensors", "json")
    )
    options.log_file = options.log_file or Path(f"{stem}.txt")
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    dataset, clock = open_text(options), StageClock()
    stem.parent.mkdir(parents=True, exist_ok=True)
    log = RunLog(options.log_file if world.is_first else None, quiet=not world.is_first)
    log.info(f"on {runtime.describe()}, seed {config.seed}")
    if world.broadcast(artifact.is_file):
        log.info(f"{artifact} is there: scored, not trained again")
    else:
        trainer = build_trainer(config, dataset, runtime, clock, log)
        if world.broadcast(checkpoint.is_file):
            trainer.resume(checkpoint)
            log.info(f"resumed at step {trainer.steps}")
        with clock.stage("warm-up"):
            trainer.warm_up()
        trainer.train(checkpoint)
        with clock.stage("calibrate"):
            _, weights, _ = trainer.choose_output()
        if world.is_first:
            exported = export_state_dict(weights)
            save_weights(weights_path, exported)
            calibration = None
            if QUANTIZERS[config.pack.scheme].needs_calibration:
                position, tokens = trainer.batches.state_dict(), trainer.micro_batch_tokens
                del trainer
                with clock.stage("calibrate"):
                    model = exported_model(config, exported, runtime.compute_dtype, runtime.device)
                    batches = calibration_batches(config, dataset, position, tokens, runtime.device)
                    calibration = calibrate(model, batches)
            with clock.stage("pack"):
                code = Path(__file__).read_bytes()
                header = artifact_header(config, runtime.compute_dtype, dataset.vocabulary.sha256)
                room_bytes = bytes_for_artifact(len(code), LIMIT_BYTES)
                packed = pack(exported, header, config.pack, room_bytes, calibration)
            write_bytes(artifact, packed.artifact)
            log.event("size", code_bytes=len(code), artifact_bytes=len(packed.artifact))
            log.info(f"Total submission size: {len(code) + len(packed.artifact)} bytes")
            log.event("seconds", **clock.seconds)
    if world.is_first:
        # What training holds of the device's memory would be missing to the fresh process.
        trainer = None
        release_memory(runtime.device)
        score_alone(options, artifact, figures, world)


def score_alone(options: argparse.Namespace, artifact: Path, figures: Path, world: World) -> None:
    """Scores the artifact in fresh processes, as many as train, from the bytes of script and artifact."""
    command = [*isolated_python(world), __file__, "--score", str(artifact), "--data", str(options.data)]
    command += ["--tokenizer", str(options.tokenizer), "--log-file", str(options.log_file)]
    command += ["--json", str(figures), "--device", options.device]
    command += ["--ttt"] * CONFIG.ttt.enabled + ["--eager"] * options.eager
    command += [] if options.max_tokens is None else ["--max-tokens", str(options.max_tokens)]
    if run_child(command):
        raise ValueError(f"scoring {artifact} failed, as said above")


def score_artifact(options: argparse.Namespace, world: World) -> None:
    """Scores the artifact by sliding windows, with test-time training, or both, and writes the figures.

    ValueError for an artifact of another entry, or of another tokenizer than the text's.
    """
    log = RunLog(options.log_file if world.is_first else None, quiet=not world.is_first)
    clock = StageClock()
    with clock.stage("score"):
        artifact = read_artifact(options.score)
        runtime = choose_runtime(options.device, world=world, eager=options.eager)
        header = read_container(artifact)[0]
        trained = torch.bfloat16 if header.get("compute_dtype") == "bfloat16" else torch.float32
        dataset = open_text(options)
        own = artifact_header(CONFIG, trained, dataset.vocabulary.sha256)
        for name, value in json.loads(json.dumps(own)).items():
            if header.get(name) != value:
                raise ArtifactError(f"the artifact is of another entry: its {name} is not this script's")
        weights = decode_artifact(artifact)[1]
        model = exported_model(CONFIG, weights, scoring_dtype(runtime.device, trained), runtime.device)
        if runtime.compiled:
            model.compile(dynamic=False)
        tokens = dataset.validation_tokens(clock)
        limit = options.max_tokens
        scoring = Scoring(model, tokens, dataset.vocabulary, CONFIG.score, limit, log=log, world=world)
        load_seconds, stages, nats = clock.elapsed("score"), [], {}
        for name in ["quantized"] * (not options.no_plain) + ["test_time_trained"] * options.ttt:
            started = clock.elapsed("score")
            adapting = CONFIG.ttt if name == "test_time_trained" else None
            result = score_once(scoring, adapting, CONFIG.ttt.chunk_tokens, options.max_seconds)
            if result is not None:
                stages.append(describe_score(name, result, clock.elapsed("score") - started, log))
                nats[name] = result.nats_N
    if world.is_first and options.per_document:
        save_documents(options.per_document, nats, tokens, dataset.vocabulary)
    if world.is_first and options.json:
        figures = {
            "version": RESULTS_VERSION,
            "stages": stages,
            "artifact_bytes": len(artifact),
            "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
            "validation_sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
            "compute_dtype": dtype_name(model.compute_dtype),
            "environment": environment(runtime.device, world),
            "load_seconds": load_seconds,
            "max_tokens": options.max_tokens,
            "ttt": asdict(CONFIG.ttt) if options.ttt else None,
        }
        write_json(options.json, figures)


def describe_score(name: str, result: ScoreResult, seconds: float, log: RunLog) -> dict[str, Any]:
    """One score as JSON values, logged too."""
    tally, by_document = result.tally, name == "test_time_trained" and CONFIG.ttt.method == "lora"
    log.event(
        "score" if name == "quantized" else "ttt_score",
        val_loss=tally.nats_per_token,
        val_bpb=tally.bits_per_byte,
        tokens=tally.num_tokens,
        bytes=tally.num_bytes,
        seconds=round(seconds, 3),
    )
    return {
        "name": name,
        "tally": asdict(tally),
        "windows": "by document" if by_document else "sliding",
        "context": result.windows.context,
        "stride": None if by_document else result.windows.stride,
        "batch_tokens": result.windows.batch_tokens,
        "seconds": seconds,
        "partial": result.partial,
        "notes": result.notes,
    }


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1."""
    options, world = parse_arguments(arguments), read_world()
    try:
        with world.joined(device_kind(options.device)):
            (train_and_pack if options.score is None else score_artifact)(options, world)
    except KeyboardInterrupt as stop:
        print(f"train_gpt.py: {str(stop) or 'stopped'}; the same command goes on", file=sys.stderr)
        return stop.code if isinstance(stop, Stopped) else 130
    except (ValueError, OSError) as error:
        print(f"train_gpt.py: {error}", file=sys.stderr)
        return 1 if isinstance(error, BudgetError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
