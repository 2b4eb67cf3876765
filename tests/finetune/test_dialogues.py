"""Every published form is read alike; a row without a plain meaning is left out and counted."""

import json
import re

import pytest

from golf.data.shards import DataError
from golf.finetune.dialogues import DialogueError, LeftOut, Turn, read_conversations, read_preferences
from golf.system.log import RunLog

WANTED = (Turn("user", "why?"), Turn("assistant", "so."))
USER, ANSWER = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}
PARTS = [{"type": "text", "text": "why?"}]
FORMS = {
    "prompt": {"prompt": "why?", "response": "so."},
    "alpaca": {"instruction": "why?", "input": "", "output": "so."},
    "dolly": {"instruction": "why?", "context": "", "response": "so.", "category": "open_qa"},
    "completion": {"prompt": "why?", "completion": "so."},
    "turns": {"prompt": [USER], "completion": [ANSWER]},
    "question": {"question": "why?", "answer": "so."},
    "query": {"query": "why?", "response": "so."},
    "input": {"input": "why?", "output": "so."},
    "capitals": {"Instruction": "why?", "Output": "so."},
    "null": {"instruction": "why?", "input": None, "output": "so.", "messages": None},
    "messages": {"messages": [USER, ANSWER]},
    "sharegpt": {"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so."}]},
    "mixed": {"conversations": [{"role": "User", "value": "why?"}, {"from": "bot", "content": "so."}]},
    "strings": {"conversation": ["why?", "so."]},
    "parts": {"messages": [{"role": "user", "content": PARTS}, ANSWER]},
    "empty system": {"system": "", "messages": [{"role": "system", "content": ""}, USER, ANSWER]},
    "asked again": {"messages": [USER, ANSWER, {"role": "user", "content": "and?"}]},
}


def conversations(tmp_path, *rows) -> tuple[list, LeftOut]:
    path, left_out = tmp_path / "data.jsonl", LeftOut()
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_conversations(path, left_out), left_out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_list", [True, False])
def test_every_form_says_the_same(tmp_path, form, is_list):
    path, fields = tmp_path / "data.json", FORMS[form]
    path.write_text(json.dumps([fields, fields], indent=1) if is_list else f"{json.dumps(fields)}\n\n")
    assert [item.turns for item in read_conversations(path)] == [WANTED] * (2 if is_list else 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "add", "input": "1 2", "output": "3", "system": "be short"},
        {"instruction": "add", "context": "1 2", "response": "3", "system_prompt": "be short"},
        {"question": "add", "context": "1 2", "answer": 3, "system": "be short"},
        {
            "system": "be short",
            "messages": [{"role": "user", "content": "add\n1 2"}, {**ANSWER, "content": "3"}],
        },
    ],
)
def test_a_context_follows_its_instruction_and_a_system_text_comes_first(tmp_path, fields):
    ((found,), _) = conversations(tmp_path, fields)
    assert found.turns == (Turn("system", "be short"), Turn("user", "add\n1 2"), Turn("assistant", "3"))


def test_a_history_comes_before_its_instruction(tmp_path):
    fields = {"instruction": "and?", "output": "no.", "history": [["why?", "so."]]}
    ((found,), _) = conversations(tmp_path, fields)
    assert found.turns == (*WANTED, Turn("user", "and?"), Turn("assistant", "no."))


TOOLS = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [{}]},
    {"role": "tool", "content": "5"},
    ANSWER,
]
IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}, *PARTS]
UNREADABLE = [
    ({"prompt": "why?", "response": " \n"}, "'response' is empty"),
    ({"instruction": "why?", "input": "", "output": ""}, "'output' is empty"),
    ({"prompt": "", "response": "so."}, "'prompt' is empty"),
    ({"prompt": "why?"}, "has no answer; expected messages .* (found prompt)"),
    ({"prompt": "why?", "response": None}, "has no answer"),
    ({"text": "### Human: why?"}, "is in no known form; expected messages .* (found text)"),
    ({"instruction": "why?", "output": True}, "'output' is not text (True)"),
    ({"instruction": {"a": 1}, "output": "so."}, "'instruction' is not text ({'a': 1})"),
    ({"messages": []}, "'messages' is no list of turns ([])"),
    ({"messages": "why?"}, "'messages' is no list of turns"),
    ({"messages": [USER]}, "has no turn of the assistant"),
    (
        {"messages": [USER, {"role": "assistant", "content": None}]},
        "'a turn of the assistant' is not text (null)",
    ),
    ({"messages": [USER, {"role": "assistant"}]}, "'a turn of the assistant' is not text (null)"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "'a turn of the assistant' is empty"),
    ({"messages": [{"content": "why?"}, ANSWER]}, "has a turn of ''; expected one of system"),
    ({"messages": TOOLS}, "has a turn that calls a tool"),
    ({"messages": [USER, *TOOLS[2:]]}, "has a turn of 'tool'"),
    (
        {"messages": [{"role": "user", "content": IMAGE}, ANSWER]},
        "has a part of type 'image_url', which is not text",
    ),
    ({"messages": [5]}, "'messages' has a turn that is a int"),
    ({"instruction": "a", "output": "b", "history": "c"}, "'history' is no list of pairs"),
    (["why?"], "is a list; expected an object"),
    (5, "is a int; expected an object"),
]


@pytest.mark.parametrize(("row", "reason"), UNREADABLE, ids=[str(n) for n in range(len(UNREADABLE))])
def test_a_row_without_a_plain_meaning_is_left_out_and_counted(tmp_path, row, reason):
    pattern = re.escape(reason).replace(r"\.\*", ".*")
    found, left_out = conversations(tmp_path, FORMS["prompt"], row, row)
    assert [item.turns for item in found] == [WANTED]
    assert list(left_out.counts.values()) == [2]
    (place,) = left_out.places.values()
    assert re.search(rf"data\.jsonl, line 2: .*{pattern}", place)
    log = RunLog(tmp_path / "run", quiet=True)
    left_out.report(log)
    assert f"left out 2 rows, the first: {place}" in (tmp_path / "run.log").read_text()
    with pytest.raises(DialogueError, match=rf"no row of data\.jsonl can be used\. .*line 1: .*{pattern}"):
        conversations(tmp_path, row)


def test_rows_that_are_no_json_are_counted_as_one_reason(tmp_path):
    path, left_out = tmp_path / "data.jsonl", LeftOut()
    path.write_text(json.dumps(FORMS["prompt"]) + "\n{broken\n[\n")
    assert len(read_conversations(path, left_out)) == 1
    assert left_out.counts == {"not JSON": 2}


def test_a_list_that_breaks_off_and_a_file_of_another_kind_are_errors(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[\n{"prompt": "a", "response": "b"},\n{broken}\n]')
    with pytest.raises(DataError, match="line 3: not JSON"):
        read_conversations(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="is empty"):
        read_conversations(path)
    with pytest.raises(DataError, match=r"\.csv is not readable here"):
        read_conversations(tmp_path / "data.csv")
    with pytest.raises(DataError, match="is plain text; expected rows"):
        (tmp_path / "data.txt").write_text("why?")
        read_conversations(tmp_path / "data.txt")


TURN = {"from": "gpt", "value": "so."}, {"from": "gpt", "value": "no."}
FULL = [USER, ANSWER], [USER, {**ANSWER, "content": "no."}]
MARKED = "\n\nHuman: why?\n\nAssistant: so.", "\n\nHuman: why?\n\nAssistant: no."
PAIRS = {
    "list and turns": {
        "conversations": [{"from": "human", "value": "why?"}],
        "chosen": TURN[0],
        "rejected": TURN[1],
    },
    "texts": {"prompt": "why?", "chosen": "so.", "rejected": "no."},
    "instruction": {"instruction": "why?", "input": "", "chosen": "so.", "rejected": "no."},
    "prompt and whole conversations": {"prompt": "why?", "chosen": FULL[0], "rejected": FULL[1]},
    "whole conversations": {"chosen": FULL[0], "rejected": FULL[1], "score_chosen": 9.0},
    "lists": {"prompt": [USER], "chosen": [ANSWER], "rejected": FULL[1][1:]},
    "marks": {"chosen": MARKED[0], "rejected": MARKED[1]},
}


@pytest.mark.parametrize("form", PAIRS)
def test_pairs_are_read_in_every_form(tmp_path, form):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(PAIRS[form]))
    (pair,) = read_preferences(path)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((WANTED[0],), "so.", "no.")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rejected": "so. "}, "chosen and rejected are the same text"),
        ({"chosen": ""}, "'chosen' is empty"),
        ({"chosen": {}}, r"'chosen' is not text \(null\)"),
        ({"chosen": None}, "has no 'chosen'"),
        ({"chosen": [USER]}, "'chosen' ends with a turn of the user"),
        ({"chosen": FULL[0], "rejected": [{**USER, "content": "how?"}, ANSWER]}, "answer different prompts"),
        ({"prompt": None}, "has no prompt"),
    ],
)
def test_a_row_that_is_no_pair_is_left_out(tmp_path, changed, message):
    path, left_out = tmp_path / "data.jsonl", LeftOut()
    path.write_text("\n".join(json.dumps(row) for row in ({**PAIRS["texts"], **changed}, PAIRS["texts"])))
    assert len(read_preferences(path, left_out)) == 1
    assert re.search(f"line 1: .*{message}", next(iter(left_out.places.values())))
