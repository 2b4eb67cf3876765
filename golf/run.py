"""A run folder and the stages that fill it: train, pack, score.

Each stage leaves files from which the next one, or a resumed run, goes on:
checkpoint.pt, weights.safetensors and training.json; artifact.bin; score.json and per_document.npz.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.clock import PhaseClock
from golf.config import RunConfig
from golf.data.batches import TrainBatches
from golf.data.manifest import MANIFEST_NAME, Dataset, sha256_of_file
from golf.files import whole_file, write_json
from golf.log import RunLog
from golf.model.gpt import GPT
from golf.pack.artifact import pack
from golf.pack.budget import LIMIT_BYTES, bytes_for_artifact
from golf.pack.calibrate import CALIBRATION_PASS_TOKENS, Calibration, calibrate
from golf.runtime import Runtime, dtype_name, lone_environment, release_memory, seed_everything
from golf.score.scorer import score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.train.checkpoint import load_checkpoint, load_weights, save_weights
from golf.train.choice import choose_output, weights_sum
from golf.train.loop import Trainer
from golf.train.objective import served_config, served_weights
from golf.world import World, flat_fields


class FreshProcessError(ValueError):
    """The process that scores the artifact from its bytes alone failed; it has said why."""


class Run:
    """The stages of a run on one dataset; the configuration is resolved, the folder exists."""

    def __init__(self, folder: Path, config: RunConfig, dataset: Dataset, runtime: Runtime, log: RunLog):
        self.folder, self.config, self.dataset = folder, config, dataset
        self.runtime, self.log = runtime, log
        self.clock = PhaseClock()
        self.header = {
            "model": dataclasses.asdict(served_config(config.model)),
            "compute_dtype": dtype_name(runtime.compute_dtype),
            "tokenizer_sha256": dataset.vocabulary.sha256,
            "score": dataclasses.asdict(config.score),
            "ttt": dataclasses.asdict(config.ttt),
        }

    def train(self) -> dict[str, Any]:
        """Trains, or goes on from the folder's checkpoint, and keeps the chosen weights; says what was done.

        All processes of the runtime's world train; the first alone writes. Raises WorldError unless they
        agree on configuration, data and versions; DivergenceError, Interrupted and CheckpointError as the
        trainer does.
        """
        done, world = self.folder / "training.json", self.runtime.world
        if world.share(done.is_file):
            self.log.say("the training is done already")
            summary = world.share(lambda: json.loads(done.read_text(encoding="utf-8")))
            self.clock.restore(summary["seconds"])
            return summary
        world.require_same(self._inputs())
        trainer = self._trainer()
        checkpoint = self.folder / "checkpoint.pt"
        if world.share(checkpoint.is_file):
            trainer.resume(checkpoint)
            self.log.say(f"resumed at step {trainer.steps}")
        world.require_same({"sum of the weights": weights_sum(trainer.model)})
        self.log.event("attention", kernels=trainer.attention)
        self.log.event("kernels", training=trainer.kernels)
        with self.clock.phase("warm-up"):
            trainer.warm_up()
        num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        self.log.event("model_params", model_params=num_parameters)
        trainer.train(checkpoint)
        with self.clock.phase("calibrate"):
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
            "kernels": trainer.kernels,
            "tokens_per_second": trainer.tokens / self.clock.elapsed("train"),
            "averaging": {"output": output, "held_out_bpb": held_out},
            "seconds": self.clock.seconds,
        }
        if world.is_first:
            save_weights(self.folder / "weights.safetensors", served_weights(weights))
            write_json(done, summary)
        return summary

    def _inputs(self) -> dict[str, Any]:
        """What all processes of a run must have in common, by the names that its user knows."""
        files = {f"data.{file.name}": file.sha256 for file in self.dataset.manifest.files}
        versions = {"torch": torch.__version__, "compute dtype": dtype_name(self.runtime.compute_dtype)}
        return {**flat_fields(dataclasses.asdict(self.config)), **files, **versions}

    def pack(self, code: bytes) -> dict[str, Any]:
        """Writes train_gpt.py, the file that is charged for, and artifact.bin; their bytes and hashes.

        BudgetError when the two do not fit LIMIT_BYTES together.
        """
        with whole_file(self.folder / "train_gpt.py") as partial:
            partial.write_bytes(code)
        with self.clock.phase("pack"):
            weights = load_weights(self.folder / "weights.safetensors")
            calibration = load_calibration(self.folder) if self.config.pack.scheme == "entropy" else None
            room_bytes = bytes_for_artifact(len(code), LIMIT_BYTES)
            packed = pack(weights, self.header, self.config.pack, room_bytes, calibration)
        with whole_file(self.folder / "artifact.bin") as partial:
            partial.write_bytes(packed.artifact)
        total = len(code) + len(packed.artifact)
        self.log.event("size", code_bytes=len(code), artifact_bytes=len(packed.artifact))
        self.log.say(f"Total submission size: {total} bytes")
        return {
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

    def score(self, averaged: str, device: str, max_tokens: int | None) -> dict[str, Any]:
        """Scores by stage: the weights before packing here, the artifact in a fresh process.

        The former by disjoint windows, the latter as the artifact's own configuration says.
        """
        stages: dict[str, dict[str, Any]] = {}
        with self.clock.phase("score"):
            tokens = self.dataset.validation_tokens(self.clock)
            last = load_checkpoint(self.folder / "checkpoint.pt")["model"]
            chosen = load_weights(self.folder / "weights.safetensors")
            for stage, weights in (("last", last), ("averaged", chosen)):
                stages[stage] = self._score_weights(weights, tokens, max_tokens)
                self.log.event("stage", name=stage, **stages[stage])
            stages["averaged"]["output"] = averaged
            # What training leaves of this process's memory would be missing to the fresh one.
            release_memory(self.runtime.device)
            figures = self._score_in_fresh_process(device, max_tokens)
        for stage, prefix in (("quantized", ""), ("test_time_trained", "ttt_")):
            if f"{prefix}val_bpb" in figures:
                stages[stage] = {
                    "val_bpb": figures[f"{prefix}val_bpb"],
                    "val_loss": figures[f"{prefix}val_loss_nats_per_token"],
                    **self._windows(figures, by_document=prefix != "" and self.config.ttt.method == "lora"),
                    **{key: figures[key] for key in ("tokens_scored", "bytes_scored")},
                    "seconds": figures[f"{prefix}score_seconds"],
                }
                self.log.record("stage", name=stage, **stages[stage])
        return {
            "stages": stages,
            "partial": figures["partial"],
            "scored_artifact_sha256": figures["artifact_sha256"],
            "load_seconds": figures["seconds"] - sum(stage.get("seconds", 0.0) for stage in stages.values()),
            "data": self.data_facts() | {"validation_sha256": figures["validation_sha256"]},
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
            how = None, trainer.micro_batch_tokens, self.runtime.world
            return self._disjoint_score(model, batches.held_out, *how).bits_per_byte

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

    def _score_weights(
        self, weights: dict[str, Tensor], tokens: np.ndarray, max_tokens: int | None
    ) -> dict[str, Any]:
        model = GPT(served_config(self.config.model))
        model.load_state_dict(served_weights(weights))
        model.compute_dtype = self.runtime.compute_dtype
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
        self, model: GPT, tokens: np.ndarray, limit: int | None, pass_tokens: int, world: World | None = None
    ) -> Tally:
        # In training's passes, of which it is known that they fit the device.
        windows = WindowConfig(None, self.config.model.context, max(self.config.model.context, pass_tokens))
        vocabulary = self.dataset.vocabulary
        return score(model, tokens, vocabulary, windows, self.log, max_tokens=limit, world=world).tally

    def _launcher(self) -> list[str]:
        """The interpreter alone, or on a machine of several processes as many of them by torchrun."""
        alone = [sys.executable, "-I"]
        num_processes = self.runtime.world.local_size
        if num_processes == 1:
            return alone
        torchrun = [*alone, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        return [*torchrun, f"--nproc_per_node={num_processes}", *alone]

    def _windows(self, figures: dict[str, Any], by_document: bool) -> dict[str, Any]:
        """How far a prediction of the artifact saw."""
        if by_document:
            return {"windows": "by document", "context": figures["windows"]["context"]}
        return {"windows": "sliding", **{key: figures["windows"][key] for key in ("stride", "context")}}

    def _score_in_fresh_process(self, device: str, max_tokens: int | None) -> dict[str, Any]:
        """Runs the script that is charged for, alone in an empty folder, on the artifact on disk."""
        folder = self.folder.resolve()
        figures = folder / "score.json"
        with tempfile.TemporaryDirectory() as empty:
            script = Path(empty) / "train_gpt.py"
            script.write_bytes((folder / "train_gpt.py").read_bytes())
            command = [*self._launcher(), str(script), "--score", str(folder / "artifact.bin")]
            command += ["--data", str(self.dataset.folder.resolve()), "--json", str(figures)]
            command += ["--per-document", str(folder / "per_document.npz"), "--device", device]
            command += ["--ttt"] if self.config.ttt.enabled else []
            command += [] if max_tokens is None else ["--max-tokens", str(max_tokens)]
            self.log.say("scoring the artifact in a fresh process, from its bytes alone")
            finished = subprocess.run(command, cwd=empty, env=lone_environment(), check=False)
        if finished.returncode:
            raise FreshProcessError(f"scoring {folder / 'artifact.bin'} failed, as said above")
        return json.loads(figures.read_text(encoding="utf-8"))


def load_calibration(folder: Path) -> Calibration:
    """The calibration that a run's training left in its folder; CheckpointError if it is not there."""
    return Calibration.from_tensors(load_weights(folder / "calibration.safetensors"))
