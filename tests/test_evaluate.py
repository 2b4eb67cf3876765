import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

import eval_bpb
import train_gpt
import ttt
from golf.data.manifest import open_dataset
from golf.data.vocabulary import Vocabulary
from golf.entry.results import read_scores
from golf.evaluate import EvaluateConfig, evaluate, load_model, read_settings, sample_documents
from golf.pack.container import ArtifactError
from golf.results import Scores
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.log import RunLog
from golf.ttt.document_scorer import score_documents
from golf.ttt.methods import plan_lora

QUIET = RunLog(quiet=True)


def asdict_of_json(scores: Scores) -> dict:
    """What a file has of the scores, tuples being lists."""
    return json.loads(json.dumps(asdict(scores)))


def test_the_score_is_that_of_the_decoded_artifact(artifact_path: Path, dataset_folder: Path) -> None:
    scores = evaluate(artifact_path, dataset_folder, EvaluateConfig(), QUIET)
    dataset = open_dataset(dataset_folder)
    tokens = dataset.validation_tokens(StageClock())
    model, _ = load_model(artifact_path.read_bytes(), torch.device("cpu"))
    tally = score(Scoring(model, tokens, dataset.vocabulary, WindowConfig(stride=8))).tally
    (stage,) = scores.stages
    assert stage.name == "quantized" and stage.windows == "sliding"
    assert stage.tally.bits_per_byte == pytest.approx(tally.bits_per_byte, abs=1e-7)
    assert stage.tally.nats_per_token == pytest.approx(tally.nats_per_token, abs=1e-7)
    assert stage.tally.num_tokens == len(tokens) - 1
    assert stage.tally.num_bytes == dataset.manifest.val_text_bytes
    assert scores.partial is False
    assert (stage.context, stage.stride, stage.batch_tokens) == (32, 8, 4_096)
    assert scores.artifact_sha256 == hashlib.sha256(artifact_path.read_bytes()).hexdigest()
    assert scores.validation_sha256 == hashlib.sha256(tokens.tobytes()).hexdigest()
    assert scores.ttt is None


def test_both_scores_come_with_their_documents(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    config = EvaluateConfig(json=tmp_path / "a.json", per_document=tmp_path / "a.npz")
    scores = evaluate(artifact_path, dataset_folder, config, QUIET, ttt=True)
    assert json.loads((tmp_path / "a.json").read_text()) == asdict_of_json(scores)
    assert asdict_of_json(read_scores(tmp_path / "a.json")) == asdict_of_json(scores)
    plain, adapted = scores.stages
    assert (plain.name, adapted.name) == ("quantized", "test_time_trained")
    assert adapted.tally.nats != plain.tally.nats
    assert scores.ttt is not None and scores.ttt["chunk_tokens"] == 96
    with np.load(tmp_path / "a.npz") as documents:
        assert set(documents) == {"nats", "ttt_nats", "tokens", "bytes"}
        assert documents["tokens"].sum() == plain.tally.num_tokens
        for prefix, stage in (("", plain), ("ttt_", adapted)):
            bpb = documents[f"{prefix}nats"].sum() / math.log(2) / documents["bytes"].sum()
            assert bpb == pytest.approx(stage.tally.bits_per_byte, rel=1e-9)


def test_test_time_training_alone_gives_the_same_score(artifact_path: Path, dataset_folder: Path) -> None:
    both = evaluate(artifact_path, dataset_folder, EvaluateConfig(), QUIET, ttt=True)
    alone = evaluate(artifact_path, dataset_folder, EvaluateConfig(), QUIET, plain=False, ttt=True)
    assert [stage.tally for stage in alone.stages] == [both.stages[1].tally]


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_test_time_training_at_rate_zero_is_the_plain_score_to_the_last_digit(
    dataset_folder: Path, tmp_path: Path, compute_dtype: str
) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    ttt = {"chunk_tokens": 96, "learning_rate": 0.0, "epochs": 1}
    write_tiny_artifact(tmp_path / "a.bin", vocabulary, compute_dtype=compute_dtype, ttt=ttt)
    config = EvaluateConfig(per_document=tmp_path / "a.npz")
    plain, adapted = evaluate(tmp_path / "a.bin", dataset_folder, config, QUIET, ttt=True).stages
    assert adapted.tally == plain.tally
    with np.load(tmp_path / "a.npz") as documents:
        assert np.array_equal(documents["nats"], documents["ttt_nats"])


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_adapters_at_rate_zero_give_the_score_of_their_documents_to_the_last_digit(
    dataset_folder: Path, tmp_path: Path, compute_dtype: str
) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    ttt = {"method": "lora", "lora": {"rate": 0.0, "batch_documents": 3}}
    write_tiny_artifact(tmp_path / "a.bin", vocabulary, compute_dtype=compute_dtype, ttt=ttt)
    scores = evaluate(tmp_path / "a.bin", dataset_folder, EvaluateConfig(), QUIET, plain=False, ttt=True)
    model, header = load_model((tmp_path / "a.bin").read_bytes(), torch.device("cpu"))
    windows, settings = read_settings(header, EvaluateConfig())
    dataset = open_dataset(dataset_folder)
    tokens = dataset.validation_tokens(StageClock())
    batches = plan_lora(tokens, dataset.vocabulary.bos_id, settings.lora)
    plain = score_documents(Scoring(model, tokens, dataset.vocabulary, windows), batches)
    assert scores.stages[0].tally == plain.tally


def test_adapters_are_scored_recorded_and_repeatable(artifact_path: Path, dataset_folder: Path) -> None:
    config = EvaluateConfig(method="lora")
    scores = evaluate(artifact_path, dataset_folder, config, QUIET, ttt=True)
    again = evaluate(artifact_path, dataset_folder, config, QUIET, plain=False, ttt=True)
    plain, adapted = scores.stages
    assert again.stages[0].tally == adapted.tally != plain.tally
    assert scores.ttt is not None and scores.ttt["method"] == "lora"
    assert adapted.windows == "by document" and adapted.notes["documents"] == 12
    assert "longest first" in adapted.notes["order"]
    assert asdict_of_json(msgspec.convert(asdict_of_json(scores), Scores)) == asdict_of_json(scores)


def test_a_prefix_of_documents_is_called_partial(artifact_path: Path, dataset_folder: Path) -> None:
    config = EvaluateConfig(method="lora", max_tokens=101)
    scores = evaluate(artifact_path, dataset_folder, config, QUIET, plain=False, ttt=True)
    assert scores.partial is True and scores.stages[0].tally.num_tokens == 101


def test_a_sample_of_documents_is_called_partial(artifact_path: Path, dataset_folder: Path) -> None:
    config = EvaluateConfig(method="lora", sample_documents=4)
    scores = evaluate(artifact_path, dataset_folder, config, QUIET, ttt=True)
    assert scores.partial is True and scores.sample_documents == 4
    assert scores.stages[1].notes["documents"] == 4
    dataset = open_dataset(dataset_folder)
    tokens = dataset.validation_tokens(StageClock())
    whole = sample_documents(tokens, dataset.vocabulary.bos_id, 12)
    assert np.array_equal(whole, tokens)
    with pytest.raises(ValueError, match="sample_documents is 13; the text has 12 documents"):
        sample_documents(tokens, dataset.vocabulary.bos_id, 13)


@pytest.mark.parametrize("method", ["sgd", "lora"])
def test_a_time_limit_is_recorded_or_refused(
    artifact_path: Path, dataset_folder: Path, method: Literal["sgd", "lora"]
) -> None:
    config = EvaluateConfig(method=method, max_seconds=1e-6)
    with pytest.raises(ValueError, match=r"plain scoring of .* is forecast to take"):
        evaluate(artifact_path, dataset_folder, config, QUIET, plain=False, ttt=True)
    config = EvaluateConfig(method=method, max_seconds=1e6)
    limited = evaluate(artifact_path, dataset_folder, config, QUIET, plain=False, ttt=True)
    unlimited = evaluate(artifact_path, dataset_folder, EvaluateConfig(method=method), QUIET, False, True)
    (stage,) = limited.stages
    assert stage.notes["max_seconds"] == 1e6
    assert stage.adaptation_stopped_after_tokens is None
    assert stage.tally == unlimited.stages[0].tally


@pytest.mark.gpu
def test_a_gpu_gives_the_score_of_the_cpu(artifact_path: Path, dataset_folder: Path) -> None:
    scores = [
        evaluate(artifact_path, dataset_folder, EvaluateConfig(device=device), QUIET, ttt=True)
        for device in ("cpu", "cuda")
    ]
    for ours, theirs in zip(scores[0].stages, scores[1].stages, strict=True):
        assert ours.tally.bits_per_byte == pytest.approx(theirs.tally.bits_per_byte, abs=1e-4)


def test_a_prefix_is_called_partial(artifact_path: Path, dataset_folder: Path) -> None:
    scores = evaluate(artifact_path, dataset_folder, EvaluateConfig(max_tokens=100), QUIET)
    assert scores.partial is True and scores.max_tokens == 100
    assert 92 < scores.stages[0].tally.num_tokens <= 100


def test_what_is_asked_for_stands_before_what_the_artifact_says(
    artifact_path: Path, dataset_folder: Path
) -> None:
    (stage,) = evaluate(artifact_path, dataset_folder, EvaluateConfig(context=16, stride=16), QUIET).stages
    assert (stage.context, stage.stride) == (16, 16)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", torch.float32),
        ("meta", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
    ],
)
def test_a_cpu_scores_in_float32_and_other_devices_in_the_artifacts_dtype(
    dataset_folder: Path, tmp_path: Path, device: str, expected: torch.dtype
) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    write_tiny_artifact(tmp_path / "a.bin", vocabulary, compute_dtype="bfloat16")
    model, _ = load_model((tmp_path / "a.bin").read_bytes(), torch.device(device))
    assert model.compute_dtype is expected
    if device == "cpu":
        scores = evaluate(tmp_path / "a.bin", dataset_folder, EvaluateConfig(), QUIET)
        assert scores.compute_dtype == "float32"


def test_an_unknown_dtype_is_refused(dataset_folder: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    write_tiny_artifact(tmp_path / "b.bin", vocabulary, compute_dtype="float8")
    with pytest.raises(ArtifactError, match="compute_dtype is 'float8'; expected float32 or bfloat16"):
        load_model((tmp_path / "b.bin").read_bytes(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("ttt", "message"),
    [({"warp": 9}, "warp"), ({"lora": {"warp": 9}}, "warp"), ({"lora": 5}, "expected an object")],
)
def test_settings_that_are_none_are_refused(
    dataset_folder: Path, tmp_path: Path, ttt: dict, message: str
) -> None:
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    write_tiny_artifact(tmp_path / "a.bin", vocabulary, ttt=ttt)
    with pytest.raises(ArtifactError, match=message):
        evaluate(tmp_path / "a.bin", dataset_folder, EvaluateConfig(), QUIET)


def test_data_of_another_tokenizer_is_refused(artifact_path: Path, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path, tiny_tokenizer(seed=5))
    with pytest.raises(ValueError, match="the artifact was trained with the tokenizer of sha256"):
        evaluate(artifact_path, tmp_path, EvaluateConfig(), QUIET)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EvaluateConfig(stride=0), "stride is 0; expected 1 to the context, 32"),
        (EvaluateConfig(stride=33), "stride is 33; expected 1 to the context, 32"),
        (EvaluateConfig(context=10**6), "fewer than one window of 1,000,000"),
        (EvaluateConfig(max_tokens=8), "max_tokens is 8; the first window alone grades 32"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    artifact_path: Path, dataset_folder: Path, config: EvaluateConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(artifact_path, dataset_folder, config, QUIET)


def test_the_programs_print_and_write_the_scores(
    artifact_path: Path, dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = []
    for program in (eval_bpb, ttt):
        out = tmp_path / f"{program.__name__}.json"
        arguments = [artifact_path.parent, "--data", dataset_folder, "--json", out]
        assert program.main([str(argument) for argument in arguments]) == 0
        names += [stage.name for stage in read_scores(out).stages]
        assert "val_bpb:" in capsys.readouterr().out
    assert names == ["quantized", "test_time_trained"]


@pytest.mark.parametrize("program", [eval_bpb, ttt])
def test_json_without_a_file_is_all_that_is_printed(
    program: ModuleType, artifact_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert program.main([str(artifact_path), "--json", "--data", str(dataset_folder)]) == 0
    scores = msgspec.json.decode(capsys.readouterr().out, type=Scores)
    assert scores.stages[0].name == ("test_time_trained" if program is ttt else "quantized")
    assert scores.stages[0].tally.num_tokens > 0


@pytest.mark.parametrize("program", [eval_bpb, ttt])
def test_bad_input_is_one_line_and_exit_code_2(
    program: ModuleType, dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "cut.bin").write_bytes(b"GOLF")
    arguments = [tmp_path / "cut.bin", "--data", dataset_folder, "--json", tmp_path / "out"]
    assert program.main([str(argument) for argument in arguments]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and "artifact is 4 bytes" in errors
    assert not (tmp_path / "out").exists()
    assert program.main([str(tmp_path / "none"), "--data", str(dataset_folder)]) == 2
    assert capsys.readouterr().err.endswith("none: no such file or folder\n")
    assert program.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.endswith("none: no such file or folder\n")


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (eval_bpb, ["--method", "lora"], "--method belongs to test-time training"),
        (eval_bpb, ["--max-seconds", "5"], "--max-seconds belongs to test-time training"),
        (eval_bpb, ["--audit", "--max-tokens", "100"], "--max-tokens does not go with --audit"),
        (eval_bpb, ["--audit", "--json", "figures.json"], "--json does not go with --audit"),
        (eval_bpb, ["--audit", "--sample-documents", "2"], "--sample-documents does not go with --audit"),
        (eval_bpb, ["--audit", "--max-seconds", "5"], "--max-seconds does not go with --audit"),
        (eval_bpb, ["--audit", "--per-document", "a.npz"], "--per-document does not go with --audit"),
        (eval_bpb, ["--verify", "--stride", "8"], "--stride does not go with --verify"),
        (eval_bpb, ["--verify", "--max-tokens", "100"], "--max-tokens does not go with --verify"),
        (eval_bpb, ["--verify", "--ttt"], "--ttt does not go with --verify"),
        (train_gpt, ["--method", "lora"], "--method belongs to test-time training"),
        (train_gpt, ["--no-plain"], "nothing to score"),
    ],
)
def test_an_option_that_would_not_be_read_is_refused(
    program: ModuleType,
    arguments: list[str],
    message: str,
    artifact_path: Path,
    dataset_folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    path = ["--score", str(artifact_path)] if program is train_gpt else [str(artifact_path)]
    assert program.main([*path, "--data", str(dataset_folder), *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_each_method_states_the_tokens_that_it_scored(dataset_folder: Path, tmp_path: Path) -> None:
    # Sliding windows end at a window's edge, documents at the token that was asked for.
    vocabulary = Vocabulary.load(dataset_folder / "tiny.model")
    write_tiny_artifact(
        tmp_path / "a.bin", vocabulary, ttt={"method": "lora", "lora": {"batch_documents": 3}}
    )
    scores = evaluate(tmp_path / "a.bin", dataset_folder, EvaluateConfig(max_tokens=101), QUIET, ttt=True)
    plain, adapted = (stage.tally for stage in scores.stages)
    assert adapted.num_tokens > plain.num_tokens
    assert adapted.num_bytes > plain.num_bytes
    assert scores.partial is True
