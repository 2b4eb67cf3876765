"""The evaluation tasks: HellaSwag, WikiText-2, SST-2 and GSM8K, each score with that of chance.

A task is a function of a model and a folder of evaluation files; TASKS lists them by name. Prompts and scores
of HellaSwag and WikiText-2 follow lm-eval 0.4.
"""

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.vocabulary import Vocabulary
from golf.stats import ratio_interval
from golf.system.log import RunLog
from golf.tasks.files import Line, LongTexts, TaskDataError, numbered_lines, read_json_lines, read_text
from golf.tasks.generate import GREEDY, Generation, Generator, SamplingConfig
from golf.tasks.likelihood import Request, encode_request, fit_request, likelihoods, text_nats
from golf.tasks.models import OpenedModel
from golf.tasks.results import Metric, TaskResult, mean_metric, share_metric

SEED = 0


def choice_nats(
    opened: OpenedModel, requests: Sequence[Sequence[Request]], log: RunLog, description: str
) -> list[list[float]]:
    """-ln p of each choice of each item; every item has the same number of choices."""
    grades = likelihoods(opened, [request for item in requests for request in item], log, description)
    nats = iter(grade.nats for grade in grades)
    return [list(itertools.islice(nats, len(item))) for item in requests]


# HellaSwag (arXiv:1905.07830): which of four endings continues a text, by likelihood.

NUM_ENDINGS = 4
HELLASWAG_KEYS = {
    "activity_label": str,
    "ctx_a": str,
    "ctx_b": str,
    "endings": list,
    "label": (int, str),
}


def clean_text(text: str) -> str:
    """The text without WikiHow's bracketed marks; " [title]" ends a sentence."""
    without = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return without.replace("  ", " ")


def read_hellaswag(path: Path) -> list[dict[str, Any]]:
    """Items with place, line, query, endings and gold; TaskDataError names a bad line."""
    items = []
    for line in read_json_lines(path, HELLASWAG_KEYS):
        fields = line.fields
        endings, label = fields["endings"], str(fields["label"])
        if len(endings) != NUM_ENDINGS or not all(isinstance(text, str) and text.strip() for text in endings):
            raise TaskDataError(f"{line.place}: 'endings' must be {NUM_ENDINGS} texts; got {endings!r:.80}")
        if label not in map(str, range(NUM_ENDINGS)):
            raise TaskDataError(f"{line.place}: 'label' is {fields['label']!r}; expected 0 to 3")
        query = f"{fields['activity_label']}: {fields['ctx_a']} {fields['ctx_b'].capitalize()}"
        items.append(
            {
                "place": line.place,
                "line": line.number,
                "query": clean_text(query),
                "endings": [clean_text(ending) for ending in endings],
                "gold": int(label),
            }
        )
    return items


def find_file(folder: Path, pattern: str) -> Path:
    """The only file that matches the pattern; TaskDataError for none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = "none" if not found else ", ".join(path.name for path in found)
        raise TaskDataError(f"{folder}: expected one file {pattern}; found {names}")
    return found[0]


def run_hellaswag(
    opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> TaskResult:
    """Accuracy by the likelihood of the endings, and by the likelihood over their length in characters."""
    items = read_hellaswag(find_file(data / "hellaswag", "hellaswag_val*.jsonl"))[:limit]
    fitted, kept = [], []
    num_cut = 0
    for item in items:
        requests = [encode_request(opened.vocabulary, item["query"], f" {text}") for text in item["endings"]]
        fitting = [fit_request(request, opened.context, long, item["place"]) for request in requests]
        if None not in fitting:
            num_cut += fitting != requests
            kept.append(item)
            fitted.append(fitting)
    if not kept:
        raise TaskDataError(f"hellaswag: no item fits the context of {opened.context} tokens")
    records = []
    for item, nats in zip(kept, choice_nats(opened, fitted, log, "hellaswag"), strict=True):
        by_length = [value / len(text) for value, text in zip(nats, item["endings"], strict=True)]
        plain, normalized = nats.index(min(nats)), by_length.index(min(by_length))
        records.append(
            {
                "line": item["line"],
                "gold": item["gold"],
                "nats": nats,
                "chosen": plain,
                "chosen_by_length": normalized,
                "correct": plain == item["gold"],
                "correct_by_length": normalized == item["gold"],
            }
        )
    metrics = (
        share_metric(
            "accuracy", [r["correct"] for r in records], 1 / NUM_ENDINGS, "likeliest ending; of four"
        ),
        share_metric(
            "accuracy_by_length",
            [r["correct_by_length"] for r in records],
            1 / NUM_ENDINGS,
            "nats over the ending's characters (lm-eval's acc_norm); of four",
        ),
    )
    return TaskResult("hellaswag", metrics, records, {"cut": num_cut, "left_out": len(items) - len(kept)})


# WikiText-2 (arXiv:1609.07843): perplexity by word and by byte, of each article, as lm-eval counts it.
#
# The text is detokenized before it is graded; words and bytes are counted in the file as it is, words by
# splitting at white space (with the empty ones at both ends of an article). Each article starts with BOS.

_TITLE = re.compile(r"^ = [^=].*[^=] = \n", re.MULTILINE)
_JOINED = (
    ("s '", "s'"),
    (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
    (" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
)  # fmt: skip
_ENCLOSED = tuple(
    (re.compile(rf"{opening}\s*([^{closing}]*?)\s*{closing}"), shown)
    for opening, closing, shown in (
        (r"\(", r"\)", r"(\1)"),
        (r"\[", r"\]", r"[\1]"),
        ("{", "}", r"{\1}"),
        ('"', '"', r'"\1"'),
        ("'", "'", r"'\1'"),
    )
)
_CLEANED = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def detokenize(text: str) -> str:
    """Undoes the corpus's tokenization of punctuation, by the rules of lm-eval."""
    for mark, joined in _JOINED:
        text = text.replace(mark, joined)
    for pattern, shown in _ENCLOSED:
        text = pattern.sub(shown, text)
    for mark, cleaned in _CLEANED:
        text = text.replace(mark, cleaned)
    return text


def split_articles(text: str) -> list[str]:
    """The text split before its titles (" = Title = " lines), without the blank line at its start."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    if not starts:
        raise TaskDataError("WikiText: no title line ' = Title = ' found; expected the tokenized form")
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def count_words(article: str) -> int:
    """Words as lm-eval counts them: parts between runs of white space, including empty ones at the ends."""
    return len(re.split(r"\s+", article))


def run_wikitext2(
    opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> TaskResult:
    """Perplexity under disjoint windows, as in lm-eval, and under windows that slide by half a context.

    Windows cover articles of any length: `long` has no effect. `limit` counts articles.
    """
    articles = split_articles(read_text(data / "wikitext2" / "wiki.test.tokens"))[:limit]
    stride = max(1, opened.context // 2)
    records: list[dict[str, Any]] = []
    with log.progress("wikitext2", len(articles), "articles") as bar:
        for number, article in enumerate(articles):
            text = detokenize(article)
            nats, num_tokens = text_nats(opened, text, None)
            sliding, _ = text_nats(opened, text, stride)
            records.append(
                {
                    "article": number,
                    "title": article.split("\n", 1)[0].strip(" ="),
                    "tokens": num_tokens,
                    "words": count_words(article),
                    "bytes": len(article.encode()),
                    "nats_disjoint": nats,
                    "nats_sliding": sliding,
                }
            )
            bar.advance()
    windows = {"disjoint": "windows disjoint", "sliding": f"windows slide by {stride}"}
    metrics = tuple(
        perplexity_metric(records, kind, unit, how, opened.vocabulary.size)
        for kind, how in windows.items()
        for unit in ("words", "bytes")
    )
    return TaskResult("wikitext2", metrics, records, {"context": opened.context, "stride": stride})


def perplexity_metric(
    records: list[dict[str, Any]], kind: str, unit: str, windows: str, vocab_size: int
) -> Metric:
    """Perplexity by `unit` (words or bytes) over articles; chance is that every token is equally likely."""
    nats_N = np.array([record[f"nats_{kind}"] for record in records])
    counts_N = np.array([float(record[unit]) for record in records])
    uniform = math.log(vocab_size) * sum(record["tokens"] for record in records)
    low, high = ratio_interval(nats_N, counts_N)
    return Metric(
        f"{unit.removesuffix('s')}_perplexity_{kind}",
        math.exp(nats_N.sum() / counts_N.sum()),
        math.exp(low),
        math.exp(high),
        math.exp(uniform / counts_N.sum()),
        len(records),
        f"by article, {windows}; chance: every token equally likely",
    )


# SST-2 (Socher et al., 2013), few-shot: whether a film review is positive.
#
# Prompt, number of examples and the threshold of the second score are chosen on training sentences.

SST2_SHOTS = (0, 2, 4, 8)
NUM_CHOOSING = 96
"""Training sentences on which the prompt is chosen; the examples come from the other sentences."""


@dataclass(frozen=True)
class PromptTemplate:
    """The prompt of a sentence, and the words that stand for its label."""

    name: str
    text: str
    """The prompt, {} in place of the sentence; the label follows."""
    words: tuple[str, str]
    """The words for negative and positive."""
    between: str
    """Separator of examples."""


TEMPLATES = (
    PromptTemplate("review", "Review: {} Sentiment:", (" negative", " positive"), " "),
    PromptTemplate("it-was", "{} It was", (" terrible", " great"), ". "),
    PromptTemplate("film", "{} This film is", (" bad", " good"), ". "),
)


def read_labeled_lines(path: Path, labels: tuple[str, ...]) -> list[Line]:
    """Lines of a text, a tab and a label, as the fields text and label; TaskDataError names a bad line."""
    lines = []
    for place, number, line in numbered_lines(read_text(path), path):
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip():
            raise TaskDataError(f"{place}: {line!r:.80}; expected a text, a tab and a label")
        if label.strip() not in labels:
            raise TaskDataError(f"{place}: the label is {label!r}; expected {' or '.join(labels)}")
        lines.append(Line(place, number, {"text": text.strip(), "label": label.strip()}))
    return lines


def balanced_examples(train: Sequence[Line], num_shots: int, seed: int) -> list[Line]:
    """Examples of both labels in turn, drawn with the seed; more shots extend fewer shots."""
    draw = random.Random(seed)
    by_label = {label: [line for line in train if line.fields["label"] == label] for label in "01"}
    for lines in by_label.values():
        draw.shuffle(lines)
    if min(map(len, by_label.values())) * 2 < num_shots:
        raise TaskDataError(f"sst2: {num_shots} examples of both labels are needed; train has {len(train)}")
    return [by_label["10"[turn % 2]][turn // 2] for turn in range(num_shots)]


def label_requests(
    opened: OpenedModel, template: PromptTemplate, shots: Sequence[Line], text: str
) -> list[Request]:
    """The two labels, each after the examples and the sentence."""
    examples = "".join(
        template.text.format(shot.fields["text"])
        + template.words[int(shot.fields["label"])]
        + template.between
        for shot in shots
    )
    prompt = examples + template.text.format(text)
    return [encode_request(opened.vocabulary, prompt, word) for word in template.words]


def score_sentences(
    opened: OpenedModel, template: PromptTemplate, shots: Sequence[Line], lines: Sequence[Line], log: RunLog
) -> list[float]:
    """Nats by which "positive" is likelier than "negative", for each sentence; long prompts are cut."""
    requests = [
        [
            fitted
            for request in label_requests(opened, template, shots, line.fields["text"])
            if (fitted := fit_request(request, opened.context, "truncate", line.place))
        ]
        for line in lines
    ]
    description = f"sst2, {template.name}, {len(shots)} shots"
    return [negative - positive for negative, positive in choice_nats(opened, requests, log, description)]


def num_plain_inputs(opened: OpenedModel, line: Line) -> int:
    """The most input tokens of a sentence in any prompt without examples."""
    text = line.fields["text"]
    return max(r.num_inputs for template in TEMPLATES for r in label_requests(opened, template, (), text))


def best_threshold(margins: Sequence[float], labels: Sequence[bool]) -> float:
    """The margin above which "positive" gives the most right answers; the middle one of equally good ones."""
    edges = sorted(margins)
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(edges)] or [0.0]
    right = [sum((m > cut) == label for m, label in zip(margins, labels, strict=True)) for cut in cuts]
    best = [cut for cut, count in zip(cuts, right, strict=True) if count == max(right)]
    return best[len(best) // 2]


@dataclass(frozen=True)
class FewShotPrompt:
    """A template with examples, and how well it does on training sentences."""

    template: PromptTemplate
    shots: list[Line]
    train_accuracy: float
    threshold_nats: float
    """The margin above which an answer counts as positive in the second score."""

    def facts(self) -> dict[str, Any]:
        """JSON values, for the notes of the result."""
        return {
            "template": self.template.name,
            "shots": len(self.shots),
            "train_accuracy": self.train_accuracy,
            "threshold_nats": self.threshold_nats,
        }


def try_prompts(
    opened: OpenedModel, train: Sequence[Line], dev: Sequence[Line], long: LongTexts, log: RunLog
) -> list[FewShotPrompt]:
    """Every template with every number of examples, measured on training sentences.

    A prompt is skipped if it exceeds the context with the longest sentence. If all do, those without examples
    are tried, unless `long` is "error", which then is a TaskDataError.
    """
    shuffled = list(train)
    random.Random(SEED).shuffle(shuffled)
    choosing, pool = shuffled[:NUM_CHOOSING], shuffled[NUM_CHOOSING:]
    labels = [line.fields["label"] == "1" for line in choosing]
    longest = max((*choosing, *dev), key=lambda line: len(opened.vocabulary.encode_text(line.fields["text"])))
    tried = []
    for template, num_shots in itertools.product(TEMPLATES, SST2_SHOTS):
        shots = balanced_examples(pool, num_shots, SEED)
        requests = label_requests(opened, template, shots, longest.fields["text"])
        if max(request.num_inputs for request in requests) > opened.context and (
            num_shots or long == "error"
        ):
            continue
        margins = score_sentences(opened, template, shots, choosing, log)
        accuracy = sum((m > 0) == label for m, label in zip(margins, labels, strict=True)) / len(labels)
        tried.append(FewShotPrompt(template, shots, accuracy, best_threshold(margins, labels)))
    if not tried:
        raise TaskDataError(
            f"{longest.place}: no prompt with this sentence fits the context of {opened.context} tokens"
        )
    return tried


def run_sst2(opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog) -> TaskResult:
    """Accuracy on dev, by the likelier label and by the threshold chosen on train.

    Sentences too long for the context without any examples lose their start, or are skipped, as `long` says.
    """
    train = read_labeled_lines(data / "sst2" / "train.tsv", ("0", "1"))
    dev = read_labeled_lines(data / "sst2" / "dev.tsv", ("0", "1"))[:limit]
    if len(train) <= NUM_CHOOSING:
        raise TaskDataError(f"sst2: train has {len(train)} sentences; expected more than {NUM_CHOOSING}")
    fits = [num_plain_inputs(opened, line) <= opened.context for line in dev]
    num_long = fits.count(False)
    if long == "skip":
        dev = [line for line, fit in zip(dev, fits, strict=True) if fit]
        if not dev:
            raise TaskDataError(f"sst2: no sentence fits the context of {opened.context} tokens")
    tried = try_prompts(opened, train, dev, long, log)
    prompt = max(tried, key=lambda candidate: candidate.train_accuracy)
    margins = score_sentences(opened, prompt.template, prompt.shots, dev, log)
    records = []
    for line, margin in zip(dev, margins, strict=True):
        gold = int(line.fields["label"])
        records.append(
            {
                "line": line.number,
                "gold": gold,
                "margin_nats": margin,
                "correct": (margin > 0) == (gold == 1),
                "correct_by_threshold": (margin > prompt.threshold_nats) == (gold == 1),
            }
        )
    positive = sum(record["gold"] for record in records) / len(records)
    how = f"{len(prompt.shots)} shots, prompt {prompt.template.name!r}, chosen on train"
    always = f"always one label: {max(positive, 1 - positive):.4f}"
    metrics = (
        share_metric("accuracy", [r["correct"] for r in records], 0.5, f"{how}; {always}"),
        share_metric(
            "accuracy_by_threshold",
            [r["correct_by_threshold"] for r in records],
            0.5,
            f"{how}, its threshold too; {always}",
        ),
    )
    notes = {
        "template": prompt.template.name,
        "shots": len(prompt.shots),
        "shot_lines": [shot.number for shot in prompt.shots],
        "tried": [candidate.facts() for candidate in tried],
        "left_out" if long == "skip" else "cut": num_long,
    }
    return TaskResult("sst2", metrics, records, notes)


# GSM8K (arXiv:2110.14168), few-shot: exact match of the number that ends a generated solution.

GSM8K_KEYS = {"question": str, "answer": str}
GSM8K_SHOTS = 5
MAX_NEW_TOKENS = 192
SAMPLING = SamplingConfig(temperature=0.7, top_p=0.95)
NUM_SAMPLES = 4
STOP_TEXT = "Question:"

_ANSWER = re.compile(r"####\s*(-?[0-9][0-9.,]*)")
_NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*")


def tidy_number(text: str) -> str:
    """A number without separators, currency sign and final point: "$1,234." becomes "1234"."""
    number = text.replace(",", "").replace("$", "").rstrip(".")
    return re.sub(r"\.0+$", "", number)


def stated_answer(text: str) -> str | None:
    """The number after "####"; None without one."""
    found = _ANSWER.search(text)
    return tidy_number(found.group(1)) if found else None


def last_number(text: str) -> str | None:
    """The last number of the text; None without one."""
    found = _NUMBER.findall(text)
    return tidy_number(found[-1]) if found else None


def read_gsm8k(path: Path) -> list[Line]:
    """Questions with worked answers; TaskDataError names a line without a number after "####"."""
    lines = read_json_lines(path, GSM8K_KEYS)
    for line in lines:
        if stated_answer(line.fields["answer"]) is None:
            raise TaskDataError(f"{line.place}: the answer has no number after '####'")
    return lines


def show_example(line: Line) -> str:
    """A question with its answer, without calculator marks <<...>>."""
    answer = re.sub(r"<<.*?>>", "", line.fields["answer"])
    return f"{STOP_TEXT} {line.fields['question']} Answer: {answer} "


def build_prompt(
    vocabulary: Vocabulary, shots: Sequence[Line], line: Line, room: int
) -> tuple[list[int], int]:
    """BOS, as many examples as fit into `room` tokens, and the question; and the number of examples."""
    question = f"{STOP_TEXT} {line.fields['question']} Answer:"
    num_shots = len(shots)
    while True:
        text = "".join(show_example(shot) for shot in shots[:num_shots]) + question
        tokens = [vocabulary.bos_id, *vocabulary.encode_text(text)]
        if len(tokens) <= room or not num_shots:
            return tokens, num_shots
        num_shots -= 1


def fitting_prompts(
    opened: OpenedModel, train: Sequence[Line], lines: Sequence[Line], long: LongTexts
) -> tuple[list[Line], list[list[int]], Counter, int]:
    """The questions that fit, their prompts, how many prompts have how many examples, how many were cut.

    A question without room for an answer is an error, loses its beginning, or is skipped, as `long` says.
    """
    if len(train) < GSM8K_SHOTS:
        raise TaskDataError(f"gsm8k: train has {len(train)} examples; expected at least {GSM8K_SHOTS}")
    shots = random.Random(SEED).sample(list(train), GSM8K_SHOTS)
    room = opened.context - min(MAX_NEW_TOKENS, opened.context // 2)
    asked, prompts, num_shots, num_cut = [], [], Counter(), 0
    for line in lines:
        prompt, count = build_prompt(opened.vocabulary, shots, line, room)
        if len(prompt) > room:
            if long == "error":
                raise TaskDataError(
                    f"{line.place}: the question is {len(prompt)} tokens; the model reads {opened.context}, "
                    f"of which {opened.context - room} are for the answer. --long truncate drops its "
                    "beginning, --long skip drops the question, --context N lets the model read more"
                )
            if long == "skip":
                continue
            prompt, num_cut = prompt[-room:], num_cut + 1
        asked.append(line)
        prompts.append(prompt)
        num_shots[count] += 1
    if not asked:
        raise TaskDataError(f"gsm8k: no question fits the context of {opened.context} tokens")
    return asked, prompts, num_shots, num_cut


def run_gsm8k(opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog) -> TaskResult:
    """Exact match by greedy decoding, and its mean over samples."""
    train = read_gsm8k(data / "gsm8k" / "train.jsonl")
    lines = read_gsm8k(data / "gsm8k" / "test.jsonl")[:limit]
    asked, prompts, num_shots, num_cut = fitting_prompts(opened, train, lines, long)
    generator = Generator(opened, log)

    def is_done(tokens: list[int]) -> bool:
        text = opened.vocabulary.decode_tokens(tokens)
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
        written = opened.vocabulary.decode_tokens(greedy[index].tokens).split(STOP_TEXT)[0]
        drawn = [stated_answer(opened.vocabulary.decode_tokens(run[index].tokens)) for run in sampled]
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
    guess = f"chance: always {common}, the most frequent answer of train"
    strict = "the number after ####"
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
        "cut": num_cut,
        "left_out": len(lines) - len(asked),
        "shots": {str(k): n for k, n in sorted(num_shots.items())},
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    return TaskResult("gsm8k", metrics, records, notes)


RunTask = Callable[[OpenedModel, Path, int | None, LongTexts, RunLog], TaskResult]
"""Takes a model, the folder of evaluation files, the largest number of items, LongTexts, and a log."""

TASKS: dict[str, RunTask] = {
    "hellaswag": run_hellaswag,
    "wikitext2": run_wikitext2,
    "sst2": run_sst2,
    "gsm8k": run_gsm8k,
}


TASK_READERS: dict[str, Callable[[Path], object]] = {
    "hellaswag": lambda data: read_hellaswag(find_file(data / "hellaswag", "hellaswag_val*.jsonl")),
    "wikitext2": lambda data: split_articles(read_text(data / "wikitext2" / "wiki.test.tokens")),
    "sst2": lambda data: [
        read_labeled_lines(data / "sst2" / f"{part}.tsv", ("0", "1")) for part in ("train", "dev")
    ],
    "gsm8k": lambda data: [read_gsm8k(data / "gsm8k" / f"{part}.jsonl") for part in ("train", "test")],
}
"""Reads the files of a task; TaskDataError for missing and invalid ones."""


def parse_tasks(names: str) -> list[str]:
    """Comma-separated task names; TaskDataError for an unknown one, or none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in TASKS:
            raise TaskDataError(f"no task is called {name!r}; expected some of {', '.join(TASKS)}")
    if not wanted:
        raise TaskDataError(f"no task was named; expected some of {', '.join(TASKS)}")
    return wanted


def run_tasks(
    opened: OpenedModel, names: Sequence[str], data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> list[TaskResult]:
    """Measures the model on each task in turn; TaskDataError for missing or invalid files."""
    check_task_files(names, data, limit)
    return [TASKS[name](opened, data, limit, long, log) for name in names]


def check_task_files(names: Sequence[str], data: Path, limit: int | None) -> None:
    """Reads the files of all tasks before the first is measured; TaskDataError for missing and wrong ones."""
    if not data.is_dir():
        raise TaskDataError(f"{data}: no such folder; expected a folder with {', '.join(TASKS)} in it")
    if limit is not None and limit < 1:
        raise TaskDataError(f"limit is {limit}; expected at least 1")
    for name in names:
        TASK_READERS[name](data)
