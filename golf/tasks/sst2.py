"""SST-2 (Socher et al., 2013), few-shot: is a film's review positive?

Prompt and number of examples are chosen on training sentences, and so is the threshold of the second score.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.system.log import RunLog
from golf.tasks.files import Line, LongTexts, TaskDataError, read_labelled_lines
from golf.tasks.likelihood import Request, encode_request, likelihoods
from golf.tasks.models import OpenedModel
from golf.tasks.results import TaskResult, share_metric

SHOTS = (0, 2, 4, 8)
NUM_CHOOSING = 96
"""Training sentences on which prompt and examples are chosen; the examples come from others."""
SEED = 0


@dataclass(frozen=True)
class Template:
    """How a sentence is put before its label."""

    name: str
    text: str
    """With {} for the sentence; the label follows."""
    words: tuple[str, str]
    """What stands for negative and positive."""
    between: str
    """What parts one example from the next."""


TEMPLATES = (
    Template("review", "Review: {} Sentiment:", (" negative", " positive"), " "),
    Template("it-was", "{} It was", (" terrible", " great"), ". "),
    Template("film", "{} This film is", (" bad", " good"), ". "),
)


def balanced_examples(train: Sequence[Line], num_shots: int, seed: int) -> list[Line]:
    """Examples of both labels in turn, drawn by the seed; more shots go on from fewer."""
    draw = random.Random(seed)
    by_label = {label: [line for line in train if line.fields["label"] == label] for label in "01"}
    for lines in by_label.values():
        draw.shuffle(lines)
    if min(map(len, by_label.values())) * 2 < num_shots:
        raise TaskDataError(f"sst2: {num_shots} examples of both labels are wanted; train has {len(train)}")
    return [by_label["10"[turn % 2]][turn // 2] for turn in range(num_shots)]


def label_requests(
    opened: OpenedModel, template: Template, shots: Sequence[Line], text: str
) -> list[Request]:
    """The two labels behind the examples and the sentence."""
    examples = "".join(
        template.text.format(shot.fields["text"])
        + template.words[int(shot.fields["label"])]
        + template.between
        for shot in shots
    )
    prompt = examples + template.text.format(text)
    return [encode_request(opened.vocabulary, prompt, word) for word in template.words]


def fits(requests: Sequence[Request], context: int) -> bool:
    """Whether all can be read at once."""
    return all(len(item.context) + len(item.continuation) - 1 <= context for item in requests)


def score_sentences(
    opened: OpenedModel, template: Template, shots: Sequence[Line], lines: Sequence[Line], log: RunLog
) -> list[float]:
    """Nats by which "positive" is likelier than "negative", for each sentence."""
    requests = [r for line in lines for r in label_requests(opened, template, shots, line.fields["text"])]
    grades = likelihoods(opened, requests, log, f"sst2, {template.name}, {len(shots)} shots")
    return [
        negative.nats - positive.nats for negative, positive in zip(grades[::2], grades[1::2], strict=True)
    ]


def best_threshold(margins: Sequence[float], labels: Sequence[bool]) -> float:
    """The margin from which on "positive" is right most often; the middle one of equally good ones."""
    edges = sorted(margins)
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(edges)] or [0.0]
    right = [sum((m > cut) == label for m, label in zip(margins, labels, strict=True)) for cut in cuts]
    best = [cut for cut, count in zip(cuts, right, strict=True) if count == max(right)]
    return best[len(best) // 2]


def choose_prompt(
    opened: OpenedModel, train: Sequence[Line], dev: Sequence[Line], log: RunLog
) -> tuple[Template, list[Line], list[dict[str, Any]]]:
    """Template and examples with the best accuracy on training sentences, and what every one reached.

    Only those come into question whose longest prompt, with any sentence to be graded, fits the context.
    """
    shuffled = list(train)
    random.Random(SEED).shuffle(shuffled)
    choosing, pool = shuffled[:NUM_CHOOSING], shuffled[NUM_CHOOSING:]
    longest = max((*choosing, *dev), key=lambda line: len(opened.vocabulary.encode(line.fields["text"])))
    tried: list[dict[str, Any]] = []
    best: tuple[float, Template, list[Line]] | None = None
    for template, num_shots in itertools.product(TEMPLATES, SHOTS):
        shots = balanced_examples(pool, num_shots, SEED)
        if not fits(label_requests(opened, template, shots, longest.fields["text"]), opened.context):
            continue
        margins = score_sentences(opened, template, shots, choosing, log)
        labels = [line.fields["label"] == "1" for line in choosing]
        accuracy = sum((m > 0) == label for m, label in zip(margins, labels, strict=True)) / len(labels)
        threshold = best_threshold(margins, labels)
        tried.append(
            {
                "template": template.name,
                "shots": num_shots,
                "train_accuracy": accuracy,
                "threshold_nats": threshold,
            }
        )
        if best is None or accuracy > best[0]:
            best = accuracy, template, shots
    if best is None:
        raise TaskDataError(f"{longest.place}: no prompt with it fits the context of {opened.context} tokens")
    return best[1], best[2], tried


def run_sst2(opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog) -> TaskResult:
    """Accuracy on dev, by the likelier label word and by the threshold chosen on train."""
    train = read_labelled_lines(data / "sst2" / "train.tsv", ("0", "1"))
    dev = read_labelled_lines(data / "sst2" / "dev.tsv", ("0", "1"))[:limit]
    if len(train) <= NUM_CHOOSING:
        raise TaskDataError(f"sst2: train has {len(train)} sentences; more than {NUM_CHOOSING} are needed")
    template, shots, tried = choose_prompt(opened, train, dev, log)
    chosen = next(row for row in tried if (row["template"], row["shots"]) == (template.name, len(shots)))
    margins = score_sentences(opened, template, shots, dev, log)
    records = []
    for line, margin in zip(dev, margins, strict=True):
        gold = int(line.fields["label"])
        records.append(
            {
                "line": line.number,
                "gold": gold,
                "margin_nats": margin,
                "correct": (margin > 0) == (gold == 1),
                "correct_by_threshold": (margin > chosen["threshold_nats"]) == (gold == 1),
            }
        )
    positive = sum(record["gold"] for record in records) / len(records)
    how = f"{len(shots)} shots, prompt {template.name!r}, chosen on train"
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
    notes = {"template": template.name, "shots": len(shots), "shot_lines": [s.number for s in shots]}
    return TaskResult("sst2", metrics, records, notes | {"tried": tried})
