"""The five stages of a run: train, average, calibrate, pack, score; each leaves its result in the run folder.

A stage that finds its result there returns it. One that is done again makes the later ones be done again.
"""

import hashlib
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from golf.config import RunConfig
from golf.data.batches import ShuffledDocuments, TrainBatches
from golf.data.manifest import MANIFEST_NAME, Dataset
from golf.data.reference import LIMIT_BYTES
from golf.data.vocabulary import Vocabulary
from golf.model.gpt import GPT, distance_from_orthogonal
from golf.pack.artifact import QUANTIZERS, pack
from golf.pack.calibrate import CALIBRATION_PASS_TOKENS, Calibration, calibrate
from golf.pack.fit import bytes_for_artifact
from golf.results import (
    NATS_ARRAYS,
    Averaging,
    Calibrated,
    DataFacts,
    Packing,
    Results,
    Scores,
    Stage,
    Training,
    WeightScores,
)
from golf.run_folder import RunFolder
from golf.score.documents import save_arrays
from golf.score.scorer import CHUNK_TOKENS, Grade, Scoring, score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.system.child import run_child
from golf.system.cli import Stopped, invocation
from golf.system.clock import StageClock
from golf.system.device import (
    Runtime,
    dtype_name,
    end_with_parent,
    env_without_torchrun,
    environment,
    release_memory,
    scoring_dtype,
    seed_everything,
)
from golf.system.distributed import World
from golf.system.files import (
    DamagedFileError,
    read_sealed_json,
    sha256_of_file,
    write_bytes,
    write_sealed_json,
)
from golf.system.log import RunLog
from golf.system.stored import ConfigError, config_from_dict, config_to_dict, flat_fields
from golf.time_plan import TimePlan
from golf.train.checkpoint import load_checkpoint, load_weights, newest_sound_checkpoint, save_weights
from golf.train.loop import Trainer, weights_sum
from golf.train.objective import export_config, export_state_dict

AGAIN = "; remove it to have its stage done again"
Stored = TypeVar("Stored")
StageResult = TypeVar("StageResult", Training, Averaging, Calibrated, Packing, WeightScores)


class FreshProcessError(ValueError):
    """The process that scores the artifact from its bytes alone failed; it has said why."""


@dataclass(frozen=True)
class ScoringOptions:
    """How a run's scores are made."""

    device: str = "auto"
    max_tokens: int | None = None
    """Score this many validation tokens only."""
    eager: bool = False
    """Without torch.compile."""


@dataclass(frozen=True)
class RunContext:
    """What every stage reads; the configuration is resolved, the run folder exists."""

    config: RunConfig
    dataset: Dataset
    runtime: Runtime
    log: RunLog
    plan: TimePlan = field(default_factory=lambda: TimePlan(None))
    clock: StageClock = field(default_factory=StageClock)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    name: str = "run"
    preset: str = ""
    command: str | None = None
    """The command line that began the run."""
    dollars_per_hour: float | None = None
    """Price of the machine, if known."""

    @property
    def header(self) -> dict[str, Any]:
        """What the artifact says of itself beside its weights."""
        return artifact_header(self.config, self.runtime.compute_dtype, self.dataset.vocabulary.sha256)

    def take_up(self, path: Path, kind: type[StageResult], world: World | None = None) -> StageResult | None:
        """The result of a stage that was done before, its seconds given back to the clock; None without one.

        In a `world` of several processes all have what the first one reads.
        """
        world = World() if world is None else world
        if not world.broadcast(path.is_file):
            return None
        found = world.broadcast(lambda: read_stage(path, kind))
        self.log.info(f"{path.stem}: done already")
        self.clock.restore(self.clock.seconds | found.seconds)
        return found


@dataclass
class LiveTrainer:
    """The trainer of this process while it is kept, whose compiled forward pass can grade."""

    trainer: Trainer | None = None

    def release(self, runtime: Runtime) -> None:
        """Gives its memory back to the device."""
        self.trainer = None
        release_memory(runtime.device)


def train_stage(
    folder: RunFolder, run: RunContext, live: LiveTrainer, code: Callable[[], bytes] | None = None
) -> Training:
    """Trains, or goes on from the folder's checkpoint, and leaves the trainer in `live`.

    With the `code` that is charged for, the process that will score is started once, beside the warm-up, to
    see that it can. All processes of the runtime's world train; the first alone writes. Raises WorldError
    unless they agree on configuration, data and versions; DivergenceError, Stopped and CheckpointError as
    the trainer does.
    """
    clock, log, world = run.clock, run.log, run.runtime.world
    done = run.take_up(folder.training, Training, world)
    if done is not None:
        return done
    if world.is_first:
        folder.forget_from("train")
    world.require_same(_shared_inputs(run))
    trainer = live.trainer = build_trainer(run.config, run.dataset, run.runtime, clock, log)
    if world.broadcast(folder.checkpoint.is_file):
        trainer.resume(world.broadcast(lambda: newest_sound_checkpoint(folder.checkpoint, log.info)))
        log.info(f"resumed at step {trainer.steps}")
        run.plan.count_spent(sum(clock.seconds.values()))
    world.require_same({"sum of the weights": weights_sum(trainer.model)})
    log.event("attention", kernels=trainer.attention)
    with clock.stage("warm-up"), fresh_process_starting(folder, code() if code and world.is_first else None):
        trainer.warm_up()
    num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    log.event("model_params", model_params=num_parameters)
    try:
        trainer.train(folder.checkpoint)
    except Stopped as stop:
        log.info(f"{stop}; {how_to_resume(folder, world)}" if run.command else str(stop))
        raise
    training = Training(
        model_parameters=num_parameters,
        steps=trainer.steps,
        train_tokens=trainer.tokens,
        tokens_per_second=trainer.tokens / clock.elapsed("train"),
        final_progress=trainer.progress,
        epochs=trainer.batches.epoch,
        micro_batch_tokens=trainer.micro_batch_tokens,
        attention=tuple(trainer.attention),
        seconds=clock.seconds,
    )
    if world.is_first:
        write_sealed_json(folder.training, asdict(training))
    run.plan.say_left("training", log)
    return training


def average_stage(folder: RunFolder, run: RunContext, live: LiveTrainer) -> Averaging:
    """Chooses the average of the weights by held-out training text, and keeps it as weights.safetensors.

    All processes of the runtime's world take part; the first alone writes.
    """
    clock, world = run.clock, run.runtime.world
    done = run.take_up(folder.averaging, Averaging, world)
    if done is not None:
        return done
    if world.is_first:
        folder.forget_from("average")
    if live.trainer is None:
        live.trainer = build_trainer(run.config, run.dataset, run.runtime, clock, run.log)
        live.trainer.resume(folder.checkpoint)
        with clock.stage("warm-up"):
            live.trainer.warm_up()
    with clock.stage("calibrate"):
        output, weights, held_out = live.trainer.choose_output()
    averaging = Averaging(output, held_out, clock.seconds)
    if world.is_first:
        save_weights(folder.weights, export_state_dict(weights))
        write_sealed_json(folder.averaging, asdict(averaging))
    return averaging


def calibrate_stage(folder: RunFolder, run: RunContext) -> Calibrated | None:
    """Measures how sensitive the loss is to each weight's error, on the training batches that come next.

    Returns None, and leaves nothing, where the quantizer does not need it.
    """
    needed = needs_calibration(run.config)
    calibrated = run.take_up(folder.calibrating, Calibrated) if needed else None
    if needed and calibrated is None:
        folder.forget_from("calibrate")
        with run.clock.stage("calibrate"):
            position = load_checkpoint(folder.checkpoint)["batches"]
            micro_batch_tokens = read_stage(folder.training, Training).micro_batch_tokens
            weights, runtime = load_weights(folder.weights), run.runtime
            batches = calibration_batches(
                run.config, run.dataset, position, micro_batch_tokens, runtime.device
            )
            model = exported_model(run.config, weights, runtime.compute_dtype, runtime.device)
            calibration = calibrate(model, batches)
            save_weights(folder.calibration, calibration.to_tensors())
        calibrated = Calibrated(calibration.num_tokens, run.clock.seconds)
        write_sealed_json(folder.calibrating, asdict(calibrated))
    # Averaging and calibration read training text, so the rules count them as training.
    seconds = run.clock.elapsed("train") + run.clock.elapsed("calibrate")
    run.log.event("train_seconds", train_seconds=round(seconds, 3))
    return calibrated


def pack_stage(folder: RunFolder, run: RunContext, code: Callable[[], bytes]) -> Packing:
    """Writes train_gpt.py, the file that is charged for, and artifact.bin.

    BudgetError when they do not fit LIMIT_BYTES together.
    """
    packing = run.take_up(folder.packing, Packing)
    if packing is not None:
        hashes = {folder.script: packing.code_sha256, folder.artifact: packing.artifact_sha256}
        if all(path.is_file() and sha256_of_file(path) == sha256 for path, sha256 in hashes.items()):
            return packing
        run.log.info("another script or artifact than the one that was packed: packed again")
    folder.forget_from("pack")
    script = code()
    write_bytes(folder.script, script)
    with run.clock.stage("pack"):
        weights = load_weights(folder.weights)
        # Factorizing and rounding happen where the calibration is.
        needed = needs_calibration(run.config)
        calibration = load_calibration(folder.path).moved_to(run.runtime.device) if needed else None
        room_bytes = bytes_for_artifact(len(script), LIMIT_BYTES)
        packed = pack(weights, run.header, run.config.pack, room_bytes, calibration)
    write_bytes(folder.artifact, packed.artifact)
    packing = Packing(
        code_bytes=len(script),
        artifact_bytes=len(packed.artifact),
        limit_bytes=LIMIT_BYTES,
        code_sha256=hashlib.sha256(script).hexdigest(),
        artifact_sha256=hashlib.sha256(packed.artifact).hexdigest(),
        report=packed.report,
        seconds=run.clock.seconds,
    )
    run.log.event("size", code_bytes=packing.code_bytes, artifact_bytes=packing.artifact_bytes)
    run.log.info(f"Total submission size: {packing.total_bytes} bytes")
    write_sealed_json(folder.packing, asdict(packing))
    run.plan.say_left("pack", run.log)
    return packing


def score_stage(folder: RunFolder, run: RunContext, live: LiveTrainer) -> Scores:
    """Scores the weights before packing in this process, and the artifact in fresh ones.

    The former by disjoint windows, the latter as the artifact's own configuration says. Each score leaves a
    file; one that is there already is not made again. Releases the trainer before the first fresh process.
    """
    weights = _score_weights(folder, run, live, run.scoring.max_tokens)
    # What training holds of the device's memory would be missing to the fresh process.
    live.release(run.runtime)
    plain = _score_artifact(folder, run, "quantized", None)
    adapted = _score_adapting(folder, run, plain) if run.config.ttt.enabled else None
    counts = adapted or plain
    stages = (*weights.stages, *plain.stages, *(adapted.stages if adapted else ()))
    _join_documents(folder, [stage.name for stage in stages if stage.name in NATS_ARRAYS])
    return replace(counts, stages=stages)


def collect_results(
    run: RunContext,
    training: Training,
    averaging: Averaging,
    packing: Packing,
    scores: Scores,
) -> Results:
    """The results of all stages as one."""
    manifest, seconds, price = run.dataset.manifest, run.clock.seconds, run.dollars_per_hour
    data = DataFacts(
        name=manifest.name,
        source=manifest.source,
        licence=manifest.licence,
        tokenizer_sha256=manifest.tokenizer_sha256,
        validation_sha256=scores.validation_sha256,
        validation_tokens=manifest.num_tokens("val"),
        validation_bytes=manifest.val_text_bytes,
        manifest_sha256=sha256_of_file(run.dataset.folder / MANIFEST_NAME),
        notes=tuple(manifest.notes),
    )
    return Results(
        name=run.name,
        preset=run.preset,
        seed=run.config.seed,
        config=config_to_dict(run.config),
        training=training,
        averaging=averaging,
        packing=packing,
        scores=scores,
        data=data,
        seconds=seconds,
        environment=environment(run.runtime.device, run.runtime.world),
        command=run.command,
        dollars=None if price is None else price * sum(seconds.values()) / 3600,
    )


def needs_calibration(config: RunConfig) -> bool:
    """Whether the quantizer reads a calibration."""
    return QUANTIZERS[config.pack.scheme].needs_calibration


def load_calibration(folder: Path) -> Calibration:
    """The calibration in a run folder; CheckpointError if it is not there."""
    return Calibration.from_tensors(load_weights(RunFolder(folder).calibration))


def read_stage(path: Path, kind: type[Stored]) -> Stored:
    """The result that a stage left; ValueError if the file is not what it wrote."""
    try:
        return config_from_dict(kind, read_sealed_json(path))
    except (ConfigError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}){AGAIN}") from error
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}{AGAIN}") from error


def _shared_inputs(run: RunContext) -> dict[str, Any]:
    """What all processes of a run must have in common, by the names that its user knows."""
    files = {f"data.{file.name}": file.sha256 for file in run.dataset.manifest.files}
    versions = {"torch": torch.__version__, "compute dtype": dtype_name(run.runtime.compute_dtype)}
    return {**flat_fields(asdict(run.config)), **files, **versions}


def artifact_header(config: RunConfig, dtype: torch.dtype, tokenizer_sha256: str) -> dict[str, Any]:
    """What an artifact states beside its weights."""
    return {
        "model": asdict(export_config(config.model)),
        "compute_dtype": dtype_name(dtype),
        "tokenizer_sha256": tokenizer_sha256,
        "score": asdict(config.score),
        "ttt": asdict(config.ttt),
    }


def build_batches(config: RunConfig, dataset: Dataset) -> TrainBatches:
    """The training batches, from their start."""
    kind = ShuffledDocuments if config.train.shuffle_documents else TrainBatches
    shards, size = dataset.train_shards(), dataset.vocabulary.size
    return kind(shards, config.seed, config.train.held_out_tokens, size, dataset.train_fingerprint)


def build_trainer(
    config: RunConfig, dataset: Dataset, runtime: Runtime, clock: StageClock, log: RunLog
) -> Trainer:
    """A trainer with freshly initialized weights."""
    seed_everything(config.seed)
    model = GPT(config.model)
    model.initialize()
    log.record("initialization", orthogonal_to=distance_from_orthogonal(model))
    model.compute_dtype = runtime.compute_dtype
    model.to(runtime.device)
    batches = build_batches(config, dataset)

    def evaluate(model: GPT, grade: Grade | None, batch_tokens: int) -> float:
        scoring = disjoint_scoring(model, batches.held_out, dataset.vocabulary, batch_tokens, log)
        return score_disjoint(replace(scoring, world=runtime.world), grade).bits_per_byte

    prefixes_V = None
    if config.train.prefix_weight:
        prefixes_V = torch.from_numpy(dataset.vocabulary.prefix_tokens()).to(runtime.device)
    return Trainer(model, batches, config.recipe(), runtime, evaluate, clock, log, prefixes_V)


def calibration_batches(
    config: RunConfig,
    dataset: Dataset,
    position: dict[str, Any],
    micro_batch_tokens: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """inputs_BT and targets_BT that training would have read next, in passes that fit its device."""
    batches, context = build_batches(config, dataset), config.model.context
    batches.load_state_dict(position)
    # A forward and backward pass of training fits; here none of it is compiled, so it takes more memory.
    num_sequences = max(1, min(micro_batch_tokens, CALIBRATION_PASS_TOKENS) // context)
    for _ in range(-(-config.pack.calibration_tokens // (num_sequences * context))):
        inputs_BT, targets_BT = batches.next(num_sequences, context)
        yield inputs_BT.to(device), targets_BT.to(device)


def exported_model(
    config: RunConfig, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> GPT:
    """The network for export with these weights, computing in `dtype`."""
    model = GPT(export_config(config.model))
    model.load_state_dict(export_state_dict(weights))
    model.compute_dtype = dtype
    return model.to(device)


def disjoint_scoring(
    model: GPT, tokens: np.ndarray, vocabulary: Vocabulary, pass_tokens: int, log: RunLog
) -> Scoring:
    """Disjoint windows, in passes of training's size, of which it is known that they fit the device."""
    context = model.config.context
    windows = WindowConfig(None, context, max(context, pass_tokens))
    return Scoring(model, tokens, vocabulary, windows, log=log)


def score_disjoint(scoring: Scoring, grade: Grade | None) -> Tally:
    """The tally of disjoint windows, in batches of one shape if `grade` is compiled for it."""
    # A chunk ends with at most one batch that is filled up.
    batch_tokens = scoring.windows.batch_tokens or 0
    chunk_tokens = CHUNK_TOKENS if grade is None else 16 * batch_tokens
    return score(scoring, chunk_tokens, grade=grade).tally


def _score_weights(
    folder: RunFolder, run: RunContext, live: LiveTrainer, max_tokens: int | None
) -> WeightScores:
    """Scores of the last and of the averaged weights."""
    stored = run.take_up(folder.score_weights, WeightScores)
    if stored is not None and stored.max_tokens == max_tokens:
        return stored
    output = read_stage(folder.averaging, Averaging).output
    with run.clock.stage("score"):
        tokens = run.dataset.validation_tokens(run.clock)
        last = score_weights(run, live, load_checkpoint(folder.checkpoint)["model"], tokens, max_tokens)
        run.log.event("stage", **last.figures())
        averaged = last
        if output != "last":
            averaged = score_weights(run, live, load_weights(folder.weights), tokens, max_tokens)
        averaged = replace(averaged, name="averaged", output=output)
        run.log.event("stage", **averaged.figures())
    found = WeightScores((last, averaged), max_tokens, run.clock.seconds)
    write_sealed_json(folder.score_weights, asdict(found))
    run.plan.say_left("scoring the weights", run.log)
    return found


def score_weights(
    run: RunContext,
    live: LiveTrainer,
    weights: dict[str, Tensor],
    tokens: np.ndarray,
    max_tokens: int | None,
) -> Stage:
    """Scores weights by disjoint windows, with a live trainer's compiled forward pass if there is one."""
    trainer, config = live.trainer, run.config
    if trainer is not None:
        trainer.model.looping = config.model.recurrence > 1
    vocabulary, device = run.dataset.vocabulary, run.runtime.device
    if trainer is not None and trainer.can_grade(config.model.context):
        model, grade, pass_tokens = trainer.model, trainer.grade, trainer.micro_batch_tokens
        model.load_state_dict(weights)
    else:
        dtype = scoring_dtype(device, run.runtime.compute_dtype)
        model, grade = exported_model(config, weights, dtype, device), None
        pass_tokens = config.train.micro_batch_tokens
    scoring = disjoint_scoring(model, tokens, vocabulary, pass_tokens, run.log)
    tally = score_disjoint(replace(scoring, max_tokens=max_tokens), grade)
    partial = tally.num_tokens < len(tokens) - 1
    return Stage("last", tally, windows="disjoint", context=config.model.context, partial=partial)


def _score_adapting(folder: RunFolder, run: RunContext, plain: Scores) -> Scores | None:
    """The score with test-time training; None, which is kept like a score, where the time is too short."""
    name = "test_time_trained"
    stored = _stored_scores(folder, run, name)
    if stored is not None:
        return None if stored.left_out else stored
    limit = run.plan.ttt_seconds(plain.seconds, run.config.ttt.max_seconds)
    if limit == 0.0:
        reason = "test-time training is left out: too little time for more than plain scoring"
        run.log.info(reason)
        nothing = {"stages": (), "load_seconds": 0.0, "wall_seconds": 0.0, "documents_sha256": None}
        left_out = replace(plain, **nothing, left_out=reason)
        write_sealed_json(folder.score(name), asdict(left_out))
        return None
    if limit is not None and run.plan.left_seconds is not None:
        # The total counts what the process takes to start and to load; its own limit begins after that.
        limit -= plain.load_seconds
    return _score_artifact(folder, run, name, limit)


def _stored_scores(folder: RunFolder, run: RunContext, name: str) -> Scores | None:
    """What an earlier process found of the stage `name`, if it is of this artifact and as asked for."""
    if not folder.score(name).is_file():
        return None
    stored = read_stage(folder.score(name), Scores)
    if not (folder.documents(name).is_file() or stored.left_out):
        return None
    same = stored.artifact_sha256 == sha256_of_file(folder.artifact)
    if stored.documents_sha256 and stored.documents_sha256 != sha256_of_file(folder.documents(name)):
        run.log.info(f"{folder.documents(name)} is not the file that was written: scored again")
        return None
    if not same or stored.max_tokens != run.scoring.max_tokens:
        return None
    run.log.info(f"{name}: done already")
    # The process that scored states its own seconds; this one, if it lived to see the end, those of both.
    seconds = stored.seconds if stored.wall_seconds is None else stored.wall_seconds
    run.clock.restore(run.clock.seconds | {"score": run.clock.elapsed("score") + seconds})
    return stored


def _score_artifact(folder: RunFolder, run: RunContext, name: str, max_seconds: float | None) -> Scores:
    """The score of the stage `name`, by the script that is charged for, alone in an empty folder."""
    stored = _stored_scores(folder, run, name)
    if stored is not None:
        return stored
    figures, artifact, how = folder.score(name), folder.artifact.resolve(), run.scoring
    before = run.clock.elapsed("score")
    with run.clock.stage("score"), empty_folder(folder) as empty:
        script = empty / folder.script.name
        write_bytes(script, folder.script.read_bytes())
        command = [*isolated_python(run.runtime.world), str(script), "--score", str(artifact)]
        command += ["--data", str(run.dataset.folder.resolve()), "--json", str(figures.resolve())]
        command += ["--per-document", str(folder.documents(name).resolve()), "--device", how.device]
        command += ["--ttt", "--no-plain"] if name == "test_time_trained" else []
        command += ["--eager"] if how.eager else []
        command += [] if how.max_tokens is None else ["--max-tokens", str(how.max_tokens)]
        command += [] if max_seconds is None else ["--max-seconds", f"{max_seconds:.1f}"]
        run.log.info("scoring the artifact in a fresh process, from its bytes alone")
        code = run_child(command, empty)
    if code:
        raise FreshProcessError(f"scoring {artifact} failed, as said above")
    scores = read_stage(figures, Scores)
    scores = replace(
        scores,
        wall_seconds=run.clock.elapsed("score") - before,
        documents_sha256=sha256_of_file(folder.documents(name)),
    )
    write_sealed_json(figures, asdict(scores))
    for stage in scores.stages:
        run.log.record("stage", **stage.figures())
    run.plan.say_left(f"scoring, {name}", run.log)
    return scores


def isolated_python(world: World) -> list[str]:
    """The command of an isolated Python, or of as many by torchrun as processes train on this machine."""
    alone = [sys.executable, "-I"]
    if world.local_size == 1:
        return alone
    torchrun = [*alone, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    return [*torchrun, f"--nproc_per_node={world.local_size}", *alone]


def resume_command(folder: RunFolder, world: World) -> str:
    """The command line that goes on with a run of this program, with as many processes."""
    words = invocation(1 if world.size == 1 else world.local_size)
    return f"{' '.join(words)} --resume {shlex.quote(str(folder))}"


def how_to_resume(folder: RunFolder, world: World) -> str:
    """What to do with a run that was stopped."""
    return f"go on with: {resume_command(folder, world)}"


@contextmanager
def empty_folder(folder: RunFolder) -> Iterator[Path]:
    """A folder that is gone after the block; that of a killed run is removed by the next owner."""
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder.path) as empty:
        yield Path(empty).absolute()


@contextmanager
def fresh_process_starting(folder: RunFolder, code: bytes | None) -> Iterator[None]:
    """During the block, starts the process that will score the artifact, to import only, if there is code.

    FreshProcessError at the block's end where it cannot: it is isolated and does not see packages that
    come by PYTHONPATH or lie in the user's own site.
    """
    if code is None:
        yield
        return
    with empty_folder(folder) as empty:
        script = empty / folder.script.name
        write_bytes(script, code)
        command = [sys.executable, "-I", str(script), "--score", "-", "--data", "-", "--help"]
        process = subprocess.Popen(
            command,
            cwd=empty,
            env=env_without_torchrun(),
            preexec_fn=end_with_parent(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield
            _, errors = process.communicate()
        finally:
            process.kill()
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise FreshProcessError(
            f"the process that scores the artifact cannot start: {last}. It runs isolated (python -I): "
            "packages of PYTHONPATH and of the user's site are not seen; install requirements.txt into "
            f"{sys.prefix}"
        )


def _join_documents(folder: RunFolder, names: list[str]) -> None:
    """per_document.npz of the stages' own: tokens and bytes are those of the score that counts."""
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        path = folder.documents(name)
        try:
            with np.load(path) as own:
                arrays |= dict(own)
        except (ValueError, zipfile.BadZipFile) as error:
            raise DamagedFileError(f"{path} is damaged ({error}){AGAIN}") from error
    save_arrays(folder.per_document, arrays)
