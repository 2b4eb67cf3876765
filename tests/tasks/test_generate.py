"""Many prompts at a time against one at a time."""

import torch

from golf.system.log import RunLog
from golf.tasks.generate import GREEDY, Generator, SamplingConfig

PROMPTS = [[1, 20, 30, 40, 50], [1], [1, 99, 98], [1, 7, 7, 7, 7, 7, 7, 7, 7, 7]]
NEVER = frozenset({-1})


def quiet_generator(opened) -> Generator:
    return Generator(opened, RunLog(quiet=True))


def greedy_by_hand(opened, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            text.append(int(opened.model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_a_batch_writes_what_each_prompt_alone_would(opened):
    found = quiet_generator(opened).continue_all(PROMPTS, GREEDY, 6, NEVER, lambda tokens: False, 0, "test")
    assert [g.tokens for g in found] == [greedy_by_hand(opened, prompt, 6) for prompt in PROMPTS]
    assert {g.reason for g in found} == {"length"}


def test_a_stop_token_ends_a_text_and_is_not_part_of_it(opened):
    wanted = greedy_by_hand(opened, PROMPTS[0], 6)
    stop = wanted[3]
    (found,) = quiet_generator(opened).continue_all(
        PROMPTS[:1], GREEDY, 6, frozenset({stop}), lambda tokens: False, 0, "test"
    )
    assert (found.tokens, found.reason) == (wanted[: wanted.index(stop)], "stop")


def test_a_text_ends_where_it_is_done_or_the_context_is_full(opened):
    generator = quiet_generator(opened)
    (short,) = generator.continue_all(PROMPTS[:1], GREEDY, 9, NEVER, lambda t: len(t) == 2, 0, "test")
    assert (len(short.tokens), short.reason) == (2, "stop")
    prompt = [1] * (opened.context - 3)
    (full,) = generator.continue_all([prompt], GREEDY, 50, NEVER, lambda t: False, 0, "test")
    assert (len(full.tokens), full.reason) == (3, "length")


def test_a_seed_decides_what_is_drawn(opened):
    config, generator = SamplingConfig(1.0, 0, 1.0), quiet_generator(opened)

    def drawn(seed: int) -> list[list[int]]:
        found = generator.continue_all(PROMPTS, config, 8, NEVER, lambda tokens: False, seed, "test")
        return [g.tokens for g in found]

    assert drawn(1) == drawn(1) != drawn(2)
