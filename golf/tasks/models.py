"""A model to talk to, from whatever holds one: an artifact, a run, an entry, a checkpoint.

Shapes: B batch, T time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.evaluate import load_model
from golf.model.gpt import GPT, ModelConfig
from golf.run_folder import RunFolder, find_artifact, find_artifacts
from golf.system.device import choose_runtime
from golf.system.stored import config_from_dict
from golf.train.checkpoint import load_checkpoint, load_weights
from golf.train.objective import export_state_dict

COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelError(ValueError):
    """Nothing at a path can be opened as a model, or its tokenizer is missing."""


@dataclass(frozen=True)
class OpenedModel:
    """A network, ready to compute, with the vocabulary that it was trained on."""

    model: GPT
    vocabulary: Vocabulary
    tokenizer: Path
    """The .model file of that vocabulary."""
    context: int
    """Tokens that it may read at once."""
    header: dict[str, Any]
    """What its artifact holds beside the weights, or would hold."""
    path: Path
    """The file that the weights came from."""
    kind: str
    """artifact, weights (before packing) or checkpoint."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """One line for the head of what is said of it."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        pieces = f"{self.vocabulary.size} pieces ({self.tokenizer.name})"
        return f"{self.kind} {self.path}: {num_parameters:,} parameters, context {self.context}, {pieces}"


def open_model(
    path: Path, tokenizer: Path | None = None, device: str = "auto", context: int | None = None
) -> OpenedModel:
    """Opens an artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry.

    A folder stands for its artifact, and before packing for its weights. The tokenizer is sought beside the
    model by its sha256. ModelError, ArtifactError or CheckpointError say what is wrong or missing.
    """
    runtime = choose_runtime(device)
    file = locate_model(path)
    if file.suffix in (".safetensors", ".pt"):
        header = read_run_header(file.parent)
        kind = "weights" if file.suffix == ".safetensors" else "checkpoint"
        weights = load_weights(file) if kind == "weights" else load_checkpoint(file)["model"]
        model = build_model(header, export_state_dict(weights), file).to(runtime.device)
    else:
        model, header = load_model(file.read_bytes(), runtime.device)
        kind = "artifact"
    model.eval()
    found, vocabulary = find_tokenizer(header, file, tokenizer)
    if context is not None and context < 2:
        raise ModelError(f"context is {context}; expected at least 2")
    return OpenedModel(model, vocabulary, found, context or model.config.context, header, file, kind)


def locate_model(path: Path) -> Path:
    """The file that holds the weights; ModelError where there is none."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if not path.is_dir():
        return path
    if find_artifacts(path):
        return find_artifact(path)
    run = RunFolder(path)
    for file in (run.weights, run.checkpoint):
        if file.is_file():
            return file
    raise ModelError(f"{path}: holds no artifact.bin, weights.safetensors or checkpoint.pt")


def read_run_header(folder: Path) -> dict[str, Any]:
    """What a run's artifact holds beside the weights; ModelError unless its config.json says so."""
    path = RunFolder(folder).config
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json, which says what network the weights are of")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))["header"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path} does not describe a network: {error!r}") from error
    return header


def build_model(header: dict[str, Any], weights: dict[str, Tensor], file: Path) -> GPT:
    """The network of a header with these weights; ModelError if they are of another."""
    model = GPT(config_from_dict(ModelConfig, header["model"]))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{file} holds weights of another network: {str(error).splitlines()[1:2]}"
        ) from error
    model.compute_dtype = COMPUTE_DTYPES[header["compute_dtype"]]
    return model


def find_tokenizer(header: dict[str, Any], file: Path, given: Path | None) -> tuple[Path, Vocabulary]:
    """The tokenizer of the sha256 that the header names: `given`, or one near the model's file.

    ModelError if none is there, or if the one given is another.
    """
    wanted = header.get("tokenizer_sha256")
    if given is not None:
        vocabulary = Vocabulary.load(given)
        if vocabulary.sha256 != wanted:
            raise ModelError(
                f"{given} has sha256 {vocabulary.sha256}; the model was trained with the tokenizer {wanted}"
            )
        return given, vocabulary
    folders = list(_folders_of_tokenizers(file))
    for folder in folders:
        for candidate in sorted(folder.glob("*.model")):
            vocabulary = Vocabulary.load(candidate)
            if vocabulary.sha256 == wanted:
                return candidate, vocabulary
    looked = ", ".join(str(folder) for folder in folders)
    raise ModelError(
        f"the tokenizer of {file} is missing: no .model file of sha256 {wanted} in {looked}; "
        "give --tokenizer FILE"
    )


def _folders_of_tokenizers(file: Path) -> Iterator[Path]:
    """Beside the model, in its data folder, and where its run read its text."""
    yield from (file.parent, file.parent / "data")
    path = RunFolder(file.parent).config
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        options = stored.get("options") or {}
        if options.get("data"):
            yield Path(options["data"])
    if Path("data").is_dir():
        yield from sorted(folder for folder in Path("data").iterdir() if folder.is_dir())
