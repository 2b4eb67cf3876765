"""Trackers against the packages themselves, without a network: what they wrote is read back."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import wandb
from tracked_files import Tracked, read_tensorboard, read_trackio, read_wandb

import train_gpt
from golf.system.log import RunLog
from golf.track.figures import FIGURES, Figures, figures_of, step_of
from golf.track.sinks import TrackedRun, WandB
from golf.track.start import TrackerError, Trackers, Usage, check_trackers, hide_secrets

CPU = torch.device("cpu")
CONFIG = {"seed": 7, "steps": None, "model": {"width": 32, "ngram_buckets": [48, 32]}, "form": "readable"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without logins, whose trackers keep what they have below a folder."""
    for name in (
        "WANDB_MODE",
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "WANDB_PROJECT",
        "TRACKIO_SPACE_ID",
        "NETRC",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def session(names: list[str], close_seconds: float = 30.0) -> RunLog:
    """The log of one session of the run in `run`, its configuration logged."""
    folder = Path("run")
    folder.mkdir(exist_ok=True)
    events, trackers = folder / "run.jsonl", folder / "trackers"
    log = RunLog(folder / "run", True, Trackers(names, events, trackers, "tiny-seed7", CPU, close_seconds))
    log.record("environment", hardware="a toaster", cores=2)
    log.record("config", **CONFIG)
    return log


def log_steps(log: RunLog, first: int, last: int) -> None:
    """A step every step, held-out text every other, with figures that their step tells."""
    for step in range(first, last + 1):
        log.event(
            "step", step=f"{step}/6", train_loss=8.0 - step, grad_norm=0.5, tokens_per_second=100 * step
        )
        if step % 2 == 0:
            log.event("held_out", step=step, tokens=10 * step, bpb=4.0 - step / 4)


def lines_of(tracker: str) -> list[str]:
    """What a tracker has said in the run's log."""
    lines = Path("run/run.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(f"{tracker}: ")]


@pytest.fixture
def tracked(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tracked]:
    """A run of six steps that was stopped after the fourth, and went on from the checkpoint of the second."""
    names = ["trackio", "wandb", "tensorboard"]
    with pytest.raises(KeyboardInterrupt), session(names) as log:
        log.event("attention", kernels=["flash", "math"])
        log_steps(log, 1, 4)
        log.record("system", rss_bytes=123, cpu_cores=0.5)
        raise KeyboardInterrupt
    monkeypatch.setenv("WANDB_MODE", "offline")
    with session(names) as log:
        log_steps(log, 3, 6)
        log.event("average", output="ema", held_out_bpb_last=2.5, **{"held_out_bpb_ema+swa": 2.25})
        log.event("size", code_bytes=100, artifact_bytes=900)
        log.record("stage", name="quantized", val_bpb=1.25, val_loss=0.75, windows="sliding", tokens_scored=9)
        log.record("totals", total_bytes=1000, left_bytes=15_999_000, seconds={"train": 1.5, "warm-up": 0.5})
        log.record("audit", passed=True)
    return {
        "trackio": read_trackio(home / "trackio"),
        "wandb": read_wandb(Path("run/trackers")),
        "tensorboard": read_tensorboard(Path("run/trackers")),
    }


def test_every_tracker_has_a_stopped_and_resumed_run_as_one(tracked: dict[str, Tracked]) -> None:
    for name, found in tracked.items():
        assert found.curves["train/loss"] == [(step, 8.0 - step) for step in range(1, 7)], name
        assert found.curves["held_out/bpb"] == [(step, 4.0 - step / 4) for step in (2, 4, 6)], name
        expected = {
            "average/output": "ema", "average/last/bpb": 2.5, "average/ema+swa/bpb": 2.25,
            "size/code_bytes": 100, "size/artifact_bytes": 900, "size/total_bytes": 1000,
            "size/left_bytes": 15_999_000, "score/quantized/bpb": 1.25,
            "score/quantized/nats_per_token": 0.75,
            "seconds/train": 1.5, "seconds/warm-up": 0.5, "audit/passed": True,
            "model/attention_kernels": "flash, math",
        }  # fmt: skip
        assert {key: found.summary.get(key) for key in expected} == expected, name
    for name in ("trackio", "wandb"):
        assert len(set(tracked[name].names)) == 1 and "tiny-seed7" in tracked[name].names[0], name
    # The configuration, and measurements: wandb's own, ours elsewhere.
    assert tracked["wandb"].config["model"] == CONFIG["model"]
    assert tracked["wandb"].config["environment"]["hardware"] == "a toaster"
    assert tracked["wandb"].exit_codes == [1, 0] and any("cpu" in name for name in tracked["wandb"].system)
    config = tracked["trackio"].config
    assert (config["model.width"], config["model.ngram_buckets"]) == (32, [48, 32])
    assert config["environment.hardware"] == "a toaster"
    assert tracked["trackio"].system == {"system/rss_bytes", "system/cpu_cores"}
    config = tracked["tensorboard"].config
    assert (config["model.width"], config["model.ngram_buckets"]) == (32.0, "[48, 32]")
    assert tracked["tensorboard"].curves["system/rss_bytes"] == [(4, 123.0)]
    # What a user is told: where to look, and without a login that wandb is offline and how to upload.
    (first, second), (trackio, _) = lines_of("wandb"), lines_of("trackio")
    assert "wandb login" in first and "wandb sync run/trackers/wandb/offline-run-" in first
    assert "offline, in run/trackers/wandb/offline-run-" in second
    assert trackio.endswith("look at it with: trackio show --project parameter-golf")
    assert set(lines_of("tensorboard")) == {
        "tensorboard: look at it with: tensorboard --logdir run/trackers/tensorboard"
    }


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_service_that_never_answers_does_not_hold_the_run_up(home, monkeypatch, silent_server) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent_server.getsockname()[1]}")
    with session(["wandb"], close_seconds=1.0) as log:
        log_steps(log, 1, 6)
        # Until wandb waits for its answer.
        silent_server.settimeout(30.0)
        connection, _ = silent_server.accept()
    connection.close()
    (said,) = lines_of("wandb")
    assert said == (
        "wandb: was not done 1 s after the run and is given up; the run's events are in run/run.jsonl"
    )


def test_a_service_that_never_answers_leaves_wandb_offline(home, monkeypatch, silent_server) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent_server.getsockname()[1]}")
    monkeypatch.setattr("golf.track.sinks.ONLINE_SECONDS", 1.0)
    said: list[str] = []
    sink = WandB(TrackedRun("tiny", "0123abcd", home, CONFIG, os.getpid(), said.append))
    sink.send(Figures(curves={"train/loss": 2.0}), 1)
    sink.close(True)
    # As at the end of a process; until then the service may hold rows back.
    wandb.teardown()
    assert len(said) == 1 and said[0].startswith("offline (") and "wandb sync wandb/offline-run-" in said[0]
    assert read_wandb(home).curves["train/loss"] == [(1, 2.0)]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TRACKIO_SERVER_URL", "nonsense", "trackio: failed and is left out from here on: ValueError: "),
        # trackio goes on without a folder to write to, and warns.
        ("TRACKIO_DIR", "file", "trackio: warns: trackio failed to flush metric logs"),
    ],
)
def test_a_tracker_that_fails_says_so_once_and_reaches_nothing_else(
    home, monkeypatch, capfd, variable, value, message
) -> None:
    (home / "file").write_text("no folder")
    monkeypatch.setenv(variable, value)
    with session(["trackio", "tensorboard"]) as log:
        log_steps(log, 1, 3)
    (said,) = (line for line in lines_of("trackio") if "look at it" not in line)
    assert said.startswith(message)
    assert message.rpartition(": ")[2] in Path("run/trackers/trackio.log").read_text(encoding="utf-8")
    assert len(read_tensorboard(Path("run/trackers")).curves["train/loss"]) == 3
    assert capfd.readouterr() == ("", "")


def test_the_runs_log_which_is_published_has_no_token(home, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_SERVER_URL", "127.0.0.1:9?write_token=a-token")
    with session(["trackio"]):
        pass
    (said,) = lines_of("trackio")
    assert "got: '127.0.0.1:9?write_token=***'" in said
    env = {"WANDB_API_KEY": "a-key-of-a-user", "TOKENIZERS_PARALLELISM": "false"}
    assert hide_secrets("http://me:word@host/a@b?x=false a-key-of-a-user", env) == (
        "http://***@host/a@b?x=false ***"
    )


def test_a_tracker_whose_process_is_killed_is_left_out_and_says_so(home) -> None:
    folder = Path("run")
    folder.mkdir()
    trackers = Trackers(["tensorboard"], folder / "run.jsonl", folder / "trackers", "tiny", CPU)
    log = RunLog(folder / "run", True, trackers)
    trackers._processes["tensorboard"].kill()
    log_steps(log, 1, 2)
    log.close()
    (said,) = lines_of("tensorboard")
    assert said == (
        "tensorboard: failed and is left out from here on: exit code -9; see run/trackers/tensorboard.log"
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mlflow"], "no tracker is called 'mlflow'; there are trackio, wandb, tensorboard"),
        (["track_10min_16mb"], "the folder under records/ is --record-track"),
        (["wandb", "trackio", "wandb"], "--track names wandb twice"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_done(home, capsys, names, message) -> None:
    assert train_gpt.main(["--preset", "cpu", "--steps", "1", "--track", *names]) == 2
    assert message in capsys.readouterr().err
    assert not list(home.iterdir())


def test_a_package_that_is_not_installed_is_refused_by_its_extra(monkeypatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(TrackerError, match=r'pip install "parameter-golf-toolkit\[wandb\]"'):
        check_trackers(["wandb"])


def test_only_figures_of_the_table_are_sent_and_each_under_one_name() -> None:
    assert figures_of({"event": "say", "text": "x"}) == figures_of({"event": "table", "rows": [[1]]})
    assert figures_of({"event": "say"}).summary == {}
    names = [name for fields in FIGURES.values() for name in fields.values()]
    assert len(names) == len(set(names))


def test_the_step_is_read_from_either_form() -> None:
    assert [step_of({"step": form}) for form in (7, "7/20", "none")] == [7, 7, None] and step_of({}) is None


def test_the_memory_and_cores_of_a_process_are_measured() -> None:
    usage = Usage(CPU, pytest.fail)
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    found = usage.figures()
    assert found["rss_bytes"] > 50_000_000 and found["cpu_cores"] > 0.0


def test_a_gpu_whose_share_cannot_be_read_does_not_stop_the_run(monkeypatch) -> None:
    class NVMLError(Exception):
        """nvidia-ml-py's errors are no RuntimeError; a partition of a GPU has no share."""

    def refuse(device: torch.device) -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    said: list[str] = []
    usage = Usage(torch.device("cuda"), said.append)
    assert [usage.figures().keys() & {"gpu_memory_bytes", "gpu_share"} for _ in range(2)] == [
        {"gpu_memory_bytes"}
    ] * 2
    assert said == ["system/gpu_share cannot be read and is left out: Not Supported"]


def test_packages_of_the_names_in_the_current_folder_are_not_taken_for_the_trackers(home) -> None:
    (home / "golf").mkdir()
    for name in ("golf/__init__.py", "tensorboard.py"):
        (home / name).write_text("raise SystemExit(3)")
    with session(["tensorboard"]) as log:
        log_steps(log, 1, 2)
    assert len(read_tensorboard(Path("run/trackers")).curves["train/loss"]) == 2


def test_the_docs_name_every_figure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text(encoding="utf-8")
    names = [name.format(name="STAGE") for fields in FIGURES.values() for name in fields.values()]
    names[names.index("seconds")] = "seconds/PHASE"
    assert [name for name in names if f"`{name}`" not in page] == []
