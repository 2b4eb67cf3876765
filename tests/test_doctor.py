"""The diagnosis says what is there and what is missing."""

import pytest
import torch

from golf.command import parse_run
from golf.doctor import diagnose, print_diagnosis
from golf.system.log import RunLog


def test_the_table_names_versions_preset_and_datasets(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    rows = {what: (found, therefore) for what, found, therefore in diagnose(tmp_path)}
    assert rows["torch"] == (torch.__version__, "ok")
    assert rows["dataset"] == (str(tmp_path / "mine"), "ready")
    assert rows["default preset"][0] == ("h100-10min" if torch.cuda.is_available() else "cpu")


def test_a_missing_requirement_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("golf.doctor.REQUIRED", ("no-such-package",))
    rows = {what: (found, therefore) for what, found, therefore in diagnose(tmp_path / "absent")}
    assert rows["no-such-package"] == ("missing", "needed: pip install -r requirements.txt")
    assert rows["dataset"][0].startswith("none under")


def test_the_table_is_printed(tmp_path):
    log = RunLog(tmp_path / "run", quiet=True)
    print_diagnosis(log, tmp_path)
    assert "default preset | " in (tmp_path / "run.log").read_text()


def test_a_gpu_that_torch_cannot_use_is_named_and_makes_no_run_on_the_cpu_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("golf.system.device.driver_version", lambda: "535.104")
    rows = {what: (found, therefore) for what, found, therefore in diagnose(tmp_path)}
    assert rows["CUDA"][0] == "unusable" and "driver 535.104" in rows["CUDA"][1]
    assert rows["default preset"][0] == "none" and "--device cpu" in rows["default preset"][1]


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "h100-10min"),
        (["--device", "cuda:1"], "h100-10min"),
        (["--device", "cpu"], "cpu"),
        (["--device=cpu"], "cpu"),
        (["--device", "cpu", "--preset=seed"], "seed"),
    ],
)
def test_the_default_preset_of_a_gpu_machine_is_that_of_the_device(monkeypatch, arguments, preset):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parse_run(arguments).options.preset == preset
