"""Finds the tokenizer of a model by the sha256 that the model's header states."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golf.data.manifest import sha256_of_file
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import MAX_TOKENIZER_BYTES, load_tokenizer
from golf.run_folder import RunFolder


class TokenizerError(ValueError):
    """No .model file of a model's header was found, or the one that was given is another."""


def find_tokenizer(header: dict[str, Any], file: Path, given: Path | None) -> tuple[Path, Vocabulary]:
    """The tokenizer with the sha256 of the header: `given`, or one near the model's file.

    TokenizerError if there is none, or if `given` is another one.
    """
    wanted = header.get("tokenizer_sha256")
    if given is not None:
        vocabulary = load_tokenizer(given)
        if vocabulary.sha256 != wanted:
            raise TokenizerError(
                f"{given} has sha256 {vocabulary.sha256}; the model was trained with the tokenizer {wanted}"
            )
        return given, vocabulary
    folders = list(_folders_of_tokenizers(file))
    for folder in folders:
        for candidate in sorted(folder.glob("*.model")):
            is_small = candidate.is_file() and candidate.stat().st_size <= MAX_TOKENIZER_BYTES
            if is_small and sha256_of_file(candidate) == wanted:
                return candidate, load_tokenizer(candidate)
    looked = ", ".join(str(folder) for folder in folders)
    raise TokenizerError(
        f"the tokenizer of {file} is missing: no .model file of sha256 {wanted} in {looked}; "
        "give --tokenizer FILE"
    )


def _folders_of_tokenizers(file: Path) -> Iterator[Path]:
    """The model's folder, its subfolder data, the dataset of its run, and the folders under data/."""
    yield from (file.parent, file.parent / "data")
    path = RunFolder(file.parent).config
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        options = stored.get("options") or {}
        if options.get("data"):
            yield Path(options["data"])
    if Path("data").is_dir():
        yield from sorted(folder for folder in Path("data").iterdir() if folder.is_dir())
