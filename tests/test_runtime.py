"""What is chosen is what is there."""

import os

import pytest
import torch

from golf.runtime import (
    DeviceError,
    choose_runtime,
    dtype_name,
    environment,
    keep_compiled_code,
    lone_environment,
    read_world,
)
from golf.world import World


def test_the_cpu_is_always_there_and_runs_eager():
    runtime = choose_runtime("cpu", "float32")
    assert runtime.device.type == "cpu" and runtime.compute_dtype == torch.float32 and not runtime.compiled
    assert "float32" in runtime.describe() and "eager" in runtime.describe()


@pytest.mark.parametrize(("device", "dtype"), [("tpu", "auto"), ("cpu", "int8")])
def test_unknown_names_are_refused(device, dtype):
    with pytest.raises(DeviceError, match="expected auto"):
        choose_runtime(device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_device_names_those_that_are_there():
    with pytest.raises(DeviceError, match="this machine has cpu"):
        choose_runtime("cuda")


def test_the_environment_is_plain_json_values():
    found = environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__ and found["cores"] >= 1
    assert all(isinstance(value, (str, int)) for value in found.values())
    assert dtype_name(torch.bfloat16) == "bfloat16"


def test_compiled_code_is_kept_where_the_user_says_or_else_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


def test_torchrun_tells_a_process_its_place_and_lone_processes_hear_nothing_of_it(monkeypatch):
    assert read_world() == World()
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    assert read_world() == World(rank=3, size=4, local_rank=1, local_size=2)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & lone_environment().keys()
    assert "PATH" in lone_environment()


def test_hardware_of_several_processes_says_how_many():
    assert environment(torch.device("cpu"), World(size=8))["hardware"].startswith("8 x ")


@pytest.mark.parametrize(
    ("asked", "capability", "dtype"),
    [("cuda", (9, 0), torch.bfloat16), ("cuda:1", (8, 6), torch.bfloat16), ("cuda", (7, 5), torch.float32)],
)
def test_a_gpu_computes_in_what_it_has_and_is_the_current_one(monkeypatch, asked, capability, dtype):
    current, cudnn = [], []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", cudnn.append)
    runtime = choose_runtime(asked)
    assert runtime.device == torch.device(asked) and runtime.compute_dtype == dtype and runtime.compiled
    assert current == ([torch.device("cuda:1")] if asked == "cuda:1" else [])
    assert cudnn == [False], "attention under a mask goes to other kernels than cuDNN's"
