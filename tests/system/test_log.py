"""One event, one line of text, one line of JSON."""

import json
import time

from golf.system.log import RunLog, format_event


def test_an_event_makes_one_text_line_and_one_json_line(tmp_path):
    log = RunLog(tmp_path / "run", quiet=True)
    log.event("step", step="3/10", train_loss=2.5, tokens=4096)
    log.info("[bold] is text here, not markup")
    log.close()
    assert (tmp_path / "run.log").read_text() == (
        "step:3/10 train_loss:2.5 tokens:4096\n[bold] is text here, not markup\n"
    )
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "step" and lines[0]["train_loss"] == 2.5 and lines[1]["event"] == "say"


def test_a_second_log_of_the_run_appends(tmp_path):
    for text in ("first", "second"):
        log = RunLog(tmp_path / "run", quiet=True)
        log.info(text)
        log.close()
    assert (tmp_path / "run.log").read_text() == "first\nsecond\n"


def test_lines_are_on_disk_before_the_log_is_closed(tmp_path):
    log = RunLog(tmp_path / "run", quiet=True)
    log.event("size", artifact_bytes=3)
    assert (tmp_path / "run.log").read_text() == "size artifact_bytes:3\n"


def test_tables_keep_their_cells_in_the_text(tmp_path):
    log = RunLog(tmp_path / "run", quiet=True)
    log.table("scores", ["stage", "bpb"], [["last", 1.25], ["averaged", 1.125]])
    assert (tmp_path / "run.log").read_text() == "scores\nstage | bpb\nlast | 1.25\naveraged | 1.125\n"


def test_floats_and_lists_have_one_text_form():
    assert format_event("x", {"a": 1 / 3, "b": [1, 2.5], "c": float("nan")}) == "x a:0.33333333 b:1,2.5 c:nan"


def test_without_a_terminal_long_work_says_sometimes_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("golf.system.log.SAY_SECONDS", 0.05)
    log = RunLog(tmp_path / "run")
    with log.progress("score", 4, "tokens") as bar:
        for _ in range(4):
            time.sleep(0.06)
            bar.advance(1, "1.5 bpb")
    with log.progress("train", 1.0, "of the run", lines=False) as bar:
        time.sleep(0.06)
        bar.move_to(0.5, "loss 3")
    assert capsys.readouterr().out == "score: 25% 1.5 bpb\nscore: 50% 1.5 bpb\nscore: 75% 1.5 bpb\n"
    assert (tmp_path / "run.log").read_text() == "", "the log has results alone"
