"""Wrong command lines of the programs that read text: exit code 2, one line, nothing begun, nothing left."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_samples import tiny_text, tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

from golf.chat import main as chat
from golf.data.vocabulary import Vocabulary
from golf.finetune.__main__ import main as finetune
from golf.prepare.__main__ import main as prepare
from golf.tasks.__main__ import main as tasks

Program = Callable[[list[str]], int]

PREPARE = "--source text --files text.jsonl --vocab-size 400 --data out"
FINETUNE = "--stage sft --model model --data chat.jsonl --out out --steps 1 --rows 2 --micro-batch-rows 2"
STUDY = (
    "--stages out --data data --sft chat.jsonl --preferences pairs.jsonl --evals evals --minutes 1 --seeds 1"
)
TASKS = "model --data evals --tasks sst2 --out out"
CHAT = "model --prompt the --max-tokens 2 --seed 1"
NUMBERS = ("-1", "nan", "1e99", "abc", "")
"""Wrong for each option that is tried with them."""
FILES = ("none", "folder", "empty.jsonl", "/dev/null", "/dev/zero", "pipe.jsonl", "junk.bin", "")
TRIES: list[tuple[Program, str, dict[str, tuple[str, ...]]]] = [
    (
        prepare,
        PREPARE,
        {
            **dict.fromkeys(("--vocab-size", "--max-docs", "--sample-bytes", "--val-docs"), (*NUMBERS, "0")),
            **dict.fromkeys(("--split.val-fraction", "--split.shard-tokens"), (*NUMBERS, "0", str(10**20))),
            "--split.val-max-bytes": (*NUMBERS, "0"),
            "--files": (*FILES, "table.csv", "bad.jsonl", "folder.jsonl"),
            "--val-shard": FILES,
            "--text-field": ("none", ""),
            "--data": ("empty.jsonl", "data", "/dev/null"),
            "--source": ("", "x"),
            "--case-ops": ("", "x"),
        },
    ),
    (prepare, PREPARE.replace("--vocab-size 400", ""), {"--tokenizer": (*FILES, "junk.model")}),
    (prepare, "--source docs --data out", {"--vocab-size": (*NUMBERS, "0", str(10**20))}),
    (prepare, "--source challenge --data out", {"--train-shards": (*NUMBERS, "0")}),
    (prepare, "--source shards", {"--data": FILES}),
    (
        finetune,
        FINETUNE,
        {
            **dict.fromkeys(
                ("--steps", "--rows", "--micro-batch-rows", "--checkpoint-seconds"), (*NUMBERS, "0")
            ),
            **dict.fromkeys(("--rate", "--held-out", "--beta", "--optim.matrix-lr"), (*NUMBERS, "0")),
            **dict.fromkeys(("--seed", "--label-smoothing", "--chosen-weight"), NUMBERS),
            "--pack.calibration-tokens": (*NUMBERS, "0"),
            "--epochs": ("1", *NUMBERS),
            "--data": (*FILES, "table.csv", "bad.jsonl", "text.jsonl", "folder.jsonl"),
            "--model": (*FILES, "data", "junk.model"),
            "--tokenizer": (*FILES, "junk.model"),
            "--out": ("empty.jsonl", "empty.jsonl/x", "/dev/null"),
            "--device": ("x", "cuda:99"),
            "--long": ("x",),
        },
    ),
    (
        finetune,
        STUDY,
        {
            **dict.fromkeys(("--limit", "--context", "--width", "--minutes"), (*NUMBERS, "0")),
            "--seeds": ("-1", "x", "1,1", "", str(10**20)),
            **dict.fromkeys(("--sft", "--preferences"), (*FILES, "table.csv", "bad.jsonl")),
            **dict.fromkeys(("--data", "--evals"), FILES),
            "--preset": ("x",),
            "--tasks": ("x", ","),
        },
    ),
    (
        tasks,
        TASKS,
        {
            **dict.fromkeys(("--limit", "--context"), (*NUMBERS, "0")),
            "--context": (str(10**20),),
            **dict.fromkeys(("--data", "--tokenizer"), FILES),
            "--tasks": ("x", ","),
            "--out": ("empty.jsonl", "/dev/null"),
            "--long": ("x",),
        },
    ),
    *((tasks, TASKS.replace("model", path or "''", 1), {"--limit": ("1",)}) for path in FILES),
    (
        chat,
        CHAT,
        {
            **dict.fromkeys(("--max-tokens", "--context"), (*NUMBERS, "0")),
            **dict.fromkeys(("--seed", "--sink-tokens", "--top-k"), NUMBERS),
            "--temperature": ("-1", "nan", "inf", "abc", ""),
            "--top-p": (*NUMBERS, "0"),
            "--prompt": ("the " * 900,),
            "--tokenizer": FILES,
        },
    ),
    *((chat, CHAT.replace("model", path or "''", 1), {"--seed": ("1",)}) for path in FILES),
]


def wrong_command_lines() -> Iterator[tuple[Program, list[str]]]:
    for program, line, options in TRIES:
        for option, values in options.items():
            for value in values:
                arguments = ["" if word == "''" else word for word in line.split()]
                if option in arguments:
                    arguments[arguments.index(option) + 1] = value
                else:
                    arguments += [option, value]
                yield program, arguments


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.model").write_bytes(tiny_tokenizer())
    write_tiny_artifact(
        tmp_path / "model" / "artifact.bin", Vocabulary.load(tmp_path / "model" / "tiny.model")
    )
    write_tiny_dataset(tmp_path / "data", tiny_tokenizer())
    rows = {
        "text": [{"text": tiny_text(n)} for n in range(50)],
        "chat": [{"prompt": tiny_text(n)[:20], "response": "it is"} for n in range(20)],
        "pairs": [{"prompt": tiny_text(n)[:20], "chosen": "it is", "rejected": "no"} for n in range(20)],
        "bad": [{"text": None}],
    }
    for name, items in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "evals" / "sst2").mkdir(parents=True)
    for folder in ("folder", "folder.jsonl"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "table.csv").write_text("a,b\n")
    for name in ("junk.bin", "junk.model"):
        (tmp_path / name).write_bytes(b"junk" * 300)
    os.mkfifo(tmp_path / "pipe.jsonl")
    return tmp_path


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_command_lines_end_with_one_line_and_leave_nothing(workplace: Path, capsys, every: int):
    before = sorted(path for path in workplace.rglob("*"))
    faults = []
    lines = list(wrong_command_lines())
    for program, arguments in lines[::every]:
        try:
            code, is_parsed = program(arguments), True
        except SystemExit as end:
            # The parser of options shows the option and its help in a box.
            code, is_parsed = end.code, False
        except Exception as error:
            faults.append((arguments, repr(error)))
            continue
        said = capsys.readouterr().err
        raw = any(part in said for part in ("Traceback", "invalid literal", "object has no", "Budget("))
        if code != 2 or not said.strip() or (is_parsed and (said.count("\n") != 1 or raw)):
            faults.append((arguments, code, said))
        if sorted(path for path in workplace.rglob("*")) != before:
            faults.append((arguments, "left", set(workplace.rglob("*")) - set(before)))
            break
    assert not faults
    assert len(lines) > 300
