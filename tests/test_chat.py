"""What is printed at the terminal, and which turns a conversation keeps."""

import io

import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_artifact

from golf.chat import ChatCommand, ChatError, ChatSession, TextStream, converse, drop_oldest, main, show_text
from golf.data.vocabulary import Vocabulary
from golf.finetune.dialogues import Turn
from golf.finetune.examples import template_of
from golf.tasks.generate import GREEDY, SamplingConfig
from golf.tasks.models import open_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was not fine-tuned, and one that says that it was."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "tiny.model").write_bytes(tiny_tokenizer())
    vocabulary = Vocabulary.load(folder / "tiny.model")
    write_tiny_artifact(folder / "plain.bin", vocabulary)
    marks = vars(template_of(vocabulary, "tiny"))
    write_tiny_artifact(folder / "chat.bin", vocabulary, chat=dict(marks))
    return folder


def session_of(folder, name: str, **options) -> ChatSession:
    command = ChatCommand(folder / name, seed=1, context=64, **options)
    opened = open_model(folder / name, context=64)
    template = template_of(opened.vocabulary, "tiny") if name == "chat.bin" else None
    return ChatSession(opened, template, command)


def test_pieces_of_the_stream_make_the_whole_text(folder):
    vocabulary = Vocabulary.load(folder / "tiny.model")
    text = "the naïve 你好 🙂 of Zürich"
    tokens = vocabulary.encode_text(text)
    stream = TextStream(vocabulary, frozenset({5}))
    pieces = [stream.add(token) for token in [5, *tokens, 5]]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    broken = TextStream(vocabulary, frozenset())
    half = next(token for token in range(vocabulary.size) if vocabulary.piece(token) == "<0xE4>")
    assert broken.add(half) == "" and broken.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_greedy_session_writes_the_likeliest_tokens(folder):
    session = session_of(folder, "plain.bin", max_tokens=5, sampling=GREEDY)
    text = session.read_prompt("the of")
    said = "".join(session.stream_answer(text))
    wanted = list(text)
    for _ in range(5):
        with torch.no_grad():
            wanted.append(int(session.opened.model(torch.tensor([wanted]))[0, -1].argmax()))
    assert said == session.opened.vocabulary.decode_tokens(wanted[len(text) :])


def test_the_same_seed_says_the_same(folder):
    sampling = SamplingConfig(1.0, 0, 1.0)
    said = []
    for _ in range(2):
        session = session_of(folder, "plain.bin", max_tokens=8, sampling=sampling)
        said.append("".join(session.stream_answer(session.read_prompt("to"))))
    assert said[0] == said[1]


def test_a_conversation_is_remembered_until_an_empty_line(folder):
    session = session_of(folder, "chat.bin", max_tokens=4)
    shown: list[str] = []
    converse(session, iter(["the", "of"]), shown.append)
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2
    tokens = session.read_prompt("and")
    assert tokens[-1] == session.template.assistant
    assert tokens.count(session.template.user) == 3
    converse(session, iter([""]), shown.append)
    assert session.turns == [] and shown[-1] == "(new conversation)\n"


def test_the_oldest_turns_are_dropped_to_make_room():
    turns = [Turn(role, text) for role, text in (("user", "aa"), ("assistant", "b"), ("user", "cc"))]

    def encode(kept: list[Turn]) -> list[int]:
        return [0] * sum(len(turn.text) for turn in kept)

    assert drop_oldest(turns, encode, 5) == turns
    assert drop_oldest(turns, encode, 4) == turns[2:]
    with pytest.raises(ChatError, match="the prompt has 2 tokens; expected at most 1"):
        drop_oldest(turns, encode, 1)


def test_a_text_that_is_too_long_is_said_to_be(folder):
    session = session_of(folder, "plain.bin", max_tokens=4)
    shown: list[str] = []
    converse(session, iter(["the " * 99]), shown.append)
    assert shown[0].startswith("(the prompt has ") and "expected at most 60" in shown[0]


@pytest.mark.parametrize("name", ["plain.bin", "chat.bin"])
def test_the_command_answers_once_or_through_a_pipe(folder, name, capsys, monkeypatch):
    options = [str(folder / name), "--max-tokens", "3", "--seed", "4", "--temperature", "1.5", "--top-k", "9"]
    assert main([*options, "--prompt", "the of"]) == 0
    once = capsys.readouterr().out
    assert once.endswith("\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("the of\n"))
    assert main(options) == 0
    assert capsys.readouterr().out == once


def test_what_cannot_be_opened_or_drawn_is_said(folder, tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([str(folder / "plain.bin"), "--max-tokens", "0"]) == 2
    assert "max_tokens is 0" in capsys.readouterr().err


def test_with_sinks_an_answer_goes_on_past_the_context(folder, monkeypatch):
    monkeypatch.setattr("golf.chat.draw_tokens", lambda logits, config, generator: torch.tensor([5]))
    pieces = {}
    for sinks in (None, 4):
        session = session_of(folder, "plain.bin", max_tokens=150, sink_tokens=sinks)
        pieces[sinks] = len(list(session.stream_answer([2, 3, 4]))) - 1
    assert pieces == {None: 61, 4: 150}


def test_control_codes_of_a_model_are_shown_and_not_obeyed(capsys):
    show_text("the\x1b[2J sea\x07\tis\nblue\u202e \x9b31m é 🙂")
    assert capsys.readouterr().out == "the\\x1b[2J sea\\x07\tis\nblue\\u202e \\x9b31m é 🙂"
