"""What is chosen is what is there."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from golf import entry_short
from golf.system import device as runtime_module
from golf.system.device import (
    DeviceError,
    choose_runtime,
    dtype_name,
    env_without_torchrun,
    environment,
    keep_compiled_code,
    query_gpu,
    read_world,
    scoring_dtype,
)
from golf.system.distributed import World

ROOT = Path(__file__).parents[2]


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
    # PyPI's CUDA builds have their CUDA in torch's own version alone: 2.11.0+cu130 is installed as 2.11.0.
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0] and found["cores"] >= 1
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
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & env_without_torchrun().keys()
    assert "PATH" in env_without_torchrun()


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


UNUSABLE = [
    (None, None, "it is a CPU build"),
    ("13.0", None, "it is built for CUDA 13.0"),
    ("13.0", "0", "it is built for CUDA 13.0"),
    ("13.0", "", "CUDA_VISIBLE_DEVICES is ''"),
    ("13.0", "-1", "CUDA_VISIBLE_DEVICES is '-1'"),
]


@pytest.mark.parametrize("choose", [choose_runtime, entry_short.choose_runtime], ids=["whole", "entry"])
@pytest.mark.parametrize(("built", "hidden", "reason"), UNUSABLE)
def test_a_gpu_that_torch_cannot_use_is_never_left_for_the_cpu_in_silence(
    monkeypatch, built, hidden, reason, choose
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(runtime_module, "driver_version", lambda: "535.104")
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=rf"driver 535\.104.*{reason}.*--device cpu"):
            choose(device)
    assert choose("cpu").device.type == "cpu"
    monkeypatch.setattr(runtime_module, "driver_version", lambda: None)
    assert choose("auto").device.type == "cpu"


def test_the_first_gpu_is_asked_for_through_nvidia_smi_and_its_failures_are_no_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpu("name", "driver_version") == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n/bin/echo 'H100, 580.1'\n/bin/echo 'H200, 580.1'\n")
    program.chmod(0o755)
    assert query_gpu("name", "driver_version") == ["H100", "580.1"]
    program.write_text("#!/bin/sh\n/bin/echo 'no devices were found'\nexit 6\n")
    assert query_gpu("name", "driver_version") == []


def test_a_gpu_without_a_c_compiler_is_told_of_before_the_clock_starts(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: None)
    monkeypatch.setattr(runtime_module.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match=r"neither gcc nor clang.*--eager"):
        choose_runtime("auto")
    assert not choose_runtime("auto", eager=True).compiled


def test_a_torch_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu128")
    with pytest.raises(DeviceError, match=r"torch is 2\.7\.1\+cu128; at least 2\.8 is needed"):
        choose_runtime("cpu")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_cpu_alone_scores_in_another_dtype_than_it_was_trained_in(device):
    assert scoring_dtype(torch.device("cpu"), torch.bfloat16) is torch.float32
    assert scoring_dtype(torch.device(device), torch.bfloat16) is torch.bfloat16


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU's compiled code needs g++")
def test_compiled_code_of_other_attention_kernels_is_not_taken_from_the_cache(tmp_path):
    """AOTAutograd's key leaves the kernels out (pytorch #185449): the tag must make the difference."""
    script = """
import sys, torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch._dynamo.utils import counters
from golf.model.kernels import attention_kernels
from golf.system.device import tag_compiled_code
torch._functorch.config.enable_autograd_cache = True
tag_compiled_code((sys.argv[1],) if sys.argv[2] == "tagged" else ())
q = torch.randn(1, 2, 16, 8, requires_grad=True)
def attend(q):
    return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sin()
with attention_kernels((sys.argv[1],)):
    torch.compile(attend, fullgraph=True)(q).sum().backward()
print(counters["aot_autograd"]["autograd_cache_hit"])
"""
    env = env_without_torchrun() | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def hits(kernels: str, tagged: str) -> int:
        command = [sys.executable, "-c", script, kernels, tagged]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    assert hits("flash", "tagged") == 0
    assert hits("flash", "tagged") == 1, "the same kernels are taken from the cache"
    assert hits("math", "tagged") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such call")
def test_a_process_that_was_told_so_ends_with_its_parent():
    parent = """
import subprocess, sys, time
from golf.system.device import end_with_parent
child = subprocess.Popen(["sleep", "60"], preexec_fn=end_with_parent())
print(child.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    os.kill(child, 0)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
