"""Scores an entry again, from its folder alone in a fresh process, and compares every figure it states.

The entry's own script is run: verify what you would be willing to run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.manifest import open_dataset
from golf.entry.results import EntryError, read_entry_results, read_json, read_scores
from golf.entry.submission import entry_figures
from golf.pack.fit import LIMIT_BYTES
from golf.results import NATS_ARRAYS, Results, Scores
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte
from golf.system.clock import StageClock
from golf.system.files import write_json
from golf.system.foreign import read_arrays, read_bytes
from golf.system.log import RunLog
from golf.system.stored import flat_fields

MAX_ENTRY_FILE_BYTES = 1 << 28
FLOAT32_BPB = 1e-6
"""How far a score may lie from the stated one where both were made in float32 on a CPU. Under the instruction
sets SSE4, AVX2 and AMX of one processor, the entry of one minute moved by 1.9e-8 by sliding windows and by
1.3e-7 with adapters (16,000 tokens)."""
OTHER_DTYPE_BPB = 1e-3
"""Likewise where one of them was made in bfloat16: processors differed by 2.8e-4 on two documents, an H100 in
bfloat16 and a CPU in float32 by 1.9e-4 on twelve (7,047 tokens, sliding windows)."""
UNVERIFIED = (
    "training and scoring seconds, tokens/s and cost (they belong to the recorded machine)",
    "scores before quantisation (their weights are not in the entry)",
    "README.md and plots (generated from the figures compared here)",
)


@dataclass(frozen=True)
class Comparison:
    """One figure that the entry states, and the same found anew."""

    what: str
    stated: Any
    found: Any
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the two are equal, or as numbers within the tolerance."""
        if isinstance(self.stated, float) and isinstance(self.found, float):
            return abs(self.stated - self.found) <= self.tolerance
        return self.stated == self.found


def verify_entry(
    entry: Path, data_folder: Path, sample: int | None, device: str, log: RunLog
) -> list[Comparison]:
    """Everything an entry states that can be found anew, by file hashes, counts and a fresh scoring.

    `sample` scores that many windows from the start and compares the documents they cover, test-time training
    by document aside. Raises EntryError for a folder that is no entry of this toolkit, or whose script fails;
    ValueError for unfit data.
    """
    files = EntryFolder(entry)
    results = read_entry_results(files.results)
    comparisons = [*_compare_files(files, results), *_compare_submission(files, results)]
    comparisons += _compare_data(data_folder, results)
    for seed, stated in results.items():
        log.info(f"seed {seed}: scoring again in a fresh process")
        limit = stated.quantized.tally.num_tokens if stated.partial else None
        if sample is not None:
            context, stride = stated.quantized.context, stated.quantized.stride
            if sample < 1 or context is None or stride is None:
                raise EntryError(f"cannot sample {sample} windows of {context} tokens by {stride}")
            limit = context + (sample - 1) * stride
        options, adapted = [], stated.stage("test_time_trained")
        if adapted is not None and sample is not None and adapted.windows == "by document":
            log.info(
                "left out of a sample: the test-time-trained score, whose adapters pass from document to "
                "document, so that it takes all of them; without --sample it is compared too"
            )
        elif adapted is not None and adapted.adaptation_stopped_after_tokens is not None:
            log.info(
                f"seed {seed}: the test-time-trained score is not verified: a time limit ended adapting "
                f"after {adapted.adaptation_stopped_after_tokens:,} tokens, which belongs to the machine"
            )
        elif adapted is not None:
            # The limit of the recorded run, which it did not reach, is none of a slower machine's.
            limited = stated.config.get("ttt", {}).get("max_seconds") is not None
            options = ["--ttt", *(["--max-seconds", "1e9"] if limited else [])]
        scores, documents = rescore(entry, seed, data_folder, limit, device, options)
        here = scores.environment.get("device"), scores.compute_dtype
        there = stated.environment.get("device"), stated.scores.compute_dtype
        tolerance = FLOAT32_BPB if here == there == ("cpu", "float32") else OTHER_DTYPE_BPB
        if sample is None:
            comparisons += _compare_scores(seed, stated, scores, tolerance)
        else:
            # The last document of a sample is cut.
            documents = {name: sums_D[:-1] for name, sums_D in documents.items()}
        own = f"_seed{seed}" if len(results) > 1 else ""
        comparisons += _compare_documents(files, seed, own, documents, tolerance)
    return comparisons


def rescore(
    entry: Path, seed: int, data_folder: Path, max_tokens: int | None, device: str, options: list[str]
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Scores and sums by document from the entry's own script, alone in an empty place."""
    with tempfile.TemporaryDirectory() as empty:
        alone = EntryFolder(Path(empty) / "entry")
        alone.path.mkdir()
        for path in entry.iterdir():
            if path.is_file() and not path.is_symlink():
                if path.stat().st_size > MAX_ENTRY_FILE_BYTES:
                    raise EntryError(f"{path} has {path.stat().st_size:,} bytes; no entry has such a file")
                shutil.copyfile(path, alone.path / path.name)
        command = [sys.executable, "-I", alone.script.name, "--score", alone.artifact(seed).name]
        command += ["--data", str(data_folder.resolve()), "--device", device]
        command += ["--json", "figures.json", "--per-document", "documents.npz", *options]
        command += [] if max_tokens is None else ["--max-tokens", str(max_tokens)]
        done = subprocess.run(
            command, cwd=alone, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:500]
            raise EntryError(f"{entry / alone.script.name} --score ended with {done.returncode}: {last}")
        return read_scores(alone.path / "figures.json"), read_arrays(alone.path / "documents.npz")


def print_verification(comparisons: list[Comparison], log: RunLog, json_path: Path | None) -> bool:
    """Prints the scores and every disagreement, writes all of it as JSON; says whether all agree."""
    wrong = [comparison for comparison in comparisons if not comparison.agrees]
    rows = [
        (c.what, c.stated, c.found, f"{c.tolerance:g}", "agrees" if c.agrees else "DIFFERS")
        for c in comparisons
        if not c.agrees or ("bpb" in c.what and not c.what.startswith("submission"))
    ]
    log.table("stated and found", ("figure", "stated", "found", "tolerance", ""), rows)
    log.info(f"{len(comparisons) - len(wrong)} of {len(comparisons)} stated figures agree")
    log.info(f"not verified: {'; '.join(UNVERIFIED)}")
    if json_path:
        figures = [{**asdict(comparison), "agrees": comparison.agrees} for comparison in comparisons]
        write_json(json_path, {"agrees": not wrong, "comparisons": figures, "not_verified": UNVERIFIED})
    return not wrong


def _compare_files(entry: EntryFolder, results: dict[int, Results]) -> Iterator[Comparison]:
    """Sizes and hashes of script and artifacts, the limit, and whose audit the entry shows."""
    audit = read_json(entry.audit) if os.path.lexists(entry.audit) else None
    owners: dict[str, int] = {}
    for seed, run in results.items():
        stated, sizes, hashes = run.packing, {}, {}
        for path in (entry.script, entry.artifact(seed)):
            if not os.path.lexists(path):
                raise EntryError(
                    f"{entry.path} has no {path.name} (sha256 {stated.artifact_sha256}); put it there"
                )
            data = read_bytes(path, MAX_ENTRY_FILE_BYTES)
            sizes[path], hashes[path] = len(data), hashlib.sha256(data).hexdigest()
        code, model = sizes.values()
        code_sha256, artifact_sha256 = hashes.values()
        yield Comparison(f"seed {seed} bytes.code", stated.code_bytes, code)
        yield Comparison(f"seed {seed} bytes.artifact", stated.artifact_bytes, model)
        yield Comparison(f"seed {seed} bytes.total", stated.total_bytes, code + model)
        yield Comparison(f"seed {seed} within {LIMIT_BYTES:,} bytes", True, code + model <= LIMIT_BYTES)
        yield Comparison(f"seed {seed} code_sha256", stated.code_sha256, code_sha256)
        yield Comparison(f"seed {seed} artifact_sha256", stated.artifact_sha256, artifact_sha256)
        owner = owners.setdefault(artifact_sha256, seed)
        yield Comparison(f"seed {seed} artifact is that of seed", seed, owner)
        if audit is not None:
            seeds = audit.get("seeds")
            found = audit if seeds is None else seeds.get(str(seed)) if isinstance(seeds, dict) else None
            if not isinstance(found, dict):
                raise EntryError(f"{entry.audit}: has no audit of seed {seed}")
            yield Comparison(f"seed {seed} audit passed", True, found.get("passed"))
            yield Comparison(f"seed {seed} audit of", stated.artifact_sha256, found.get("artifact_sha256"))


def _compare_submission(entry: EntryFolder, results: dict[int, Results]) -> Iterator[Comparison]:
    """Every figure of submission.json against those computed from results.json."""
    stated = flat_fields(read_json(entry.submission))
    for name, value in flat_fields(entry_figures(list(results.values()))).items():
        tolerance = 1e-12 * abs(value) if isinstance(value, float) else 0.0
        yield Comparison(f"submission {name}", stated.get(name), value, tolerance)


def _compare_data(folder: Path, results: dict[int, Results]) -> Iterator[Comparison]:
    """Whether this is the text that was scored: hashes, tokens, bytes."""
    clock = StageClock()
    with clock.stage("score"):
        dataset = open_dataset(folder)
        tokens = dataset.validation_tokens(clock)
    sha256, tokenizer = hashlib.sha256(tokens.tobytes()).hexdigest(), dataset.vocabulary.sha256
    num_bytes = int(dataset.vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    for seed, stated in results.items():
        data, final = stated.data, stated.final.tally
        yield Comparison(f"seed {seed} validation_sha256", data.validation_sha256, sha256)
        yield Comparison(f"seed {seed} validation_tokens", data.validation_tokens, len(tokens))
        yield Comparison(f"seed {seed} tokenizer_sha256", data.tokenizer_sha256, tokenizer)
        if not stated.partial:
            yield Comparison(f"seed {seed} all tokens scored", final.num_tokens, len(tokens) - 1)
            yield Comparison(f"seed {seed} all bytes scored", final.num_bytes, num_bytes)


def _compare_scores(seed: int, stated: Results, found: Scores, tolerance: float) -> Iterator[Comparison]:
    """Each score that was made again against the one that the entry states."""
    for stage in found.stages:
        there = stated.stage(stage.name)
        if there is None:
            raise EntryError(f"seed {seed}: results.json has no stage {stage.name}, which its script scores")
        where, old, new = f"seed {seed} {stage.title}", there.tally, stage.tally
        nats = tolerance * old.nats_per_token / old.bits_per_byte
        yield Comparison(f"{where} val_bpb", old.bits_per_byte, new.bits_per_byte, tolerance)
        yield Comparison(f"{where} val_loss", old.nats_per_token, new.nats_per_token, nats)
        yield Comparison(f"{where} tokens_scored", old.num_tokens, new.num_tokens)
        yield Comparison(f"{where} bytes_scored", old.num_bytes, new.num_bytes)


def _compare_documents(
    entry: EntryFolder, seed: int, own: str, documents: dict[str, np.ndarray], tolerance: float
) -> Iterator[Comparison]:
    """The documents that were scored whole, against per_document.npz, where a seed's nats end with `own`."""
    covered = len(documents["tokens"])
    if covered < 1:
        raise EntryError("the sample covers no whole document; take more windows")
    stated = {name: array[:covered] for name, array in read_arrays(entry.per_document).items()}
    for name in {"tokens", "bytes"} - stated.keys():
        raise EntryError(f"{entry.per_document} has no array {name!r}")
    of = f"seed {seed} first {covered} documents:"
    for name in ("tokens", "bytes"):
        yield Comparison(f"{of} {name} of each", True, np.array_equal(stated[name], documents[name]))
    num_bytes = int(documents["bytes"].sum())
    for name in NATS_ARRAYS.values():
        if name in documents and name + own in stated:
            sums = [float(nats_D.sum()) for nats_D in (stated[name + own], documents[name])]
            bpb = [bits_per_byte(nats, num_bytes) for nats in sums]
            yield Comparison(f"{of} {name.removesuffix('nats')}bpb", bpb[0], bpb[1], tolerance)
