"""The programs as a person runs them: from text to an entry, stopped and resumed, and fed with nonsense."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from entry_toys import draw_nothing
from tiny_samples import TINY
from tracked_files import read_tensorboard, read_trackio, read_wandb

import train_gpt
from golf import run as running
from golf.check.check import check_folders
from golf.command import parse_run, planned_runs
from golf.entry import finalize as closing
from golf.entry.results import read_results, read_scores
from golf.prepare.build import build_dataset
from golf.prepare.shards import TextOrigin
from golf.prepare.split import SplitConfig
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.system.files import read_sealed_json, write_sealed_json
from golf.system.log import RunLog
from golf.train.loop import Trainer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The help topics of Python as a dataset of 400 pieces."""
    folder = tmp_path_factory.mktemp("data") / "topics"
    documents = [text for _, text in sorted(topics.items())]
    stream = TextStream(
        ((text, number) for number, text in enumerate(documents, 1)), len(documents), "documents"
    )
    origin = TextOrigin("topics", "pydoc topics", "PSF-2.0", sys.version.split()[0])
    build_dataset(folder, origin, stream, TokenizerChoice(vocab_size=400), SplitConfig(), RunLog(quiet=True))
    return folder


def start(
    folder: Path, *arguments: object, isolated: bool = False, script: Path = ROOT / "train_gpt.py"
) -> subprocess.Popen:
    command = [sys.executable, *(["-I"] if isolated else []), str(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder: Path, *arguments: object, **how: object) -> tuple[int, str, str]:
    process = start(folder, *arguments, **how)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def exit_code(arguments: list[str]) -> int:
    """Runs the program in this process, which spares its start; tyro leaves by SystemExit."""
    try:
        return train_gpt.main(arguments)
    except SystemExit as leaving:
        return leaving.code


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of twelve steps that nothing disturbed, with its entry."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = finish(
        folder, *TINY, "--data", data, "--steps", 12, "--name", "tiny run", "--out", "run"
    )
    assert code == 0, out + err
    return folder


def test_one_command_leaves_a_complete_entry(whole):
    (entry,) = (whole / "records" / "local").iterdir()
    names = {path.name for path in entry.iterdir()}
    made = ("README.md", "submission.json", "results.json", "training.svg", "per_document.npz")
    assert {*made, "train_gpt.py", "requirements.txt", "train_seed42.log", "artifact_seed42.bin"} <= names
    claimed = json.loads((entry / "submission.json").read_text())
    sizes = [(entry / name).stat().st_size for name in ("train_gpt.py", "artifact_seed42.bin")]
    assert claimed["bytes_total"] == sum(sizes) <= 16_000_000
    assert claimed["tokens_scored"] > 5000
    results = json.loads((whole / "run" / "results.json").read_text())
    chosen = results["training"]
    assert chosen["attention"], "what the run chose is recorded"


def test_the_log_of_an_entry_states_the_steps_and_seconds_of_its_submission(whole):
    (entry,) = (whole / "records" / "local").iterdir()
    (report,) = check_folders([entry], workers=1)
    # Twelve steps leave much to test-time training.
    assert {found.code for found in report.findings if found.level != "info"} <= {"gain-too-large"}


def test_the_entrys_own_script_scores_its_artifact_to_the_same_digits(whole, data, tmp_path):
    (entry,) = (whole / "records" / "local").iterdir()
    (tmp_path / "train_gpt.py").write_bytes((entry / "train_gpt.py").read_bytes())
    figures = tmp_path / "figures.json"
    artifact = entry / "artifact_seed42.bin"
    code, out, err = finish(
        tmp_path, "--score", artifact, "--data", data, "--ttt", "--max-tokens", 6000, "--json", figures,
        isolated=True, script=tmp_path / "train_gpt.py",
    )  # fmt: skip
    assert code == 0, out + err
    stated = read_results(whole / "run" / "results.json")
    for stage in read_scores(figures).stages:
        assert stage.tally == stated.stage(stage.name).tally


def test_the_entrys_own_script_trains_to_the_same_artifact(whole, data, tmp_path):
    (entry,) = (whole / "records" / "local").iterdir()
    shutil.copyfile(entry / "train_gpt.py", tmp_path / "train_gpt.py")
    script = tmp_path / "train_gpt.py"
    arguments = ["--data", data, "--out", "again", "--max-tokens", 6000]
    code, out, err = finish(tmp_path, *arguments, isolated=True, script=script)
    assert code == 0, out + err
    again = read_scores(tmp_path / "again" / "logs" / "seed42.json")
    first = read_results(whole / "run" / "results.json")
    assert again.artifact_sha256 == first.packing.artifact_sha256
    for stage in again.stages:
        assert stage.tally == first.stage(stage.name).tally


def kill_when(process: subprocess.Popen, has_come: Callable[[], bool]) -> None:
    """Kills a program that is still at work when a condition holds."""
    deadline = time.monotonic() + 120
    while not has_come():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_run_killed_while_it_trains_and_while_it_scores_resumes_to_the_same_artifact(whole, data, tmp_path):
    run, events = tmp_path / "run", tmp_path / "run" / "run.jsonl"
    arguments = [*TINY, "--data", data, "--steps", 12, "--out", "run", "--train.checkpoint-seconds", "0"]
    kill_when(start(tmp_path, *arguments), lambda: events.exists() and '"4/12"' in events.read_text())
    assert not (run / "weights.safetensors").exists(), "it was killed too late to show anything"
    kill_when(start(tmp_path, "--resume", "run"), (run / "score_weights.json").exists)
    assert "resumed at step" in events.read_text()
    code, out, err = finish(tmp_path, "--resume", "run")
    assert code == 0, out + err
    for stage in ("training", "averaging", "calibration", "pack", "score_weights"):
        assert f"{stage}: done already" in out
    assert (run / "artifact.bin").read_bytes() == (whole / "run" / "artifact.bin").read_bytes()
    found, expected = (read_results(path / "results.json") for path in (run, whole / "run"))
    assert found.final.name == "test_time_trained" and found.final.tally == expected.final.tally


def stage_files(folder: Path) -> dict[str, list[Path]]:
    """What each stage of a run leaves, in the order of the stages."""
    names = {
        "train": ["training.json"],
        "average": ["averaging.json", "weights.safetensors"],
        "calibrate": ["calibration.json", "calibration.safetensors"],
        "pack": ["pack.json", "train_gpt.py", "artifact.bin"],
        "weights": ["score_weights.json"],
        "quantized": ["score_quantized.json", "score_quantized.npz"],
        "test_time_trained": ["score_test_time_trained.json", "score_test_time_trained.npz"],
        "results": ["results.json", "per_document.npz"],
        "audit": ["audit.json"],
    }
    return {stage: [folder / name for name in files] for stage, files in names.items()}


STAGES = list(stage_files(Path()))


@pytest.fixture
def counted(whole, monkeypatch) -> list[str]:
    """Notes each stage that is really done; the process that scores is stood for by what it left before."""
    done: list[str] = []

    def noting(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **more: Any) -> Any:
            done.append(name)
            return inner(*arguments, **more)

        return noted

    def fresh_process(command: list[str], folder: Path) -> int:
        figures = Path(command[command.index("--json") + 1])
        documents = Path(command[command.index("--per-document") + 1])
        for path in (figures, documents):
            shutil.copyfile(whole / "run" / path.name, path)
        done.append(figures.stem.removeprefix("score_"))
        return 0

    monkeypatch.setattr(Trainer, "train", noting("train", Trainer.train))
    monkeypatch.setattr(Trainer, "choose_output", noting("average", Trainer.choose_output))
    for name, function in (("calibrate", "calibrate"), ("pack", "pack")):
        monkeypatch.setattr(running, function, noting(name, vars(running)[function]))
    monkeypatch.setattr(running, "score_weights", noting("weights", running.score_weights))
    monkeypatch.setattr(running, "run_child", fresh_process)
    monkeypatch.setattr(closing, "audit_path", noting("audit", closing.audit_path))
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    # The same script as before, which takes seconds to make.
    monkeypatch.setattr(
        "golf.programs.train.charged_script", lambda *_: (whole / "run" / "train_gpt.py").read_bytes()
    )
    return done


@pytest.mark.parametrize("last", STAGES[:-1])
def test_a_run_that_was_stopped_after_a_stage_does_none_of_the_earlier_ones_again(
    whole, data, tmp_path, monkeypatch, counted, last
):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    finished = STAGES.index(last)
    for stage in STAGES[finished + 1 :]:
        for path in stage_files(run)[stage]:
            path.unlink(missing_ok=True)
    assert exit_code(["--resume", "run"]) == 0
    expected = [stage for stage in STAGES[finished + 1 :] if stage != "results"]
    assert list(dict.fromkeys(counted)) == expected
    before, after = (read_results(path / "results.json") for path in (whole / "run", run))
    assert [stage.tally for stage in after.stages] == [stage.tally for stage in before.stages]
    assert after.packing.artifact_sha256 == before.packing.artifact_sha256
    assert after.seconds["train"] == before.seconds["train"]
    assert list((tmp_path / "records" / "local").iterdir())


def test_an_audit_that_fails_leaves_the_results_and_no_entry(whole, tmp_path, monkeypatch, counted, capsys):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (run / "audit.json").unlink()
    monkeypatch.setattr(closing, "audit_path", lambda *rest, **more: False)
    assert exit_code(["--resume", "run"]) == 2
    assert "--resume run" in capsys.readouterr().err
    assert (run / "results.json").is_file() and not (tmp_path / "records").exists()


def test_the_seed_preset_does_what_its_card_says(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shrunk = (
        "--preset seed --model.width 32 --model.num-heads 4 --model.num-kv-heads 2 --model.mlp-hidden 48 "
        "--model.context 128 --model.rotary-dims 4 --train.batch-tokens 512 --train.micro-batch-tokens 256 "
        "--train.held-out-tokens 512 --steps 8 --max-tokens 4096 --ttt.chunk-tokens 1024 --device cpu "
        "--form readable --out run"
    )
    assert exit_code([*shrunk.split(), "--data", str(data)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    features = {feature["name"]: feature for feature in results["features"]}
    card = {
        "11 layers of width 32": "11 blocks",
        "optim: muon": "AdamW",
        "orthogonal initialisation": "identity",
        "schedule.warmdown": "cosine",
        "averaging": "ema+swa was kept",
        "pack: int5, zstd-22": "bits a weight",
        "sliding windows": "stride 64 in windows of 128",
        "ttt: sgd, 3 epochs, 2 frozen blocks": "moved the score",
    }
    for name, evidence in card.items():
        assert features[name]["active"] and evidence in features[name]["evidence"], features.get(name)
    assert results["config"]["ttt"]["method"] == "sgd" and results["packing"]["report"]["scheme"] == "int5"


def stop_when(process: subprocess.Popen, events: Path, text: str, signum: int) -> tuple[str, str]:
    """Sends a signal once a run's events have a text; returns what the run printed."""
    deadline = time.monotonic() + 120
    while text not in (events.read_text() if events.exists() else ""):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signum)
    return process.communicate(timeout=60)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(data, tmp_path):
    process = start(tmp_path, *TINY, "--data", data, "--minutes", 5, "--out", "run")
    out, err = stop_when(process, tmp_path / "run" / "run.jsonl", '"step"', signal.SIGINT)
    assert process.returncode == 130, out + err
    assert "--resume run" in out
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_a_run_that_sigterm_stopped_and_that_was_resumed_is_one_run_to_every_tracker(
    whole, data, tmp_path, monkeypatch, counted, capsys
):
    for name in ("WANDB_API_KEY", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = tmp_path / "run"
    arguments = [*TINY, "--data", data, "--steps", 12, "--out", "run", "--train.checkpoint-seconds", "0"]
    tracked = ["--track", "trackio", "wandb", "tensorboard"]
    process = start(tmp_path, *arguments, *tracked)
    out, err = stop_when(process, run / "run.jsonl", '"2/12"', signal.SIGTERM)
    assert process.returncode == 143 and "--resume run" in out, out + err
    assert not (run / "training.json").exists(), "it was stopped too late to show anything"

    monkeypatch.chdir(tmp_path)
    assert exit_code(["--resume", "run"]) == 0
    printed = out + capsys.readouterr().out
    results = read_results(run / "results.json")
    assert (
        results.packing.artifact_sha256
        == read_results(whole / "run" / "results.json").packing.artifact_sha256
    )
    for name, found in {
        "trackio": read_trackio(tmp_path / "trackio"),
        "wandb": read_wandb(run / "trackers"),
        "tensorboard": read_tensorboard(run / "trackers"),
    }.items():
        assert [step for step, _ in found.curves["train/loss"]] == list(range(1, 13)), name
        final = results.final.tally
        score = [found.summary[f"score/{results.final.name}/{unit}"] for unit in ("bpb", "nats_per_token")]
        assert score == pytest.approx([final.bits_per_byte, final.nats_per_token], rel=1e-6), name
        assert found.summary["size/total_bytes"] == results.packing.total_bytes, name
        assert found.summary["average/output"] == results.averaging.output, name
        assert found.summary["seconds/train"] == pytest.approx(results.seconds["train"]), name
        assert found.summary["audit/passed"] and found.curves["held_out/bpb"], name
        assert f"\n{name}: " in printed and "failed" not in printed


def test_a_run_of_earlier_option_names_resumes_with_its_track_and_trackers(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    stored = read_sealed_json(whole / "run" / "config.json")
    options = stored["options"]
    del options["record_track"]
    options |= {"track": "track_non_record_16mb", "trackers": ["tensorboard"]}
    write_sealed_json(run / "config.json", stored)
    found = parse_run(["--resume", str(run)]).options
    assert (found.record_track, found.track) == ("track_non_record_16mb", ("tensorboard",))
    assert parse_run(["--resume", str(run), "--track", "wandb", "trackio"]).options.track == (
        "wandb",
        "trackio",
    )


@pytest.mark.slow
def test_the_same_command_with_requeue_ends_a_run_that_slurms_signal_stopped_as_if_it_had_not(
    whole, data, tmp_path
):
    again = [*TINY, "--data", data, "--steps", 12, "--name", "tiny run", "--out", "run", "--requeue"]
    process = start(tmp_path, *again)
    out, err = stop_when(process, tmp_path / "run" / "run.jsonl", '"step"', signal.SIGUSR1)
    assert process.returncode == 128 + signal.SIGUSR1, out + err
    assert "--resume run" in out and (tmp_path / "run" / "checkpoint.pt").is_file()
    assert not (tmp_path / "run" / "training.json").exists()
    code, out, err = finish(tmp_path, *again)
    assert code == 0, out + err
    assert "resumed at step" in out
    assert (tmp_path / "run" / "artifact.bin").read_bytes() == (whole / "run" / "artifact.bin").read_bytes()


def test_the_same_command_with_requeue_begins_a_run_goes_on_with_it_and_finds_it_finished(
    whole, data, tmp_path, monkeypatch, counted, capsys
):
    monkeypatch.chdir(tmp_path)
    again = [*TINY, "--data", str(data), "--steps", "12", "--name", "tiny run", "--out", "run", "--requeue"]
    (_, begun), *more = planned_runs(again)
    assert (str(begun), more) == ("run", []) and not begun.path.exists()
    shutil.copytree(whole / "run", "run")
    for stage in ("pack", "weights", "quantized", "test_time_trained", "results", "audit"):
        for path in stage_files(Path("run"))[stage]:
            path.unlink(missing_ok=True)
    assert exit_code(again) == 0
    assert list(dict.fromkeys(counted)) == ["pack", "weights", "quantized", "test_time_trained", "audit"]
    assert Path("run/artifact.bin").read_bytes() == (whole / "run" / "artifact.bin").read_bytes()
    counted.clear()
    assert exit_code(again) == 0 and counted == []
    assert "run: finished already" in capsys.readouterr().out


def test_requeue_refuses_another_training_and_what_does_not_say_where_the_run_is(
    whole, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole / "run", "run")
    again = [*TINY, "--data", str(data), "--out", "run", "--requeue"]
    assert exit_code([*again, "--steps", "13"]) == 2
    assert "run was begun with steps 12; it cannot go on with 13" in capsys.readouterr().err
    for arguments in (
        ["--requeue"],
        ["--requeue", "--resume", "run"],
        ["--requeue", "--out", "run", "--resume=run"],
    ):
        assert exit_code(arguments) == 2
        assert "give --out and leave out --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "1", "--steps", "3"], "two budgets"),
        (["--preset", "huge"], "preset is 'huge'"),
        (["--no-such-option", "3"], "Unrecognized"),
        (["--name", "../../x"], "--name is '../../x'"),
        (["--name", "a b/c"], "--name is 'a b/c'"),
        (["--steps", "0"], "--steps is 0"),
        (["--data", "nowhere", "--steps", "3"], "nowhere"),
        (["--resume", "nowhere"], "nowhere is no run folder"),
        (["--device", "abacus", "--data", "nowhere"], "device is 'abacus'"),
        (["--model.width", "33", "--steps", "1"], "width 33"),
        (["--model.vocab-size", "999", "--steps", "1", "--data", "DATA"], "vocab_size is 999"),
        (["--train.batch-tokens", "100", "--steps", "1"], "batch_tokens 100"),
        (["--score.stride", "512", "--steps", "1"], "stride is 512"),
    ],
)
def test_nonsense_ends_with_one_clear_line_and_code_2(
    data, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert exit_code(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir()), "something half-made was left"


@pytest.mark.parametrize(
    ("submission", "options", "says"),
    [("{}", [], "author is None; expected a text"), (None, ["--author", "A\nB"], "one line of text")],
)
def test_who_submits_is_asked_before_the_run(data, tmp_path, monkeypatch, capsys, submission, options, says):
    monkeypatch.chdir(tmp_path)
    if submission is not None:
        (tmp_path / "submission.json").write_text(submission)
    assert exit_code([*TINY, "--data", str(data), "--steps", "2", "--out", "run", *options]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_damaged_artifact_is_refused_by_name(whole, data, tmp_path, capsys, damage):
    artifact = bytearray((whole / "run" / "artifact.bin").read_bytes())
    if damage == "truncated":
        artifact = artifact[:-100]
    elif damage == "flipped":
        artifact[len(artifact) // 2] ^= 1
    else:
        artifact = bytearray(b"not an artifact")
    (tmp_path / "artifact.bin").write_bytes(artifact)
    assert exit_code(["--score", str(tmp_path / "artifact.bin"), "--data", str(data)]) == 2
    err = capsys.readouterr().err
    assert "artifact" in err and err.count("\n") == 1


def test_sums_by_document_that_are_not_those_written_are_made_again(whole, tmp_path, monkeypatch, counted):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for name in ("results.json", "audit.json"):
        (run / name).unlink()
    changed = bytearray((run / "score_quantized.npz").read_bytes())
    changed[len(changed) // 2] ^= 4
    (run / "score_quantized.npz").write_bytes(changed)
    assert exit_code(["--resume", "run"]) == 0
    assert list(dict.fromkeys(counted)) == ["quantized", "audit"]
    assert "score_quantized.npz is not the file that was written" in (run / "run.log").read_text()


def test_test_time_training_that_was_left_out_stays_so(whole, tmp_path, monkeypatch, counted):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for stage in ("test_time_trained", "results", "audit"):
        for path in stage_files(run)[stage]:
            path.unlink(missing_ok=True)
    stored = read_sealed_json(run / "config.json")
    stored["config"]["ttt"]["max_seconds"] = 1e-3
    write_sealed_json(run / "config.json", stored)
    assert exit_code(["--resume", "run"]) == 0
    results = read_results(run / "results.json")
    assert [stage.name for stage in results.stages] == ["last", "averaged", "quantized"]
    (feature,) = [one for one in results.features if one.name.startswith("ttt")]
    assert not feature.active and "too little time" in feature.evidence
    # Another process has other limits, and yet the same results.
    stored["config"]["ttt"]["max_seconds"] = None
    write_sealed_json(run / "config.json", stored)
    (run / "results.json").unlink()
    assert exit_code(["--resume", "run"]) == 0
    assert read_results(run / "results.json").final.name == "quantized"
    assert "test_time_trained" not in counted
