"""Does this torch compile what a GPU would: is every preset's training, and the scorer, whole graphs?

    python -m benchmarks.check_torch [--suite]           in this interpreter
    make check-torch TORCH=2.11.0                        the same in an environment of its own, with the suite

Each preset's run is trained at tiny sizes on the CPU through torch.compile, its layers, loops, lanes, skips
and gates as they are; the graphs are counted, differentiated and run, but no C or Triton is made of them. All
graphs of a run's steps must be there when its warm-up ends. Exit code 1 where they are not.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import TorchDynamoException

from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import Dataset, open_dataset
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.prepare.build import build_dataset
from golf.prepare.shards import TextOrigin
from golf.prepare.split import SplitConfig
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.presets import PRESETS
from golf.run import LiveTrainer, RunContext, average_stage, train_stage
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.system.cli import run_program
from golf.system.device import Runtime
from golf.system.log import RunLog
from golf.system.options import read_options
from golf.train.loop import Trainer
from golf.train.objective import export_config
from golf.train.schedule import Phase, plan_phases

ROOT = Path(__file__).resolve().parents[1]
SUITE = ("tests/model", "tests/train", "tests/score", "tests/ttt")
STATED = {"seed": 1, "h100-10min": 2, "h100-107min": 4}
"""Graphs of a run's steps; elsewhere as many as its phases have kinds."""
SLIDING_GRAPHS = 2
"""Of the scorer: the first window, all others."""
VOCAB_SIZE = 400
CONTEXT_UNIT = 16
HEAD_WIDTH = 8
MICRO_BATCH_TOKENS = 512
"""At least: with smaller micro-batches the evaluations on held-out text take longest."""
NUM_STEPS = 12
"""Enough for a step in every phase of every preset."""

Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]


@dataclass(frozen=True)
class TorchCheck:
    """What to check."""

    presets: str = ""
    """These presets alone, comma-separated; by default all."""
    suite: bool = False
    """Then run the CPU tests of model, training, scoring and kernels, too."""
    workers: str = "1"
    """Processes of the suite, or auto."""


@dataclass(frozen=True)
class Graphs:
    """How many graphs a run compiled."""

    warmed: int
    """Of steps, when the warm-up ended."""
    ended: int
    """Of steps, when training had ended."""
    others: int
    """Of anything else that training compiled (evaluations on held-out text)."""


class GraphCount:
    """Stands in for torch.compile and counts: graphs of steps, compiled whole, and others."""

    def __init__(self, backend: Backend):
        self.backend, self.compile = backend, torch.compile
        self.graphs: Counter[str] = Counter()

    def __call__(self, function: Any, **how: Any) -> Any:
        """As torch.compile, by a backend that counts."""
        kind = "steps" if how.get("fullgraph") else "others"

        def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self.graphs[kind] += 1
            return self.backend(graph, inputs)

        return self.compile(function, **{**how, "backend": count})


@contextmanager
def counted_graphs(backend: Backend) -> Iterator[GraphCount]:
    """Within the block torch.compile counts, from none."""
    torch.compiler.reset()
    count = GraphCount(backend)
    with mock.patch.object(torch, "compile", count):
        yield count
    torch.compiler.reset()


def as_traced(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A backend that runs a graph as Dynamo traced it."""
    return graph


def tiny_model(model: ModelConfig, context: int) -> ModelConfig:
    """The network with all its parts, each as narrow as they allow."""
    full_head = model.width // model.num_heads
    return replace(
        model,
        vocab_size=VOCAB_SIZE,
        width=HEAD_WIDTH * model.num_heads,
        mlp_hidden=2 * HEAD_WIDTH * model.num_heads,
        context=context,
        rotary_dims=HEAD_WIDTH if model.rotary_dims == full_head else HEAD_WIDTH // 2,
        bigram_buckets=min(64, model.bigram_buckets),
        ngram_buckets=tuple(min(64, buckets) for buckets in model.ngram_buckets),
        bigram_width=8,
    )


def tiny_run(config: RunConfig) -> RunConfig:
    """The preset's run in NUM_STEPS steps of two micro-batches, its phases at the same points."""
    context = CONTEXT_UNIT * (1 + len(config.schedule.context_growth))
    sizes = {phase.context for phase in phases_of(config, context)}
    unit = int(np.lcm.reduce(sorted(sizes)))
    micro_batch_tokens = unit * -(-MICRO_BATCH_TOKENS // unit)
    parts = 1 + len(config.schedule.batch_growth)
    train = replace(
        config.train,
        batch_tokens=2 * parts * micro_batch_tokens,
        micro_batch_tokens=micro_batch_tokens,
        held_out_tokens=4 * context,
        num_evals=3,
        reserve_seconds=0.0,
        checkpoint_seconds=1e9,
    )
    return replace(
        config,
        minutes=None,
        steps=NUM_STEPS,
        model=tiny_model(config.model, context),
        train=train,
        pack=replace(config.pack, calibration_tokens=context),
        score=WindowConfig(stride=CONTEXT_UNIT // 2, batch_tokens=4 * context),
    )


def phases_of(config: RunConfig, context: int | None = None) -> tuple[Phase, ...]:
    """The phases of a run, with another context if one is given."""
    loops = config.model.recurrence > 1
    length = config.model.context if context is None else context
    return plan_phases(length, config.train.batch_tokens, loops, config.schedule)


def tiny_dataset(folder: Path) -> Dataset:
    """Python's help in VOCAB_SIZE pieces."""
    documents = [text for _, text in sorted(topics.items())]
    places = ((text, number) for number, text in enumerate(documents, 1))
    stream = TextStream(places, len(documents), "documents")
    origin = TextOrigin("topics", "pydoc topics", "PSF-2.0", sys.version.split()[0])
    choice = TokenizerChoice(vocab_size=VOCAB_SIZE)
    build_dataset(folder, origin, stream, choice, SplitConfig(), RunLog(quiet=True))
    return open_dataset(folder)


def count_training(config: RunConfig, dataset: Dataset, folder: Path, backend: Backend) -> Graphs:
    """Trains a tiny run, with evaluations on held-out text and the choice of weights."""
    config = fit_to_vocabulary(config, config, dataset.vocabulary.size, dataset.vocabulary.bos_id)
    folder.mkdir(parents=True)
    runtime = Runtime(torch.device("cpu"), torch.bfloat16, compiled=True)
    files, live, run = (
        RunFolder(folder),
        LiveTrainer(),
        RunContext(config, dataset, runtime, RunLog(quiet=True)),
    )
    warmed = []
    warm_up = Trainer.warm_up

    def noting(trainer: Trainer) -> None:
        warm_up(trainer)
        warmed.append(count.graphs["steps"])

    with counted_graphs(backend) as count, mock.patch.object(Trainer, "warm_up", noting):
        training = train_stage(files, run, live)
        average_stage(files, run, live)
    assert training.steps == NUM_STEPS
    return Graphs(warmed[0], count.graphs["steps"], count.graphs["others"])


def expected_graphs(name: str) -> int:
    """Graphs of the steps of a preset's run."""
    return STATED.get(
        name, len({(phase.context, phase.looping) for phase in phases_of(PRESETS[name].config)})
    )


def count_scoring(config: RunConfig, dataset: Dataset, backend: Backend) -> int:
    """Graphs of a score by sliding windows with a tiny run's network, compiled as an artifact's is."""
    model = GPT(export_config(config.model))
    model.initialize()
    model.compute_dtype = torch.bfloat16
    tokens = np.array(dataset.train_shards()[0][: 20 * config.model.context])
    with counted_graphs(backend) as count:
        model.compile(dynamic=False)
        score(Scoring(model, tokens, dataset.vocabulary, config.score), chunk_tokens=4 * config.model.context)
    return sum(count.graphs.values())


def chosen_presets(names: str) -> tuple[str, ...]:
    """The presets that are asked for; ValueError for one that there is not."""
    asked = tuple(name for name in names.split(",") if name) or tuple(PRESETS)
    for name in asked:
        if name not in PRESETS:
            raise ValueError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return asked


def check_presets(names: tuple[str, ...], backend: Backend, log: RunLog) -> bool:
    """Counts and prints the graphs of each preset; whether all are as expected."""
    rows, sound = [], True
    with tempfile.TemporaryDirectory() as scratch:
        dataset = tiny_dataset(Path(scratch) / "data")
        for name in names:
            started, config = time.perf_counter(), tiny_run(PRESETS[name].config)
            expected = expected_graphs(name)
            try:
                graphs = count_training(config, dataset, Path(scratch) / name, backend)
                sliding = count_scoring(config, dataset, backend)
            except TorchDynamoException as error:
                log.info(f"{name}: torch {torch.__version__} cannot trace it: {error}")
                rows.append([name, str(expected), *"----", "FAILS"])
                sound = False
                continue
            fine = graphs.warmed == graphs.ended == expected and sliding == SLIDING_GRAPHS
            sound &= fine
            seconds = round(time.perf_counter() - started, 1)
            counts = [expected, graphs.warmed, graphs.ended, graphs.others, sliding]
            rows.append([name, *map(str, counts), "ok" if fine else "NOT AS EXPECTED"])
            log.event("preset", name=name, graphs=counts, result=rows[-1][-1], seconds=seconds)
    columns = ("preset", "graphs expected", "after warm-up", "at the end", "others", "of scoring", "result")
    log.table(f"torch {torch.__version__}, Python {sys.version.split()[0]}", columns, rows)
    return sound


def run_suite(workers: str) -> bool:
    """Whether the CPU tests pass under this torch."""
    how = ["-p", "no:cacheprovider"] + ([] if workers == "1" else ["-n", workers, "--dist", "loadfile"])
    command = [sys.executable, "-m", "pytest", *how, *SUITE]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 as expected, 1 not, 2 bad input."""

    def work() -> int:
        options = read_options(TorchCheck, arguments, "python -m benchmarks.check_torch", __doc__)
        if options.workers != "auto" and not re.fullmatch("[1-9][0-9]{0,3}", options.workers):
            raise ValueError(f"--workers is {options.workers!r}; expected a number, or auto")
        torch.set_num_threads(1)
        names = chosen_presets(options.presets)
        sound = check_presets(names, lookup_backend("aot_eager"), RunLog())
        return int(not (sound and (not options.suite or run_suite(options.workers))))

    return run_program("benchmarks.check_torch", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
