"""Record folders of every public dialect with a known truth: sound, or with one planted defect.

`sound(number)` and `defective(number)` draw a folder from `number` alone. A folder is one dialect of log
times one style of README, JSON and script, with what sound folders also hold: ablations, a baseline for
comparison, a pretraining log, copies, tables. Lines of logs follow the forms of the public ones.
"""

import base64
import gzip
import json
import lzma
import math
import random
import re
import statistics
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

TOKENS = {"sp1024": 62_021_632, "sp4096": 45_508_608, "sp8192": 40_540_160, "caseops": 47_851_520}
BYTES = 151_078_222
LIMIT = 16_000_000
SEED_SETS = ((42, 1337, 2024), (42, 314, 999), (7, 1337, 2025), (0, 42, 1234), (1337, 1338, 1339))


@dataclass
class Run:
    """What one log states."""

    seed: int
    bpb: float
    model_bytes: int
    code_bytes: int
    vocabulary: str = "sp8192"
    num_bytes: float = BYTES
    """Counted by its scorer, which `val_loss` follows from."""
    tokens: int | None = None
    train_ms: int = 596_014
    eval_seconds: float = 240.0
    world_size: int = 8
    shards: int = 80
    lr: float = 0.022
    gap: float = 0.012
    gain: float = 0.015
    extra: tuple[str, ...] = ()
    """Lines before the end of training."""
    states_tokens: bool = True
    total: tuple[str, ...] | None = None
    """Lines on sizes, instead of the dialect's."""
    cut: bool = False
    """It ends after packing, before any score."""

    @property
    def total_bytes(self) -> int:
        return self.model_bytes + self.code_bytes

    @property
    def num_tokens(self) -> int:
        return self.tokens or TOKENS[self.vocabulary]

    def score(self, bpb: float, digits: int = 8, colon: str = ":") -> str:
        loss = bpb * math.log(2) * self.num_bytes / self.num_tokens
        return f"val_loss{colon}{loss:.{digits}f} val_bpb{colon}{bpb:.{digits}f}"


SOURCE = '''"""Trains a model."""
import math
import os

import numpy as np
import torch


class Hyperparameters:
    seed = int(os.environ.get("SEED", 1337))


def main():
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(10):
        loss = model(torch.zeros(1, 8)).sum()
        loss.backward()
        optimizer.step()
        print(f"step:{step}/10 val_loss:{loss.item():.4f} val_bpb:{loss.item() / 0.69:.4f} total bytes")
    if np.isnan(float(loss)):
        raise RuntimeError("Total submission size: 99999999 bytes")


main()
'''
RULER = "=" * 100
TORCHRUN = "W0407 01:14:18.273000 3814005 site-packages/torch/distributed/run.py:851] "


def sizes(run: Run, codec: str) -> list[str]:
    if run.total is not None:
        return list(run.total)
    return [
        f"Code size: {run.code_bytes} bytes",
        f"Serialized model {codec}: {run.model_bytes} bytes",
        f"Total submission size {codec}: {run.model_bytes + run.code_bytes} bytes",
    ]


def steps(run: Run, start: float = 3.4) -> list[str]:
    lines = [f"step:0/20000 {run.score(start, 4)} train_time:0ms step_avg:0.02ms"]
    for step in (1, 2, 500, 1000, 4000):
        lines.append(
            f"step:{step}/20000 train_loss:{2 + 4 / step:.4f} train_time:{step * 85}ms step_avg:85.0ms"
        )
    lines.append(f"step:{6000 + run.seed}/20000 {run.score(run.bpb + 0.02, 4)} train_time:{run.train_ms}ms")
    lines += run.extra
    lines.append(f"stopping_early: wallclock_cap train_time:{run.train_ms}ms step:{6000 + run.seed}/20000")
    return lines


def head(run: Run) -> list[str]:
    name = {"caseops": "fineweb10B_sp8192_lossless_caps"}.get(run.vocabulary, f"fineweb10B_{run.vocabulary}")
    tokens = f"val_loader:shards pattern=./data/{name}/fineweb_val_*.bin tokens:{run.num_tokens}"
    return [
        "val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/tokenizers/fineweb.model",
        f"train_loader:dataset:{name} train_shards:{run.shards}",
        *([tokens] if run.states_tokens else []),
        "model_params:26829913",
        f"world_size:{run.world_size} grad_accum_steps:1",
        "attention_mode:gqa num_heads:8 num_kv_heads:4",
        f"tie_embeddings:True embed_lr:0.035 head_lr:0.0 matrix_lr:{run.lr} scalar_lr:0.025",
        f"seed:{run.seed}",
        "warmup_step:1/20",
        "warmup_step:20/20",
    ]


def baseline(run: Run) -> str:
    end = [
        "peak memory allocated: 10184 MiB reserved: 10200 MiB",
        "Serialized model: 67224983 bytes",
        f"Code size: {run.code_bytes} bytes",
        f"Total submission size: {67224983 + run.code_bytes} bytes",
        *sizes(run, "int8+zlib")[1 if run.total is None else 0 :],
    ]
    final = [
        f"final_int8_zlib_roundtrip {run.score(run.bpb, 4)} eval_time:{1000 * run.eval_seconds:.0f}ms",
        f"final_int8_zlib_roundtrip_exact {run.score(run.bpb)}",
    ]
    gpu = "|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |"
    lines = [SOURCE, RULER, "Running Python 3.12.3 (main, Nov  6 2024)", "Running PyTorch 2.9.1", gpu, RULER]
    return "\n".join([*lines, *head(run), *steps(run), *end, *([] if run.cut else final)]) + "\n"


def middle(run: Run) -> str:
    ms = 1000 * run.eval_seconds
    final = [
        f"final_int6_roundtrip {run.score(run.bpb + run.gap, 4)} eval_time:23929ms",
        f"final_int6_roundtrip_exact {run.score(run.bpb + run.gap)}",
        f"final_int6_sliding_window {run.score(run.bpb, 4)} stride:64 eval_time:{ms:.0f}ms",
        f"final_int6_sliding_window_exact {run.score(run.bpb)}",
        f"final_int8_zlib_roundtrip_exact {run.score(run.bpb)}",
    ]
    lines = [
        TORCHRUN + "Setting OMP_NUM_THREADS environment variable for each process to be 1",
        "logs/492f8319-609f-4d89-9367-808ffa868821.txt",
        *head(run),
        *steps(run),
        "swa:start step:5600",
        "late_qat:enabled step:5789 scale:0.1499",
        "ema:applying EMA weights",
        f"DIAGNOSTIC post_ema {run.score(run.bpb + 0.02, 4)} eval_time:2078ms",
        "Serialized model: 106355126 bytes",
        "selective_prune: 4226226 candidates, unpruned=15.14MB target=15.9MB",
        *sizes(run, "int6+lzma"),
        *([] if run.cut else final),
    ]
    return "\n".join(lines) + "\n"


def clarkkev(run: Run) -> str:
    final = [
        f"quantized {run.score(run.bpb + run.gap)} eval_time:25515ms",
        f"quantized_sliding_window {run.score(run.bpb + run.gain - 0.014)} eval_time:99000ms",
        f"quantized_ttt {run.score(run.bpb)} eval_time:{1000 * run.eval_seconds:.0f}ms",
    ]
    lines = [
        "Hyperparameters:",
        "  adam_eps: 1e-08",
        f"  logfile: logs/{run.seed}.txt",
        f"  matrix_lr: {run.lr}",
        f"  run_id: run-{run.seed}",
        f"  seed: {run.seed}",
        f"  world_size: {run.world_size}",
        f"train_shards: {run.shards}",
        *([f"val_tokens: {run.num_tokens}"] if run.states_tokens else []),
        "model_params:35944536",
        "gptq:reserving 12s, effective=588000ms",
        f"0/20000 {run.score(3.48, 4, ': ')}",
        f"500/20000 train_loss: 3.3826 train_time: {run.train_ms // 8}ms tok/s: 8000000",
        f"4550/20000 {run.score(run.bpb + 0.02, 4, ': ')}",
        *run.extra,
        f"stopping_early: wallclock_cap train_time: {run.train_ms}ms step: {4000 + run.seed}/20000",
        f"pre-quantization post-ema {run.score(run.bpb + 0.008)} eval_time:7440ms",
        "Serialized model: 135431033 bytes",
        *sizes(run, "quantized+brotli"),
        *([] if run.cut else final),
    ]
    return "\n".join(lines) + "\n"


def phased(run: Run) -> str:
    text = clarkkev(run).replace("quantized_ttt ", "quantized_ttt_phased ")
    code = f"Code size (uncompressed): {3 * run.code_bytes} bytes\n"
    code += f"Code size (compressed): {run.code_bytes} bytes"
    text = text.replace(f"Code size: {run.code_bytes} bytes", code)
    progress = "ttp: b1/782 bl:1.0 bb:1.0912 rl:2.7 rb:1.0912 dl:100-200 gd:0"
    return text + f"{progress}\ntotal_eval_time:{run.eval_seconds:.1f}s\n"


def mlx(run: Run) -> str:
    lines = [
        "run_id:mlx_local",
        "mlx_version:0.31.1",
        *head(run)[1:],
        *steps(run),
        "saved_model:logs/mlx_local_mlx_model.npz bytes:67212188",
        *(
            run.total
            if run.total is not None
            else [
                f"serialized_model_int8_zlib:{run.model_bytes} bytes "
                "(payload:17532160 raw_pickle:17601350 payload_ratio:2.13x)"
            ]
        ),
    ]
    final = [
        f"final_int8_zlib_roundtrip {run.score(run.bpb, 4)} eval_time:{1000 * run.eval_seconds:.0f}ms",
        f"final_int8_zlib_roundtrip_exact {run.score(run.bpb)}",
    ]
    return "\n".join([*lines, *([] if run.cut else final)]) + "\n"


def gdn(run: Run) -> str:
    seconds = run.train_ms / 1000
    lines = [
        TORCHRUN + "*****************************************",
        "=== GDN Hybrid Training ===",
        "Arch: D_GDN_Hybrid (ARCH_MODE=D)",
        f"Seed: {run.seed}, Max steps: 9999, Warmdown: 3000",
        "Train seq_len: 2048, Wallclock budget: 590.0s",
        f"World size: {run.world_size}, Grad accum: 1",
        *([f"Validation tokens: {run.num_tokens:,}"] if run.states_tokens else []),
        "Parameters: {'embedding': 925697, 'recurrent': 13251360, 'total': 33862953}",
        "Total params: 33,862,953",
        "step     1/9999 | loss 6.9346 | lr_mul 0.0500 | mom 0.850 | 0.01 steps/s | 106s",
        "step  1800/9999 | loss 2.1075 | lr_mul 1.0000 | mom 0.950 | 3.12 steps/s | 576s",
        *run.extra,
        f"Stopping early at step {1800 + run.seed % 100} (wallclock limit)",
        f"Training complete in {seconds:.0f}s (1856 steps)",
        "Peak memory: 35750 MiB",
        "=== Applying EMA weights ===",
        f"EMA BPB (no XSA): {run.bpb - 0.009:.6f}",
        "GPTQ: collected hessians for 29 layers",
        *(
            run.total
            if run.total is not None
            else [f"Artifact: {run.model_bytes:,} bytes ({run.model_bytes / 2**20:.2f} MB)"]
        ),
    ]
    final = [f"Quantized BPB (no XSA): {run.bpb:.6f}", "Quantization degradation: +0.009313"]
    return "\n".join([*lines, *([] if run.cut else final)]) + "\n"


def artifact(run: Run) -> str:
    total = run.model_bytes + run.code_bytes
    lines = [
        *head(run),
        *steps(run),
        f"post_ema val_bpb:{run.bpb - 0.004:.6f}",
        *(
            run.total
            if run.total is not None
            else [
                f"code_bytes:{run.code_bytes} model_compressed:{run.model_bytes} total:{total}",
                f"artifact_size_ok:{total < LIMIT}",
            ]
        ),
    ]
    final = [f"legal_ttt {run.score(run.bpb, 4)}", f"legal_ttt_exact {run.score(run.bpb)}"]
    return "\n".join([*lines, *([] if run.cut else final)]) + "\n"


def ternary(run: Run) -> str:
    total = run.model_bytes + run.code_bytes
    stats = f"artifact:{run.model_bytes / 1e6:.2f}MB ternary:24117248(4800000B) fp:1000000(2000000B)"
    lines = [
        *head(run),
        *steps(run),
        *(
            run.total
            if run.total is not None
            else [
                f"{stats} code:{run.code_bytes}",
                f"budget:{total}/{LIMIT} ({total / 1e6:.2f}/16.00MB) FITS",
            ]
        ),
    ]
    final = [
        f"final_ternary_roundtrip {run.score(run.bpb, 4)}",
        f"final_sliding {run.score(run.bpb, 6)} stride:16",
    ]
    return "\n".join([*lines, *([] if run.cut else final)]) + "\n"


def ngram(run: Run) -> str:
    return middle(replace(run, extra=(*run.extra, "ngram_enabled:0 bigram_vocab:10240")))


def prefixed(run: Run) -> str:
    return "\n".join(f"[rank0]: {line}" if "step:" in line else line for line in middle(run).split("\n"))


DIALECTS: dict[str, Callable[[Run], str]] = {
    "baseline": baseline,
    "middle": middle,
    "clarkkev": clarkkev,
    "phased": phased,
    "mlx": mlx,
    "gdn": gdn,
    "artifact": artifact,
    "ternary": ternary,
    "ngram": ngram,
    "prefixed": prefixed,
}
LABELS_PRE_QUANT = ("pre-quant val_bpb", "val_bpb (pre-quantization)", "Pre-quant EMA val_bpb")
LOG_NAMES = (
    "train_seed{seed}.log",
    "train_s{seed}.log",
    "logs/train_seed{seed}.txt",
    "log_seed{seed}.txt",
    "{seed}_seed_log.txt",
    "slurm_seed{seed}_11486.out",
    "runs/seed_{seed}/train.log",
    "train_seed{seed}.log.gz",
)


@dataclass
class Folder:
    """A folder, its files by name, and what is true of it."""

    dialect: str
    runs: list[Run]
    raw: dict[str, object]
    files: dict[str, bytes] = field(default_factory=dict)
    track: str = "track_10min_16mb"
    log_name: str = LOG_NAMES[0]
    defect: str = ""
    """Empty for a sound folder."""
    codes: frozenset[str] = frozenset()
    """Of which one has to be found, as error or warning; the others are true as well."""

    @property
    def mean(self) -> float:
        return statistics.fmean(run.bpb for run in self.runs)

    def log_file(self, run: Run) -> str:
        return self.log_name.format(seed=run.seed)

    def add(self, name: str, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.files[name] = gzip.compress(data, 1) if name.endswith(".gz") else data

    def write(self, parent: Path) -> Path:
        """Writes the folder under `parent` and returns it."""
        folder = parent / self.track / f"2026-04-09_{self.dialect}"
        for run in self.runs:
            if self.log_file(run) not in self.files:
                self.add(self.log_file(run), DIALECTS[self.dialect](run))
        if "submission.json" not in self.files:
            self.add("submission.json", json.dumps(self.raw, indent=2))
        for name, data in self.files.items():
            if data is not GONE:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return folder


GONE = b"\0gone"


def script(rng: random.Random) -> tuple[dict[str, bytes], int]:
    """Files of the script, and the bytes that a log charges for it."""
    padding = "".join(f"# {rng.getrandbits(200):x}\n" for _ in range(rng.choice((200, 400))))
    source = SOURCE + padding
    data = source.encode()
    style = rng.choice(
        ("plain", "plain", "plain", "lzma", "zlib", "raw", "alphabet", "template", "new", "helpers")
    )
    if style == "new":
        source = source.replace('raise RuntimeError("', 'raise RuntimeError(f"{os.environ["SEED"]}')
        data = source.encode()
    if style == "lzma" or style == "new":
        body = base64.b85encode(lzma.compress(data))
        packed = b"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode(%r)))\n" % body
    elif style == "zlib":
        packed = b"import zlib,base64\nexec(zlib.decompress(base64.b64decode(%r)))\n" % base64.b64encode(
            zlib.compress(data, 9)
        )
    elif style == "raw":
        filters = [{"id": lzma.FILTER_LZMA2}]
        body = base64.b85encode(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))
        packed = b"import lzma as L,base64 as B\n" + (
            b'exec(L.decompress(B.b85decode(%r),format=L.FORMAT_RAW,filters=[{"id":L.FILTER_LZMA2}]))\n'
            % body
        )
    elif style == "alphabet":
        number = int.from_bytes(zlib.compress(data, 9), "big")
        text = "".join(
            chr(0x4E00 + (number >> (12 * i)) % 4096) for i in range(number.bit_length() // 12 + 1)
        )
        packed = f"import zlib\nn=0\nfor c in reversed({text!r}):n=n<<12|ord(c)-19968\n".encode()
        packed += b"exec(zlib.decompress(n.to_bytes((n.bit_length()+7)//8,'big')))\n"
    elif style == "template":
        inner = source.replace("torch.", "\u00a7.").encode()
        body = base64.b85encode(lzma.compress(inner))
        packed = b"import lzma as L,base64 as B\n" + (
            b"exec(L.decompress(B.b85decode(%r)).decode().replace('\\u00a7','torch'))\n" % body
        )
    else:
        files = {"train_gpt.py": data}
        if style == "helpers":
            files["train_gpt.py"] = data = b"import helper_ops\n" + data
            files["helper_ops.py"] = b"def norm(x):\n    return x / x.norm()\n"
        return files, len(data)
    charged = rng.choice((len(packed), len(packed), len(data)))
    return {"train_gpt.py": packed}, charged


def readme(rng: random.Random, folder: Folder) -> str:
    mean, runs = folder.mean, folder.runs
    title = f"# Record: a {folder.dialect} model, val_bpb {mean:.4f} ({len(runs)}-seed mean)\n\n"
    if "non" in folder.track:
        title = f"# Non-record: a {folder.dialect} model\n\n"
    before = [run.bpb + (-0.009 if folder.dialect == "gdn" else 0.008) for run in runs]
    rows = [
        f"| {run.seed} | {6000 + run.seed} | {one:.6f} | **{run.bpb:.6f}** | {run.total_bytes:,} |"
        for run, one in zip(runs, before, strict=True)
    ]
    table = "| Seed | Steps | EMA BPB | **Quantized BPB** | Artifact (bytes) |\n|---|---|---|---|---|\n"
    bold = f"**val_bpb = {mean:.4f}** ({len(runs)}-seed mean) | **~15.9 MB** | 8xH100 SXM\n\n"
    metrics = f"| Metric | Value |\n|---|---|\n| {rng.choice(LABELS_PRE_QUANT)} | {before[0]:.4f} |\n"
    metrics += f"| **val_bpb (int6 roundtrip)** | **{runs[0].bpb:.4f}** |\n"
    led = f"{rng.choice(LABELS_PRE_QUANT)}: **{before[0]:.4f}** (step {6000 + runs[0].seed})\n"
    apart = f"## Before quantization\n\nThe averaged weights reach\n\nval_bpb: {before[0]:.4f}\n"
    seeds = ", ".join(str(run.seed) for run in runs)
    prose = f"The baseline's val_bpb is 1.2244. Ours averages {mean:.4f} over seeds {seeds}.\n"
    style = rng.choice((bold + table + "\n".join(rows), metrics, led, apart, prose, prose + metrics, bold))
    return title + style + "\n\n## Run\n\n```\npip install brotli zstandard\ntorchrun train_gpt.py\n```\n"


def submission(rng: random.Random, folder: Folder) -> dict[str, object]:
    runs, mean = folder.runs, folder.mean
    totals = [run.model_bytes + run.code_bytes for run in runs]
    raw: dict[str, object] = {
        "author": "somebody",
        "github_id": "somebody",
        "name": "a record",
        "date": "2026-04-09",
        "track": "non_record_16mb" if "non" in folder.track else "10min_16mb",
        "val_bpb": rng.choice((round(mean, 8), round(mean, 4), round(mean, 5))),
    }
    style = rng.randrange(8)
    by_seed = {str(run.seed): round(run.bpb, 6) for run in runs}
    if style == 0:
        raw |= {
            "seeds": list(map(int, by_seed)),
            "seed_results": {s: {"val_bpb": b} for s, b in by_seed.items()},
        }
        raw |= {"bytes_total": max(totals), "val_bpb_std": round(statistics.pstdev(r.bpb for r in runs), 6)}
    elif style == 1:
        raw |= {"artifact_bytes_max": max(totals), "artifact_bytes_mean": round(statistics.fmean(totals))}
    elif style == 2:
        raw["seed_results"] = [{"seed": run.seed, "val_bpb": round(run.bpb, 6)} for run in runs]
    elif style == 3:
        raw |= {"val_bpb_seeds": by_seed, "seeds": list(map(int, by_seed))}
    elif style == 4:
        raw |= {"artifact_size_mb": round(max(totals) / 1e6, 2), "training_time_ms": runs[0].train_ms}
    elif style == 5:
        raw |= {"bytes_total": f"{max(totals):,}", "wallclock_seconds": 600, "pre_quant_val_bpb": None}
    elif style == 6:
        raw |= {"seeds": {s: {"val_bpb": b} for s, b in by_seed.items()}, "hardware": "8xH100 80GB SXM"}
        raw.pop("github_id")
    if folder.dialect != "gdn" and rng.random() < 0.6:
        losses = [run.bpb * math.log(2) * run.num_bytes / run.num_tokens for run in runs]
        raw["val_loss"] = round(statistics.fmean(losses), 6)
    return raw


def extras(rng: random.Random, folder: Folder) -> None:
    """What sound folders hold besides their runs."""
    write = DIALECTS[folder.dialect]
    one = folder.runs[0]
    worse = replace(one, bpb=one.bpb + 0.05, lr=0.05, model_bytes=one.model_bytes + 4321, train_ms=598_001)
    over = replace(worse, model_bytes=16_300_000)
    for kind in rng.sample(range(10), rng.choice((0, 1, 1, 2))):
        if kind == 0:
            folder.add(f"ablations/no_ema_seed{one.seed}.log", write(worse))
        elif kind == 1:
            folder.add("baseline.log", baseline(replace(worse, seed=1337, bpb=1.2244)))
        elif kind == 2:
            folder.add(f"logs/sweep_lr0.05_seed{one.seed}.txt", write(over))
        elif kind == 3:
            folder.add("train.log", write(one))
        elif kind == 4:
            folder.add(
                "results.tsv", "seed\tval_bpb\n" + "".join(f"{r.seed}\t{r.bpb}\n" for r in folder.runs)
            )
        elif kind == 5:
            folder.add("pretrain.log", "\n".join([*head(one), *steps(replace(one, train_ms=7_000_000))]))
        elif kind == 6:
            folder.add(f"smoke_test_seed{one.seed}.log", write(replace(worse, bpb=2.3, world_size=1)))
        elif kind == 7:
            folder.add("docs/README.md", f"val_bpb: {one.bpb - 0.02:.4f}\n")
        elif kind == 8:
            folder.add("requirements.txt", "brotli\nzstandard\n")
        elif kind == 9:
            last = folder.runs[-1]
            other = replace(worse, seed=last.seed, bpb=last.bpb + 0.04)
            folder.add(f"ablation_qat_seed{last.seed}.log", write(other))


OVER_LINES = (
    "artifact:{m} bytes ({mm:.1f}MB) code:{c} total:{t} bytes",
    "artifact: {mm:.2f}MB code:{c} total:{tt:.2f}MB (OVER 16MB)",
    "Artifact: {mm:.2f}MB + code {ck:.0f}KB = {tt:.2f}MB",
    "Artifact: {m} bytes model + {c} bytes code = {t} total",
    "code_bytes:{c} model_compressed:{m} total:{t}",
    "int6+lzma bytes:{m} code_bytes:{c}",
    "total_submission_bytes:{t}",
    "Total submission size (ptz + code): {t} bytes ({tt:.3f} MB)",
    "compressed_blob_bytes:{m} code_bytes:{c} total:{t}",
    "Compressed model: {m:,} bytes\nCode size: {c:,} bytes\nTotal artifact: {t:,} bytes",
    "compressed_model:{m} bytes\ncode:{c} bytes\ntotal_artifact:{t} bytes",
    "Code size:      {c:>12,} bytes\nModel size:     {m:>12,} bytes\nTotal size:     {t:>12,} bytes",
    "Compressed model (zstd): {m:,} bytes ({mm:.2f} MB)\nCode size: {c:,} bytes",
    "Artifact size: {tt:.2f} MB\nWithin 16MB limit: False",
    "Serialized model quantized+brotli: {m} bytes\nCode size: {c} bytes",
    '  "artifact_bytes": {m},\n  "total_bytes": {t},',
    "Submission size: {t_} bytes",
    "final_artifact_bytes={big}",
    "artifact {big:,} bytes exceeds the limit of 16,000,000",
    "Total: {t:,} bytes ({tm:.2f} MiB)",
    "size check: submission_bytes={t} limit=16000000 ok=False",
    "size_check: mixed_quant={m} code={c} total={t} limit=16000000",
    "sz:m={m} c={c} t={t}({tt:.2f}M)",
    "sizes:m={m} c={c} t={t} ({tt:.2f} MB)",
    "WARNING: Total size {t} exceeds 16MB limit by 12468 bytes!",
    "Model bytes: {m:,}  Total: {t:,}  OVER 16MB",
    "ternary_artifact: zlib:{m} code:{c} total:{t} ({tt:.2f}MB) OVER",
    "  Artifact: {mm:.2f}MB, code: {ck:.1f}KB\n  Budget: {tt:.2f}/16.00MB OVER",
    "  Model: {m} bytes ({mk:.0f}KB)\n  Total: {t} bytes ({tm:.1f}MB)\n  Status: OVER BUDGET",
    "int6+zstd code:{c} model:{m} total:{t} limit:16000000 OVER!",
    "TOTAL ARTIFACT: {t} bytes OVER 16MB!",
    "model_bytes:      {m}\ncode_bytes:       {c}\ntotal_bytes:      {t}",
    "quantized:logs/run_model.int8.ptz bytes:{m} ratio:3.91\nCode size: {c} bytes",
    "Quantized+compressed (zstd): {m} bytes\nTotal submission: {t} bytes",
    "Quantized model (zstd): {m} bytes (payload:17532160 ratio:3.91x)\nCode size: {c} bytes",
    "artifact_too_big: total=16900123 bump K_MATRIX -> 3.50 (attempt 1)\nARTIFACT: {t} bytes ({tt:.3f} MB)",
    "budget_ok:False",
)


def format_sizes(line: str, model: int, code: int) -> tuple[str, ...]:
    total = model + code
    text = line.format(
        m=model, c=code, t=total, mm=model / 1e6, ck=code / 1e3, mk=model / 1024, tt=total / 1e6,
        tm=total / 2**20, big=total, t_=f"{total:_}",
    )  # fmt: skip
    return tuple(text.split("\n"))


def sound(number: int) -> Folder:
    """A sound folder, drawn from its number."""
    rng = random.Random(number)
    dialect = rng.choice(list(DIALECTS))
    vocabulary = rng.choice(list(TOKENS)) if dialect not in ("baseline", "mlx") else "sp1024"
    files, code_bytes = script(rng)
    bpb = {"sp1024": 1.12, "sp4096": 1.1, "sp8192": 1.08, "caseops": 1.06}[vocabulary] + 0.01 * rng.random()
    seeds = rng.choice(SEED_SETS)
    runs = [
        Run(
            seed=seed,
            bpb=round(bpb + 0.0007 * rng.gauss(0, 1), 8),
            model_bytes=15_600_000 + rng.randrange(300_000),
            code_bytes=code_bytes,
            vocabulary=vocabulary,
            train_ms=rng.choice((588_047, 596_014, 599_910, 600_033)) + rng.randrange(50),
            eval_seconds=rng.choice((72.0, 240.5, 508.8)),
        )
        for seed in seeds
    ]
    if rng.random() < 0.5:
        fitting = [line for line in OVER_LINES if not re.search("OVER|exceeds|False", line)]
        line = rng.choice(fitting)
        runs = [replace(run, total=format_sizes(line, run.model_bytes, run.code_bytes)) for run in runs]
    folder = Folder(dialect, runs, {}, dict(files), log_name=rng.choice(LOG_NAMES))
    if dialect == "mlx" or rng.random() < 0.15:
        folder.track = "track_non_record_16mb"
        folder.runs = [replace(run, train_ms=6_400_210, world_size=1) for run in runs[:1]]
    folder.raw = submission(rng, folder)
    folder.add("README.md", readme(rng, folder))
    extras(rng, folder)
    return folder


Plant = Callable[[random.Random, Folder], None]
DEFECTS: dict[str, tuple[Plant, tuple[str, ...]]] = {}
"""By kind: what plants it, and the codes of which one shows it."""


def plants(*codes: str, name: str = "") -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        DEFECTS[name or plant.__name__] = plant, codes
        return plant

    return register


def each(folder: Folder, **changes: object) -> None:
    folder.runs = [replace(run, **{"total": None} | changes) for run in folder.runs]  # type: ignore[arg-type]


def some(rng: random.Random, folder: Folder, **changes: object) -> None:
    index = rng.randrange(len(folder.runs))
    each(folder)
    folder.runs[index] = replace(folder.runs[index], **changes)  # type: ignore[arg-type]


SIZE = ("size-over-limit", "size-claimed-over-limit", "size-says-fits", "size-unsupported")


def over_lines(rng: random.Random, run: Run) -> tuple[str, ...]:
    model = rng.choice((15_990_123, 16_040_321, 16_390_777, 17_820_001))
    return format_sizes(rng.choice(OVER_LINES), max(model, 16_110_001 - run.code_bytes), run.code_bytes)


@plants(*SIZE)
def size_in_all(rng: random.Random, folder: Folder) -> None:
    each(folder, model_bytes=16_000_000 + rng.choice((1_200, 24_793, 370_000, 1_500_000)))


@plants(*SIZE)
def size_in_one(rng: random.Random, folder: Folder) -> None:
    some(rng, folder, model_bytes=16_000_000 + rng.choice((1_200, 24_793, 370_000)))


@plants(*SIZE)
def size_in_other_words(rng: random.Random, folder: Folder) -> None:
    folder.runs = [replace(run, total=over_lines(rng, run)) for run in folder.runs]


@plants(*SIZE)
def size_in_other_words_in_one(rng: random.Random, folder: Folder) -> None:
    run = folder.runs[-1]
    folder.runs[-1] = replace(run, total=over_lines(rng, run))


@plants(*SIZE)
def size_in_a_further_seed(rng: random.Random, folder: Folder) -> None:
    first = folder.runs[0]
    run = replace(first, seed=5555, model_bytes=16_200_000, bpb=first.bpb + 0.0003, total=None)
    folder.add(folder.log_file(run), DIALECTS[folder.dialect](run))


@plants(*SIZE)
def size_in_the_json(rng: random.Random, folder: Folder) -> None:
    folder.raw[rng.choice(("bytes_total", "artifact_bytes", "total_bytes", "artifact_size_bytes"))] = (
        16_234_567
    )


@plants(*SIZE)
def size_of_a_seed_in_the_json(rng: random.Random, folder: Folder) -> None:
    sizes_by_seed = {str(run.seed): 15_900_000 + 60_000 * i for i, run in enumerate(folder.runs, 1)}
    folder.raw["artifact_bytes_seeds"] = sizes_by_seed | {str(folder.runs[0].seed): 16_044_000}


IMPLIED = ("implied-bytes", "bytes-per-token", "partial-validation", "other-text")


@plants(*IMPLIED)
def bytes_wrong(rng: random.Random, folder: Folder) -> None:
    each(folder, num_bytes=1e6 * rng.choice((157.3, 182.8, 159.5, 186.2, 164.6, 174.3, 192.6, 201.6, 155.77)))


@plants(*IMPLIED)
def space_twice(rng: random.Random, folder: Folder) -> None:
    each(folder, num_bytes=BYTES * rng.uniform(1.17, 1.182), states_tokens=rng.random() < 0.4)


@plants(*IMPLIED)
def space_twice_in_the_json_alone(rng: random.Random, folder: Folder) -> None:
    ratio = rng.choice((4.39, 4.375, 2.8605, 3.89))
    for run in folder.runs:
        text = DIALECTS["gdn"](replace(run, states_tokens=False))
        folder.add(folder.log_file(run), text)
    folder.raw["val_loss"] = round(folder.mean * math.log(2) * ratio, 5)


TWICE = """
def build_luts(sp, vocab_size):
    for i in range(vocab_size):
        piece = sp.id_to_piece(i)
        if piece.startswith("\\u2581"):
            has_space[i] = True
            base_bytes[i] = len(piece[1:].encode("utf-8")) + 1


def count(tgt, prev):
    tb = base_bytes_lut[tgt]
    tb += (has_leading_space_lut[tgt] & ~is_boundary_token_lut[prev])
    return tb
"""


@plants(*IMPLIED)
def space_twice_in_the_script_alone(rng: random.Random, folder: Folder) -> None:
    folder.dialect = "gdn"
    folder.raw.pop("val_loss", None)
    name = rng.choice(("train_gpt.py", "train_gdn_7k.py"))
    folder.files.setdefault("train_gpt.py", SOURCE.encode())
    folder.add(name, SOURCE.replace("def main():", TWICE + "\n\ndef main():"))


@plants(*IMPLIED)
def part_of_the_text(rng: random.Random, folder: Folder) -> None:
    tokens, num_bytes = rng.choice(
        ((9_662_464, 29_900_000), (3_000_000, 11_100_000), (36_600_000, 126_400_000))
    )
    each(folder, tokens=tokens, num_bytes=num_bytes)


@plants(*IMPLIED)
def bits_per_token(rng: random.Random, folder: Folder) -> None:
    each(folder, num_bytes=folder.runs[0].num_tokens, bpb=3.5)
    folder.raw["val_bpb"] = 3.5


CRASHES = (
    'Traceback (most recent call last):\n  File "train_gpt.py", line 9, in <module>\nRuntimeError: shape',
    '[rank0]: Traceback (most recent call last):\n[rank0]:   File "train_gpt.py", line 9, in <module>\n'
    "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB.",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n=====\ntrain_gpt.py FAILED",
    "RuntimeError: Expected all tensors to be on the same device",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "Killed",
    "/bin/bash: line 12:  4711 Killed                  torchrun --nproc_per_node=8 train_gpt.py",
    "[rank3]:[E407 01:14 ProcessGroupNCCL.cpp:632] [Rank 3] Watchdog caught collective operation timeout",
    "Segmentation fault (core dumped)",
    "slurmstepd: error: *** JOB 11486 ON node3 CANCELLED AT 2026-04-07T01:14:18 DUE TO TIME LIMIT ***",
    "E0407 01:14:18.273000 77 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1)",
    "terminate called after throwing an instance of 'c10::DistBackendError'",
    "ModuleNotFoundError: No module named 'flash_attn_interface'",
    "[rank0]: KeyError: 'bigram.embed.weight'",
    "KeyboardInterrupt",
)


@plants("traceback")
def crash_before_the_score(rng: random.Random, folder: Folder) -> None:
    some(rng, folder, extra=tuple(rng.choice(CRASHES).split("\n")))


@plants("traceback")
def crash_after_the_score(rng: random.Random, folder: Folder) -> None:
    run = folder.runs[-1]
    folder.add(folder.log_file(run), DIALECTS[folder.dialect](run) + rng.choice(CRASHES) + "\n")


@plants("traceback")
def crash_in_a_log_of_its_own(rng: random.Random, folder: Folder) -> None:
    run = folder.runs[0]
    text = "\n".join([*head(run), *(steps(run)[:4] if rng.random() < 0.5 else []), rng.choice(CRASHES)])
    folder.add(
        rng.choice(("crash.log", "nohup.out", "logs/first_attempt.txt", "stderr.err", "run2_seed42.txt")),
        text,
    )


SCRIPT = ("no-script", "script-name")


@plants(*SCRIPT)
def script_absent(rng: random.Random, folder: Folder) -> None:
    for name in [name for name in folder.files if name.endswith(".py")]:
        del folder.files[name]
    if rng.random() < 0.2:
        del folder.files["README.md"]
    if rng.random() < 0.5:
        name = rng.choice(("train_gpt.txt", "train_gpt.py.txt", "notebook.ipynb", "run.sh"))
        folder.add(name, SOURCE if "gpt" in name else "{}")


@plants(*SCRIPT)
def script_helpers_alone(rng: random.Random, folder: Folder) -> None:
    script_absent(random.Random(1), folder)
    folder.files.setdefault("README.md", b"# A record\n")
    helper = 'import json\n\nrows = json.load(open("results.json"))\nprint(sum(rows) / len(rows))\n'
    for name in rng.sample(
        ("summarize.py", "plot.py", "tokenizer_info.py", "prepare_data.py"), rng.choice((1, 2))
    ):
        folder.add(name, helper)


@plants(*SCRIPT)
def script_in_a_subfolder(rng: random.Random, folder: Folder) -> None:
    script_absent(random.Random(1), folder)
    folder.files.setdefault("README.md", b"# A record\n")
    folder.add(f"{rng.choice(('src', 'code', 'old'))}/train_gpt.py", SOURCE)


@plants(*SCRIPT)
def script_blank(rng: random.Random, folder: Folder) -> None:
    script_absent(random.Random(1), folder)
    folder.files.setdefault("README.md", b"# A record\n")
    folder.add("train_gpt.py", rng.choice(("", "# see the root\n", '"""Placeholder."""\n', "pass\n")))


@plants("no-submission", "json-invalid")
def json_absent_or_broken(rng: random.Random, folder: Folder) -> None:
    broken = ('{"val_bpb": 1.08,}', "\ufeff{}", '{"val_bpb": 1.08', "")
    folder.files["submission.json"] = GONE if rng.random() < 0.4 else rng.choice(broken).encode()


@plants("no-log")
def log_absent(rng: random.Random, folder: Folder) -> None:
    folder.files = {n: d for n, d in folder.files.items() if not n.endswith((".log", ".txt", ".out", ".gz"))}
    folder.files |= {folder.log_file(run): GONE for run in folder.runs}


@plants("no-readme")
def readme_absent(rng: random.Random, folder: Folder) -> None:
    folder.files["README.md"] = GONE


@plants("json-no-score")
def score_absent(rng: random.Random, folder: Folder) -> None:
    folder.raw["val_bpb"] = rng.choice((None, "pending", -1, 0))


@plants("score-unsupported", "json-of-another-run")
def score_of_nothing(rng: random.Random, folder: Folder) -> None:
    folder.raw["val_bpb"] = round(folder.mean - rng.choice((0.0164, 0.031, 0.09)), 4)


@plants("score-pre-quantisation", "score-earlier-stage")
def score_before_quantization(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle", "artifact"))
    offset = {"clarkkev": 0.008, "middle": 0.02, "artifact": -0.004}[folder.dialect]
    folder.raw["val_bpb"] = round(folder.mean + offset, 4)
    folder.raw.pop("val_loss", None)


@plants("score-one-seed")
def score_of_the_best_seed(rng: random.Random, folder: Folder) -> None:
    folder.runs = [replace(run, bpb=run.bpb + 0.004 * i) for i, run in enumerate(folder.runs)]
    folder.raw = {k: v for k, v in folder.raw.items() if not k.startswith(("seed", "val_bpb_s", "val_loss"))}
    folder.raw["val_bpb"] = min(run.bpb for run in folder.runs)


@plants("train-over-budget")
def training_too_long(rng: random.Random, folder: Folder) -> None:
    folder.track = "track_10min_16mb"
    each(folder, train_ms=rng.choice((601_800, 612_000, 900_100)))


@plants("eval-over-budget")
def evaluation_too_long(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("baseline", "clarkkev", "phased"))
    each(folder, eval_seconds=rng.choice((617.0, 688.2, 2760.0)))


@plants("seeds-differ-code")
def other_code_in_one(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("baseline", "clarkkev", "middle"))
    some(rng, folder, code_bytes=folder.runs[0].code_bytes + 36)


@plants("seeds-differ-config")
def other_settings_in_one(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle", "artifact"))
    some(rng, folder, lr=0.031)


@plants("seed-missing")
def seed_without_log(rng: random.Random, folder: Folder) -> None:
    folder.raw["seeds"] = [*(run.seed for run in folder.runs), 77]
    folder.raw.pop("seed_results", None)


@plants("seed-twice")
def one_run_twice(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle", "baseline"))
    run = folder.runs[0]
    folder.runs[1] = replace(run, seed=folder.runs[1].seed)
    text = DIALECTS[folder.dialect](run)
    for old, new in (("seed:", "seed:"), ("  seed: ", "  seed: ")):
        text = text.replace(f"{old}{run.seed}\n", f"{new}{folder.runs[1].seed}\n")
    folder.add(folder.log_file(folder.runs[1]), text)


@plants("script-syntax")
def script_broken(rng: random.Random, folder: Folder) -> None:
    script_absent(random.Random(1), folder)
    folder.files.setdefault("README.md", b"# A record\n")
    broken = ("def f(:\n", "\n    x = = 1\n", "\nreturn x y\n", "\u2014 a dash\n")
    folder.add("train_gpt.py", SOURCE + rng.choice(broken))


@plants("script-import")
def module_absent(rng: random.Random, folder: Folder) -> None:
    script_absent(random.Random(1), folder)
    folder.files.setdefault("README.md", b"# A record\n")
    name = rng.choice(("env_utils", "prepare_pgolf", "context_features", "my_kernels"))
    folder.add("train_gpt.py", f"import {name}\n{SOURCE}")


@plants("score-pre-quantisation")
def readme_leads_before_quantization(rng: random.Random, folder: Folder) -> None:
    folder.dialect = "clarkkev"
    folder.add("README.md", f"# Mine\n\nval_bpb: **{folder.runs[0].bpb + 0.008:.4f}**\n")


@plants("size-says-fits")
def over_and_called_fitting(rng: random.Random, folder: Folder) -> None:
    each(folder, total=("Total submission size: 17,000,000 bytes (under 16MB: OK)",))


@plants("score-not-finite")
def score_nan(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "baseline"))
    some(rng, folder, bpb=math.nan)


@plants("no-final-score")
def no_score_of_the_artifact(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle", "baseline"))
    each(folder, cut=True)


@plants("train-val-overlap")
def trained_on_validation(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle"))
    each(folder, shards=1499)


@plants("hardware")
def other_machine(rng: random.Random, folder: Folder) -> None:
    folder.track = "track_10min_16mb"
    each(folder, world_size=rng.choice((1, 2, 4)))


@plants("vocab-mismatch")
def other_vocabulary(rng: random.Random, folder: Folder) -> None:
    each(folder, extra=("WARNING: VOCAB_SIZE=1024 != tokenizer vocab_size=8192",))


@plants("ngram-cache", "gain-too-large")
def hashed_cache(rng: random.Random, folder: Folder) -> None:
    each(folder, extra=("ngram_cache: hits=7612859/7754688 (98.2%) alpha=0.2 order=5",))


@plants("gain-too-large")
def gain_too_large(rng: random.Random, folder: Folder) -> None:
    folder.dialect = rng.choice(("clarkkev", "middle"))
    each(folder, gap=0.2)


@plants("size-measured-over-limit")
def weights_over(rng: random.Random, folder: Folder) -> None:
    folder.add("final_model.int6.ptz", b"x" * 16_000_100)


def defective(number: int) -> Folder:
    """A folder with one planted defect, drawn from its number; kinds come in turn."""
    kinds = list(DEFECTS)
    kind = kinds[number % len(kinds)]
    rng = random.Random(number)
    drawn = (sound(10_000 + 100 * number + attempt) for attempt in range(100))
    usable = (f for f in drawn if "non" not in f.track and (f.dialect != "gdn" or kind not in NEEDS_LOSS))
    folder = next(usable)
    plant, codes = DEFECTS[kind]
    plant(rng, folder)
    return replace(folder, defect=kind, codes=frozenset(codes))


NEEDS_LOSS = {"bytes_wrong", "space_twice", "part_of_the_text", "bits_per_token"}
