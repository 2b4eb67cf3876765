"""Addresses on the Hugging Face hub, and what its client's errors mean, in one line each.

hf://USER/NAME[@REVISION][/FILE]              an entry
hf://datasets/USER/NAME[@REVISION]            a prepared dataset
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

SCHEME = "hf:"
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(f"{_NAME}/{_NAME}")
_ADDRESS = re.compile(
    rf"(?P<datasets>datasets/)?(?P<repository>{_NAME}/{_NAME})"
    r"(?:@(?P<revision>refs/[a-z]+/[^/@]+|[^/@]+))?(?:/(?P<file>[^@]+))?"
)
MAX_REASON = 300


class HubError(ValueError):
    """The hub cannot be reached, refuses a request, or lacks what was asked for; the message is one line."""


@dataclass(frozen=True)
class HubAddress:
    """A repository on the hub, or one file in it."""

    repository: str
    """USER/NAME."""
    kind: str = "model"
    """model or dataset, in the hub's own words."""
    revision: str | None = None
    """Branch, tag or commit; None for the newest commit of the main branch."""
    file: PurePosixPath | None = None

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{kind}{self.repository}{revision}{f'/{self.file}' if self.file else ''}"


def read_address(path: Path) -> HubAddress | None:
    """The address that an option holds, None for a path on this machine; HubError for a wrong address.

    A Path has one slash where hf:// has two; hf:/USER/NAME is read as the same.
    """
    scheme, *rest = path.parts or ("",)
    if scheme != SCHEME:
        return None
    text = "/".join(rest)
    found = _ADDRESS.fullmatch(text)
    if found is None or ".." in rest:
        raise HubError(f"hf://{text} is no address; expected hf://USER/NAME, with @REVISION and /FILE or not")
    file = found["file"]
    kind = "dataset" if found["datasets"] else "model"
    return HubAddress(found["repository"], kind, found["revision"], PurePosixPath(file) if file else None)


def require_repository(name: str) -> None:
    """HubError unless `name` is USER/NAME."""
    if not _REPOSITORY.fullmatch(name):
        raise HubError(f"--repo is {name!r}; expected USER/NAME: letters, digits, dots, - and _")


@contextmanager
def hub_errors(what: str, writing: bool = False) -> Iterator[None]:
    """Raises HubError, which starts with `what`, for each error of the hub's client in the block."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        _ = urlsplit(constants.ENDPOINT).port
    except ValueError as error:
        raise HubError(f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address ({error})") from error
    try:
        yield
    except HubError:
        raise
    except UnicodeEncodeError as error:
        raise HubError(f"{what}: the token is not of ASCII; `hf auth login` stores one that is") from error
    except (HTTPError, OSError, RuntimeError) as error:
        is_of_the_disk = isinstance(error, OSError) and not isinstance(error, HTTPError) and error.errno
        if is_of_the_disk:
            raise
        raise HubError(f"{what}: {explain(error, writing)}") from error


def explain(error: BaseException, writing: bool) -> str:
    """What an error of the hub's client means, and what to do; `writing` if it was met by a push."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and only what was fetched before can be used"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision; expected a branch, a tag or a commit"
    # The error of a transfer that failed is the cause of these.
    is_outer = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__
    inner = error.__cause__ if is_outer else error
    reason = " ".join(str(inner).split())[:MAX_REASON] or type(inner).__name__
    if isinstance(inner, HfHubHTTPError):
        status = inner.response.status_code
    elif isinstance(inner, PermissionError):
        status = 403
    else:
        return f"the hub does not answer: is there a network? ({reason})"
    if status == 401 and writing:
        return "there is no token, or it is not valid (401); `hf auth login` stores one that may write"
    if status == 403 and writing:
        return "the token has no right to write there (403); `hf auth login` stores one that has"
    if status in (401, 403, 404):
        return f"no such repository, or one that needs a token ({status}); `hf auth login` stores a token"
    return f"the hub refuses it ({reason})"
