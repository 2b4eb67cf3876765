import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from golf import entry_main
from golf.command import parse_run
from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import open_dataset
from golf.entry.bundle import entry_script
from golf.entry.results import read_scores
from golf.entry.selfextract import pack_script
from golf.entry.specialize import PLUG_POINTS
from golf.model.config import ModelConfig
from golf.presets import PRESETS
from golf.results import NATS_ARRAYS
from golf.score.tally import Tally
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


def run_alone(
    script: bytes, data: Path, *options: str, processes: int = 1, folder: Path | None = None, **variables: str
) -> tuple[Path, str, int]:
    """The folder in which a script ran, isolated and alone, its output and its exit code.

    With a `folder` the script looks for its data there, as the challenge's does.
    """
    where = [] if folder else ["--data", str(data)]
    if folder is None:
        folder = data.parent / f"alone{len(list(data.parent.iterdir()))}"
        folder.mkdir()
    (folder / "train_gpt.py").write_bytes(script)
    alone = [sys.executable, "-I"]
    if processes > 1:
        alone = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        alone += [f"--nproc_per_node={processes}"]
    command, surroundings = [*alone, "train_gpt.py", *where, *options], plain_environment() | variables
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    return folder, done.stdout + done.stderr, done.returncode


def entry_figures(folder: Path, run_id: str = "seed42") -> dict[str, Any]:
    """What a run of an entry's own script came to."""
    weights, scores = (folder / "logs" / f"{run_id}.{kind}" for kind in ("safetensors", "json"))
    return figures_of(weights, folder / f"final_model_{run_id}.bin", read_scores(scores).stages)


def assert_golden(folder: Path, name: str) -> None:
    """An entry does not score the weights before packing; all else is as the whole project has it."""
    found, golden = entry_figures(folder), GOLDEN["runs"][name]
    for kind in ("nats_per_token", "tokens", "bytes"):
        golden = golden | {kind: {stage: golden[kind][stage] for stage in NATS_ARRAYS}}
    assert found["nats_per_token"] == pytest.approx(golden["nats_per_token"], abs=1e-3)
    if torch.__version__.split("+")[0] == GOLDEN["torch"]:
        assert found == golden


@pytest.fixture(scope="module")
def seed_run(data: Path) -> Path:
    """The folder in which the seed's own script trained, packed and scored alone."""
    folder, said, code = run_alone(golden_script("seed", data).encode(), data)
    assert code == 0, said
    return folder


def test_an_entry_alone_gives_the_weights_payload_and_scores_of_the_whole_project(seed_run):
    assert_golden(seed_run, "seed")


@pytest.mark.slow
def test_the_packed_form_of_another_configuration_does_too(data):
    folder, said, code = run_alone(pack_script(golden_script("frontier", data)), data)
    assert code == 0, said
    assert_golden(folder, "frontier")


def test_an_entry_goes_on_with_a_run_that_is_done_and_refuses_an_artifact_of_another(seed_run, data):
    before = entry_figures(seed_run)
    script = (seed_run / "train_gpt.py").read_bytes()
    _, said, code = run_alone(script, data, "--out", str(seed_run))
    assert code == 0 and "not trained again" in said and "step:" not in said
    assert entry_figures(seed_run) == before
    other = golden_script("frontier", data).encode()
    _, said, code = run_alone(other, data, "--score", str(seed_run / "final_model_seed42.bin"))
    assert code == 2 and "artifact" in said


@pytest.fixture(scope="module")
def challenge(data: Path) -> Path:
    """A folder that is empty but for the challenge's shards and tokenizer."""
    folder = data.parent / "challenge"
    shards, tokenizers = folder / "data/datasets/fineweb10B_sp320", folder / "data/tokenizers"
    tokenizers.mkdir(parents=True)
    shutil.copytree(data, shards, ignore=shutil.ignore_patterns("*.json", "*.model"))
    shutil.copyfile(data / "tiny.model", tokenizers / "fineweb_320_bpe.model")
    return folder


def test_two_processes_of_torchrun_train_an_entry_where_the_challenge_runs_it(data, challenge):
    """Without an option: its variables alone, its layout, and the log and the artifact beside the script."""
    script = golden_script("seed", data).encode()
    variables = {
        "DATA_PATH": "data/datasets/fineweb10B_sp320",
        "TOKENIZER_PATH": "data/tokenizers/fineweb_320_bpe.model",
        "VOCAB_SIZE": "320",
        "SEED": "7",
        "RUN_ID": "ours",
        "MAX_WALLCLOCK_SECONDS": "1.5",
    }
    _, said, code = run_alone(script, data, processes=2, folder=challenge, **variables)
    assert code == 0, said
    assert {path.name for path in challenge.iterdir()} == {
        "data", "logs", "train_gpt.py", "final_model_ours.bin"
    }  # fmt: skip
    log = (challenge / "logs" / "ours.txt").read_text()
    assert "seed 7" in log and "Total submission size: " in log and "ttt_score val_loss:" in log
    scores = json.loads((challenge / "logs" / "ours.json").read_text())
    assert f"val_bpb:{bits_per_byte(scores['stages'][-1]['tally']):.8g}" in log
    assert entry_figures(challenge, "ours")["tokens"].keys() == NATS_ARRAYS.keys()
    # Trained by the clock that was asked for, not by the entry's own 12 steps.
    assert "step:1/" in log and "step:12/12" not in log


def test_an_empty_variable_is_none_and_an_unreadable_one_is_named(monkeypatch, capfd):
    for name in ("SEED", "RUN_ID", "DATA_PATH", "TOKENIZER_PATH", "MAX_WALLCLOCK_SECONDS", "VOCAB_SIZE"):
        monkeypatch.setenv(name, "")
    options = entry_main.parse_arguments([])
    assert (options.seed, options.run_id, options.seconds) == (42, "seed42", 0.0)
    assert entry_main.run_config(options) == entry_main.CONFIG
    monkeypatch.setenv("SEED", "x")
    with pytest.raises(SystemExit) as leaving:
        entry_main.main([])
    assert leaving.value.code == 2 and "argument --seed: invalid int value: 'x'" in capfd.readouterr().err


def bits_per_byte(tally: dict[str, Any]) -> float:
    return Tally(**tally).bits_per_byte


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VOCAB_SIZE", "1024", "VOCAB_SIZE is 1024; the vocabulary of this entry has 320 pieces"),
        ("SEED", str(2**64), f"SEED is {2**64}; expected 0 to 2**63 - 1"),
        ("DATA_PATH", "/", "/: has neither manifest.json"),
        ("RUN_ID", "a\x1b[2J", r"RUN_ID is 'a\x1b[2J'; expected the name of a file"),
        ("RUN_ID", "../up", "RUN_ID is '../up'; expected the name of a file"),
        ("MAX_WALLCLOCK_SECONDS", "nan", "MAX_WALLCLOCK_SECONDS is nan; expected a number of seconds"),
        ("DATA_PATH", "data", "data: has neither manifest.json nor fineweb_train_*.bin"),
        ("TOKENIZER_PATH", "none.model", "none.model: cannot be read"),
    ],
)
def test_an_entry_says_in_one_line_which_variable_it_cannot_follow(
    challenge, monkeypatch, capfd, name, value, says
):
    monkeypatch.chdir(challenge)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry_main, "CONFIG", replace(RunConfig(), model=ModelConfig(vocab_size=320)))
    assert entry_main.main([]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"train_gpt.py: {says}")


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
