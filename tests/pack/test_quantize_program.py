import dataclasses
import json

import pytest
from test_calibrate import TINY, tiny_batches, tiny_model

from golf.pack.artifact import decode_artifact
from golf.pack.calibrate import calibrate
from golf.pack.layout import count_elements, implied_layout
from golf.presets import PRESETS
from golf.train.checkpoint import save_weights
from quantize import main


@pytest.fixture
def run_folder(tmp_path):
    model = tiny_model()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    header = {"model": dataclasses.asdict(TINY), "compute_dtype": "float32", "tokenizer_sha256": "0" * 64}
    save_weights(tmp_path / "weights.safetensors", weights)
    save_weights(tmp_path / "calibration.safetensors", calibrate(model, tiny_batches(2)).to_tensors())
    (tmp_path / "config.json").write_text(json.dumps({"header": header}))
    (tmp_path / "train_gpt.py").write_text("#" * 1000)
    return tmp_path


def quantize_with(*arguments) -> int:
    return main([*map(str, arguments)])


def test_a_run_is_packed_described_and_drawn(run_folder, capsys):
    figures = run_folder / "figures.json"
    assert quantize_with(run_folder, "--json", figures, "--limit-bytes", 7000) == 0
    report = json.loads(figures.read_text())
    artifact = (run_folder / "artifact.bin").read_bytes()
    assert report["total_bytes"] == 1000 + len(artifact) <= 7000
    decode_artifact(artifact)
    assert {row["name"] for row in report["tensors"]} >= {"embedding.weight", "smear.gate"}
    assert (run_folder / "artifact.png").is_file()
    printed = capsys.readouterr().out
    assert "0.attention.query" in printed and "zstd22" in printed and "would fit" in printed


def test_the_same_run_is_packed_to_the_same_bytes(run_folder):
    artifacts = []
    for _ in range(2):
        assert quantize_with(run_folder, "--limit-bytes", 7000, "--no-compare") == 0
        artifacts.append((run_folder / "artifact.bin").read_bytes())
    assert artifacts[0] == artifacts[1]


def test_the_reference_scheme_packs_too(run_folder):
    assert quantize_with(run_folder, "--pack.scheme", "int5") == 0
    assert decode_artifact((run_folder / "artifact.bin").read_bytes())[0]["scheme"] == "int5"


def test_over_the_limit_is_exit_code_1_with_both_numbers_and_no_file(run_folder, capsys):
    assert quantize_with(run_folder, "--limit-bytes", 1500) == 1
    error = capsys.readouterr().err
    assert "500 are left" in error and "parameters would fit" in error and error.count("\n") == 1
    assert quantize_with(run_folder, "--limit-bytes", 900) == 1
    assert "the code alone is 1,000 bytes; the limit is 900" in capsys.readouterr().err
    assert not (run_folder / "artifact.bin").exists()


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "config.json", "train_gpt.py", "calibration.safetensors"]
)
def test_a_missing_or_broken_file_is_exit_code_2_and_named(run_folder, capsys, name):
    if name != "train_gpt.py":
        (run_folder / name).write_bytes(b"nonsense")
        assert quantize_with(run_folder) == 2
        assert name in capsys.readouterr().err
    (run_folder / name).unlink()
    assert quantize_with(run_folder) == 2
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1


def test_the_size_of_a_preset_is_forecast_before_training(tmp_path, capsys):
    figures = tmp_path / "forecast.json"
    assert quantize_with("--forecast", "--preset", "seed", "--json", figures) == 0
    report = json.loads(figures.read_text())
    assert report["num_weights"] == 26_666_073
    assert 4.5 < report["bits_per_weight_that_fit"] < 4.9
    assert "26,666,073 weights" in capsys.readouterr().out


def test_a_shape_of_ones_own_is_forecast(tmp_path, capsys):
    figures = tmp_path / "forecast.json"
    shape = ("--model.num-layers", "12", "--model.mlp-hidden", "1024")
    assert quantize_with("--forecast", "--preset", "seed", "--json", figures, *shape) == 0
    report = json.loads(figures.read_text())
    model = dataclasses.replace(PRESETS["seed"].config.model, num_layers=12, mlp_hidden=1024)
    assert report["num_weights"] == count_elements(implied_layout(dataclasses.asdict(model)))
    assert "preset seed with another network" in capsys.readouterr().out


def test_a_forecast_says_what_cannot_fit(capsys):
    assert quantize_with("--forecast", "--preset", "seed", "--limit-bytes", "100000") == 1
    assert "none fits" in capsys.readouterr().err


def test_the_last_preset_of_a_command_line_is_taken(capsys):
    assert quantize_with("--forecast", "--preset=seed", "--preset", "cpu") == 0
    assert "preset cpu: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--forecast",),
        ("--forecast", "--preset", "none"),
        ("x", "--preset", "cpu"),
        ("x", "--model.width", "64"),
        ("--forecast", "--preset", "cpu", "--pack.scheme", "int5"),
        ("--forecast", "--preset", "cpu", "--no-compare"),
    ],
)
def test_contradictory_options_are_exit_code_2(arguments, capsys):
    try:
        assert quantize_with(*arguments) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert capsys.readouterr().err
