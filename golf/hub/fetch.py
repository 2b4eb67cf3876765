"""Local copies of entries and datasets on the Hugging Face hub, in the hub's own cache (HF_HOME).

Only weights, tokenizers, manifests and validation text are fetched. No program is among them, and reading
them executes nothing: an artifact is JSON and numbers, with no pickle.
"""

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from golf.hub.address import HubAddress, HubError, hub_errors, read_address

ARTIFACTS = "artifact*.bin"
COMPANIONS = ("*.model", "*manifest.json", "*fineweb_val_*")
"""What is fetched beside artifacts: in this form of patterns, * matches slashes too."""
MAX_FETCH_BYTES = 1 << 30
"""Of all files together; the challenge's validation text is 124 MB of tokens."""
TIMEOUT_SECONDS = 30.0


def local_path(path: Path) -> Path:
    """`path` itself, or the local copy of what an hf:// address names: a folder, or one file in it.

    HubError for an address that is wrong, a repository without an artifact or with several of which none is
    named, and all errors of the hub. With HF_HUB_OFFLINE set, what was fetched before is used.
    """
    address = read_address(path)
    return path if address is None else fetch(address)


def require_local(path: Path, why: str) -> None:
    """HubError, which says `why`, for an hf:// address."""
    address = read_address(path)
    if address is not None:
        kind = "--repo-type dataset " if address.kind == "dataset" else ""
        revision = f"--revision {address.revision} " if address.revision else ""
        how = f"`hf download {address.repository} {kind}{revision}--local-dir FOLDER`"
        raise HubError(f"{address}: {why}; {how} makes one")


def fetch(address: HubAddress) -> Path:
    """Downloads what is not in the cache yet; errors as `local_path`."""
    from huggingface_hub import HfApi, constants, snapshot_download

    name, kind, revision = address.repository, address.kind, address.revision
    patterns = [*COMPANIONS, str(address.file or ARTIFACTS)]
    with hub_errors(str(address)):
        if not constants.HF_HUB_OFFLINE:
            ask = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
            info = ask(name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            _require_contents(address, list(sizes))
            wanted = [path for path in sizes if any(fnmatchcase(path, pattern) for pattern in patterns)]
            if (num_bytes := sum(sizes[path] for path in wanted)) > MAX_FETCH_BYTES:
                limit = f"at most {MAX_FETCH_BYTES:,} are fetched"
                raise HubError(f"{address}: has {num_bytes:,} bytes of weights and text; {limit}")
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns))
    return folder / address.file if address.file else folder


def _require_contents(address: HubAddress, names: list[str]) -> None:
    """HubError unless a repository holds the one file that the address means."""
    if address.file is not None:
        if str(address.file) not in names:
            raise HubError(f"{address}: the repository has no such file")
    elif address.kind == "dataset":
        if "manifest.json" not in names:
            raise HubError(f"{address}: holds no manifest.json; expected a dataset that was prepared")
    else:
        found = [name for name in names if PurePosixPath(name).match(ARTIFACTS) and "/" not in name]
        if not found:
            raise HubError(f"{address}: holds no artifact; expected artifact.bin or artifact_seed<N>.bin")
        if len(found) > 1:
            raise HubError(f"{address}: holds {', '.join(found)}; give one of them: {address}/{found[0]}")
