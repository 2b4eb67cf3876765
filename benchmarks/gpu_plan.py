"""The options of `benchmarks.gpu`, the machine it is for, and the jobs that it therefore has."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Literal

from benchmarks.gpu_jobs import ROOT, Job, Post

STAGES = ("environment", "data", "tests", "speed", "run", "packing", "fallback", "score", "archive")
MEMORY_BYTES = {"frontier": 40e9, "seed": 16e9, "run": 40e9, "packing": 20e9, "score": 20e9}
"""What a job may take: on an H100 the frontier's pass of 65,536 tokens reserved 20.0 GB (now it has twice as
many) and the seed's 15.0."""
USABLE_MEMORY = 0.945
"""Share of a card's memory that jobs are given; each process has a context beside it."""
ARCHIVE_SECONDS = {"cuda": 12.0, "cpu": 3.0}
"""Kept for the files that are carried home."""
ROWS = (
    ("frontier", 2048, "auto"),
    ("frontier", 1024, "auto"),
    ("seed", 1024, "auto"),
    ("frontier", 2048, "flash"),
    ("frontier", 2048, "fa3"),
    ("seed", 1024, "flash"),
    ("frontier", 1024, "flash"),
)
"""Network, context and attention kernels, in order of worth."""
NUM_FIRST_ROWS = 3
"""Of them those that are compiled and timed before everything else."""
CPU_ROWS = (ROWS[0], ROWS[4])
EXPECTED = {
    "environment": 40, "data": 40, "tests": 100, "speed": 80, "run": 400, "packing": 120, "fallback": 150,
    "score": 60,
}  # fmt: skip
"""Rough seconds of a stage's job on an H100."""
LIMITS = {
    "environment": 120, "data": 200, "tests": 100, "speed": 300, "run": 900, "packing": 300, "fallback": 600,
    "score": 120,
}  # fmt: skip
"""Most seconds of a stage's job."""
TINY_RUN = (
    "--preset cpu --model.num-layers 2 --model.width 32 --model.num-heads 2 --model.num-kv-heads 1 "
    "--model.mlp-hidden 48 --model.context 32 --model.bigram-buckets 64 --model.ngram-buckets 48 "
    "--train.batch-tokens 256 --train.micro-batch-tokens 128 "
    "--train.held-out-tokens 512 --pack.calibration-tokens 512 --ttt.chunk-tokens 4096 "
    "--score.stride 16 --steps 12 --max-tokens 2000"
)


def row_name(network: str, context: int, attention: str) -> str:
    """The job of a row of speeds."""
    return f"speed.{network}-{context}-{attention}"


LATE_ROWS = tuple(row_name(*row) for row in ROWS[NUM_FIRST_ROWS:])
"""Those that compare kernels, for which no run is kept waiting."""


@dataclass(frozen=True)
class Choice:
    """Which stages and rows are asked for; ValueError for a name that is none."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = (*STAGES, *(row_name(*row) for row in ROWS))
        for option, names in vars(self).items():
            for name in names:
                if name not in known:
                    there_are = ", ".join(known)
                    raise ValueError(f"--{option}: no stage is called {name!r}; there are {there_are}")

    def takes(self, job: str) -> bool:
        """Whether a stage, or a job by its name, is asked for."""
        names = {job, job.split(".")[0]}
        return not names & set(self.skip) and (not self.only or bool(names & {*self.only, "archive"}))


@dataclass(frozen=True)
class GpuBenchmark:
    """What to measure, on what text, and for how long."""

    out: Path | None = None
    """Folder for results.jsonl, report.md and what is worth carrying home: at most 8 files of 16 MiB."""
    resume: Path | None = None
    """Such a folder to go on with: runs the stages that have not finished. Only --minutes, --only and --skip
    may stand beside it."""
    minutes: float = 12.0
    """Bound on the whole command."""
    work: Path | None = None
    """Folder for everything else (data, logs, the run); by default `work` in the folder of results."""
    only: str = ""
    """These stages alone, comma-separated; rows of speed by their names, speed.seed-1024-auto. The archive is
    made in any case."""
    skip: str = ""
    """Not these, likewise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU if there is one; cpu is the dry run."""
    text: tuple[Path, ...] = ()
    """Documents to train on: .txt, .jsonl, .jsonl.zst or .parquet files. Without any a GPU takes the
    challenge's shards from the hub, and a CPU Python's help."""
    tokenizer: Path | None = None
    """SentencePiece model to encode the documents with."""
    val_shard: tuple[Path, ...] = ()
    """Shards that are the validation text."""
    val_tokenizer: Path | None = None
    """What they were encoded with, if with another tokenizer."""
    data: Path | None = None
    """A dataset folder that is there already, in place of all these."""
    run_minutes: float | None = None
    """Training of the real run; by default a quarter of --minutes, at most 2.5."""


@dataclass(frozen=True)
class Machine:
    """What the stages are planned for."""

    kind: str
    """cuda or cpu."""
    hardware: str
    memory_bytes: int
    """Of the card; 0 without one."""

    def memory(self, what: str) -> float:
        """The share of the memory that a job takes; all of it without a card, where one goes at a time."""
        if self.kind != "cuda":
            return 1.0
        return min(1.0, MEMORY_BYTES[what] / (USABLE_MEMORY * self.memory_bytes))


class Plan:
    """Where everything lies, and the jobs with their commands."""

    def __init__(self, options: GpuBenchmark, machine: Machine, started: float):
        assert options.out is not None and options.work is not None
        self.options, self.machine = options, machine
        self.out, self.work = options.out, options.work
        self.results = self.out / "results.jsonl"
        self.post = Post(self.work, self.results, "plan", started, machine.hardware)
        self.data = options.data or self.work / "data"
        self.artifact = self.work / "artifact.bin"
        self.on_card = machine.kind == "cuda"

    def jobs(self) -> list[Job]:
        """All jobs in the order in which they are started where several may be."""
        rows = [self.row_job(*row) for row in (ROWS if self.on_card else CPU_ROWS)]
        first, late = rows[:NUM_FIRST_ROWS], rows[NUM_FIRST_ROWS:]
        tests = self.light_job("tests", self.test_command(), after=("environment",))
        jobs = [
            self.light_job("environment", self.module("environment", "benchmarks.gpu_environment")),
            *([] if self.options.data else [self.light_job("data", self.data_command())]),
            *first,
            tests,
            self.run_job("run"),
            *late,
        ]
        packing = Job(
            "packing",
            self.module("packing", "benchmarks.gpu_packing"),
            LIMITS["packing"],
            after=("run",),
            memory=self.machine.memory("packing"),
        )
        return [*jobs, packing, *self.score_jobs(tuple(job.name for job in (*rows, tests)))]

    def light_job(self, name: str, command: list[str], **how: Any) -> Job:
        """A job that takes next to nothing of a card's memory; on a CPU each waits for its turn."""
        return Job(name, command, LIMITS[name], memory=0.0 if self.on_card else 1.0, **how)

    def module(self, name: str, module: str, *arguments: object) -> list[str]:
        """The command of a job that is a module of this project."""
        post = replace(self.post, job=name).arguments()
        return [
            sys.executable,
            "-u",
            "-m",
            module,
            *post,
            "--device",
            self.machine.kind,
            *map(str, arguments),
        ]

    def row_job(self, network: str, context: int, attention: str) -> Job:
        """A row of the table of speeds."""
        name = row_name(network, context, attention)
        how = ["--network", network, "--context", context, "--attention", attention]
        how += [] if self.on_card else ["--seconds", 0.5, "--steps", 3]
        command, memory = self.module(name, "benchmarks.gpu_speed", *how), self.machine.memory(network)
        return Job(name, command, LIMITS["speed"], memory=memory)

    def data_command(self) -> list[str]:
        """Makes the dataset, on all cores."""
        options, prepare = self.options, [sys.executable, "-u", "-m", "golf.prepare"]
        if not options.text and self.on_card:
            return [*prepare, "--source", "challenge", "--train-shards", "2", "--data", str(self.data)]
        files, how = options.text, ["--tokenizer", str(options.tokenizer)]
        if not files:
            files, how = (self.work / "text.jsonl",), ["--vocab-size", "400"]
            with open(files[0], "w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for _, text in sorted(topics.items()))
        command = [*prepare, "--source", "text", "--files", *map(str, files), *how, "--data", str(self.data)]
        command += ["--val-shard", *map(str, options.val_shard)] if options.val_shard else []
        return command + (["--val-tokenizer", str(options.val_tokenizer)] if options.val_tokenizer else [])

    def test_command(self) -> list[str]:
        """The tests that need a GPU; without one they are collected, not run."""
        files = [
            str(path)
            for path in sorted((ROOT / "tests").rglob("test_*.py"))
            if "mark.gpu" in path.read_text(encoding="utf-8")
        ]
        how = ["-m", "gpu", "-v", "-p", "no:cacheprovider", f"--junit-xml={self.junit}"]
        return [
            sys.executable,
            "-u",
            "-m",
            "pytest",
            *how,
            *([] if self.on_card else ["--collect-only"]),
            *files,
        ]

    @property
    def junit(self) -> Path:
        """The file of pytest's results."""
        return self.work / "logs" / "junit.xml"

    def run_folder(self, name: str) -> Path:
        """Where the run of a job writes."""
        return self.work / name.replace(".", "-")

    def run_job(self, name: str, *changes: str) -> Job:
        """A real run, from the data to an entry; one that an earlier call began is gone on with."""
        folder, script = self.run_folder(name), [sys.executable, "-u", str(ROOT / "train_gpt.py")]
        if (folder / "config.json").is_file():
            command = [*script, "--resume", str(folder)]
        else:
            how = ["--preset", "h100-10min", "--minutes", f"{self.run_minutes:g}"]
            how = how if self.on_card else TINY_RUN.split()
            command = [*script, *how, "--data", str(self.data), "--out", str(folder)]
            command += ["--name", "gpu-first-light", "--device", self.machine.kind, *changes]
        limit, memory = LIMITS[name.split(".")[0]], self.machine.memory("run")
        return Job(name, command, limit, self.work, memory=memory)

    @property
    def run_minutes(self) -> float:
        """Minutes of the run's training."""
        given = self.options.run_minutes
        return min(2.5, self.options.minutes / 4) if given is None else given

    def fallback_job(self, number: int) -> Job | None:
        """What is tried where a run left no artifact: other attention, then uncompiled; then nothing."""
        ways = (("fallback.flash", ("--train.attention", "flash")), ("fallback.eager", ("--eager",)))
        if number >= len(ways):
            return None
        name, changes = ways[number]
        if name == "fallback.eager" and self.on_card:
            changes = (*changes, "--minutes", "1")
        return self.run_job(name, *changes)

    def score_jobs(self, after: tuple[str, ...]) -> list[Job]:
        """Scoring, test-time training in both orders and a proof, on a part of the text, where time is left.

        The proof's decoder is isolated, which shows whether the device can be used in an isolation.
        """
        jobs, part = [], ["--max-tokens", "100352" if self.on_card else "2000"]
        ways = {
            "score.plain": ("eval_bpb.py", part),
            "score.ttt": ("ttt.py", part),
            "score.stream": ("ttt.py", [*part, "--method", "lora", "--order", "stream"]),
            "score.prove": ("eval_bpb.py", ["--prove", "--documents", "8" if self.on_card else "1"]),
        }
        for name, (script, options) in ways.items():
            command = [sys.executable, "-u", str(ROOT / script), str(self.artifact), "--data", str(self.data)]
            command += [*options, "--device", self.machine.kind, "--json", str(self.score_file(name))]
            how = {"after": after, "exclusive": True, "memory": self.machine.memory("score")}
            jobs.append(Job(name, command, LIMITS["score"], self.work, **how))
        return jobs

    def score_file(self, name: str) -> Path:
        """Where a job of scoring puts its figures."""
        return self.work / "logs" / f"{name}.json"

    def describe(self, jobs: list[Job]) -> list[str]:
        """The plan in lines, with the seconds that each is expected to take on an H100 and may take here."""
        lines = [f"{self.machine.hardware}, {self.options.minutes:g} minutes, results in {self.out}"]
        if not self.on_card:
            lines.append("no GPU: this is a dry run of tiny shapes, whose figures mean nothing")
        for job in jobs:
            expected = f"about {EXPECTED[job.stage]} s on an H100, at most {LIMITS[job.stage]} s"
            lines.append(f"  {job.name:34}{expected if not job.ended else 'done by an earlier call'}")
        return lines
