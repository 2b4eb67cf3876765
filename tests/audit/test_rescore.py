import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_samples import write_tiny_artifact
from torch import Tensor

import eval_bpb
from golf.audit import rescore as auditing
from golf.audit.isolate import NONE, find_mechanism
from golf.audit.rescore import AuditConfig, ProbeReport, Replay, audit_artifact
from golf.data.vocabulary import Vocabulary
from golf.evaluate import EvaluateConfig
from golf.model.embeddings import SmearGate
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig, pack
from golf.score.ledger import Ledger, ScoredDocuments
from golf.score.scorer import Scoring
from golf.score.windows import WindowConfig
from golf.system.log import RunLog
from golf.ttt.document_scorer import _DocumentGrader
from golf.ttt.lora import LoraLearner

QUIET = RunLog(quiet=True)
HOW = AuditConfig(targets=3, chunks=2)


def audit(artifact: Path, data: Path, ttt: bool = True) -> dict:
    return audit_artifact(artifact, data, EvaluateConfig(), HOW, QUIET, ttt)


def failed(found: dict) -> set[tuple[str, str]]:
    return {(probe["scorer"], probe["probe"]) for probe in found["probes"] if probe["violations"]}


def test_the_scorer_of_an_artifact_passes_and_says_what_was_looked_at(
    artifact_path: Path, dataset_folder: Path
) -> None:
    found = audit(artifact_path, dataset_folder)
    assert found["passed"] is True and failed(found) == set()
    assert {probe["scorer"] for probe in found["probes"]} == {
        "validation text",
        "sliding windows",
        "test-time training",
    }
    assert found["chunk_tokens"] == 64
    json.dumps(found, allow_nan=False)


def test_a_network_that_looks_ahead_is_caught(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = GPT.forward

    def looks_ahead(self: GPT, inputs_BT: Tensor, num_last: int | None = None) -> Tensor:
        hint_B11 = 0.01 * (inputs_BT[:, -1:, None] % 7)
        return sound(self, inputs_BT, num_last) * (1 + hint_B11)

    monkeypatch.setattr(GPT, "forward", looks_ahead)
    found = audit(artifact_path, dataset_folder)
    assert ("sliding windows", "causality") in failed(found)
    assert ("test-time training", "causality") in failed(found)


def lora_artifact(data: Path, folder: Path) -> Path:
    lora = {"chunk_tokens": [4], "chunk_lengths": [], "rate": 0.05, "rank": 2, "projections": ["up", "value"]}
    vocabulary = Vocabulary.load(data / "tiny.model")
    write_tiny_artifact(folder / "lora.bin", vocabulary, ttt={"method": "lora", "lora": lora})
    return folder / "lora.bin"


def test_adapters_by_document_pass_and_their_side_information_is_said(
    dataset_folder: Path, tmp_path: Path
) -> None:
    found = audit(lora_artifact(dataset_folder, tmp_path), dataset_folder, ttt=False)
    assert found["passed"] is True and failed(found) == set()
    assert "lengths" in found["side_information"] and "longest first" in found["side_information"]
    assert found["ttt"]["method"] == "lora"
    json.dumps(found, allow_nan=False)


def test_adapters_that_learn_from_other_documents_of_the_batch_are_caught(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = LoraLearner.learn

    def shares(self: LoraLearner, scored: ScoredDocuments) -> None:
        sound(self, scored)
        self.adapters_BP[:] = self.adapters_BP.mean(0)

    monkeypatch.setattr(LoraLearner, "learn", shares)
    found = audit(lora_artifact(dataset_folder, tmp_path), dataset_folder)
    assert ("test-time training", "causality") in failed(found)


def test_adapters_that_learn_before_the_grade_are_caught(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = _DocumentGrader._grade_chunk

    def trains_first(
        self: _DocumentGrader, documents: list, first: int, end: int, *rest: Any
    ) -> torch.Tensor:
        for row, (start, stop) in enumerate(documents):
            peek = int(self.tokens[start + 1 + first : min(start + end, stop) + 1].sum()) % 11
            if self.learner is not None:
                self.learner.adapters_BP[row] += 0.01 * peek
        return sound(self, documents, first, end, *rest)

    monkeypatch.setattr(_DocumentGrader, "_grade_chunk", trains_first)
    found = audit(lora_artifact(dataset_folder, tmp_path), dataset_folder)
    assert failed(found) >= {("test-time training", "causality"), ("test-time training", "normalisation")}


def test_training_on_a_chunk_before_it_is_graded_is_caught(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from golf.score import scorer

    sound = scorer._grade_chunk

    def trains_first(scoring: Scoring, chunk: list, *others: Any) -> np.ndarray:
        ids = torch.from_numpy(scoring.tokens[chunk[0].start : chunk[-1].end].astype(np.int64))
        with torch.no_grad():
            scoring.model.blocks[-1].feedforward.up.weight.mul_(1 + 1e-3 * (ids.sum() % 11))
        return sound(scoring, chunk, *others)

    monkeypatch.setattr(scorer, "_grade_chunk", trains_first)
    assert ("sliding windows", "causality") in failed(audit(artifact_path, dataset_folder, ttt=False))


def test_a_smear_across_documents_in_the_network_is_caught(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmasked(self: SmearGate, x_BTD: Tensor, inputs_BT: Tensor) -> Tensor:
        previous_BTD = torch.nn.functional.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return x_BTD + torch.sigmoid(self.gate) * (previous_BTD - x_BTD)

    monkeypatch.setattr(SmearGate, "forward", unmasked)
    found = audit(artifact_path, dataset_folder)
    assert failed(found) == {("sliding windows", "document start"), ("test-time training", "document start")}


def test_the_program_writes_the_audit_and_exits_by_it(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        shutil.copy(artifact_path, tmp_path / f"artifact_seed{seed}.bin")
    arguments = [str(tmp_path), "--data", str(dataset_folder), "--audit"]
    monkeypatch.setattr(
        "golf.audit.rescore.AuditConfig", lambda **how: AuditConfig(targets=1, chunks=2, **how)
    )
    assert eval_bpb.main(arguments) == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["passed"] is True and set(found["seeds"]) == {"1", "2"}
    assert found["seeds"]["1"]["isolation"] == (find_mechanism() or NONE)
    # The same in this process.
    monkeypatch.setattr("golf.audit.rescore._audit_isolated", audit_artifact)
    monkeypatch.setattr("golf.audit.rescore.probe_causality", lambda *_: _report_of_a_violation())
    (tmp_path / "artifact_seed2.bin").unlink()
    assert eval_bpb.main(arguments) == 1
    assert json.loads((tmp_path / "audit.json").read_text())["passed"] is False


def _report_of_a_violation() -> object:
    from golf.audit.rescore import ProbeReport

    return ProbeReport("causality", "target 3", ["replacing target 3 moved the grade of target 1"])


def test_a_folder_without_an_artifact_is_one_line_and_exit_code_2(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert eval_bpb.main([str(tmp_path), "--data", str(dataset_folder), "--audit"]) == 2
    assert "holds no artifact" in capsys.readouterr().err


def test_a_gpus_kernels_repeat_themselves_while_a_scorer_is_probed(
    artifact_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed, sound = [], auditing.repeatable_kernels

    def probe(*arguments: object) -> tuple[list, dict]:
        probed.append(torch.are_deterministic_algorithms_enabled())
        return [], {}

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(auditing, "audit_scorer", probe)
    monkeypatch.setattr(auditing, "repeatable_kernels", lambda device: sound(torch.device("cuda")))
    audit(artifact_path, dataset_folder)
    assert probed == [True, True] and not torch.are_deterministic_algorithms_enabled()


def test_a_network_without_smear_is_audited_as_any_other(dataset_folder: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    model = write_tiny_artifact(tmp_path / "other.bin", vocabulary)
    config = replace(model.config, smear="off")
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("smear.")}
    header = {"model": asdict(config), "compute_dtype": "float32", "tokenizer_sha256": vocabulary.sha256}
    header |= {"score": {"stride": 8}, "ttt": {"enabled": False}}
    (tmp_path / "plain.bin").write_bytes(pack(weights, header, PackConfig(), 1_000_000).artifact)
    assert audit(tmp_path / "plain.bin", dataset_folder, ttt=False)["passed"]


def test_the_noise_of_a_gpu_sets_what_its_audit_tolerates(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, seen = np.random.default_rng(0), {}

    def noisy(tokens: np.ndarray, targets: list[int]) -> Replay:
        noise = draw.uniform(-1e-4, 1e-4, len(tokens) - 1).astype(np.float32)
        return Replay(1 + noise, {target: np.log(np.full(4, 0.25)) for target in targets}, Ledger(len(noise)))

    def note(name: str, found: list[float]) -> Callable[..., ProbeReport]:
        def probe(*arguments: Any) -> ProbeReport:
            found.append(arguments[1].tolerance_nats)
            return ProbeReport(name, "", [])

        return probe

    for name in ("probe_causality", "probe_normalization"):
        monkeypatch.setattr(auditing, name, note(name, seen.setdefault(name, [])))
    monkeypatch.setattr(auditing, "probe_ledger", lambda *rest: ProbeReport("ledger", "", []))
    monkeypatch.setattr(auditing, "probe_document_start", lambda *rest: ProbeReport("start", "", []))
    vocabulary, windows = SimpleNamespace(size=4, bos_id=1), WindowConfig(32, 8)
    noisy.scoring = SimpleNamespace(vocabulary=vocabulary, resolved_windows=lambda: windows)
    noisy.chunk_tokens, noisy.features = 64, None
    stream = np.arange(200) % 3 + 1
    for on_gpu in (True, False):
        auditing.audit_scorer(noisy, stream, AuditConfig(targets=2), on_gpu, None, QUIET)
    on_gpu, on_cpu = seen["probe_causality"]
    assert seen["probe_normalization"] == [on_gpu, on_cpu]
    assert 8 * 1e-4 < on_gpu <= 8 * 2.1e-4 and on_cpu == 0.0
