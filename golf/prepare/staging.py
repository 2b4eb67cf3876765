"""A dataset folder is complete or absent: its files are made in a hidden folder inside it, then moved.

So the dataset folder may be a mount point or a link: nothing moves between file systems.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from golf.data.manifest import MANIFEST_NAME
from golf.data.shards import DataError
from golf.system.files import is_disk_full

STAGING_PREFIX = ".preparing-"
DOWNLOAD_NAME = ".download"
NO_CONTENTS = {"lost+found", ".lock", ".verified.json", DOWNLOAD_NAME}
"""In an empty dataset folder: what a file system has, the lock of the folder's owner, notes on shards that
were there, files being fetched."""


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder; at the end of the block moves its files to `folder`, on an error deletes them.

    Removes what a killed process left. Raises DataError if `folder` is not empty or another process prepares
    it, and if the disk is full.
    """
    folder = folder.resolve()
    require_empty(folder)
    with (
        full_disk_as_data_error(f"{folder}: no space left on the disk; nothing was kept"),
        made_folder(folder),
    ):
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
        try:
            with claimed(staging, folder):
                yield staging
                _require_no_contents(folder)
                move_into(folder, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def require_empty(folder: Path) -> None:
    """Clears up what a killed process left; raises DataError unless `folder` is absent or empty then."""
    for left in folder.glob(f"{STAGING_PREFIX}*"):
        with claimed(left, folder):
            _finish(folder, left)
    _require_no_contents(folder)


def _require_no_contents(folder: Path) -> None:
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder}: already holds a dataset; remove it or name another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder")
    if names := sorted(path.name for path in folder.iterdir() if not _is_no_content(path.name)):
        raise DataError(f"{folder}: is not an empty folder, it has {names[0]}; name another one")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and its parents; removes those made that are empty at the end of the block."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def claimed(staging: Path, folder: Path) -> Iterator[None]:
    """Owns a staging folder of `folder` during the block; DataError while another process does.

    The kernel frees the claim of a process that dies. A file system without locks gives none.
    """
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataError(f"{folder}: another process is preparing it; wait until it has ended") from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def move_into(folder: Path, staging: Path) -> None:
    """Moves the files of `staging`, a folder in `folder`; the manifest, which makes it a dataset, last."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
        os.replace(path, folder / path.name)
    staging.rmdir()


@contextmanager
def full_disk_as_data_error(message: str) -> Iterator[None]:
    """Turns the errors of a full disk or an exhausted quota into a DataError with `message`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DataError(message) from error
        raise


def _finish(folder: Path, left: Path) -> None:
    """Goes on with the move of a finished dataset; removes an unfinished one."""
    if (left / MANIFEST_NAME).is_file():
        move_into(folder, left)
    else:
        shutil.rmtree(left)


def _is_no_content(name: str) -> bool:
    return name in NO_CONTENTS or name.startswith(STAGING_PREFIX)
