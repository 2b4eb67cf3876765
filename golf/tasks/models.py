"""Opens a trained model from an artifact, a checkpoint, or the folder of a run or an entry."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.evaluate import load_model
from golf.hub.fetch import local_path
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.container import read_artifact
from golf.prepare.find_tokenizer import find_tokenizer
from golf.prepare.rows import require_file
from golf.run_folder import RunFolder, find_artifact, find_artifacts
from golf.system.device import choose_runtime
from golf.system.stored import config_from_dict
from golf.train.checkpoint import load_checkpoint, load_weights
from golf.train.objective import export_state_dict

MAX_CONTEXT = 1 << 20
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelError(ValueError):
    """A path holds no model, or one that does not fit its description."""


@dataclass(frozen=True)
class OpenedModel:
    """A network on its device, with the vocabulary of its training."""

    model: GPT
    vocabulary: Vocabulary
    tokenizer: Path
    """The .model file of the vocabulary."""
    context: int
    """Largest number of tokens of an input."""
    header: dict[str, Any]
    """The header of its artifact, or the one that its artifact would have."""
    path: Path
    """The file of the weights."""
    kind: str
    """artifact, weights (before packing) or checkpoint."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """One line with kind, path, size, context and vocabulary."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        pieces = f"{self.vocabulary.size} pieces ({self.tokenizer.name})"
        return f"{self.kind} {self.path}: {num_parameters:,} parameters, context {self.context}, {pieces}"


def open_model(
    path: Path, tokenizer: Path | None = None, device: str = "auto", context: int | None = None
) -> OpenedModel:
    """Opens an artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry.

    `path` may be an entry on the hub, hf://USER/NAME (`golf.hub.fetch`). Of a folder, it opens the artifact,
    or the weights if there is none. The tokenizer is found near the model by its sha256. `context` is by
    default that of training. ModelError, ArtifactError, TokenizerError or CheckpointError for a file that is
    missing or invalid, HubError as `local_path`.
    """
    if context is not None and not 2 <= context <= MAX_CONTEXT:
        raise ModelError(f"context is {context}; expected at least 2, at most {MAX_CONTEXT:,}")
    runtime = choose_runtime(device)
    file = locate_model(local_path(path))
    if file.suffix in (".safetensors", ".pt"):
        header = read_run_header(file.parent)
        kind = "weights" if file.suffix == ".safetensors" else "checkpoint"
        weights = load_weights(file) if kind == "weights" else load_checkpoint(file)["model"]
        model = build_model(header, export_state_dict(weights), file).to(runtime.device)
    else:
        model, header = load_model(read_artifact(file), runtime.device)
        kind = "artifact"
    model.eval()
    found, vocabulary = find_tokenizer(header, file, tokenizer)
    return OpenedModel(model, vocabulary, found, context or model.config.context, header, file, kind)


def locate_model(path: Path) -> Path:
    """The file of the weights; ModelError if there is none."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if not path.is_dir():
        require_file(path)
        return path
    if find_artifacts(path):
        return find_artifact(path)
    run = RunFolder(path)
    for file in (run.weights, run.checkpoint):
        if file.is_file():
            return file
    raise ModelError(f"{path}: holds no artifact.bin, weights.safetensors or checkpoint.pt")


def read_run_header(folder: Path) -> dict[str, Any]:
    """The header of a run's artifact, from its config.json; ModelError if that is missing or invalid."""
    path = RunFolder(folder).config
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json, which describes the network")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))["header"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path} does not describe a network: {error!r}") from error
    return header


def build_model(header: dict[str, Any], weights: dict[str, Tensor], file: Path) -> GPT:
    """The network of a header with these weights; ModelError if they do not fit."""
    model = GPT(config_from_dict(ModelConfig, header["model"]))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{file} holds weights of another network: {str(error).splitlines()[1:2]}"
        ) from error
    model.compute_dtype = COMPUTE_DTYPES[header["compute_dtype"]]
    return model
