"""Chat with a model in the terminal; its text is printed token by token.

    golf chat MODEL
    golf chat MODEL --prompt "The sea is"

A model that was fine-tuned on conversations answers; another one continues the text. Prompts are read line
by line from the terminal or a pipe. An empty line starts a new conversation, Ctrl-D exits. Exit code 2 on
bad input, 130 when stopped.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from golf.data.vocabulary import Vocabulary
from golf.finetune.dialogues import Turn
from golf.finetune.examples import ChatTemplate, prompt_tokens, stored_template
from golf.model.decoder import Decoder
from golf.system.cli import run_program
from golf.system.options import read_options
from golf.tasks.generate import SamplingConfig, draw_tokens
from golf.tasks.models import OpenedModel, open_model

CONTROL_CODES = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""All but tab and line feed, and the marks that reverse the direction of writing."""


class ChatError(ValueError):
    """An invalid option, or a prompt that exceeds the context."""


@dataclass(frozen=True)
class ChatCommand:
    """The model and the options of generation."""

    model: Annotated[Path, tyro.conf.Positional]
    """An artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry; or
    hf://USER/NAME, an entry on the hub."""
    prompt: str | None = None
    """Answer this prompt and exit."""
    max_tokens: int = 256
    """Largest number of tokens of an answer."""
    seed: int | None = None
    """Seed of sampling; by default a random one."""
    plain: bool = False
    """Continue the text even if the model was fine-tuned on conversations."""
    context: int | None = None
    """Context in tokens; by default that of training."""
    sink_tokens: int | None = None
    """Let an answer exceed the context: keep so many first tokens and drop the oldest of the others."""
    tokenizer: Path | None = None
    """The model's .model file, if it is not next to the model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)


class TextStream:
    """Decodes a stream of tokens into pieces of text; an incomplete UTF-8 character is held back.

    `silent` tokens have no text. All tokens are decoded again for each token, since its text depends on those
    before it.
    """

    def __init__(self, vocabulary: Vocabulary, silent: frozenset[int]):
        self._vocabulary, self._silent = vocabulary, silent
        self._tokens: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        """The text that the token adds."""
        if token not in self._silent:
            self._tokens.append(token)
        text = self._vocabulary.decode_tokens(self._tokens)
        return self._show(text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def finish(self) -> str:
        """The text that was held back."""
        return self._show(self._vocabulary.decode_tokens(self._tokens))

    def _show(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new


def drop_oldest(turns: list[Turn], encode: Callable[[list[Turn]], list[int]], room: int) -> list[Turn]:
    """The latest turns, starting with a user's, within `room` tokens; ChatError if the last exceeds it."""
    for start in range(len(turns)):
        if turns[start].role == "user" and len(encode(turns[start:])) <= room:
            return turns[start:]
    raise ChatError(f"the prompt has {len(encode(turns[-1:]))} tokens; expected at most {room}")


class ChatSession:
    """A model and the conversation so far; `template` is None for a model that continues a text."""

    def __init__(self, opened: OpenedModel, template: ChatTemplate | None, command: ChatCommand):
        self.opened, self.template, self.command = opened, template, command
        self.turns: list[Turn] = []
        self.generator = torch.Generator()
        if command.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(command.seed)
        # At least half of the context is for the prompt.
        self.room = opened.context - min(command.max_tokens, opened.context // 2)

    def read_prompt(self, text: str) -> list[int]:
        """The tokens to continue: the conversation and this prompt; ChatError if the prompt is too long."""
        vocabulary = self.opened.vocabulary
        if self.template is None:
            tokens = [vocabulary.bos_id, *vocabulary.encode_text(text)]
            if len(tokens) > self.room:
                raise ChatError(f"the prompt has {len(tokens)} tokens; expected at most {self.room}")
            return tokens
        turns = [*self.turns, Turn("user", text)]
        self.turns = drop_oldest(turns, self._encode, self.room)
        return self._encode(self.turns)

    def stream_answer(self, tokens: list[int]) -> Iterator[str]:
        """The continuation of `tokens` in pieces; at its end the answer is added to the conversation."""
        template, vocabulary = self.template, self.opened.vocabulary
        stops = {vocabulary.bos_id} if template is None else {vocabulary.bos_id, template.end}
        stream = TextStream(vocabulary, frozenset() if template is None else template.ids)
        decoder = Decoder(self.opened.model, self.opened.context, self.command.sink_tokens)
        answer = ""
        limit = self.command.max_tokens
        if self.command.sink_tokens is None:
            limit = min(limit, self.opened.context - len(tokens))
        for _ in range(limit):
            logits_BV = decoder.read(torch.tensor([tokens], device=self.opened.device))[:, -1]
            tokens = draw_tokens(logits_BV, self.command.sampling, self.generator).tolist()
            if tokens[0] in stops:
                break
            new = stream.add(tokens[0])
            answer += new
            yield new
        rest = stream.finish()
        if self.template is not None:
            self.turns.append(Turn("assistant", answer + rest))
        yield rest

    def _encode(self, turns: list[Turn]) -> list[int]:
        assert self.template is not None
        return [*prompt_tokens(self.opened.vocabulary, self.template, turns), self.template.assistant]


def read_lines(interactive: bool) -> Iterator[str]:
    """Lines of standard input, with a prompt sign at a terminal."""
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except EOFError:
            return


def converse(session: ChatSession, lines: Iterator[str], show: Callable[[str], None]) -> None:
    """Answers each line; an empty one starts a new conversation. A prompt that is too long is reported."""
    for line in lines:
        if not line:
            if session.turns:
                session.turns = []
                show("(new conversation)\n")
            continue
        try:
            tokens = session.read_prompt(line)
        except ChatError as error:
            show(f"({error})\n")
            continue
        for piece in session.stream_answer(tokens):
            show(piece)
        show("\n")


def show_text(text: str) -> None:
    """Prints without a line break and flushes; control codes, which a terminal would obey, as escapes."""
    print(CONTROL_CODES.sub(lambda found: repr(found[0])[1:-1], text), end="", flush=True)


def chat(command: ChatCommand) -> None:
    """Answers the given prompt, or lines of standard input until Ctrl-D."""
    if command.max_tokens < 1:
        raise ChatError(f"max_tokens is {command.max_tokens}; expected at least 1")
    if command.seed is not None and not 0 <= command.seed < 2**63:
        raise ChatError(f"seed is {command.seed}; expected 0 to {2**63 - 1}")
    opened = open_model(command.model, command.tokenizer, command.device, command.context)
    template = None if command.plain else stored_template(opened.header)
    session = ChatSession(opened, template, command)
    if command.prompt is not None:
        for piece in session.stream_answer(session.read_prompt(command.prompt)):
            show_text(piece)
        show_text("\n")
        return
    interactive = sys.stdin.isatty()
    if interactive:
        how = "continues your text" if template is None else "answers"
        show_text(f"{opened.describe()}\nThe model {how}. An empty line starts anew, Ctrl-D exits.\n")
    converse(session, read_lines(interactive), show_text)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 on bad input, 130 when stopped."""

    def work() -> None:
        chat(read_options(ChatCommand, arguments, "golf chat", __doc__))

    return run_program("golf chat", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
