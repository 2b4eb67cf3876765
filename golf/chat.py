"""Talks with a model at the terminal: what it writes appears as it writes it.

    python -m golf.chat MODEL
    python -m golf.chat MODEL --prompt "The sea is"

A model that was fine-tuned on conversations answers; another goes on with what was typed. An empty line
starts afresh, the end of input leaves. Exit code 2 on bad input, 130 when stopped while the model speaks.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from golf.data.vocabulary import Vocabulary
from golf.finetune.dialogues import Turn
from golf.finetune.examples import prompt_tokens
from golf.finetune.template import ChatTemplate, stored_template
from golf.system.program import run_program
from golf.tasks.decoder import Decoder, RereadingDecoder, can_cache
from golf.tasks.generate import SamplingConfig, draw_tokens
from golf.tasks.models import OpenedModel, open_model


class ChatError(ValueError):
    """A text that the model cannot read."""


@dataclass(frozen=True)
class ChatCommand:
    """Whom to talk to, and how it draws its words."""

    model: Annotated[Path, tyro.conf.Positional]
    """An artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry."""
    prompt: str | None = None
    """Say this, print what comes back, and leave."""
    max_tokens: int = 256
    """Longest answer."""
    seed: int | None = None
    """Seed of what is drawn; by default another one each time."""
    plain: bool = False
    """Go on with what was typed even if the model learned to converse."""
    context: int | None = None
    """Tokens that the model may read at once; by default what it was trained on."""
    sink_tokens: int | None = None
    """Let an answer go on past the context: so many first tokens stay, the oldest others are forgotten."""
    tokenizer: Path | None = None
    """The model's .model file, where it is not beside it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)


class TextStream:
    """Tokens in, the text that they add out; a character whose bytes are not all there yet waits.

    `silent` tokens have no text. The text of all tokens so far is decoded each time, since what a token adds
    depends on those before it.
    """

    def __init__(self, vocabulary: Vocabulary, silent: frozenset[int]):
        self._vocabulary, self._silent = vocabulary, silent
        self._tokens: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        """What may be shown now that was not before."""
        if token not in self._silent:
            self._tokens.append(token)
        text = self._vocabulary.decode(self._tokens)
        return self._show(text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def finish(self) -> str:
        """What was still waiting, as it is."""
        return self._show(self._vocabulary.decode(self._tokens))

    def _show(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new


def drop_oldest(turns: list[Turn], encode: Callable[[list[Turn]], list[int]], room: int) -> list[Turn]:
    """The latest turns, a user's first, whose tokens fit `room`; ChatError if the last alone does not."""
    for start in range(len(turns)):
        if turns[start].role == "user" and len(encode(turns[start:])) <= room:
            return turns[start:]
    raise ChatError(f"that is {len(encode(turns[-1:]))} tokens; the model has room for {room}")


class Speaker:
    """A model and what was said so far; `template` is None for one that goes on with a text."""

    def __init__(self, opened: OpenedModel, template: ChatTemplate | None, command: ChatCommand):
        self.opened, self.template, self.command = opened, template, command
        self.turns: list[Turn] = []
        self.generator = torch.Generator()
        if command.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(command.seed)
        self.decoder_type = Decoder if can_cache(opened.model) else RereadingDecoder
        if command.sink_tokens is not None and self.decoder_type is RereadingDecoder:
            raise ChatError("sink_tokens needs a network that can be read with a cache; this one cannot")
        # Half of the context is for what was said, so that an answer has the other.
        self.room = opened.context - min(command.max_tokens, opened.context // 2)

    def hear(self, text: str) -> list[int]:
        """The tokens to go on from; ChatError for a text that is longer than the room."""
        vocabulary = self.opened.vocabulary
        if self.template is None:
            tokens = [vocabulary.bos_id, *vocabulary.encode(text)]
            if len(tokens) > self.room:
                raise ChatError(f"that is {len(tokens)} tokens; the model has room for {self.room}")
            return tokens
        turns = [*self.turns, Turn("user", text)]
        self.turns = drop_oldest(turns, self._encode, self.room)
        return self._encode(self.turns)

    def speak(self, tokens: list[int]) -> Iterator[str]:
        """What the model writes behind `tokens`, piece by piece as it comes."""
        template, vocabulary = self.template, self.opened.vocabulary
        stops = {vocabulary.bos_id} if template is None else {vocabulary.bos_id, template.end}
        stream = TextStream(vocabulary, frozenset() if template is None else template.ids)
        decoder = self._new_decoder()
        said = ""
        limit = self.command.max_tokens
        if self.command.sink_tokens is None:
            limit = min(limit, self.opened.context - len(tokens))
        for _ in range(limit):
            logits_BV = decoder.read(torch.tensor([tokens], device=self.opened.device))[:, -1]
            tokens = draw_tokens(logits_BV, self.command.sampling, self.generator).tolist()
            if tokens[0] in stops:
                break
            new = stream.add(tokens[0])
            said += new
            yield new
        rest = stream.finish()
        if self.template is not None:
            self.turns.append(Turn("assistant", said + rest))
        yield rest

    def _new_decoder(self) -> Decoder | RereadingDecoder:
        if self.decoder_type is Decoder:
            return Decoder(self.opened.model, self.opened.context, self.command.sink_tokens)
        return RereadingDecoder(self.opened.model, self.opened.context)

    def _encode(self, turns: list[Turn]) -> list[int]:
        assert self.template is not None
        return [*prompt_tokens(self.opened.vocabulary, self.template, turns), self.template.assistant]


def read_lines(interactive: bool) -> Iterator[str]:
    """What is typed, or comes through a pipe, line by line."""
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except EOFError:
            return


def converse(speaker: Speaker, lines: Iterator[str], show: Callable[[str], None]) -> None:
    """Answers each line; an empty one forgets what was said, and a text that is too long is said to be."""
    for line in lines:
        if not line:
            if speaker.turns:
                speaker.turns = []
                show("(afresh)\n")
            continue
        try:
            tokens = speaker.hear(line)
        except ChatError as error:
            show(f"({error})\n")
            continue
        for piece in speaker.speak(tokens):
            show(piece)
        show("\n")


def show_text(text: str) -> None:
    """Prints at once."""
    print(text, end="", flush=True)


def chat(command: ChatCommand) -> None:
    """Answers the prompt that was given, or what is typed until Ctrl-D."""
    if command.max_tokens < 1:
        raise ChatError(f"max_tokens is {command.max_tokens}; expected at least 1")
    opened = open_model(command.model, command.tokenizer, command.device, command.context)
    template = None if command.plain else stored_template(opened.header)
    speaker = Speaker(opened, template, command)
    if command.prompt is not None:
        for piece in speaker.speak(speaker.hear(command.prompt)):
            show_text(piece)
        show_text("\n")
        return
    interactive = sys.stdin.isatty()
    if interactive:
        how = "goes on with what you type" if template is None else "answers"
        show_text(f"{opened.describe()}\nIt {how}. An empty line starts afresh, Ctrl-D leaves.\n")
    converse(speaker, read_lines(interactive), show_text)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped by Ctrl-C."""
    command = tyro.cli(ChatCommand, args=arguments, description=__doc__)
    return run_program("golf.chat", lambda: chat(command), when_stopped="bye")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
