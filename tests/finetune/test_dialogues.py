"""Every published form is read alike, and a bad line is named."""

import json

import pytest

from golf.finetune.dialogues import DialogueError, Turn, read_conversations, read_preferences

WANTED = (Turn("user", "why?"), Turn("assistant", "so."))
FORMS = (
    {"prompt": "why?", "response": "so."},
    {"instruction": "why?", "input": "", "output": "so."},
    {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]},
    {"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so."}]},
)


@pytest.mark.parametrize("fields", FORMS, ids=lambda fields: next(iter(fields)))
@pytest.mark.parametrize("is_list", [True, False])
def test_every_form_says_the_same(tmp_path, fields, is_list):
    path = tmp_path / "data"
    path.write_text(json.dumps([fields, fields], indent=1) if is_list else f"{json.dumps(fields)}\n\n")
    found = read_conversations(path)
    assert [item.turns for item in found] == [WANTED] * (2 if is_list else 1)


def test_an_input_follows_its_instruction_and_a_system_text_comes_first(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"instruction": "add", "input": "1 2", "output": "3", "system": "be short"}))
    (found,) = read_conversations(path)
    assert found.turns == (Turn("system", "be short"), Turn("user", "add\n1 2"), Turn("assistant", "3"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "why?", "response": " \n"}, "line 2: 'response' is empty"),
        ({"prompt": "why?"}, "line 2: has no key 'response'; found prompt"),
        ({"question": "why?"}, "line 2: found the keys question; expected messages"),
        ({"instruction": "why?", "output": 3}, "line 2: 'output' is 3; expected a text"),
        ({"messages": []}, "line 2: 'messages' is .*; expected a list of turns"),
        ({"messages": [{"role": "user", "content": "why?"}]}, "line 2: the last turn is the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "line 2: turn 1 is of 'tool'"),
        ({"messages": ["why?"]}, "line 2: turn 1 is 'why\\?'; expected role and content"),
        (["why?"], "line 2: a list; expected an object"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path, fields, message):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(FORMS[0]) + "\n" + json.dumps(fields) + "\n")
    with pytest.raises(DialogueError, match=message):
        read_conversations(path)


def test_items_of_a_list_are_named_by_their_line(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([FORMS[0], {"prompt": "why?", "response": ""}], indent=2))
    with pytest.raises(DialogueError, match=r"data\.json, line 6: 'response' is empty"):
        read_conversations(path)
    path.write_text('[\n{"prompt": "a", "response": "b"},\n{broken}\n]')
    with pytest.raises(DialogueError, match="line 3: not JSON"):
        read_conversations(path)
    path.write_text("[]")
    with pytest.raises(DialogueError, match="holds no items"):
        read_conversations(path)


def test_pairs_are_read_in_every_form(tmp_path):
    path = tmp_path / "data.jsonl"
    prompt = {"conversations": [{"from": "human", "value": "why?"}]}
    answers = {"chosen": {"from": "gpt", "value": "so."}, "rejected": {"from": "gpt", "value": "no."}}
    chat = [{"role": "user", "content": "why?"}]
    forms = (
        {**prompt, **answers},
        {"prompt": "why?", "chosen": "so.", "rejected": "no."},
        {
            "prompt": "why?",
            "chosen": [*chat, {"role": "assistant", "content": "so."}],
            "rejected": [*chat, {"role": "assistant", "content": "no."}],
        },
    )
    path.write_text("\n".join(json.dumps(form) for form in forms))
    for pair in read_preferences(path):
        assert (pair.prompt, pair.chosen, pair.rejected) == ((WANTED[0],), "so.", "no.")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rejected": "so. "}, "line 1: chosen and rejected are the same text"),
        ({"chosen": ""}, "line 1: 'chosen' is empty"),
        ({"chosen": {}}, "line 1: 'chosen' is None; expected a text"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, changed, message):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "why?", "chosen": "so.", "rejected": "no.", **changed}))
    with pytest.raises(DialogueError, match=message):
        read_preferences(path)
    path.write_text(json.dumps({"prompt": "why?", "chosen": "so."}))
    with pytest.raises(DialogueError, match="line 1: has no key 'rejected'"):
        read_preferences(path)
