"""Proof of a score by decompression: a text is written to a file under the model's predictions, and restored.

Bits per byte promise that the text could be restored from so many bits. An encoder codes documents with a
range coder, in an order in which a decoder could predict them. A fresh process, which has the artifact, the
tokenizer and the file, but no text, restores them; the tokens and their text are then compared. A proof file:

    magic | length u32 | JSON header | length u32 | order of the documents | coded targets | checksum u64

The order holds the documents' lengths where the method grades the longest first, and nothing where it grades
them as they stand. Encoder and decoder must compute the same floats to the bit: one machine, one device.
"""

import hashlib
import json
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch

from golf.audit.coding import Coder, DocumentCoder, StreamCoder, Told
from golf.audit.isolate import Limits, run_project
from golf.audit.range_coder import RangeDecoder, RangeEncoder, code_integers
from golf.audit.rescore import audits_in, probe_bytes
from golf.data.manifest import open_dataset
from golf.data.vocabulary import Vocabulary
from golf.evaluate import (
    EvaluateConfig,
    load_model,
    read_model,
    read_settings,
    require_same_text,
    score_once,
)
from golf.model.gpt import GPT
from golf.pack.container import read_artifact
from golf.results import STAGE_TITLES, Stage
from golf.run_folder import EntryFolder, find_artifacts
from golf.score.scorer import Scoring
from golf.score.windows import ResolvedWindows
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, repeatable_kernels
from golf.system.files import without_seal, write_bytes, write_json, write_sealed_json
from golf.system.foreign import read_object
from golf.system.log import RunLog
from golf.system.stored import config_from_dict, parse_json, read_bounded
from golf.ttt.documents import DocumentBatch, DocumentSpan, plan_documents, split_documents
from golf.ttt.lora import LoraLearner
from golf.ttt.methods import plan_groups, plan_lora
from golf.ttt.sgd import ChunkAdapter, PhaseTrainer, TTTConfig, adapted_parameters
from golf.ttt.tilt import NgramTilt

MAX_OVER_SCORE = 1e-3
"""How much longer than the score the coded targets may be, as a share of it, MAX_OVER_BYTES aside."""
MAX_OVER_BYTES = 8
"""The end of a range coder's bytes, and rounding of very short texts."""
DEFAULT_DOCUMENTS = 32
MAX_PROOF_BYTES = 1 << 30
MAX_LAYOUT_TOKENS = 1 << 33
MAX_RESTORE_SECONDS = 30 * 86_400.0
MAX_TOKEN_BYTES = 256
"""Of text, on average."""
PROVED = "- Proof by decompression, "
"""How a README's lines of proofs begin."""
README_SECTION = "## Before you compare"
_MAGIC, _CHECKSUM_BYTES = b"golfprf1", 8
_ARTIFACT, _TOKENIZER, _PROOF, _TOKENS, _TEXT = (
    *("artifact.bin", "tokenizer.model", "proof.bin"),
    *("restored.tokens", "restored.text"),
)


class ProofError(ValueError):
    """A file that is no proof, is damaged, or belongs to another artifact or tokenizer."""


@dataclass(frozen=True)
class ProofHeader:
    """What a decoder is told besides the artifact: nothing of it depends on the text but its counts."""

    artifact_sha256: str
    tokenizer_sha256: str
    stage: str
    """quantized or test_time_trained."""
    method: Literal["sgd", "lora"]
    """How test-time training is done."""
    order: Literal["length", "stream"]
    device: str
    documents: int = 0
    targets: int = 0
    first_token: int = 0
    last_targets: int = 0
    """Targets of the last document if the text ends with it and no BOS follows, else 0."""
    context: int = 0
    stride: int = 0
    at_once: int = 1
    """Documents that learn side by side, a matter of memory."""
    places: int = 1


@dataclass(frozen=True)
class Proof:
    """A proof file."""

    header: ProofHeader
    order: bytes
    coded: bytes

    def to_bytes(self) -> bytes:
        """The file."""
        told = json.dumps(asdict(self.header), separators=(",", ":")).encode()
        parts = [_MAGIC]
        for part in (told, self.order):
            parts += [struct.pack("<I", len(part)), part]
        data = b"".join([*parts, self.coded])
        return data + hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Proof":
        """Reads a file; ProofError if it is damaged or none."""
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if not body.startswith(_MAGIC) or hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] != checksum:
            raise ProofError("is no proof file, or is damaged: its checksum is another")
        parts, place = [], len(_MAGIC)
        for _ in range(2):
            (length,) = struct.unpack_from("<I", body, place)
            parts.append(body[place + 4 : place + 4 + length])
            place += 4 + length
        header: ProofHeader = config_from_dict(ProofHeader, parse_json(parts[0]))
        return cls(header, parts[1], body[place:])


@dataclass(frozen=True)
class Method:
    """The predictions of one stage of an artifact's score, as encoder and decoder make them."""

    model: GPT
    windows: ResolvedWindows
    ttt: TTTConfig
    header: ProofHeader

    @property
    def by_document(self) -> bool:
        """Whether documents are coded side by side."""
        return self.header.stage == "test_time_trained" and self.ttt.method == "lora"

    @property
    def needs_lengths(self) -> bool:
        """Whether the documents' lengths decide the order in which they are coded."""
        return self.by_document and self.ttt.order == "length"

    def lay_out(self, order: bytes) -> tuple[np.ndarray, list[DocumentSpan]]:
        """Tokens with what is known before anything was coded, and where each document's targets lie.

        In the order of the stream documents have a place as long as the longest can be; in both orders each
        begins with BOS.
        """
        header, bos_id = self.header, self.model.config.bos_id
        if not self.by_document:
            tokens, spans = _blank(header.targets + 1), [DocumentSpan(0, header.targets)]
        elif self.needs_lengths:
            lengths = np.zeros(header.documents, dtype=np.int64)
            code_integers(RangeDecoder(order), lengths)
            ends = np.cumsum(lengths).tolist()
            if not lengths.all() or ends[-1] != header.targets:
                raise ProofError(f"its documents have {ends[-1]:,} targets; expected {header.targets:,}")
            spans = [DocumentSpan(*span) for span in zip([0, *ends[:-1]], ends, strict=True)]
            tokens = _blank(header.targets + 1)
        else:
            room = header.targets - header.documents + 2
            spans = [DocumentSpan(room * row, room * (row + 1) - 1) for row in range(header.documents)]
            if header.last_targets:
                spans[-1] = DocumentSpan(spans[-1].start, spans[-1].start + header.last_targets)
            tokens = _blank(room * header.documents)
        tokens[[span.start for span in spans]] = bos_id
        tokens[0] = header.first_token
        return tokens, spans

    def code(self, coder: Coder, tokens: np.ndarray, spans: list[DocumentSpan], told: Told) -> np.ndarray:
        """Codes all targets; returns the text's tokens, in its order."""
        header, ttt = self.header, self.ttt
        with repeatable_kernels(self.model.embedding.weight.device):
            if not self.by_document:
                adapts = header.stage == "test_time_trained"
                adapt = ChunkAdapter(self.model, ttt) if adapts else None
                StreamCoder(self.model, self.windows, ttt.chunk_tokens, adapt).code(coder, tokens, told)
                return tokens
            lora = ttt.lora
            plan = lora.chunk_tokens, lora.chunk_lengths, lora.batch_documents, self.needs_lengths
            batches: list[DocumentBatch] = plan_documents(spans, *plan)
            learner = LoraLearner(
                self.model, replace(lora, batch_documents=header.places), header.at_once, recorded=False
            )
            tilt = NgramTilt(ttt.tilt, tokens) if ttt.tilt.boost else None
            phases = PhaseTrainer(self.model, ttt) if ttt.phases else None
            documents = DocumentCoder(
                *(self.model, self.windows.context, header.at_once, learner, tilt, phases),
                finds_ends=not self.needs_lengths,
            )
            found = sorted(documents.code(coder, tokens, batches, told))
        last = found[-1].end
        return np.concatenate([*(tokens[start:end] for start, end in found), tokens[last : last + 1]])


def _blank(num_tokens: int) -> np.ndarray:
    if num_tokens > MAX_LAYOUT_TOKENS:
        raise ValueError(f"the documents need room for {num_tokens:,} tokens; take fewer --documents")
    return np.zeros(num_tokens, dtype=np.uint16)


def encode_text(
    scoring: Scoring, ttt: TTTConfig, header: ProofHeader, told: Told
) -> tuple[Proof, np.ndarray]:
    """Writes the text of a scoring as a proof; what was coded is returned as well.

    `header` has the facts of artifact and device; those of the text are filled in. Methods that train the
    model leave it changed.
    """
    tokens, bos_id = scoring.tokens, scoring.vocabulary.bos_id
    spans = split_documents(tokens, len(tokens) - 1, bos_id)
    windows, at_once, places = scoring.resolved_windows(), 1, 1
    if header.stage == "test_time_trained" and ttt.method == "lora":
        batches = plan_lora(tokens, bos_id, ttt.lora, by_length=ttt.order == "length")
        at_once, places = plan_groups(scoring, ttt.lora, batches)
    header = replace(
        header,
        documents=len(spans),
        targets=len(tokens) - 1,
        first_token=int(tokens[0]),
        last_targets=0 if tokens[-1] == bos_id else spans[-1].num_targets,
        context=windows.context,
        stride=windows.stride,
        at_once=at_once,
        places=places,
    )
    method, order = Method(scoring.model, windows, ttt, header), b""
    if method.needs_lengths:
        lengths = RangeEncoder()
        code_integers(lengths, np.array([span.num_targets for span in spans]))
        order = lengths.finish()
    room, places_of = method.lay_out(order)
    # The encoder has the whole text in place, so that a method that reads ahead reads it.
    for own, span in zip(places_of, spans if method.by_document else places_of, strict=True):
        room[own.start : own.start + span.num_targets + 1] = tokens[span.start : span.end + 1]
    coder = RangeEncoder()
    coded = method.code(coder, room, places_of, told)
    return Proof(header, order, coder.finish()), coded


def _settle(device: str) -> torch.device:
    """The device, with all that decides how sums are rounded on it the same in encoder and decoder."""
    # One position at a time is too little work to share, and threads decide how sums are split.
    torch.set_num_threads(1)
    return choose_runtime(device, eager=True).device


def decode_text(artifact: bytes, vocabulary: Vocabulary, proof: Proof, told: Told) -> np.ndarray:
    """The tokens of a proof's text, uint16; ProofError if it is of another artifact or tokenizer."""
    header = proof.header
    found = {"artifact_sha256": hashlib.sha256(artifact).hexdigest(), "tokenizer_sha256": vocabulary.sha256}
    for name, sha256 in found.items():
        if vars(header)[name] != sha256:
            raise ProofError(f"is of {name} {vars(header)[name]}; here it is {sha256}")
    model, settings = load_model(artifact, _settle(header.device))
    order = header.order if header.method == "lora" else None
    asked = EvaluateConfig(header.context, header.stride, header.method, order)
    windows, ttt = read_settings(settings, asked)
    method = Method(model, windows.resolve(model.config.context, header.device), ttt, header)
    return method.code(RangeDecoder(proof.coded), *method.lay_out(proof.order), told)


def text_of(tokens: np.ndarray, vocabulary: Vocabulary) -> bytes:
    """The text of the documents in UTF-8, one behind the other; control tokens have none."""
    spans = split_documents(tokens, len(tokens), vocabulary.bos_id)
    return b"".join(vocabulary.decode_tokens(tokens[start:end]).encode() for start, end in spans)


@dataclass(frozen=True)
class ProofResult:
    """What a proof of one stage found; `violations` is empty if it holds."""

    stage: str
    validation_sha256: str
    """Of the whole text, of which these are the first documents."""
    documents: int
    tokens: int
    """Targets that were coded."""
    text_bytes: int
    """Of the restored text."""
    file_bytes: int
    order_bytes: int
    coded_bytes: int
    score_bytes: float
    """Bits of the batched score of the same documents, in bytes."""
    decodable: str
    isolation: str
    """How the decoder was kept from the text."""
    encode_seconds: float
    decode_seconds: float
    violations: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """One line for a log, a README or a reviewer."""
        what = f"{STAGE_TITLES[self.stage]}: {self.documents:,} documents ({self.text_bytes:,} bytes of text)"
        if self.violations:
            return f"{what} NOT proved: {self.violations[0]}"
        over = 100 * (self.coded_bytes / self.score_bytes - 1)
        return (
            f"{what} restored bit for bit from {self.coded_bytes + self.order_bytes:,} bytes "
            f"({self.file_bytes:,} with the file's header), "
            f"{over:+.3f}% against the score; decodable {self.decodable}"
        )


@dataclass(frozen=True)
class ProofConfig:
    """How much is proved, and how."""

    documents: int | None = DEFAULT_DOCUMENTS
    """The first documents of the text; None for all."""
    ttt: bool = False
    """With test-time training, too."""


def prove_artifact(
    path: Path, data_folder: Path, config: EvaluateConfig, how: ProofConfig, log: RunLog
) -> tuple[str, list[ProofResult]]:
    """The sha256 of an artifact file, and the proof of each stage of its score.

    Raises ValueError as `evaluate` does.
    """
    device = _settle(config.device)
    artifact, model, settings = read_model(path, device)
    windows, ttt = read_settings(settings, config)
    clock = StageClock()
    with clock.stage("score"):
        dataset = open_dataset(data_folder)
        require_same_text(settings, model, dataset)
        tokens, vocabulary = dataset.validation_tokens(clock), dataset.vocabulary
    validation_sha256 = hashlib.sha256(tokens.tobytes()).hexdigest()
    if how.documents is not None:
        spans = split_documents(tokens, len(tokens) - 1, vocabulary.bos_id)
        tokens = tokens[: spans[: how.documents][-1].end + 1]
    sha256 = hashlib.sha256(artifact).hexdigest()
    least = windows.resolve(model.config.context, device.type).context
    if len(tokens) - 1 < least:
        raise ValueError(
            f"the documents have {len(tokens) - 1:,} tokens to restore, fewer than one window of {least:,}: "
            "take more --documents"
        )
    if how.ttt and (ttt.method == "sgd" or ttt.phases):
        adapted_parameters(model, ttt.frozen_blocks)
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}

    def prove(stage: str, pool: Executor) -> Callable[[], ProofResult]:
        """Encodes; what is returned waits for the decoder and compares."""
        # A deadline would end adapting where this machine happens to be.
        method = replace(ttt, max_seconds=None) if stage == "test_time_trained" else None
        scoring = Scoring(model, tokens, vocabulary, windows, log=log)
        header = ProofHeader(sha256, vocabulary.sha256, stage, ttt.method, ttt.order, str(device))
        model.load_state_dict(weights)
        score = score_once(scoring, method, ttt.chunk_tokens, None)
        assert score is not None, "one process has the score"
        model.load_state_dict(weights)
        began = time.perf_counter()
        with log.progress(f"encode, {STAGE_TITLES[stage]}", len(tokens) - 1, "tokens") as bar:
            proof, coded = encode_text(scoring, ttt, header, bar.move_to)
        encode_seconds = time.perf_counter() - began
        log.info(f"{STAGE_TITLES[stage]}: restoring in a process that has no text")
        tokenizer = data_folder / dataset.manifest.tokenizer
        decoder = pool.submit(_restore, path, tokenizer, proof, stopped.is_set)

        def finish() -> ProofResult:
            restored = decoder.result()
            result = ProofResult(
                stage=stage,
                validation_sha256=validation_sha256,
                documents=proof.header.documents,
                tokens=len(tokens) - 1,
                text_bytes=score.tally.num_bytes,
                file_bytes=len(proof.to_bytes()),
                order_bytes=len(proof.order),
                coded_bytes=len(proof.coded),
                score_bytes=score.tally.bits_per_byte * score.tally.num_bytes / 8,
                decodable=Stage(stage, score.tally, "", notes=score.notes).decodable,
                isolation=restored.isolation,
                encode_seconds=encode_seconds,
                decode_seconds=restored.seconds,
            )
            violations = tuple(_compare(result, tokens, coded, restored, vocabulary))
            return replace(result, violations=violations)

        return finish

    stopped = Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            # One stage is restored while the next one is encoded.
            waiting = [prove(stage, pool) for stage in ["quantized"] + ["test_time_trained"] * how.ttt]
            results = [finish() for finish in waiting]
        except BaseException:
            stopped.set()
            raise
    for result in results:
        log.info(result.sentence)
    return sha256, results


@dataclass(frozen=True)
class Restored:
    """What a decoder left."""

    isolation: str
    seconds: float
    tokens: np.ndarray | None
    """uint16."""
    text: bytes = b""
    failure: str = ""


def _compare(
    result: ProofResult, tokens: np.ndarray, coded: np.ndarray, restored: Restored, vocabulary: Vocabulary
) -> Iterator[str]:
    """What of the restored text, and of the length of the file, is not as the score promises."""
    if restored.tokens is None:
        yield f"the decoder failed: {restored.failure}"
        return
    if not np.array_equal(coded, tokens):
        yield "the encoder changed the text"
    if not np.array_equal(restored.tokens, tokens):
        common = min(len(restored.tokens), len(tokens))
        different = np.flatnonzero(restored.tokens[:common] != tokens[:common])
        first = int(different[0]) if len(different) else common
        yield f"the decoder restored another text from token {first:,} of {len(tokens):,} on"
        return
    if restored.text != text_of(tokens, vocabulary):
        yield "the tokens are restored, but their text is another"
    count_bytes, decode = vocabulary.count_bytes, vocabulary.decode_tokens
    counted = probe_bytes(count_bytes, decode, tokens, vocabulary.bos_id, result.text_bytes)
    yield from counted.violations
    most = result.score_bytes * (1 + MAX_OVER_SCORE) + MAX_OVER_BYTES
    if result.coded_bytes > most:
        yield (
            f"the file takes {result.coded_bytes:,} bytes; the score promises {result.score_bytes:,.1f} "
            f"({100 * (result.coded_bytes / result.score_bytes - 1):+.2f}%)"
        )


def _restore(
    artifact: Path, tokenizer: Path, proof: Proof, is_stopped: Callable[[], bool] = lambda: False
) -> Restored:
    """Restores a text in an isolated process that has the artifact, the tokenizer and the file."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _PROOF
        write_bytes(file, proof.to_bytes())
        num_tokens = proof.header.targets + 1
        done = run_project(
            "golf.audit.proof:main_restore",
            [],
            inputs={_ARTIFACT: artifact, _TOKENIZER: tokenizer, _PROOF: file},
            outputs={_TOKENS: 2 * num_tokens, _TEXT: MAX_TOKEN_BYTES * num_tokens},
            into=Path(folder),
            visible=(),
            limits=Limits(seconds=MAX_RESTORE_SECONDS, is_stopped=is_stopped),
            device=proof.header.device,
        )
        seconds = time.perf_counter() - began
        if done.returncode or not {_TOKENS, _TEXT} <= done.files.keys():
            return Restored(done.mechanism, seconds, None, failure=done.failure or "it left no text")
        tokens = np.frombuffer(done.files[_TOKENS].read_bytes(), dtype="<u2")
        return Restored(done.mechanism, seconds, tokens, done.files[_TEXT].read_bytes())


def main_restore(arguments: list[str]) -> int:
    """Restores the text of proof.bin in the current folder: restored.tokens (uint16) and restored.text."""
    vocabulary = Vocabulary.load(Path(_TOKENIZER))
    proof = Proof.from_bytes(read_bounded(Path(_PROOF), MAX_PROOF_BYTES))
    tokens = decode_text(read_artifact(Path(_ARTIFACT)), vocabulary, proof, lambda count: None)
    Path(_TOKENS).write_bytes(tokens.astype("<u2").tobytes())
    Path(_TEXT).write_bytes(text_of(tokens, vocabulary))
    return 0


def prove_path(path: Path, data_folder: Path, config: EvaluateConfig, how: ProofConfig, log: RunLog) -> bool:
    """Proves the score of an artifact, or of every one in a folder, and says whether all proofs hold.

    The results go into the folder's audit.json and README.md where there are such, and into the file that
    `config.json` names. ValueError for a folder without an artifact, and as `prove_artifact`.
    """
    artifacts = find_artifacts(path) if path.is_dir() else [path]
    if not artifacts:
        raise ValueError(f"{path}: holds no artifact; expected artifact.bin or artifact_seed<N>.bin")
    proofs = {}
    for artifact in artifacts:
        log.info(f"proving {artifact}")
        sha256, results = prove_artifact(artifact, data_folder, config, how, log)
        for violation in (violation for result in results for violation in result.violations):
            log.info(f"{artifact.name}: {violation}")
        proofs[sha256] = [{**asdict(result), "sentence": result.sentence} for result in results]
    holds = not any(proof["violations"] for each in proofs.values() for proof in each)
    if config.json:
        write_json(config.json, {"holds": holds, "proofs": proofs})
    changed = [name for name in ("context", "stride", "method", "order") if vars(config)[name] is not None]
    if changed:
        log.info(f"not recorded: {', '.join(changed)} as asked for, not as the artifact says")
    else:
        record_proofs(EntryFolder(path if path.is_dir() else path.parent), proofs, log)
    log.info("proved" if holds else "NOT proved")
    if holds and not how.ttt:
        log.info("the score with test-time training, if the artifact has one, is proved by --ttt")
    return holds


def record_proofs(folder: EntryFolder, proofs: dict[str, list[dict[str, Any]]], log: RunLog) -> None:
    """Puts proofs, by the sha256 of their artifacts, into the folder's audit.json and README.md.

    A proof of more documents stays. Where audit.json is of another artifact or text, nothing is recorded.
    """
    if not folder.audit.is_file():
        log.info(f"{folder.path} has no audit.json to hold the proof; eval_bpb.py --audit writes one")
        return
    try:
        audit = without_seal(read_object(folder.audit))
    except ValueError as error:
        log.info(f"not recorded, since {folder.audit} cannot be read: {error}")
        return
    known = []
    for each in audits_in(audit):
        found = proofs.get(each.get("artifact_sha256", ""), [])
        if not found or each.get("validation_sha256") not in (None, found[0]["validation_sha256"]):
            continue
        kept = {proof["stage"]: proof for proof in each.get("proofs", [])}
        for proof in found:
            earlier = kept.get(proof["stage"])
            if earlier and earlier["documents"] > proof["documents"] and not proof["violations"]:
                log.info(f"kept: {earlier['sentence']}")
            else:
                kept[proof["stage"]] = proof
        each["proofs"] = list(kept.values())
        known.append(each)
    if len(known) < len(proofs):
        log.info(f"{len(proofs) - len(known)} not recorded: {folder.audit} is of another artifact or text")
    if not known:
        return
    write_sealed_json(folder.audit, audit)
    if folder.readme.is_file():
        sentences = [proof["sentence"] for each in known for proof in each["proofs"]]
        # As bytes, so that nothing else of the page changes.
        lines = folder.readme.read_bytes().split(b"\n")
        lines = [line for line in lines if not line.startswith(PROVED.encode())]
        place = next(
            (row for row, line in enumerate(lines) if line.rstrip() == README_SECTION.encode()), None
        )
        if place is not None:
            end = b"\r" if lines[place].endswith(b"\r") else b""
            lines[place + 2 : place + 2] = [f"{PROVED}{sentence}".encode() + end for sentence in sentences]
            write_bytes(folder.readme, b"\n".join(lines))
    log.info(f"recorded in {folder.audit}")
