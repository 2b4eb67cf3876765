"""Puts an entry, or a prepared dataset, on the Hugging Face hub, with a card.

    golf push ENTRY --repo USER/NAME              an entry, or a finished run
    golf push --data DIR --repo USER/NAME         a dataset that golf prepare made

Files that belong to an entry or a dataset are sent, whatever else the folder holds is not. `hf auth login`
stores the token. Exit code 2 on bad input.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import tyro

from golf.data.manifest import MANIFEST_NAME, find_byte_file, open_dataset, sha256_of_file
from golf.entry.results import EntryError, read_entry_results
from golf.hub.address import HubAddress, HubError, hub_errors, require_repository
from golf.hub.card import dataset_card, entry_card, render_card, usage
from golf.hub.fetch import require_local
from golf.pack.container import read_artifact, read_container
from golf.prepare.find_tokenizer import find_tokenizer
from golf.results import Results
from golf.run_folder import EntryFolder, RunFolder
from golf.system.cli import run_program
from golf.system.clock import StageClock
from golf.system.log import RunLog
from golf.system.options import read_options

CARD = "README.md"
REPLACED = ("artifact_seed*.bin", "train_seed*.log", "audit.json", "per_document.npz")
"""Files of an earlier push that an update removes if it does not send them anew: else nobody could tell which
artifact is meant, or they would speak of one that is gone."""


@dataclass(frozen=True)
class PushCommand:
    """What to send, and where to."""

    repo: str
    """Repository on the hub, USER/NAME; it is made."""
    entry: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of an entry, or of a finished run."""
    data: Path | None = None
    """Instead of an entry: folder of a prepared dataset."""
    licence: str | None = None
    """Licence of the entry in the hub's words (mit, apache-2.0); without one the card states none."""
    tokenizer: Path | None = None
    """The entry's .model file, if it is not in the entry or under data/."""
    private: bool = False
    """Make a private repository."""
    exist_ok: bool = False
    """Update a repository that exists."""
    dry_run: bool = False
    """Show files, bytes and metadata of what would be sent; needs no network."""


@dataclass(frozen=True)
class Parcel:
    """What goes into a repository in one commit."""

    kind: str
    """model or dataset."""
    metadata: dict[str, Any]
    """Of the card."""
    card: bytes
    """README.md."""
    files: dict[str, Path]
    """By path in the repository; README.md is not among them."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, the card's first."""
        return {CARD: len(self.card)} | {name: path.stat().st_size for name, path in self.files.items()}


def entry_parcel(
    folder: Path, tokenizer: Path, repository: str, licence: str | None, files: dict[str, Path]
) -> Parcel:
    """The parcel of an entry whose `files` were checked; `tokenizer` is the model's."""
    entry, results = EntryFolder(folder), read_entry_results(EntryFolder(folder).results)
    if not entry.readme.is_file():
        raise EntryError(f"{folder} has no {CARD}")
    artifacts = [entry.artifact(seed).name for seed in results]
    try:
        readme = entry.readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EntryError(f"{entry.readme}: is no UTF-8 ({error})") from error
    brings_text = any(name.startswith("data/") for name in files)
    metadata, body = entry_card(readme, results, licence, usage(repository, artifacts, brings_text))
    models = [path for name, path in files.items() if name.endswith(".model")]
    if sha256_of_file(tokenizer) not in map(sha256_of_file, models):
        # Those who read the repository look for .model files.
        files = {**files, tokenizer.name if tokenizer.suffix == ".model" else "tokenizer.model": tokenizer}
    return Parcel("model", metadata, render_card(metadata, body).encode(), files)


def entry_files(folder: Path) -> dict[str, Path]:
    """The files of an entry that are sent, by name; EntryError unless its artifacts and script were scored.

    The text that an entry brings along, in data/, is among them as its manifest lists it.
    """
    entry, results = EntryFolder(folder), read_entry_results(EntryFolder(folder).results)
    needed = {entry.script: _charged(results, "code")} | {
        entry.artifact(seed): _charged({seed: each}, "artifact") for seed, each in results.items()
    }
    for path, sha256 in needed.items():
        if not path.is_file():
            hint = "; it is too large for git: copy it from its run" if path != entry.script else ""
            raise EntryError(f"{folder} has no {path.name}{hint}")
        if (found := sha256_of_file(path)) != sha256:
            raise EntryError(f"{path} has sha256 {found}; the results are of {sha256}")
    others = [entry.results, entry.submission, entry.requirements, entry.audit, entry.per_document]
    others += [entry.training_plot, *(entry.log(seed) for seed in results), *sorted(folder.glob("*.png"))]
    found = {path.name: path for path in (*needed, *others) if path.is_file()}
    for path in (entry.readme, *others):
        # Their bytes are compared with nothing: in a stranger's entry a link could name any file of the user.
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise EntryError(
                f"{path} is a link to {path.resolve()}, outside the entry; put a file in its place"
            )
    data = folder / "data"
    if (data / MANIFEST_NAME).is_file():
        found |= {f"data/{name}": path for name, path in dataset_files(data, whole=False).items()}
    return found


def _charged(results: dict[int, Results], part: str) -> str:
    """sha256 of the code or the artifact that was charged for."""
    packing = next(iter(results.values())).packing
    return packing.code_sha256 if part == "code" else packing.artifact_sha256


@contextmanager
def as_entry(folder: Path) -> Iterator[Path]:
    """The entry's folder; of a finished run an entry is made that lasts as long as the block."""
    run = RunFolder(folder)
    if not folder.is_dir():
        raise EntryError(f"{folder}: no such folder; expected an entry or a finished run")
    if not run.config.is_file() and not run.events.is_file():
        yield folder
        return
    if not run.results.is_file():
        raise EntryError(
            f"{folder} has no {run.results.name}: the run is not finished; --resume continues it"
        )
    # Imported here: it brings torch and the packer of scripts, which an entry is sent without.
    from golf.entry.build import build

    with tempfile.TemporaryDirectory() as made:
        yield build([folder], Path(made) / "records", "local")


def dataset_parcel(folder: Path, repository: str) -> Parcel:
    """The parcel of a prepared dataset; DataError for a file that is missing or is not the manifest's."""
    files = dataset_files(folder, whole=True)
    metadata, body = dataset_card(open_dataset(folder).manifest, repository)
    return Parcel("dataset", metadata, render_card(metadata, body).encode(), files)


def dataset_files(folder: Path, whole: bool) -> dict[str, Path]:
    """The files of a dataset by name, compared with its manifest; `whole` requires the training shards."""
    dataset = open_dataset(folder)
    if whole:
        dataset.train_shards()
    dataset.validation_tokens(StageClock())
    names = [MANIFEST_NAME, dataset.manifest.tokenizer]
    for file in dataset.manifest.files:
        if whole or file.split == "val":
            names.append(file.name)
        if file.split == "val" and dataset.manifest.case_ops:
            names.append(find_byte_file(folder / file.name).name)
    return {name: folder / name for name in names}


def send(parcel: Parcel, command: PushCommand, log: RunLog) -> None:
    """Makes the repository, or takes up an existing one, and sends everything in one commit.

    HubError for all errors of the hub, and for files that are not there after it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, name, kind = HfApi(), command.repo, parcel.kind
    with hub_errors(command.repo, writing=True):
        try:
            api.create_repo(name, repo_type=kind, private=command.private or None, exist_ok=command.exist_ok)
        except OSError as error:
            if _status(error) == 409:
                raise HubError(f"{command.repo}: exists on the hub; --exist-ok updates it") from error
            raise
    advice = "" if command.exist_ok else "; the repository was made: with --exist-ok the same command goes on"
    try:
        with hub_errors(command.repo, writing=True):
            if command.private and not api.repo_info(name, repo_type=kind).private:
                raise HubError(f"{name}: exists and is public; leave out --private, or make it private there")
            present = api.list_repo_files(name, repo_type=kind) if command.exist_ok else []
            left = [path for path in present if path not in parcel.files and _is_replaced(path)]
            operations: list[Any] = [CommitOperationDelete(path) for path in left]
            operations.append(CommitOperationAdd(CARD, parcel.card))
            operations += [CommitOperationAdd(path, file) for path, file in parcel.files.items()]
            done = api.create_commit(name, operations, commit_message="Push by golf", repo_type=kind)
            lost = parcel.files.keys() - set(api.list_repo_files(name, repo_type=kind))
            if lost:
                why = "its .gitignore excludes them"
                raise HubError(f"{name}: the hub left out {', '.join(sorted(lost))}; {why}: remove it there")
    except ValueError as error:
        raise HubError(f"{' '.join(str(error).split())}{advice}") from error
    for path in left:
        log.info(f"removed from the repository: {path}")
    log.info(f"{done.commit_url}: {len(parcel.files) + 1} files, read by {HubAddress(name, kind)}")


def _status(error: OSError) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_replaced(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in REPLACED)


def show(parcel: Parcel, log: RunLog) -> None:
    """Prints files, bytes and metadata of a parcel."""
    from huggingface_hub import CardData

    sizes = parcel.sizes()
    rows = [*sizes.items(), ("all", sum(sizes.values()))]
    log.table(f"{parcel.kind} repository, not sent", ("file", "bytes"), rows)
    log.info(f"metadata of {CARD}:\n{CardData(**parcel.metadata).to_yaml()}")


def push(command: PushCommand, log: RunLog) -> None:
    """Sends an entry or a dataset, or shows what would be sent; ValueError for bad input."""
    require_repository(command.repo)
    if (command.entry is None) == (command.data is None):
        given = "neither" if command.entry is None else "both"
        raise ValueError(f"give the folder of an entry, or --data DIR; {given} was given")
    if command.data is not None:
        for option, value in (("licence", command.licence), ("tokenizer", command.tokenizer)):
            if value is not None:
                raise ValueError(f"--{option} belongs to an entry; a dataset's is in its {MANIFEST_NAME}")
        require_local(command.data, "only a folder on this machine can be sent")
        finish(dataset_parcel(command.data, command.repo), command, log)
        return
    assert command.entry is not None
    require_local(command.entry, "only a folder on this machine can be sent")
    with as_entry(command.entry) as folder:
        files = entry_files(folder)
        artifact = next(path for path in files.values() if path.name.startswith("artifact"))
        header = read_container(read_artifact(artifact))[0]
        # Of a run, the entry was made elsewhere; the run knows its dataset.
        near = artifact if folder == command.entry else RunFolder(command.entry).artifact
        tokenizer, _ = find_tokenizer(header, near, command.tokenizer)
        finish(entry_parcel(folder, tokenizer, command.repo, command.licence, files), command, log)


def finish(parcel: Parcel, command: PushCommand, log: RunLog) -> None:
    """Shows or sends a parcel."""
    if "license" not in parcel.metadata:
        how = "the manifest states none" if parcel.kind == "dataset" else "--licence states one"
        log.info(f"the card has no licence: {how}")
    if command.dry_run:
        show(parcel, log)
    else:
        send(parcel, command, log)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 on bad input, 130 when stopped."""

    def work() -> None:
        push(read_options(PushCommand, arguments, "golf push", __doc__), RunLog())

    return run_program("golf push", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
