"""Scores an entry again and compares every figure it states.

The verifier owns the scorer and the text: this project's code scores the artifact, and the entry's own
script, which could print anything, is run isolated after that and must print the same.
"""

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.audit.isolate import Limits, Outcome, choose_mechanism, run_isolated, run_project
from golf.data.manifest import open_dataset
from golf.data.reference import LIMIT_BYTES
from golf.entry.results import EntryError, read_entry_results, read_json, read_scores
from golf.entry.submission import entry_figures
from golf.results import NATS_ARRAYS, Results, Scores, Stage
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte
from golf.system.clock import StageClock
from golf.system.files import write_json
from golf.system.foreign import MAX_ARRAYS_BYTES, MAX_JSON_BYTES, read_arrays, read_bytes, read_text
from golf.system.log import RunLog
from golf.system.stored import flat_fields

MAX_ENTRY_FILE_BYTES = 1 << 28
MAX_README_BYTES = 1 << 22
MAX_SCRATCH_BYTES = 1 << 31
"""Of what a script writes."""
MAX_SCORE_SECONDS = 86_400.0
MIN_SCRIPT_SECONDS, SCRIPT_TIMES_OWN = 120.0, 20.0
"""How long an entry's script may take: so many seconds, and this multiple of what this project's code
took."""
_FIGURES, _DOCUMENTS = "figures.json", "documents.npz"
_OUTPUTS = {_FIGURES: MAX_JSON_BYTES, _DOCUMENTS: MAX_ARRAYS_BYTES}
FLOAT32_BPB = 1e-6
"""How far a score may lie from the stated one where both were made in float32 on a CPU. Under the instruction
sets SSE4, AVX2 and AMX of one processor, the entry of one minute moved by 1.9e-8 by sliding windows and by
1.3e-7 with adapters (16,000 tokens)."""
OTHER_DTYPE_BPB = 1e-3
"""Likewise where one of them was made in bfloat16: processors differed by 2.8e-4 on two documents, an H100 in
bfloat16 and a CPU in float32 by 1.9e-4 on twelve (7,047 tokens, sliding windows)."""
STOPPED_GAIN = 1.5
"""How much a score whose adapting a time limit ended may differ from the one without adapting, as a multiple
of what all of the adapting gains."""
UNVERIFIED = (
    "training and scoring seconds, tokens/s and cost (they belong to the recorded machine)",
    "scores before quantisation (their weights are not in the entry)",
    "README.md beyond its headline, and plots",
    "probes and proofs of audit.json (--audit and --prove make them again)",
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


@dataclass(frozen=True)
class Verification:
    """What a verification compared, and how far it reached."""

    comparisons: list[Comparison]
    isolation: str
    """How the entry's script was kept from everything else."""
    unverified: tuple[str, ...] = ()
    """Why this project's scorer could not score an artifact: its figures are the entry's own."""

    @property
    def agrees(self) -> bool:
        """Whether no figure differs."""
        return all(comparison.agrees for comparison in self.comparisons)


@dataclass(frozen=True)
class Rescoring:
    """An artifact's scores, made by a program in isolation."""

    scores: Scores
    documents: dict[str, np.ndarray]
    isolation: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What is scored again, and how."""

    data_folder: Path
    device: str
    max_tokens: int | None
    ttt: bool
    unlimited: bool
    """The limit of the recorded run, which it did not reach, is none of a slower machine's."""
    trust: bool = False

    @property
    def options(self) -> list[str]:
        """Options that the project's programs and an entry's script have in common."""
        options = ["--data", str(self.data_folder.resolve()), "--device", self.device]
        options += ["--json", _FIGURES, "--per-document", _DOCUMENTS]
        options += ["--ttt"] * self.ttt + ["--max-seconds", "1e9"] * (self.ttt and self.unlimited)
        return options + ([] if self.max_tokens is None else ["--max-tokens", str(self.max_tokens)])


def verify_entry(
    entry: Path, data_folder: Path, sample: int | None, device: str, log: RunLog, trust: bool = False
) -> Verification:
    """Everything an entry states that can be found anew, by file hashes, counts and fresh scores.

    This project's own scorer scores the artifact first; then the entry's script does, and must print the same
    figures. Both run isolated, or, with `trust`, on systems without isolation as they are. `sample` scores
    that many windows from the start and compares the documents they cover, test-time training by document
    aside. Raises EntryError for a folder that is no entry of this toolkit, or whose script fails;
    IsolationError where nothing isolates it; ValueError for unfit data.
    """
    choose_mechanism(trust)
    files = EntryFolder(entry)
    results = read_entry_results(files.results)
    comparisons = [*_compare_files(files, results), *_compare_submission(files, results)]
    comparisons += [*_compare_readme(files, results), *_compare_data(data_folder, results)]
    isolation, unverified = "", []
    if data_folder.resolve().is_relative_to(entry.resolve()):
        log.info(f"the text is the entry's own, {data_folder}; --data gives another to hold it against")
    for seed, stated in results.items():
        limit = stated.quantized.tally.num_tokens if stated.partial else None
        if limit is not None:
            log.info(f"seed {seed}: states the score of a part of the text, its first {limit:,} tokens")
        if sample is not None:
            context, stride = stated.quantized.context, stated.quantized.stride
            if sample < 1 or context is None or stride is None:
                raise EntryError(f"cannot sample {sample} windows of {context} tokens by {stride}")
            limit = context + (sample - 1) * stride
        ttt, adapted = False, stated.stage("test_time_trained")
        if adapted is not None and sample is not None and adapted.windows == "by document":
            log.info(
                "left out of a sample: the test-time-trained score, whose adapters pass from document to "
                "document, so that it takes all of them; without --sample it is compared too"
            )
        else:
            ttt = adapted is not None
        stopped_after = adapted.adaptation_stopped_after_tokens if adapted is not None and ttt else None
        limited = stopped_after is not None or stated.config.get("ttt", {}).get("max_seconds") is not None
        asked = Asked(data_folder, device, limit, ttt, limited, trust)
        log.info(f"seed {seed}: scoring by this project's own code")
        own = score_by_project(files.artifact(seed), asked)
        log.info(f"seed {seed}: scoring by the entry's script")
        by_script = score_by_script(entry, seed, asked, 0.0 if isinstance(own, str) else own.seconds)
        isolation = by_script.isolation
        if isinstance(own, str):
            unverified.append(f"seed {seed}: {own}")
            log.info(f"seed {seed}: this project's scorer cannot score the artifact: {own}")
        found = by_script if isinstance(own, str) else own
        tolerance = _tolerance(stated.environment, stated.scores, found.scores)
        documents = found.documents
        if stopped_after is not None:
            log.info(
                f"seed {seed}: a time limit ended adapting after {stopped_after:,} tokens, which belongs to "
                "the machine: the test-time-trained score is held against those with and without all of it"
            )
            documents = {name: sums_D for name, sums_D in documents.items() if name != "ttt_nats"}
        if sample is None:
            source = ", by its own script" if isinstance(own, str) else ""
            comparisons += _compare_scores(
                f"seed {seed}", source, stated.stage, found.scores, tolerance, stopped_after is not None
            )
        if not isinstance(own, str):
            printed = by_script.scores
            between = _tolerance(printed.environment, printed, own.scores)
            stages = {stage.name: stage for stage in printed.stages}
            where = f"seed {seed} its script prints:"
            comparisons += _compare_scores(where, "", stages.get, own.scores, between)
        if sample is not None:
            # The last document of a sample is cut.
            documents = {name: sums_D[:-1] for name, sums_D in documents.items()}
        own_name = f"_seed{seed}" if len(results) > 1 else ""
        if sample is None and not os.path.lexists(files.per_document):
            log.info(f"seed {seed}: there is no {files.per_document.name}; documents are not compared")
        else:
            comparisons += _compare_documents(files, seed, own_name, documents, tolerance)
    return Verification(comparisons, isolation, tuple(unverified))


def score_by_project(artifact: Path, asked: Asked) -> Rescoring | str:
    """Scores by this project's code, isolated from all but the text; why not, where it refuses the artifact.

    Raises EntryError where that took more than an artifact may take.
    """
    name = "artifact.bin"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = run_project(
            "eval_bpb:main",
            [name, *asked.options],
            inputs={name: artifact},
            outputs=_OUTPUTS,
            into=Path(folder),
            visible=[asked.data_folder],
            limits=Limits(seconds=MAX_SCORE_SECONDS),
            device=asked.device,
        )
        if done.returncode == 2 and done.stopped_by is None:
            return done.last_words.removeprefix("eval_bpb.py: ")
        if done.failure:
            raise EntryError(f"{artifact}: this project's scorer, {done.failure}")
        return _read(done, time.perf_counter() - began)


def score_by_script(entry: Path, seed: int, asked: Asked, own_seconds: float) -> Rescoring:
    """Scores by the entry's own script, isolated from all but itself, its artifact and the text.

    EntryError if it fails, or takes far longer than the `own_seconds` of this project's code.
    """
    files = EntryFolder(entry)
    inputs = {path.name: path for path in (files.script, files.artifact(seed))}
    num_bytes = sum(path.stat().st_size for path in inputs.values())
    command = [sys.executable, "-I", files.script.name, "--score", files.artifact(seed).name, *asked.options]
    began = time.perf_counter()
    seconds = MIN_SCRIPT_SECONDS + SCRIPT_TIMES_OWN * own_seconds if own_seconds else MAX_SCORE_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        done = run_isolated(
            command,
            inputs=inputs,
            outputs=_OUTPUTS,
            into=Path(folder),
            visible=[asked.data_folder],
            limits=Limits(seconds=seconds, scratch_bytes=num_bytes + MAX_SCRATCH_BYTES),
            trust=asked.trust,
            device=asked.device,
        )
        if done.failure:
            raise EntryError(f"{files.script} --score {done.failure}")
        return _read(done, time.perf_counter() - began)


def _read(done: Outcome, seconds: float) -> Rescoring:
    """The figures that a program left; EntryError where they are missing or cannot be read."""
    for name in _OUTPUTS:
        if name not in done.files:
            raise EntryError(f"the scoring process left no file {name} that can be read")
    arrays = read_arrays(done.files[_DOCUMENTS])
    for name in {"tokens", "bytes"} - arrays.keys():
        raise EntryError(f"{_DOCUMENTS} of the scoring process has no array {name!r}")
    return Rescoring(read_scores(done.files[_FIGURES]), arrays, done.mechanism, seconds)


def _tolerance(environment: dict[str, Any], stated: Scores, found: Scores) -> float:
    """How far two scores may lie apart, by what they were computed in."""
    here = found.environment.get("device"), found.compute_dtype
    there = environment.get("device"), stated.compute_dtype
    return FLOAT32_BPB if here == there == ("cpu", "float32") else OTHER_DTYPE_BPB


def print_verification(found: Verification, log: RunLog, json_path: Path | None) -> bool:
    """Prints the scores and every disagreement, writes all of it as JSON; says whether all is verified."""
    wrong = [comparison for comparison in found.comparisons if not comparison.agrees]
    rows = [
        (c.what, _shown(c.stated), _shown(c.found), f"{c.tolerance:g}", "agrees" if c.agrees else "DIFFERS")
        for c in found.comparisons
        if not c.agrees or ("bpb" in c.what and not c.what.startswith("submission"))
    ]
    log.table("stated and found", ("figure", "stated", "found", "tolerance", ""), rows)
    count = len(found.comparisons)
    log.info(f"{count - len(wrong)} of {count} stated figures agree; isolation: {found.isolation}")
    log.info(f"not verified: {'; '.join(UNVERIFIED)}")
    for reason in found.unverified:
        log.info(f"reported by the entry, not verified: {reason}")
    if json_path:
        figures = [{**asdict(comparison), "agrees": comparison.agrees} for comparison in found.comparisons]
        report = {"agrees": found.agrees, "verified": found.agrees and not found.unverified}
        report |= {"unverified": found.unverified, "isolation": found.isolation}
        write_json(json_path, {**report, "comparisons": figures, "not_verified": UNVERIFIED})
    return found.agrees and not found.unverified


def _shown(value: Any) -> Any:
    """A figure for a table; what a stranger states may be longer than that."""
    return value if isinstance(value, float) else f"{value!s:.80}"


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
            if "validation_sha256" in found:
                text = found["validation_sha256"]
                yield Comparison(f"seed {seed} audit on the text", run.data.validation_sha256, text)
            if isinstance(found.get("windows"), dict):
                asked = found["windows"].get("context"), found["windows"].get("stride")
                own = run.quantized.context, run.quantized.stride
                yield Comparison(f"seed {seed} audit with context and stride", own, asked)


def _compare_submission(entry: EntryFolder, results: dict[int, Results]) -> Iterator[Comparison]:
    """Every figure of submission.json against those computed from results.json."""
    stated = flat_fields(read_json(entry.submission))
    for name, value in flat_fields(entry_figures(list(results.values()))).items():
        tolerance = 1e-12 * abs(value) if isinstance(value, float) else 0.0
        yield Comparison(f"submission {name}", stated.get(name), value, tolerance)


def _compare_readme(entry: EntryFolder, results: dict[int, Results]) -> Iterator[Comparison]:
    """The headlines of README.md, "**1.234567 bits per byte**", against the mean of the results."""
    if not os.path.lexists(entry.readme):
        return
    value = f"{entry_figures(list(results.values()))['val_bpb']:.6f}"
    text = read_text(entry.readme, MAX_README_BYTES)
    for stated in re.findall(r"\*\*([^*\n]{1,40}) bits per byte\*\*", text):
        yield Comparison("README.md headline, bits per byte", stated, value)


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


def _compare_scores(
    where: str,
    source: str,
    stated: Callable[[str], Stage | None],
    found: Scores,
    tolerance: float,
    stopped: bool = False,
) -> Iterator[Comparison]:
    """Each score that was found against the one that is stated of its stage.

    Where time `stopped` the stated adapting, its gain is held against that of all of it.
    """
    plain = found.stage("quantized")
    for stage in found.stages:
        there = stated(stage.name)
        if there is None:
            raise EntryError(f"{where} there is no {stage.title} score, which the artifact has")
        new, old, of = stage.tally, there.tally, f"{where} {stage.title}"
        nats = tolerance * old.nats_per_token / old.bits_per_byte
        if stopped and stage.name == "test_time_trained" and plain is not None:
            without = plain.tally.bits_per_byte
            reach = STOPPED_GAIN * abs(without - new.bits_per_byte) + tolerance
            is_possible = abs(without - old.bits_per_byte) <= reach
            yield Comparison(f"{of} val_bpb is one of less adapting{source}", True, is_possible)
        else:
            yield Comparison(f"{of} val_bpb{source}", old.bits_per_byte, new.bits_per_byte, tolerance)
            yield Comparison(f"{of} val_loss{source}", old.nats_per_token, new.nats_per_token, nats)
        yield Comparison(f"{of} tokens_scored{source}", old.num_tokens, new.num_tokens)
        yield Comparison(f"{of} bytes_scored{source}", old.num_bytes, new.num_bytes)


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
