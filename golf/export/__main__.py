"""Exports the model of an artifact to files that other programs read.

    golf export ARTIFACT --to safetensors|transformers [--out DIR]

safetensors: weights, config.json and the tokenizer. transformers: a folder that AutoModelForCausalLM and
AutoTokenizer load with trust_remote_code=True; this takes torch, transformers and sentencepiece, but not the
toolkit. gguf: refused, with what llama.cpp lacks for this network. Exit code 2 on bad input.
"""

import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from golf.evaluate import read_model
from golf.export.folder import DecodedModel, write_safetensors, write_transformers
from golf.export.llama_cpp import gguf_error
from golf.hub.address import read_address
from golf.hub.fetch import local_path
from golf.prepare.find_tokenizer import find_tokenizer
from golf.run_folder import find_artifact
from golf.system.cli import run_program
from golf.system.files import require_writable
from golf.system.log import RunLog
from golf.system.options import read_options


@dataclass(frozen=True)
class ExportCommand:
    """The model, and the files to make of it."""

    artifact: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one: an entry or a run; or hf://USER/NAME, an entry on the hub."""
    to: Literal["safetensors", "transformers", "gguf"]
    """The kind of files."""
    out: Path | None = None
    """A new or empty folder for them; by default exports/NAME-KIND, NAME being the artifact's folder, or its
    repository on the hub."""
    tokenizer: Path | None = None
    """The model's .model file, if it is not next to the model."""


def export(command: ExportCommand, log: RunLog) -> Path:
    """Writes the folder, whole or not at all, and returns it; ValueError for bad input."""
    file, address = find_artifact(local_path(command.artifact)), read_address(command.artifact)
    folder = address.repository.partition("/")[2] if address else file.resolve().parent.name
    name = folder if file.name == "artifact.bin" else f"{folder}-{file.stem}"
    out = command.out or Path("exports") / f"{name}-{command.to}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is there and no empty folder; give another one, or remove it first")
    artifact, network, header = read_model(file, torch.device("cpu"))
    if command.to == "gguf":
        raise gguf_error(network.config)
    tokenizer, vocabulary = find_tokenizer(header, file, command.tokenizer)
    model = DecodedModel(network, header, hashlib.sha256(artifact).hexdigest(), tokenizer, vocabulary)
    require_writable(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as partial:
        made = Path(partial) / "made"
        made.mkdir()
        (write_transformers if command.to == "transformers" else write_safetensors)(model, made)
        if out.is_dir():
            out.rmdir()
        made.rename(out)
    files = sorted(out.iterdir())
    for path in files:
        log.info(f"{path.stat().st_size:>12,} bytes  {path}")
    if command.to == "transformers":
        log.info(f"load it with AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=True)")
    return out


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 on bad input, 130 when stopped."""

    def work() -> None:
        export(read_options(ExportCommand, arguments, "golf export", __doc__), RunLog())

    return run_program("golf export", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
