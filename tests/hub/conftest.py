"""A hub on loopback that the real client speaks to, and an entry of real files, both tiny."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from entry_toys import draw_nothing, make_run
from huggingface_hub import constants
from writable_hub import WritableHub

from golf.entry.build import build


@dataclass
class Desk:
    """The hub, and what a user has at hand; do not change the entry."""

    hub: WritableHub
    entry: Path
    run: Path


@pytest.fixture(scope="session")
def made_entry(
    dataset_folder: Path, artifact_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """An entry that brings its validation text along, and the run that it was made of; do not change them."""
    folder = tmp_path_factory.mktemp("project")
    run = make_run(folder / "runs" / "tiny", seed=7, artifact=artifact_path.read_bytes())
    shutil.copy(dataset_folder / "tiny.model", run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("golf.entry.plots.plot_training", draw_nothing)
        entry = build([run], folder / "records", "local")
    shutil.copytree(dataset_folder, entry / "data")
    return entry, run


@pytest.fixture
def desk(made_entry: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The settings that the client reads from its environment when it is imported, and an empty cache."""
    hub = WritableHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # The server speaks large storage by HTTP, not the xet protocol.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    yield Desk(hub, *made_entry)
    hub.close()
