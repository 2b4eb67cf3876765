"""A run folder and the stages that fill it: train, pack, score.

Each stage leaves files from which the next one, or a resumed run, goes on: checkpoint.pt,
weights.safetensors and training.json; train_gpt.py, artifact.bin and pack.json; score_weights.json;
score_quantized.json and score_test_time_trained.json with the .npz of their documents.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.config import RunConfig
from golf.data.batches import TrainBatches
from golf.data.manifest import MANIFEST_NAME, Dataset, sha256_of_file
from golf.model.gpt import GPT, distance_from_orthogonal
from golf.pack.artifact import pack
from golf.pack.budget import LIMIT_BYTES, bytes_for_artifact
from golf.pack.calibrate import CALIBRATION_PASS_TOKENS, Calibration, calibrate
from golf.score.scorer import CHUNK_TOKENS, Grade, score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import (
    Runtime,
    dtype_name,
    end_with_parent,
    env_without_torchrun,
    release_memory,
    scoring_dtype,
    seed_everything,
)
from golf.system.distributed import World, flat_fields
from golf.system.files import atomic_write, write_json
from golf.system.log import RunLog
from golf.time_plan import TimePlan
from golf.train.checkpoint import load_checkpoint, load_weights, save_weights
from golf.train.choice import choose_output, weights_sum
from golf.train.loop import Trainer
from golf.train.objective import export_config, export_state_dict

ARTIFACT_NAME, SCRIPT_NAME, PACK_NAME = "artifact.bin", "train_gpt.py", "pack.json"


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


class Run:
    """The stages of a run on one dataset; the configuration is resolved, the folder exists."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        dataset: Dataset,
        runtime: Runtime,
        log: RunLog,
        plan: TimePlan | None = None,
    ):
        self.folder, self.config, self.dataset = folder, config, dataset
        self.runtime, self.log = runtime, log
        self.plan = TimePlan(None) if plan is None else plan
        self.trainer: Trainer | None = None
        """While it is there, its compiled forward pass grades."""
        self.clock = StageClock()
        self.header = {
            "model": dataclasses.asdict(export_config(config.model)),
            "compute_dtype": dtype_name(runtime.compute_dtype),
            "tokenizer_sha256": dataset.vocabulary.sha256,
            "score": dataclasses.asdict(config.score),
            "ttt": dataclasses.asdict(config.ttt),
        }

    def train(self, code: bytes | None = None) -> dict[str, Any]:
        """Trains, or goes on from the folder's checkpoint, and keeps the chosen weights; says what was done.

        With the `code` that is charged for, the process that will score is tried before the first step.
        All processes of the runtime's world train; the first alone writes. Raises WorldError unless they
        agree on configuration, data and versions; DivergenceError, Interrupted and CheckpointError as the
        trainer does.
        """
        done, world = self.folder / "training.json", self.runtime.world
        if world.broadcast(done.is_file):
            self.log.info("the training is done already")
            summary = world.broadcast(lambda: read_stage(done, ("averaging", "seconds")))
            self.clock.restore(self.clock.seconds | summary["seconds"])
            return summary
        if world.is_first:
            forget_stages(self.folder, "training")
        world.require_same(self._inputs())
        trainer = self.trainer = self._trainer()
        checkpoint = self.folder / "checkpoint.pt"
        if world.broadcast(checkpoint.is_file):
            trainer.resume(checkpoint)
            self.log.info(f"resumed at step {trainer.steps}")
            self.plan.count_spent(sum(self.clock.seconds.values()))
        world.require_same({"sum of the weights": weights_sum(trainer.model)})
        self.log.event("attention", kernels=trainer.attention)
        trying = nullcontext() if code is None else self.fresh_process_starting(code)
        with self.clock.stage("warm-up"), trying:
            trainer.warm_up()
        num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        self.log.event("model_params", model_params=num_parameters)
        trainer.train(checkpoint)
        with self.clock.stage("calibrate"):
            output, weights, held_out = choose_output(trainer, self.log)
            if self.config.pack.scheme == "entropy" and world.is_first:
                calibration = self._calibrate(trainer, weights)
                save_weights(self.folder / "calibration.safetensors", calibration.tensors())
        # Choosing the average reads training text, so the rules count it as training.
        train_seconds = self.clock.elapsed("train") + self.clock.elapsed("calibrate")
        self.log.event("train_seconds", train_seconds=round(train_seconds, 3))
        summary = {
            "model_parameters": num_parameters,
            "steps": trainer.steps,
            "final_progress": trainer.progress,
            "train_tokens": trainer.tokens,
            "epochs": trainer.feed.epoch,
            "micro_batch_tokens": trainer.micro_batch_tokens,
            "attention": trainer.attention,
            "tokens_per_second": trainer.tokens / self.clock.elapsed("train"),
            "averaging": {"output": output, "held_out_bpb": held_out},
            "seconds": self.clock.seconds,
        }
        if world.is_first:
            save_weights(self.folder / "weights.safetensors", export_state_dict(weights))
            write_json(done, summary)
        self.plan.say_left("training", self.log)
        return summary

    def _inputs(self) -> dict[str, Any]:
        """What all processes of a run must have in common, by the names that its user knows."""
        files = {f"data.{file.name}": file.sha256 for file in self.dataset.manifest.files}
        versions = {"torch": torch.__version__, "compute dtype": dtype_name(self.runtime.compute_dtype)}
        return {**flat_fields(dataclasses.asdict(self.config)), **files, **versions}

    @contextmanager
    def fresh_process_starting(self, code: bytes) -> Iterator[None]:
        """Beside the block, starts the process that will score the artifact, to import only.

        FreshProcessError at the block's end where it cannot: it is isolated and does not see packages that
        come by PYTHONPATH or lie in the user's own site.
        """
        with tempfile.TemporaryDirectory() as empty:
            script = Path(empty) / SCRIPT_NAME
            script.write_bytes(code)
            command = [sys.executable, "-I", str(script), "--score", "-", "--data", "-", "--help"]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen(command, cwd=empty, env=env_without_torchrun(), **pipes)
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

    def packed(self) -> dict[str, Any] | None:
        """What an earlier `pack` found, if the files it wrote are still there; None otherwise."""
        done, script, artifact = (self.folder / name for name in (PACK_NAME, SCRIPT_NAME, ARTIFACT_NAME))
        if not done.is_file():
            return None
        stored = read_stage(done, ("code_sha256", "artifact_sha256", "seconds"))
        hashes = {script: stored["code_sha256"], artifact: stored["artifact_sha256"]}
        if not all(path.is_file() and sha256_of_file(path) == sha256 for path, sha256 in hashes.items()):
            return None
        self.log.info("the packing is done already")
        self._restore_clock("pack", stored.pop("seconds"))
        return stored

    def pack(self, code: bytes) -> dict[str, Any]:
        """Writes train_gpt.py, the file that is charged for, artifact.bin and pack.json; returns the last.

        BudgetError when the first two do not fit LIMIT_BYTES together.
        """
        done, script, artifact = (self.folder / name for name in (PACK_NAME, SCRIPT_NAME, ARTIFACT_NAME))
        forget_stages(self.folder, "pack")
        with atomic_write(script) as partial:
            partial.write_bytes(code)
        with self.clock.stage("pack"):
            weights = load_weights(self.folder / "weights.safetensors")
            calibration = None
            if self.config.pack.scheme == "entropy":
                # Factorising and rounding happen where the calibration is.
                calibration = load_calibration(self.folder).to(self.runtime.device)
            room_bytes = bytes_for_artifact(len(code), LIMIT_BYTES)
            packed = pack(weights, self.header, self.config.pack, room_bytes, calibration)
        with atomic_write(artifact) as partial:
            partial.write_bytes(packed.artifact)
        total = len(code) + len(packed.artifact)
        self.log.event("size", code_bytes=len(code), artifact_bytes=len(packed.artifact))
        self.log.info(f"Total submission size: {total} bytes")
        summary = {
            "bytes": {
                "code": len(code),
                "artifact": len(packed.artifact),
                "total": total,
                "limit": LIMIT_BYTES,
            },
            "pack": packed.report,
            "code_sha256": hashlib.sha256(code).hexdigest(),
            "artifact_sha256": hashlib.sha256(packed.artifact).hexdigest(),
        }
        write_json(done, summary | {"seconds": self.clock.elapsed("pack")})
        self.plan.say_left("pack", self.log)
        return summary

    def score(self, averaged: str, how: ScoringOptions) -> dict[str, Any]:
        """Scores by stage: the weights before packing here, the artifact in fresh processes.

        The former by disjoint windows, the latter as the artifact's own configuration says. Each stage leaves
        a file; one that is there already is not scored again.
        """
        stages = self._score_weights_stages(averaged, how.max_tokens)
        # What training leaves of this process's memory would be missing to the fresh one.
        self.trainer = None
        release_memory(self.runtime.device)
        plain = self._stored_score("quantized", how) or self._score_artifact("quantized", how, None)
        stages["quantized"] = self._stage("quantized", plain)
        found = {"quantized": plain}
        if self.config.ttt.enabled:
            trained = self._score_adapting(plain, how)
            if trained is not None:
                found["test_time_trained"] = trained
                stages["test_time_trained"] = self._stage("test_time_trained", trained)
        self._join_documents(list(found))
        last = list(found)[-1]
        return {
            "stages": stages,
            "partial": plain["partial"],
            "scored_artifact_sha256": plain["artifact_sha256"],
            "score_compute_dtype": plain["compute_dtype"],
            # Of the process that made the score that counts.
            "load_seconds": found[last]["seconds"] - stages[last]["seconds"],
            "data": self.data_facts() | {"validation_sha256": plain["validation_sha256"]},
        }

    def data_facts(self) -> dict[str, Any]:
        """Whose text it is, and what pins it."""
        manifest = self.dataset.manifest
        return {
            "name": manifest.name,
            "source": manifest.source,
            "licence": manifest.licence,
            "tokenizer_sha256": manifest.tokenizer_sha256,
            "validation_tokens": manifest.num_tokens("val"),
            "validation_bytes": manifest.val_text_bytes,
            "manifest_sha256": sha256_of_file(self.dataset.folder / MANIFEST_NAME),
            "notes": manifest.notes,
        }

    def _trainer(self) -> Trainer:
        seed_everything(self.config.seed)
        model = GPT(self.config.model)
        model.initialize()
        self.log.record("initialization", orthogonal_to=distance_from_orthogonal(model))
        model.compute_dtype = self.runtime.compute_dtype
        model.to(self.runtime.device)
        batches = TrainBatches(
            self.dataset.train_shards(),
            self.config.seed,
            self.config.train.held_out_tokens,
            self.dataset.vocabulary.size,
            self.config.train.shuffle_documents,
        )

        def held_out_bpb() -> float:
            grade = trainer.grade if trainer.can_grade(self.config.model.context) else None
            pass_tokens, world = trainer.micro_batch_tokens, self.runtime.world
            return self._disjoint_score(
                model, batches.held_out, None, pass_tokens, world, grade
            ).bits_per_byte

        trainer = Trainer(
            model,
            batches,
            self.config.budget(),
            self.runtime,
            self.clock,
            self.log,
            held_out_bpb,
            self.config.train,
            self.config.optim,
            self.config.schedule,
            self.config.averaging,
        )
        return trainer

    def _calibrate(self, trainer: Trainer, weights: dict[str, Tensor]) -> Calibration:
        """Measures on the next training batches what the loss feels of the chosen weights' errors."""
        trainer.model.load_state_dict(weights)
        context = self.config.model.context
        num_sequences = max(1, min(trainer.micro_batch_tokens, CALIBRATION_PASS_TOKENS) // context)
        num_batches = -(-self.config.pack.calibration_tokens // (num_sequences * context))
        batches = (trainer.batches.next(num_sequences, context) for _ in range(num_batches))
        device = self.runtime.device
        return calibrate(trainer.model, ((x.to(device), y.to(device)) for x, y in batches))

    def _score_weights_stages(self, averaged: str, max_tokens: int | None) -> dict[str, dict[str, Any]]:
        """Scores of the last and of the averaged weights, by stage."""
        done = self.folder / "score_weights.json"
        names = ("max_tokens", "seconds", "stages")
        if done.is_file() and (stored := read_stage(done, names))["max_tokens"] == max_tokens:
            self.log.info("the weights are scored already")
            self._restore_clock("score", stored["seconds"])
            return stored["stages"]
        stages: dict[str, dict[str, Any]] = {}
        with self.clock.stage("score"):
            tokens = self.dataset.validation_tokens(self.clock)
            last = load_checkpoint(self.folder / "checkpoint.pt")["model"]
            stages["last"] = self._score_weights(last, tokens, max_tokens)
            self.log.event("stage", name="last", **stages["last"])
            if averaged == "last":
                stages["averaged"] = dict(stages["last"])
            else:
                chosen = load_weights(self.folder / "weights.safetensors")
                stages["averaged"] = self._score_weights(chosen, tokens, max_tokens)
            self.log.event("stage", name="averaged", **stages["averaged"])
        stages["averaged"]["output"] = averaged
        seconds = self.clock.elapsed("score")
        write_json(done, {"stages": stages, "max_tokens": max_tokens, "seconds": seconds})
        self.plan.say_left("scoring the weights", self.log)
        return stages

    def _score_weights(
        self, weights: dict[str, Tensor], tokens: np.ndarray, max_tokens: int | None
    ) -> dict[str, Any]:
        trainer, context = self.trainer, self.config.model.context
        if trainer is not None:
            trainer.model.looping = self.config.model.recurrence > 1
        if trainer is not None and trainer.can_grade(context):
            trainer.model.load_state_dict(weights)
            tally = self._disjoint_score(
                trainer.model, tokens, max_tokens, trainer.micro_batch_tokens, grade=trainer.grade
            )
        else:
            model = GPT(export_config(self.config.model))
            model.load_state_dict(export_state_dict(weights))
            model.compute_dtype = scoring_dtype(self.runtime.device, self.runtime.compute_dtype)
            model.to(self.runtime.device)
            tally = self._disjoint_score(model, tokens, max_tokens, self.config.train.micro_batch_tokens)
        return {
            "val_bpb": tally.bits_per_byte,
            "val_loss": tally.nats_per_token,
            "windows": "disjoint",
            "tokens_scored": tally.num_tokens,
            "bytes_scored": tally.num_bytes,
        }

    def _disjoint_score(
        self,
        model: GPT,
        tokens: np.ndarray,
        limit: int | None,
        pass_tokens: int,
        world: World | None = None,
        grade: Grade | None = None,
    ) -> Tally:
        # In training's passes, of which it is known that they fit the device.
        windows = WindowConfig(None, self.config.model.context, max(self.config.model.context, pass_tokens))
        vocabulary = self.dataset.vocabulary
        # One shape of batches: a chunk ends with at most one that is filled up.
        chunk_tokens = CHUNK_TOKENS if grade is None else 16 * (windows.batch_tokens or pass_tokens)
        return score(
            model, tokens, vocabulary, windows, self.log, chunk_tokens, limit, world=world, grade=grade
        ).tally

    def _launcher(self) -> list[str]:
        """The interpreter alone, or on a machine of several processes as many of them by torchrun."""
        alone = [sys.executable, "-I"]
        num_processes = self.runtime.world.local_size
        if num_processes == 1:
            return alone
        torchrun = [*alone, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        return [*torchrun, f"--nproc_per_node={num_processes}", *alone]

    def _stage(self, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        """A stage's entry in the results: the score, and how far its predictions saw."""
        prefix = "" if name == "quantized" else "ttt_"
        if prefix and self.config.ttt.method == "lora":
            windows = {"windows": "by document", "context": figures["windows"]["context"]}
        else:
            sizes = {key: figures["windows"][key] for key in ("stride", "context")}
            windows = {"windows": "sliding", **sizes}
        limits = figures.get(f"{prefix}documents", {})
        return {
            "val_bpb": figures[f"{prefix}val_bpb"],
            "val_loss": figures[f"{prefix}val_loss_nats_per_token"],
            **windows,
            "adaptation_stopped_after_tokens": limits.get("adaptation_stopped_after_tokens"),
            "tokens_scored": figures[f"{prefix}tokens_scored"],
            "bytes_scored": figures[f"{prefix}bytes_scored"],
            "seconds": figures[f"{prefix}score_seconds"],
        }

    def _score_adapting(self, plain: dict[str, Any], how: ScoringOptions) -> dict[str, Any] | None:
        """Figures with test-time training; None, which is kept like a score, where the time is too short."""
        name = "test_time_trained"
        stored = self._stored_score(name, how)
        if stored is not None:
            return None if "left_out" in stored else stored
        limit = self.plan.ttt_seconds(plain["seconds"], self.config.ttt.max_seconds)
        if limit == 0.0:
            reason = "test-time training is left out: too little time for more than plain scoring"
            self.log.info(reason)
            kept = {"left_out": reason, "max_tokens": how.max_tokens, "seconds": 0.0}
            write_json(
                self.folder / f"score_{name}.json", kept | {"artifact_sha256": plain["artifact_sha256"]}
            )
            return None
        if limit is not None and self.plan.left_seconds is not None:
            # The total counts what the process takes to start and to load; its own limit begins after that.
            limit -= plain["seconds"] - plain["score_seconds"]
        return self._score_artifact(name, how, limit)

    def _stored_score(self, name: str, how: ScoringOptions) -> dict[str, Any] | None:
        """What an earlier process found of the stage `name`, if it is of this artifact and as asked for."""
        path, documents = (self.folder / f"score_{name}{suffix}" for suffix in (".json", ".npz"))
        if not path.is_file():
            return None
        stored = read_stage(path, ("artifact_sha256", "max_tokens", "seconds"))
        if not (documents.is_file() or "left_out" in stored):
            return None
        same = stored["artifact_sha256"] == sha256_of_file(self.folder / ARTIFACT_NAME)
        if not same or stored["max_tokens"] != how.max_tokens:
            return None
        self.log.info(f"{name}: done already")
        # The process that scored states its own seconds; this one, if it lived to see the end, those of both.
        seconds = stored.get("wall_seconds", stored["seconds"])
        self._restore_clock("score", self.clock.elapsed("score") + seconds)
        return stored

    def _score_artifact(self, name: str, how: ScoringOptions, max_seconds: float | None) -> dict[str, Any]:
        """Figures of the stage `name`, from the script that is charged for.

        It runs alone in an empty folder, on the artifact on disk.
        """
        folder = self.folder.resolve()
        figures, artifact = folder / f"score_{name}.json", folder / ARTIFACT_NAME
        before = self.clock.elapsed("score")
        with self.clock.stage("score"), tempfile.TemporaryDirectory() as empty:
            script = Path(empty) / SCRIPT_NAME
            script.write_bytes((folder / SCRIPT_NAME).read_bytes())
            command = [*self._launcher(), str(script), "--score", str(artifact)]
            command += ["--data", str(self.dataset.folder.resolve()), "--json", str(figures)]
            command += ["--per-document", str(folder / f"score_{name}.npz"), "--device", how.device]
            command += ["--ttt", "--no-plain"] if name == "test_time_trained" else []
            command += ["--eager"] if how.eager else []
            command += [] if how.max_tokens is None else ["--max-tokens", str(how.max_tokens)]
            command += [] if max_seconds is None else ["--max-seconds", f"{max_seconds:.1f}"]
            self.log.info("scoring the artifact in a fresh process, from its bytes alone")
            finished = subprocess.run(
                command, cwd=empty, env=env_without_torchrun(), check=False, preexec_fn=end_with_parent()
            )
        if finished.returncode:
            raise FreshProcessError(f"scoring {artifact} failed, as said above")
        found = read_stage(figures) | {"wall_seconds": self.clock.elapsed("score") - before}
        write_json(figures, found)
        self.log.record("stage", name=name, **self._stage(name, found))
        self.plan.say_left(f"scoring, {name}", self.log)
        return found

    def _join_documents(self, names: list[str]) -> None:
        """per_document.npz of the stages' own: tokens and bytes are those of the score that counts."""
        arrays: dict[str, np.ndarray] = {}
        for name in names:
            path = self.folder / f"score_{name}.npz"
            try:
                with np.load(path) as own:
                    arrays |= dict(own)
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); remove it to have its stage done again"
                ) from error
        with atomic_write(self.folder / "per_document.npz") as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)

    def _restore_clock(self, phase: str, seconds: float) -> None:
        self.clock.restore(self.clock.seconds | {phase: seconds})


def read_stage(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a stage left, with these `names` in it; ValueError if the file is not what it wrote."""
    again = "remove it to have its stage done again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {again}") from error
    missing = [name for name in names if not isinstance(found, dict) or name not in found]
    if missing:
        raise ValueError(f"{path} is damaged (it has no {missing[0]}); {again}")
    return found


def forget_stages(folder: Path, stage: str) -> None:
    """Removes what the stages after `stage` left, because it is done anew."""
    packing = (PACK_NAME, "score_weights.json") if stage == "training" else ()
    scores = [f"score_{name}.json" for name in ("quantized", "test_time_trained")]
    for name in (*packing, *scores, "results.json", "audit.json"):
        (folder / name).unlink(missing_ok=True)


def load_calibration(folder: Path) -> Calibration:
    """The calibration that a run's training left in its folder; CheckpointError if it is not there."""
    return Calibration.from_tensors(load_weights(folder / "calibration.safetensors"))
