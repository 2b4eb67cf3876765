"""GSM8K (arXiv:2110.14168), few-shot: the number that ends a written solution, exactly."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from golf.data.vocabulary import Vocabulary
from golf.system.log import RunLog
from golf.tasks.files import Line, LongTexts, TaskDataError, read_json_lines
from golf.tasks.generate import Generation, Generator
from golf.tasks.models import OpenedModel
from golf.tasks.results import TaskResult, mean_metric, share_metric
from golf.tasks.sampling import GREEDY, SamplingConfig

GSM8K_KEYS = {"question": str, "answer": str}
SHOTS = 5
MAX_NEW_TOKENS = 192
SAMPLING = SamplingConfig(temperature=0.7, top_p=0.95)
NUM_SAMPLES = 4
SEED = 0
STOP_TEXT = "Question:"

_ANSWER = re.compile(r"####\s*(-?[0-9][0-9.,]*)")
_NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*")


def tidy_number(text: str) -> str:
    """A number without separators, currency sign and a point at its end: "$1,234." is "1234"."""
    number = text.replace(",", "").replace("$", "").rstrip(".")
    return re.sub(r"\.0+$", "", number)


def stated_answer(text: str) -> str | None:
    """The number behind "####"; None without one."""
    found = _ANSWER.search(text)
    return tidy_number(found.group(1)) if found else None


def last_number(text: str) -> str | None:
    """The last number of the text, wherever it is; None without one."""
    found = _NUMBER.findall(text)
    return tidy_number(found[-1]) if found else None


def read_gsm8k(path: Path) -> list[Line]:
    """Questions with worked answers; TaskDataError names a line without a number behind "####"."""
    lines = read_json_lines(path, GSM8K_KEYS)
    for line in lines:
        if stated_answer(line.fields["answer"]) is None:
            raise TaskDataError(f"{line.place}: the answer has no number behind '####'")
    return lines


def show_example(line: Line) -> str:
    """A question with its answer, calculator marks <<...>> taken out."""
    answer = re.sub(r"<<.*?>>", "", line.fields["answer"])
    return f"{STOP_TEXT} {line.fields['question']} Answer: {answer} "


def build_prompt(
    vocabulary: Vocabulary, shots: Sequence[Line], line: Line, room: int
) -> tuple[list[int], int]:
    """BOS, as many of the examples as leave the prompt within `room` tokens, and the question; how many."""
    question = f"{STOP_TEXT} {line.fields['question']} Answer:"
    for num_shots in range(len(shots), -1, -1):
        text = "".join(show_example(shot) for shot in shots[:num_shots]) + question
        tokens = [vocabulary.bos_id, *vocabulary.encode(text)]
        if len(tokens) <= room:
            break
    return tokens, num_shots


def fitting_prompts(
    opened: OpenedModel, train: Sequence[Line], lines: Sequence[Line], long: LongTexts
) -> tuple[list[Line], list[list[int]], Counter]:
    """The questions that can be asked, their prompts, and how many examples these have.

    A question that leaves no room for an answer is an error, loses its beginning, or is left out.
    """
    shots = random.Random(SEED).sample(list(train), SHOTS)
    room = opened.context - min(MAX_NEW_TOKENS, opened.context // 2)
    asked, prompts, num_shots = [], [], Counter()
    for line in lines:
        prompt, count = build_prompt(opened.vocabulary, shots, line, room)
        if len(prompt) > room:
            if long == "error":
                raise TaskDataError(
                    f"{line.place}: the question is {len(prompt)} tokens; the model reads {opened.context}, "
                    f"of which {opened.context - room} are for the answer. --long truncate drops its "
                    "beginning, --long skip leaves it out, --context N lets the model read more"
                )
            if long == "skip":
                continue
            prompt = prompt[-room:]
        asked.append(line)
        prompts.append(prompt)
        num_shots[count] += 1
    if not asked:
        raise TaskDataError(f"gsm8k: no question fits the context of {opened.context} tokens")
    return asked, prompts, num_shots


def run_gsm8k(opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog) -> TaskResult:
    """Exact match by greedy generation, and the mean over samples of it by drawing."""
    train = read_gsm8k(data / "gsm8k" / "train.jsonl")
    lines = read_gsm8k(data / "gsm8k" / "test.jsonl")[:limit]
    asked, prompts, num_shots = fitting_prompts(opened, train, lines, long)
    generator = Generator(opened, log)

    def is_done(tokens: list[int]) -> bool:
        text = opened.vocabulary.decode(tokens)
        return STOP_TEXT in text or re.search(r"####\s*-?[0-9][0-9.,]*\s", text) is not None

    def answers(config: SamplingConfig, seed: int, name: str) -> list[Generation]:
        stops = frozenset({opened.vocabulary.bos_id})
        return generator.continue_all(prompts, config, MAX_NEW_TOKENS, stops, is_done, seed, f"gsm8k, {name}")

    greedy = answers(GREEDY, SEED, "greedy")
    sampled = [answers(SAMPLING, SEED + 1 + n, f"sample {n + 1}") for n in range(NUM_SAMPLES)]
    common = Counter(stated_answer(line.fields["answer"]) for line in train).most_common(1)[0][0]
    records = []
    for index, line in enumerate(asked):
        gold = stated_answer(line.fields["answer"])
        written = opened.vocabulary.decode(greedy[index].tokens).split(STOP_TEXT)[0]
        drawn = [stated_answer(opened.vocabulary.decode(run[index].tokens)) for run in sampled]
        records.append(
            {
                "line": line.number,
                "gold": gold,
                "written": written,
                "reason": greedy[index].reason,
                "answer": stated_answer(written),
                "correct": stated_answer(written) == gold,
                "correct_by_last_number": last_number(written) == gold,
                "sampled_answers": drawn,
                "sampled_correct": sum(answer == gold for answer in drawn) / NUM_SAMPLES,
            }
        )
    chance = sum(record["gold"] == common for record in records) / len(records)
    guess = f"chance: always {common}, train's commonest answer"
    strict = "the number behind ####"
    metrics = (
        share_metric("exact_match", [r["correct"] for r in records], chance, f"greedy, {strict}; {guess}"),
        share_metric(
            "exact_match_by_last_number",
            [r["correct_by_last_number"] for r in records],
            chance,
            f"greedy, the last number; {guess}",
        ),
        mean_metric(
            "exact_match_sampled",
            [r["sampled_correct"] for r in records],
            chance,
            f"mean of {NUM_SAMPLES} samples, temperature {SAMPLING.temperature}, {strict}; {guess}",
        ),
    )
    notes = {
        "left_out": len(lines) - len(asked),
        "shots": {str(k): n for k, n in sorted(num_shots.items())},
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    return TaskResult("gsm8k", metrics, records, notes)
