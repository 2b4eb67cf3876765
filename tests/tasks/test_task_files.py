"""Bad lines are named."""

import json

import pytest

from golf.tasks.files import TaskDataError, read_json_lines
from golf.tasks.suite import find_file, read_gsm8k, read_hellaswag, read_labeled_lines

GOOD = {"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e", "f", "g"], "label": 3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": 4}, "line 2: 'label' is 4; expected 0 to 3"),
        ({"label": None}, "line 2: 'label' is None; expected int or str"),
        ({"endings": ["d", "e", "f"]}, "line 2: 'endings' must be 4 texts"),
        ({"endings": ["d", "e", "f", ""]}, "line 2: 'endings' must be 4 texts"),
        ({"ctx_a": 7}, "line 2: 'ctx_a' is 7; expected str"),
    ],
)
def test_a_wrong_hellaswag_item_is_named(tmp_path, changed, message):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **changed}) + "\n")
    with pytest.raises(TaskDataError, match=message):
        read_hellaswag(path)


def test_a_missing_key_and_a_broken_line_are_named(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"question": "x"}\n')
    with pytest.raises(TaskDataError, match=r"items.jsonl, line 1: has no key 'answer'; found question"):
        read_gsm8k(path)
    path.write_text('{"question": "x", "answer": "y"}\n')
    with pytest.raises(TaskDataError, match="line 1: the answer has no number after '####'"):
        read_gsm8k(path)
    path.write_text("\n{broken\n")
    with pytest.raises(TaskDataError, match="line 2: not JSON"):
        read_json_lines(path, {})
    path.write_text("[1]\n")
    with pytest.raises(TaskDataError, match="line 1: a list; expected an object"):
        read_json_lines(path, {})


def test_a_wrong_label_is_named(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("good\t1\nbad\t2\n")
    with pytest.raises(TaskDataError, match="line 2: the label is '2'; expected 0 or 1"):
        read_labeled_lines(path, ("0", "1"))
    path.write_text("good 1\n")
    with pytest.raises(TaskDataError, match="line 1: 'good 1'; expected a text, a tab and a label"):
        read_labeled_lines(path, ("0", "1"))


def test_missing_empty_and_ambiguous_files_are_said(tmp_path):
    with pytest.raises(TaskDataError, match="no such file"):
        read_json_lines(tmp_path / "none.jsonl", {})
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(TaskDataError, match="not UTF-8 at byte 0"):
        read_json_lines(tmp_path / "a.jsonl", {})
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(TaskDataError, match="is empty"):
        read_json_lines(tmp_path / "b.jsonl", {})
    with pytest.raises(TaskDataError, match=r"found a.jsonl, b.jsonl"):
        find_file(tmp_path, "*.jsonl")
