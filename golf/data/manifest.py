"""A dataset folder: shards, their tokenizer, and a manifest of their contents and origin."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from golf.data.shards import ShardError, check_token_ids, read_shard
from golf.data.vocabulary import Vocabulary
from golf.system.clock import StageClock
from golf.system.files import atomic_write

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "golf-dataset-1"


class DataError(ValueError):
    """A dataset folder is missing, incomplete, or its parts do not belong together."""


@dataclass(frozen=True)
class ShardFile:
    """One shard of a dataset. Documents are numbered through all shards, validation first."""

    name: str
    split: str
    """train or val."""
    sha256: str
    num_tokens: int
    num_documents: int
    """Number of documents that start in this shard."""
    first_document: int
    last_document: int
    """Inclusive; a document that the end of a shard cuts is in both shards."""
    bytes_sha256: str = ""
    """Hash of the byte file of a CaseOps validation shard; empty for other shards."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a dataset folder; bytes are those of the decoded text, by the challenge's rule."""

    name: str
    source: str
    """The origin of the text, in words."""
    licence: str
    revision: str
    """The exact source: a hub commit, package versions, the sha256 of a file."""
    tokenizer: str
    """Name of the .model file in the folder."""
    tokenizer_sha256: str
    vocab_size: int
    files: tuple[ShardFile, ...]
    val_text_bytes: int
    train_text_bytes: int
    repeated_documents: int
    """Number of exact repeats: dropped from text encoded here, still present in published shards."""
    notes: tuple[str, ...]
    """Remarks on the text for the reader of a score."""
    case_ops: bool = False
    """Whether the text is in CaseOps form; each validation shard then has a byte file."""

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads `folder`/manifest.json; DataError if it is absent, of another format, or damaged."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise DataError(_missing_dataset_message(folder))
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from error
        found = fields.pop("format", None) if isinstance(fields, dict) else None
        if found != MANIFEST_FORMAT:
            raise DataError(
                f"{path}: format is {found!r}; expected {MANIFEST_FORMAT!r}. {_adopt_hint(folder)}"
            )
        try:
            files = tuple(ShardFile(**file) for file in fields.pop("files"))
            manifest = cls(files=files, notes=tuple(fields.pop("notes")), **fields)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: does not have a manifest's fields ({error})") from error
        for name in (manifest.tokenizer, *(file.name for file in files)):
            if Path(name).name != name:
                raise DataError(f"{path}: {name!r} is not a file name inside the folder")
        _refuse_overlapping_documents(path, files)
        return manifest

    def save(self, folder: Path) -> None:
        """Writes `folder`/manifest.json; the fields of CaseOps only if the text is of that kind."""
        fields = asdict(self)
        if not self.case_ops:
            del fields["case_ops"]
        for file in fields["files"]:
            if not file["bytes_sha256"]:
                del file["bytes_sha256"]
        text = json.dumps({"format": MANIFEST_FORMAT, **fields}, indent=1) + "\n"
        with atomic_write(folder / MANIFEST_NAME) as partial:
            partial.write_text(text, encoding="utf-8")

    def num_tokens(self, split: str) -> int:
        """Number of tokens of a split, BOS included."""
        return sum(file.num_tokens for file in self.files if file.split == split)


class Dataset:
    """A dataset folder whose manifest, vocabulary and shard sizes agree; see `open_dataset`."""

    def __init__(self, folder: Path, manifest: Manifest, vocabulary: Vocabulary):
        self.folder = folder
        self.manifest = manifest
        self.vocabulary = vocabulary

    def train_shards(self) -> list[np.ndarray]:
        """The training shards as memory maps (N), in order; DataError if there are none.

        Token ids are not checked here but by the batches that serve them.
        """
        shards = [self._open_shard(file) for file in self.manifest.files if file.split == "train"]
        if not shards:
            raise DataError(f"{self.folder}: has no training shards")
        first, bos_id = int(shards[0][0]), self.vocabulary.bos_id
        if first != bos_id:
            raise DataError(f"{self.folder}: training starts with token {first}; expected BOS, {bos_id}")
        return shards

    def validation_tokens(self, clock: StageClock) -> np.ndarray:
        """All validation tokens (N) in order, uint16; each file is checked against its sha256 and vocabulary.

        Raises PhaseError in phases other than prepare and score, which must not read validation text.
        """
        clock.require("prepare", "score")
        shards = []
        for file in self.manifest.files:
            if file.split == "val":
                shard = self._open_shard(file)
                found = sha256_of_file(self.folder / file.name)
                if found != file.sha256:
                    raise DataError(
                        f"{self.folder / file.name}: sha256 {found}; the manifest says {file.sha256}"
                    )
                check_token_ids(shard, self.vocabulary.size, file.name)
                if self.manifest.case_ops:
                    before = int(shards[-1][-1]) if shards else self.vocabulary.bos_id
                    check_byte_file(self.folder / file.name, self.vocabulary, before, file.bytes_sha256)
                shards.append(np.array(shard, dtype=np.uint16))
        if not shards:
            raise DataError(f"{self.folder}: has no validation shards")
        return np.concatenate(shards)

    def _open_shard(self, file: ShardFile) -> np.ndarray:
        shard = read_shard(self.folder / file.name)
        if len(shard) != file.num_tokens:
            raise ShardError(
                f"{self.folder / file.name}: {len(shard)} tokens; the manifest says {file.num_tokens}"
            )
        return shard


def open_dataset(folder: Path) -> Dataset:
    """Opens a dataset folder; checks tokenizer and shard sizes, in constant time, against its manifest.

    Training shards may be absent, as for scoring alone; `train_shards` then raises. Raises DataError,
    VocabularyError or ShardError.
    """
    manifest = Manifest.load(folder)
    vocabulary = Vocabulary.load(folder / manifest.tokenizer)
    if vocabulary.sha256 != manifest.tokenizer_sha256:
        raise DataError(
            f"{folder}: tokenizer and shards do not belong together: {manifest.tokenizer} has sha256 "
            f"{vocabulary.sha256}, the shards were encoded with {manifest.tokenizer_sha256}"
        )
    if vocabulary.size != manifest.vocab_size:
        raise DataError(f"{folder}: {vocabulary.size} pieces; the manifest says {manifest.vocab_size}")
    if vocabulary.case_ops != manifest.case_ops:
        pieces = "has the marks of CaseOps" if vocabulary.case_ops else "has no marks of CaseOps"
        raise DataError(f"{folder}: {manifest.tokenizer} {pieces}; the manifest says {manifest.case_ops}")
    dataset = Dataset(folder, manifest, vocabulary)
    for file in manifest.files:
        if file.split == "val" or (folder / file.name).exists():
            dataset._open_shard(file)
        if file.split == "val" and manifest.case_ops:
            read_byte_file(folder / file.name)
    return dataset


def byte_file_of(shard: Path) -> Path:
    """The byte file of a CaseOps validation shard: one uint16 per token, in the format of shards."""
    return shard.with_suffix(".bytes")


def read_byte_file(shard: Path) -> np.ndarray:
    """Bytes of original text of each token (N) of a CaseOps `shard`; DataError without a byte file."""
    path = byte_file_of(shard)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; it says how many bytes of the original text each CaseOps token of "
            f"{shard.name} stands for, and without it no score in bits per byte can be trusted"
        )
    counts = read_shard(path)
    if len(counts) != len(read_shard(shard)):
        raise DataError(f"{path}: has {len(counts)} counts; {shard.name} has {len(read_shard(shard))} tokens")
    return counts


def check_byte_file(shard: Path, vocabulary: Vocabulary, before: int, sha256: str | None = None) -> str:
    """The sha256 of the byte file of `shard`, whose first token follows token `before`.

    Raises DataError unless its counts are those of the vocabulary, and its hash is `sha256` if that is given.
    """
    stated, path = read_byte_file(shard), byte_file_of(shard)
    found = sha256_of_file(path)
    if sha256 is not None and found != sha256:
        raise DataError(f"{path}: sha256 {found}; the manifest says {sha256}")
    tokens = np.array(read_shard(shard))
    counted = vocabulary.count_bytes(np.concatenate([[before], tokens[:-1]]), tokens)
    if not np.array_equal(stated, counted):
        place = int(np.argmax(stated != counted))
        raise DataError(
            f"{path}: token {place} of {shard.name} is {stated[place]} bytes there; it stands for "
            f"{counted[place]}. In all {int(stated.sum())} and {int(counted.sum())}"
        )
    return found


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_overlapping_documents(path: Path, files: tuple[ShardFile, ...]) -> None:
    for val in (file for file in files if file.split == "val"):
        for train in (file for file in files if file.split != "val"):
            first = max(val.first_document, train.first_document)
            last = min(val.last_document, train.last_document)
            if first <= last:
                raise DataError(
                    f"{path}: documents {first} to {last} are in both {val.name} and {train.name}"
                )


def _missing_dataset_message(folder: Path) -> str:
    if any(folder.glob("fineweb_*.bin")):
        return f"{folder}: has shards but no {MANIFEST_NAME}. {_adopt_hint(folder)}"
    command = f"python -m golf.prepare --source docs --data {folder}"
    return f"{folder}: no dataset there; make one with `{command}`"


def _adopt_hint(folder: Path) -> str:
    return (
        f"`python -m golf.prepare --source shards --data {folder} --tokenizer FILE.model` "
        "checks the shards and writes one"
    )
