"""A score is the length of a file from which the text is restored."""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_switches import SWITCHES, TINY, VARIANTS
from tiny_samples import write_tiny_artifact
from torch import Tensor

import eval_bpb
from golf.audit import proof as proofs
from golf.audit.proof import Proof, ProofConfig, ProofError, ProofHeader, Restored, decode_text, encode_text
from golf.data.manifest import open_dataset
from golf.data.shards import write_shard
from golf.data.vocabulary import Vocabulary
from golf.evaluate import EvaluateConfig, read_model, read_settings, score_once
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig, pack
from golf.score.scorer import Scoring
from golf.system.clock import StageClock
from golf.system.files import CHECKSUM
from golf.system.log import RunLog
from golf.ttt.documents import split_documents
from golf.ttt.tilt import NgramTilt

LORA = {"chunk_tokens": [4, 7], "chunk_lengths": [20], "rate": 0.02, "rank": 2, "batch_documents": 2}
EXTRAS = {"tilt": {"boost": 2.0, "context_tokens": 2}, "phases": [2], "cap_rate": 0.05, "frozen_blocks": 1}
QUIET = RunLog(quiet=True)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding windows": ("quantized", {}),
    "sgd": ("test_time_trained", {"chunk_tokens": 64, "batch_sequences": 2, "learning_rate": 0.05}),
    "longest first": ("test_time_trained", {"method": "lora", "lora": LORA}),
    "longest first, all": ("test_time_trained", {"method": "lora", "lora": LORA, **EXTRAS}),
    "as they stand": ("test_time_trained", {"method": "lora", "lora": LORA, "order": "stream"}),
    "as they stand, all": (
        "test_time_trained",
        {"method": "lora", "lora": LORA, "order": "stream", **EXTRAS},
    ),
}
NUM_DOCUMENTS = 3


class Bench:
    """An artifact of one method, the first documents of its text, and its score on them."""

    def __init__(self, data: Path, folder: Path, method: str):
        self.stage, ttt = METHODS[method]
        dataset, self.path = open_dataset(data), folder / "artifact.bin"
        self.vocabulary = dataset.vocabulary
        write_tiny_artifact(self.path, self.vocabulary, ttt=ttt)
        clock = StageClock()
        with clock.stage("score"):
            tokens = dataset.validation_tokens(clock)
        spans = split_documents(tokens, len(tokens) - 1, self.vocabulary.bos_id)
        self.whole, self.tokens = tokens, tokens[: spans[NUM_DOCUMENTS - 1].end + 1]

    def scoring(self, tokens: np.ndarray | None = None) -> tuple[Scoring, Any, bytes]:
        artifact, model, header = read_model(self.path, torch.device("cpu"))
        windows, ttt = read_settings(header, EvaluateConfig())
        tokens = self.tokens if tokens is None else tokens
        return Scoring(model, tokens, self.vocabulary, windows), ttt, artifact

    def score_bytes(self) -> float:
        scoring, ttt, _ = self.scoring()
        adapting = ttt if self.stage == "test_time_trained" else None
        result = score_once(scoring, adapting, ttt.chunk_tokens, None)
        assert result is not None
        return result.tally.bits_per_byte * result.tally.num_bytes / 8

    def encode(self, tokens: np.ndarray | None = None) -> Proof:
        scoring, ttt, artifact = self.scoring(tokens)
        sha256 = hashlib.sha256(artifact).hexdigest()
        header = ProofHeader(sha256, self.vocabulary.sha256, self.stage, ttt.method, ttt.order, "cpu")
        return encode_text(scoring, ttt, header, lambda count: None)[0]

    def decode(self, proof: Proof) -> np.ndarray:
        proof = Proof.from_bytes(proof.to_bytes())
        return decode_text(self.path.read_bytes(), self.vocabulary, proof, lambda count: None)


@pytest.mark.parametrize("method", METHODS)
def test_the_text_is_restored_from_as_many_bits_as_the_score_says(
    method: str, dataset_folder: Path, tmp_path: Path
) -> None:
    bench = Bench(dataset_folder, tmp_path, method)
    proof = bench.encode()
    assert np.array_equal(bench.decode(proof), bench.tokens)
    assert abs(len(proof.coded) - bench.score_bytes()) < 1e-3 * bench.score_bytes() + 2
    assert bool(proof.order) == method.startswith("longest")
    assert (proof.header.documents, proof.header.targets) == (NUM_DOCUMENTS, len(bench.tokens) - 1)


@pytest.mark.parametrize("method", ["sgd", "longest first", "as they stand"])
def test_a_text_that_ends_inside_a_document_is_restored(
    method: str, dataset_folder: Path, tmp_path: Path
) -> None:
    bench = Bench(dataset_folder, tmp_path, method)
    bench.tokens = bench.tokens[:-9]
    assert np.array_equal(bench.decode(bench.encode()), bench.tokens)


@pytest.mark.parametrize("method", ["sliding windows", "as they stand"])
def test_a_wrong_bit_is_detected(method: str, dataset_folder: Path, tmp_path: Path) -> None:
    bench = Bench(dataset_folder, tmp_path, method)
    proof = bench.encode()
    data = proof.to_bytes()
    for bit in range(0, 8 * len(data), 101):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError, match="damaged"):
            Proof.from_bytes(bytes(wrong))
    # And by the text itself, where somebody made the checksum anew.
    coded = bytearray(proof.coded)
    coded[len(coded) // 2] ^= 4
    restored = bench.decode(replace(proof, coded=bytes(coded)))
    assert not np.array_equal(restored, bench.tokens)


def test_the_decoder_of_a_tilt_that_reads_its_target_fails(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(dataset_folder, tmp_path, "as they stand, all")
    honest = bench.encode()

    def peeks(self: NgramTilt, starts_B1: np.ndarray, targets_BL: np.ndarray) -> np.ndarray:
        sound(self, starts_B1, targets_BL)
        return self._tokens[np.minimum(targets_BL + 1, len(self._tokens) - 1)].astype(np.int64)

    sound = NgramTilt.expect
    monkeypatch.setattr(NgramTilt, "expect", peeks)
    peeking = bench.encode()
    assert len(peeking.coded) < 0.8 * len(honest.coded)
    assert not np.array_equal(bench.decode(peeking), bench.tokens)


def test_a_network_that_reads_ahead_needs_more_bits_than_its_score(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batched score reads the next token in the window; token by token there is none to read."""
    sound = GPT.forward

    def reads_ahead(self: GPT, inputs_BT: Tensor, num_last: int | None = None, state: Any = None) -> Tensor:
        logits_BLV = sound(self, inputs_BT, num_last, state)
        read_BL1 = inputs_BT[:, 1 - logits_BLV.size(1) :, None] if logits_BLV.size(1) > 1 else None
        return (
            logits_BLV
            if read_BL1 is None
            else logits_BLV.scatter_add(2, read_BL1, torch.ones(1).expand(read_BL1.shape))
        )

    monkeypatch.setattr(GPT, "forward", reads_ahead)
    monkeypatch.setattr(proofs, "_restore", restores_here)
    how = ProofConfig(documents=3)
    _, (result,) = proofs.prove_artifact(artifact_path, dataset_folder, EvaluateConfig(), how, QUIET)
    (violation,) = result.violations
    assert "bytes; the score promises" in violation


def restores_here(artifact: Path, tokenizer: Path, proof: Proof, *_: object) -> Restored:
    vocabulary = Vocabulary.load(tokenizer)
    tokens = decode_text(artifact.read_bytes(), vocabulary, proof, lambda count: None)
    return Restored("here", 0.0, tokens, proofs.text_of(tokens, vocabulary))


def test_a_proof_of_another_artifact_is_refused(dataset_folder: Path, tmp_path: Path) -> None:
    bench = Bench(dataset_folder, tmp_path, "sliding windows")
    proof = bench.encode()
    with pytest.raises(ProofError, match="artifact_sha256"):
        bench.decode(replace(proof, header=replace(proof.header, artifact_sha256="0" * 64)))


def test_the_grades_of_a_document_do_not_depend_on_those_after_it(
    dataset_folder: Path, tmp_path: Path
) -> None:
    """In the order of the stream; by length a longer document would have gone first."""
    bench = Bench(dataset_folder, tmp_path, "as they stand, all")
    longer = np.concatenate([bench.tokens[:-1], np.tile(bench.tokens[1:9], 20), bench.tokens[-1:]])

    def grades(tokens: np.ndarray) -> np.ndarray:
        scoring, ttt, _ = bench.scoring(tokens)
        result = score_once(scoring, ttt, ttt.chunk_tokens, None)
        assert result is not None
        return result.nats_N

    spans = split_documents(bench.tokens, len(bench.tokens) - 1, bench.vocabulary.bos_id)
    assert (
        np.abs(grades(bench.tokens) - grades(longer)[: len(bench.tokens) - 1])[: spans[-1].start].max() < 1e-4
    )


def test_the_command_proves_an_entry_in_a_process_without_the_text(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = tmp_path / "entry"
    entry.mkdir()
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    write_tiny_artifact(entry / "artifact_seed1.bin", vocabulary, ttt=METHODS["longest first"][1])
    sha256 = hashlib.sha256((entry / "artifact_seed1.bin").read_bytes()).hexdigest()
    (entry / "audit.json").write_text(json.dumps({"passed": True, "artifact_sha256": sha256}))
    (entry / "README.md").write_text("# Entry\n\n## Before you compare\n\n- One seed.\n")
    command = [str(entry), "--data", str(dataset_folder), "--prove", "--documents", "3", "--ttt"]
    for _ in range(2):
        assert eval_bpb.main(command) == 0
    assert "restored bit for bit" in capsys.readouterr().out
    recorded = json.loads((entry / "audit.json").read_text())
    assert recorded["passed"] is True
    assert [proof["decodable"] for proof in recorded["proofs"]] == ["as it stands", "with 4 bytes of order"]
    assert [proof["stage"] for proof in recorded["proofs"]] == ["quantized", "test_time_trained"]
    assert all(proof["violations"] == [] and proof["documents"] == 3 for proof in recorded["proofs"])
    lines = (entry / "README.md").read_text().splitlines()
    assert [line.startswith("- Proof by decompression, ") for line in lines[4:7]] == [True, True, False]
    assert "bytes of order" in lines[5] and lines[6] == "- One seed."


def test_a_proof_of_fewer_documents_or_of_other_settings_takes_no_better_ones_place(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "_restore", restores_here)
    path = tmp_path / "artifact_seed1.bin"
    sha256 = hashlib.sha256(artifact_path.read_bytes()).hexdigest()
    shutil.copy(artifact_path, path)
    audit = tmp_path / "audit.json"
    tokens = Bench(dataset_folder, tmp_path, "sliding windows").whole
    pinned = {"artifact_sha256": sha256, "validation_sha256": hashlib.sha256(tokens.tobytes()).hexdigest()}
    audit.write_text(json.dumps({"passed": True, **pinned}))
    data = str(dataset_folder)

    def recorded() -> dict[str, int]:
        return {
            proof["stage"]: proof["documents"] for proof in json.loads(audit.read_text()).get("proofs", [])
        }

    assert eval_bpb.main([str(path), "--data", data, "--prove", "--documents", "3", "--stride", "16"]) == 0
    assert recorded() == {}
    assert eval_bpb.main([str(path), "--data", data, "--prove", "--documents", "3", "--ttt"]) == 0
    assert eval_bpb.main([str(path), "--data", data, "--prove", "--documents", "2"]) == 0
    assert recorded() == {"quantized": 3, "test_time_trained": 3}
    assert eval_bpb.main([str(path), "--data", data, "--prove", "--documents", "4"]) == 0
    assert recorded() == {"quantized": 4, "test_time_trained": 3}
    monkeypatch.setattr("golf.audit.rescore._audit_isolated", lambda *_: {"passed": True, **pinned})
    monkeypatch.setattr("golf.audit.rescore.print_audit", lambda *_: None)
    assert eval_bpb.main([str(path), "--data", data, "--audit"]) == 0
    assert recorded() == {"quantized": 4, "test_time_trained": 3}


def test_a_decoder_that_restores_another_text_proves_nothing(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copy(artifact_path, tmp_path / "artifact.bin")

    def restores_another(*asked: object) -> Restored:
        return Restored("nothing", 0.0, np.zeros(7, dtype=np.uint16))

    monkeypatch.setattr(proofs, "_restore", restores_another)
    how = ProofConfig(documents=3)
    _, (result,) = proofs.prove_artifact(path, dataset_folder, EvaluateConfig(), how, QUIET)
    assert "another text from token 0" in result.violations[0] and "NOT proved" in result.sentence


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sliding windows", "longest first, all", "as they stand, all"])
@pytest.mark.parametrize("name", [*SWITCHES, *VARIANTS])
def test_every_kind_of_network_is_coded_as_it_is_scored(
    name: str, method: str, dataset_folder: Path, tmp_path: Path
) -> None:
    bench = Bench(dataset_folder, tmp_path, method)
    changes = (SWITCHES | VARIANTS)[name]
    ttt = METHODS[method][1] | ({"cap_rate": 0.0} if changes.get("logit_softcap") == 0 else {})
    config = replace(TINY, vocab_size=bench.vocabulary.size, context=20, embedding_std=0.3, **changes)
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    _, _, header = read_model(bench.path, torch.device("cpu"))
    packed = pack(
        model.state_dict(), {**header, "model": asdict(config), "ttt": ttt}, PackConfig(), 1_000_000
    )
    bench.path.write_bytes(packed.artifact)
    proof = bench.encode()
    assert np.array_equal(bench.decode(proof), bench.tokens)
    assert abs(len(proof.coded) - bench.score_bytes()) < 1e-3 * bench.score_bytes() + 2


def test_a_stop_ends_the_decoder(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def waits(artifact: Path, tokenizer: Path, proof: Proof, is_stopped: Any) -> Restored:
        asked.append("begun")
        while not is_stopped():
            time.sleep(0.01)
        asked.append("stopped")
        return Restored("here", 0.0, None)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(proofs, "_restore", waits)
    monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        how = ProofConfig(documents=2)
        proofs.prove_artifact(artifact_path, dataset_folder, EvaluateConfig(), how, QUIET)
    assert asked == ["begun", "stopped"]


def test_a_text_that_ends_inside_a_character_or_begins_without_bos_is_proved(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "_restore", restores_here)
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    folder = shutil.copytree(dataset_folder, tmp_path / "data")
    # No piece of its own: bytes, of which the last one is missing.
    snow = vocabulary.encode_text("\u2603")
    assert len(snow) > 2
    tokens = Bench(dataset_folder, tmp_path, "sliding windows").whole[3:150].tolist() + snow[:-1]
    shard = folder / "fineweb_val_000000.bin"
    write_shard(shard, np.array(tokens, dtype=np.uint16))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256", None)
    for file in manifest["files"]:
        if file["split"] == "val":
            file.update(sha256=hashlib.sha256(shard.read_bytes()).hexdigest(), num_tokens=len(tokens))
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != CHECKSUM}))
    how = ProofConfig(documents=None)
    _, (result,) = proofs.prove_artifact(artifact_path, folder, EvaluateConfig(), how, QUIET)
    assert result.violations == ()
