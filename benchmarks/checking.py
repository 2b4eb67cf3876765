"""Seconds that `check` takes for 2,596 record folders.

    python -m benchmarks.checking --folders 2596 --workers 2

The folders are generated: half with three logs of 30 to 130 kB, a script and a README, a quarter with a log
that begins with its own source, an eighth with a packed script, an eighth broken in some way.
"""

import base64
import json
import lzma
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from golf.check.check import check_folders, exit_code
from golf.system.device import environment

TOKENS, NUM_BYTES = 62_021_632, 151_080_891
NATS_PER_BPB = 1.68845
"""Nats per token of a bit per byte, at 2.436 bytes per token."""


@dataclass(frozen=True)
class CheckingConfig:
    """What to generate and check."""

    folders: int = 2596
    """Number of folders."""
    workers: int | None = None
    """Processes; by default one a core."""
    seed: int = 0
    """Of the generator."""
    json: Path | None = None
    """Where to write the figures."""


def make_source(rng: random.Random, num_lines: int) -> str:
    """A Python script of so many lines, f-strings and all."""
    lines = ['"""A script."""', "import math", "import torch", "", ""]
    while len(lines) < num_lines:
        name = f"f{rng.randrange(10**6)}"
        lines += [
            f"def {name}(x: torch.Tensor, scale: float = {rng.random():.4f}) -> torch.Tensor:",
            f'    """Block {name}."""',
            f"    y = x @ x.T * scale + math.sqrt({rng.randrange(1, 99)})",
            f"    print(f'val_loss:{{y.mean():.4f}} val_bpb:{{y.std():.4f}} step:{name}')",
            "    return y",
            "",
        ]
    return "\n".join(lines) + "\n"


def make_log(rng: random.Random, seed: int, code_bytes: int, num_steps: int, source: str = "") -> str:
    """A log of the baseline's dialect."""
    bpb = 1.12 + 0.0006 * rng.gauss(0, 1)
    lines = [source, "=" * 100, "Running Python 3.12.3"] if source else []
    lines += [
        f"val_loader:shards pattern=fineweb_val_*.bin tokens:{TOKENS}",
        "train_loader:dataset:fineweb10B_sp1024 train_shards:80",
        "model_params:26829913",
        "world_size:8 grad_accum_steps:1",
        f"seed:{seed}",
    ]
    for step in range(0, num_steps):
        loss = 2.0 + 4.0 / (1 + step)
        scores = [f"train_loss:{loss:.4f}"]
        if step % 50 == 0:
            scores.append(f"val_loss:{loss:.4f} val_bpb:{loss / NATS_PER_BPB:.4f}")
        lines += [f"step:{step * 10}/9000 {text} train_time:{step * 800}ms" for text in scores]
    model_bytes = 15_700_000 + rng.randrange(200_000)
    score = f"val_loss:{bpb * NATS_PER_BPB:.8f} val_bpb:{bpb:.8f}"
    lines += [
        "stopping_early: wallclock_cap train_time:600046ms step:7061/9000",
        f"Code size: {code_bytes} bytes",
        f"Serialized model int6+zstd: {model_bytes} bytes",
        f"Total submission size int6+zstd: {model_bytes + code_bytes} bytes",
        f"final_int6_sliding_window_exact {score} eval_time:72687ms",
    ]
    return "\n".join(lines) + "\n"


def make_folder(folder: Path, rng: random.Random, kind: int) -> None:
    """Writes one folder; `kind` from 0 to 7 picks its form."""
    folder.mkdir(parents=True)
    source = make_source(rng, 1500)
    script = source.encode()
    if kind == 6:
        payload = base64.b85encode(lzma.compress(script))
        script = b"import lzma,base64\nexec(lzma.decompress(base64.b85decode(%r)))\n" % payload
    (folder / "train_gpt.py").write_bytes(script)
    (folder / "README.md").write_text("# A record\n")
    seeds = (42, 1337, 2024) if kind < 4 else (1337,)
    for seed in seeds:
        echoed = source if kind in (4, 5) else ""
        text = make_log(rng, seed, len(source), rng.choice((300, 700, 1500)), echoed)
        (folder / f"train_seed{seed}.log").write_text(text)
    raw = {"name": "x", "author": "x", "github_id": "x", "val_bpb": 1.12, "seeds": list(seeds)}
    (folder / "submission.json").write_text(json.dumps(raw))
    if kind == 7:
        broken = rng.choice(("submission.json", "train_seed1337.log", "train_gpt.py"))
        (folder / broken).write_bytes(rng.randbytes(5000))


def run_command(config: CheckingConfig) -> None:
    """Generates the folders in a temporary place, checks them and prints what that took."""
    rng = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / "track_10min_16mb" / f"{number:05}" for number in range(config.folders)]
        for number, folder in enumerate(folders):
            make_folder(folder, rng, number % 8)
        num_bytes = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        start = time.perf_counter()
        reports = check_folders(folders, config.workers)
        seconds = time.perf_counter() - start
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    levels = Counter(finding.level for report in reports for finding in report.findings)
    figures = {
        "folders": config.folders,
        "megabytes": num_bytes / 1e6,
        "workers": config.workers or os.cpu_count(),
        "wall_seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mebibytes_a_process": usage.ru_maxrss / 1024,
        "findings": dict(levels),
        "exit_code": exit_code(reports),
    }
    say(figures)
    if config.json:
        write_figures(config.json, figures, config, environment(torch.device("cpu")))


def say(figures: dict[str, Any]) -> None:
    """The figures in three lines."""
    print(
        f"{figures['folders']} folders, {figures['megabytes']:.0f} MB, {figures['workers']} processes: "
        f"{figures['wall_seconds']:.1f} s"
    )
    peak = f"at most {figures['peak_mebibytes_a_process']:.0f} MiB a process"
    print(f"{figures['processor_seconds']:.1f} s of processor time, {peak}")
    print(f"{figures['findings']}; exit code {figures['exit_code']}")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("checking", CheckingConfig, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
