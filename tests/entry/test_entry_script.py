import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.command import parse_run
from golf.config import fit_to_vocabulary
from golf.data.manifest import open_dataset
from golf.entry.bundle import entry_script
from golf.entry.results import read_scores
from golf.entry.selfextract import pack_script
from golf.entry.specialize import PLUG_POINTS
from golf.presets import PRESETS
from golf.results import NATS_ARRAYS
from tests.golden_run import RUNS, SIZE, figures_of, plain_environment
from tests.tiny_samples import tiny_tokenizer, write_tiny_dataset

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("entry") / "data"
    write_tiny_dataset(folder, tiny_tokenizer(), num_documents=60)
    return folder


@cache
def golden_script(name: str, data: Path) -> str:
    """The script of a golden run's entry."""
    config, vocabulary = parse_run([*SIZE, *RUNS[name]]).config, open_dataset(data).vocabulary
    return entry_script(fit_to_vocabulary(config, config, vocabulary.size, vocabulary.bos_id))


def run_alone(script: bytes, data: Path, *options: str, processes: int = 1) -> tuple[Path, str, int]:
    """The folder in which a script ran, isolated and alone, its output and its exit code."""
    folder = data.parent / f"alone{len(list(data.parent.iterdir()))}"
    folder.mkdir()
    (folder / "train_gpt.py").write_bytes(script)
    alone = [sys.executable, "-I"]
    if processes > 1:
        alone += ["-m", "torch.distributed.run", "--standalone", "--no-python"]
        alone += [f"--nproc_per_node={processes}", sys.executable, "-I"]
    command = [*alone, "train_gpt.py", "--data", str(data), "--device", "cpu", "--eager", *options]
    done = subprocess.run(
        command, cwd=folder, env=plain_environment(), capture_output=True, text=True, check=False
    )
    return folder, done.stdout + done.stderr, done.returncode


def entry_figures(run: Path) -> dict[str, Any]:
    """What a run of an entry's own script came to."""
    return figures_of(run, read_scores(run / "scores.json").stages)


def assert_golden(run: Path, name: str) -> None:
    """An entry does not score the weights before packing; all else is as the whole project has it."""
    found, golden = entry_figures(run), GOLDEN["runs"][name]
    for kind in ("nats_per_token", "tokens", "bytes"):
        golden = golden | {kind: {stage: golden[kind][stage] for stage in NATS_ARRAYS}}
    assert found["nats_per_token"] == pytest.approx(golden["nats_per_token"], abs=1e-3)
    if torch.__version__.split("+")[0] == GOLDEN["torch"]:
        assert found == golden


@pytest.fixture(scope="module")
def seed_run(data: Path) -> Path:
    """The run folder of the seed's own script, which trained, packed and scored alone."""
    folder, said, code = run_alone(golden_script("seed", data).encode(), data)
    assert code == 0, said
    return folder / "run"


def test_an_entry_alone_gives_the_weights_payload_and_scores_of_the_whole_project(seed_run):
    assert_golden(seed_run, "seed")


def test_the_packed_form_of_another_configuration_does_too(data):
    folder, said, code = run_alone(pack_script(golden_script("frontier", data)), data)
    assert code == 0, said
    assert_golden(folder / "run", "frontier")


def test_an_entry_goes_on_with_a_run_that_is_done_and_refuses_an_artifact_of_another(seed_run, data):
    before = entry_figures(seed_run)
    script = (seed_run.parent / "train_gpt.py").read_bytes()
    _, said, code = run_alone(script, data, "--resume", str(seed_run))
    assert code == 0 and "step:" not in said and entry_figures(seed_run) == before
    other = golden_script("frontier", data).encode()
    _, said, code = run_alone(other, data, "--score", str(seed_run / "artifact.bin"))
    assert code == 2 and "artifact" in said


def test_two_processes_of_torchrun_train_an_entry_together(data):
    script = golden_script("seed", data).encode()
    folder, said, code = run_alone(script, data, processes=2)
    assert code == 0, said
    assert "step:12/12" in said and entry_figures(folder / "run")["tokens"].keys() == NATS_ARRAYS.keys()


def test_the_script_is_the_same_each_time_and_has_nothing_that_its_configuration_lacks(data):
    assert golden_script.__wrapped__("seed", data) == golden_script("seed", data)
    text = entry_script(PRESETS["h100-10min"].config)
    for word in (
        "ChunkAdapter",
        "__post_init__(self) -> None:\n        for name, kind",
        "tyro",
        "golf.presets",
    ):
        assert word not in text


def test_tables_of_plug_points_are_plain_dicts_of_the_project():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "golf").rglob("*.py"))
    for name in PLUG_POINTS:
        assert set(re.findall(rf"^{name}\b[^=\n]*= (.)", sources, re.MULTILINE)) <= {"{"}
