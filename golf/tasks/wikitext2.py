"""WikiText-2 (arXiv:1609.07843): perplexity by word and by byte, by article, as lm-eval counts it.

The text is detokenised before it is graded; words and bytes are counted in the file as it is, words by
splitting at white space (both ends of an article count, too). Each article is read from BOS on its own.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from golf.system.log import RunLog
from golf.tasks.files import LongTexts, TaskDataError, read_text
from golf.tasks.likelihood import text_nats
from golf.tasks.models import OpenedModel
from golf.tasks.results import Metric, TaskResult, ratio_interval

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
    """Takes back what the corpus's tokenisation did to punctuation, by the rules that lm-eval uses."""
    for mark, joined in _JOINED:
        text = text.replace(mark, joined)
    for pattern, shown in _ENCLOSED:
        text = pattern.sub(shown, text)
    for mark, cleaned in _CLEANED:
        text = text.replace(mark, cleaned)
    return text


def split_articles(text: str) -> list[str]:
    """The file at its titles (" = Title = " lines); the blank line that it begins with is dropped."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    if not starts:
        raise TaskDataError("WikiText: no title line ' = Title = ' found; expected the tokenised form")
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def count_words(article: str) -> int:
    """Words as lm-eval counts them: parts between runs of white space, empty ones at the ends included."""
    return len(re.split(r"\s+", article))


def run_wikitext2(
    opened: OpenedModel, data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> TaskResult:
    """Perplexities under disjoint windows, as lm-eval's, and under windows that slide by half a context.

    Articles longer than the context are no error: that is what windows are for. `limit` counts articles.
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
    metrics = []
    for kind, windows in (("disjoint", "windows disjoint"), ("sliding", f"windows slide by {stride}")):
        for unit in ("words", "bytes"):
            metrics.append(_perplexity(records, kind, unit, windows, opened.vocabulary.size))
    return TaskResult("wikitext2", tuple(metrics), records, {"context": opened.context, "stride": stride})


def _perplexity(records: list[dict[str, Any]], kind: str, unit: str, windows: str, vocab_size: int) -> Metric:
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
