"""HellaSwag (arXiv:1905.07830): which of four endings goes on, by their likelihood.

Prompts and both accuracies are counted as lm-eval 0.4 counts them.
"""

import re
from pathlib import Path

from golf.system.log import RunLog
from golf.tasks.files import LongTexts, TaskDataError, find_file, read_json_lines
from golf.tasks.likelihood import encode_request, fit_request, likelihoods
from golf.tasks.models import OpenedModel
from golf.tasks.results import TaskResult, share_metric

NUM_ENDINGS = 4
HELLASWAG_KEYS = {
    "activity_label": str,
    "ctx_a": str,
    "ctx_b": str,
    "endings": list,
    "label": (int, str),
}


def clean_text(text: str) -> str:
    """Without WikiHow's bracketed marks; " [title]" ends a sentence."""
    without = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return without.replace("  ", " ")


def read_hellaswag(path: Path) -> list[dict]:
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


def run_hellaswag(
    opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> TaskResult:
    """Accuracy by the likelihood of the endings, and by that over their length in characters."""
    items = read_hellaswag(find_file(data / "hellaswag", "hellaswag_val*.jsonl"))[:limit]
    fitted, kept = [], []
    num_cut = 0
    for item in items:
        requests = [encode_request(opened.vocabulary, item["query"], f" {text}") for text in item["endings"]]
        fitting = [fit_request(request, opened.context, long, item["place"]) for request in requests]
        if None not in fitting:
            num_cut += fitting != requests
            kept.append(item)
            fitted += fitting
    if not kept:
        raise TaskDataError(f"hellaswag: no item fits the context of {opened.context} tokens")
    grades = likelihoods(opened, fitted, log, "hellaswag")
    records = []
    for index, item in enumerate(kept):
        nats = [grade.nats for grade in grades[NUM_ENDINGS * index : NUM_ENDINGS * (index + 1)]]
        by_length = [value / len(text) for value, text in zip(nats, item["endings"], strict=True)]
        plain, normalised = nats.index(min(nats)), by_length.index(min(by_length))
        records.append(
            {
                "line": item["line"],
                "gold": item["gold"],
                "nats": nats,
                "chosen": plain,
                "chosen_by_length": normalised,
                "correct": plain == item["gold"],
                "correct_by_length": normalised == item["gold"],
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
