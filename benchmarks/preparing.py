"""Speed of data preparation: reading documentation, training a tokenizer, encoding, counting bytes.

    python -m benchmarks.preparing [--megabytes 8] [--json FILE]

Megabytes of text per second of one core's time (1 MB is 1,000,000 bytes), on the documentation of the
installed Python, with one thread.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from golf.data.vocabulary import Vocabulary
from golf.prepare.docs import read_docs
from golf.prepare.encode import encode_documents
from golf.prepare.tokenizer import train_tokenizer
from golf.system.device import environment
from golf.system.log import RunLog


@dataclass(frozen=True)
class PreparingConfig:
    """What to measure."""

    megabytes: float = 8.0
    """Text to encode, at most."""
    vocab_size: int = 512
    """Pieces of the tokenizer that is trained."""
    json: Path | None = None
    """Also write the figures here."""


def take_megabytes(documents: Iterable[str], megabytes: float) -> list[str]:
    """The first documents that hold no more than so many megabytes of UTF-8."""
    documents = list(documents)
    sizes = accumulate(len(document.encode("utf-8", "replace")) for document in documents)
    return [document for document, end in zip(documents, sizes, strict=True) if end <= megabytes * 1e6]


def cpu_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work` and the processor seconds of this process and its children that it took."""
    before = sum(os.times()[:4])
    result = work()
    return result, max(sum(os.times()[:4]) - before, 1e-9)


def measure(config: PreparingConfig) -> dict[str, Any]:
    """Every figure of the benchmark, units in the names."""
    started = time.perf_counter()
    docs, reading = cpu_seconds(lambda: read_docs(1))
    read_mb = sum(len(document.encode("utf-8", "replace")) for document in docs.documents) / 1e6
    texts = take_megabytes(docs.documents, config.megabytes)
    text_mb = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6
    model, training = cpu_seconds(lambda: train_tokenizer(texts, config.vocab_size))
    vocabulary = Vocabulary(model, "benchmark")
    encoded, encoding = cpu_seconds(lambda: list(encode_documents(texts, vocabulary, num_threads=1)))
    tokens = np.concatenate([document.tokens for document in encoded])
    _, counting = cpu_seconds(lambda: vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    return {
        "text_megabytes": text_mb,
        "vocab_size": vocabulary.size,
        "reading_docs_megabytes_per_cpu_second": read_mb / reading,
        "tokenizer_cpu_seconds": training,
        "encoding_megabytes_per_cpu_second": text_mb / encoding,
        "counting_million_tokens_per_cpu_second": len(tokens) / counting / 1e6,
        "wall_seconds": time.perf_counter() - started,
    }


def run_command(config: PreparingConfig) -> None:
    """Runs the command line."""
    figures = measure(config)
    rows = [(name, round(value, 3) if isinstance(value, float) else value) for name, value in figures.items()]
    RunLog().table("preparing data", ("figure", "value"), rows)
    if config.json:
        write_figures(config.json, figures, config, environment(torch.device("cpu")))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("preparing", PreparingConfig, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
