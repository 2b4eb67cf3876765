"""One owner per folder: a lock that ends with its process, however that ends."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from golf.system.files import remove_partial

LOCK_NAME = ".lock"
WAIT_SECONDS = 0.2
MAX_MISSES = 100


class FolderInUse(ValueError):
    """Another process works in the folder."""


@contextmanager
def owned_folder(
    folder: Path, say_waiting: Callable[[str], None] | None = None, keep_empty: bool = False
) -> Iterator[None]:
    """Makes the folder if it is absent and owns it during the block; removes what a killed owner left there.

    FolderInUse, naming the owner's process, while another one has it; with `say_waiting`, says so and waits.
    A folder that is empty at the end is removed, except with `keep_empty`. The kernel releases the lock of a
    process that dies.
    """
    # Those of a relative path were made for this folder, or are not empty.
    made = [folder, *(path for path in folder.parents if not (path.exists() and path.is_absolute()))]
    made = [] if keep_empty else made
    path = folder / LOCK_NAME
    file = _take(path, say_waiting)
    try:
        remove_partial(folder)
        yield
    finally:
        # While it is held, so that nobody opens a file that is about to go.
        path.unlink(missing_ok=True)
        os.close(file)
        # Not empty, or a place where a disk is mounted: it stays.
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def lock_owner(folder: Path) -> int | None:
    """The number of the process that owns the folder, 0 if it is not known; None if nobody does."""
    try:
        import fcntl
    except ModuleNotFoundError:
        # Windows, where no command runs that owns a folder.
        return None
    path = folder / LOCK_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _stated_owner(file) or 0
    finally:
        os.close(file)
    return None


def _take(path: Path, say_waiting: Callable[[str], None] | None) -> int:
    """The descriptor of the lock file, locked."""
    import fcntl

    has_said, num_misses = False, 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, FileExistsError):
            # Its owner removed the empty folder in between; else it is no folder, or cannot be one.
            num_misses += 1
            if num_misses == MAX_MISSES:
                raise
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            says = f"{path.parent} is in use by process {_stated_owner(file) or '(unknown)'}"
            os.close(file)
            if say_waiting is None:
                raise FolderInUse(f"{says}; wait until it has ended, or stop it") from error
            if not has_said:
                say_waiting(f"{says}; waiting for it")
                has_said = True
            time.sleep(WAIT_SECONDS)
            continue
        if _is_at(file, path):
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            return file
        # Its owner removed it between opening and locking.
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _stated_owner(file: int) -> int | None:
    stated = os.pread(file, 32, 0).strip()
    return int(stated) if stated.isdigit() else None
