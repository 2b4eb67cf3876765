"""A dataset folder: shards, their tokenizer, and a manifest of their contents and origin."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from golf.data.shards import DataError, check_token_ids, read_shard
from golf.data.vocabulary import Vocabulary
from golf.system.clock import StageClock
from golf.system.files import (
    DamagedFileError,
    read_sealed_json,
    sha256_of_file,
    write_json,
    write_sealed_json,
)
from golf.system.stored import config_from_dict

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "golf-dataset-1"
CHANGED = "has changed since the dataset was made, make or fetch it again"
FINGERPRINT_TOKENS = 1 << 15
VERIFIED_NAME = ".verified.json"
"""Which training shards were compared with the manifest, and what their files were like then."""


@dataclass(frozen=True)
class ShardFile:
    """One shard of a dataset, of split train or val, in which `num_documents` start.

    Documents are numbered through all shards, validation first; one that an end cuts is in both shards. An
    empty sha256 pins nothing.
    """

    name: str
    split: str
    sha256: str
    num_tokens: int
    num_documents: int
    first_document: int
    last_document: int
    bytes_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of a dataset folder and where its text is from; bytes are those of the decoded text."""

    name: str
    source: str
    licence: str
    revision: str
    """The exact source: a hub commit, package versions, the sha256 of a file."""
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    files: tuple[ShardFile, ...]
    val_text_bytes: int
    train_text_bytes: int
    repeated_documents: int
    notes: tuple[str, ...]
    case_ops: bool = False
    """Whether the text is in CaseOps form; each validation shard then has a byte file."""
    format: str = MANIFEST_FORMAT

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads `folder`/manifest.json; DataError if it is absent, of another format, or damaged."""
        path, command = folder / MANIFEST_NAME, "golf prepare --source"
        adopt = f"`{command} shards --data {folder}` checks the shards and writes one"
        if not path.is_file():
            if any(folder.glob("fineweb_*.bin")):
                raise DataError(f"{folder}: has shards but no {MANIFEST_NAME}. {adopt}")
            raise DataError(f"{folder}: no dataset there; make one with `{command} docs --data {folder}`")
        try:
            manifest: Manifest = config_from_dict(cls, read_sealed_json(path))
        except DamagedFileError as error:
            raise DataError(f"{error}. {adopt}") from error
        except ValueError as error:
            raise DataError(f"{path}: is not a manifest of a dataset ({error}). {adopt}") from error
        if manifest.format != MANIFEST_FORMAT:
            raise DataError(f"{path}: format is {manifest.format!r}; expected {MANIFEST_FORMAT!r}. {adopt}")
        for name in (manifest.tokenizer, *(file.name for file in manifest.files)):
            if Path(name).name != name or not name.isprintable():
                raise DataError(f"{path}: {name!r} is not a file name inside the folder")
        last: dict[str, ShardFile] = {}
        for file in sorted(manifest.files, key=lambda file: file.first_document):
            if file.split not in ("train", "val"):
                raise DataError(f"{path}: split is {file.split!r}; expected train or val")
            other = last.get("val" if file.split == "train" else "train", file)
            low, high = file.first_document, min(file.last_document, other.last_document)
            if other is not file and low <= high:
                raise DataError(f"{path}: documents {low} to {high} are in both {other.name} and {file.name}")
            last[file.split] = max(last.get(file.split, file), file, key=lambda file: file.last_document)
        return manifest

    def save(self, folder: Path) -> None:
        """Writes `folder`/manifest.json; the fields of CaseOps only if the text is of that kind."""
        fields = asdict(self)
        if not self.case_ops:
            del fields["case_ops"]
        for file in fields["files"]:
            if not file["bytes_sha256"]:
                del file["bytes_sha256"]
        write_sealed_json(folder / MANIFEST_NAME, {"format": self.format, **fields})

    def num_tokens(self, split: str) -> int:
        """Number of tokens of a split, BOS included."""
        return sum(file.num_tokens for file in self.files if file.split == split)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder whose manifest, vocabulary and shard sizes agree; see `open_dataset`."""

    folder: Path
    manifest: Manifest
    vocabulary: Vocabulary

    def train_shards(self) -> list[np.ndarray]:
        """The training shards as memory maps (N), checked by sha256; who serves them checks token ids."""
        files = [file for file in self.manifest.files if file.split == "train"]
        shards = [self.open_shard(file) for file in files]
        if not shards:
            raise DataError(f"{self.folder}: has no training shards")
        if (first := shards[0][0]) != (bos_id := self.vocabulary.bos_id):
            raise DataError(f"{self.folder}: training starts with token {first}; expected BOS, {bos_id}")
        self._require_unchanged(files)
        return shards

    @property
    def train_fingerprint(self) -> str:
        """What names the contents of the training shards, or how those begin whose sha256 is not known."""
        files = [file for file in self.manifest.files if file.split == "train"]
        hashes = [
            file.sha256 or hashlib.sha256(self.open_shard(file)[:FINGERPRINT_TOKENS].tobytes()).hexdigest()
            for file in files
        ]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def _require_unchanged(self, files: list[ShardFile]) -> None:
        """Compares each shard with its sha256; what was compared is remembered by size, times and inode."""
        memory = self.folder / VERIFIED_NAME
        try:
            known = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        found = {file.name: _file_state(self.folder / file.name, file.sha256) for file in files}
        unknown = [file for file in files if file.sha256 and found[file.name] != known.get(file.name)]
        with ThreadPoolExecutor(8) as pool:
            hashes = pool.map(sha256_of_file, [self.folder / file.name for file in unknown])
            for file, sha256 in zip(unknown, hashes, strict=True):
                if sha256 != file.sha256:
                    path = self.folder / file.name
                    raise DataError(f"{path}: {CHANGED}: sha256 {sha256}; the manifest says {file.sha256}")
        if unknown:
            # A folder that cannot be written to is compared anew by each run.
            with suppress(OSError):
                write_json(memory, {**known, **found})

    def validation_tokens(self, clock: StageClock) -> np.ndarray:
        """All validation tokens (N), uint16, checked by sha256; PhaseError where they must not be read."""
        clock.require("prepare", "score")
        shards = []
        for file in (file for file in self.manifest.files if file.split == "val"):
            path = self.folder / file.name
            shards.append(self.open_shard(file))
            parts = {path: file.sha256}
            if self.manifest.case_ops:
                parts[find_byte_file(path)] = file.bytes_sha256
            for part, stated in parts.items():
                if stated and (found := sha256_of_file(part)) != stated:
                    raise DataError(f"{part}: {CHANGED}: sha256 {found}; the manifest says {stated}")
            check_token_ids(shards[-1], self.vocabulary.size, file.name)
        if not shards:
            raise DataError(f"{self.folder}: has no validation shards")
        return np.concatenate(shards, dtype=np.uint16)

    def open_shard(self, file: ShardFile) -> np.ndarray:
        """The tokens (N) of a shard; DataError for another number of them than stated."""
        path = self.folder / file.name
        shard = read_shard(path)
        if len(shard) != file.num_tokens:
            raise DataError(f"{path}: {len(shard)} tokens; the manifest says {file.num_tokens}")
        if file.split == "val" and self.manifest.case_ops:
            find_byte_file(path)
        return shard


def _file_state(path: Path, sha256: str) -> list[int | str]:
    """What changes when a file does, as JSON values."""
    now = path.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, sha256]


def open_dataset(folder: Path) -> Dataset:
    """Opens a folder whose tokenizer and shard sizes are the manifest's; training shards may be absent."""
    manifest = Manifest.load(folder)
    vocabulary = Vocabulary.load(folder / manifest.tokenizer)
    found = (vocabulary.sha256, vocabulary.size, vocabulary.case_ops)
    stated = (manifest.tokenizer_sha256, manifest.vocab_size, manifest.case_ops)
    if found != stated:
        parts = f"{folder}: tokenizer and shards do not belong together: sha256, size and use of CaseOps"
        raise DataError(f"{parts} are {found}, and {stated} in the manifest")
    dataset = Dataset(folder, manifest, vocabulary)
    for file in manifest.files:
        if file.split == "val" or (folder / file.name).exists():
            dataset.open_shard(file)
    return dataset


def open_shards(folder: Path, tokenizer: Path) -> Dataset:
    """A folder of shards without a manifest, as published: one is made in memory, which pins no bytes."""
    splits = {split: sorted(folder.glob(f"fineweb_{split}_[0-9]*.bin")) for split in ("train", "val")}
    files = tuple(
        ShardFile(path.name, split, "", len(read_shard(path)), 0, 0, 0)
        for split, paths in splits.items()
        for path in paths
    )
    if not files:
        raise DataError(f"{folder}: has neither {MANIFEST_NAME} nor fineweb_train_*.bin or fineweb_val_*.bin")
    vocabulary = Vocabulary.load(tokenizer)
    stated = (vocabulary.sha256, vocabulary.size, files, 0, 0, 0, (), vocabulary.case_ops)
    return Dataset(folder, Manifest(folder.name, "", "", "", tokenizer.name, *stated), vocabulary)


def find_byte_file(shard: Path) -> Path:
    """Beside a CaseOps validation shard: bytes of original text of each token, in the format of shards."""
    path = shard.with_suffix(".bytes")
    if not path.is_file():
        says = f"it says how many bytes of the original text each CaseOps token of {shard.name} stands for"
        raise DataError(f"{path}: no such file; {says}, and no score in bits per byte can be trusted without")
    return path
