"""Scoring by documents as one process of several does it in the tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from score_toys import BOS_ID, VOCAB_SIZE, ToyVocabulary
from test_lora import WINDOWS, network
from test_recipes import LORA, RECIPES

from golf.evaluate import EvaluateConfig, evaluate
from golf.results import Scores
from golf.score.scorer import Scoring
from golf.system.distributed import World
from golf.system.log import RunLog
from golf.ttt.deadline import Deadline
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig

STOP_AT = 30
"""So many targets of its own has process 1 graded when its time is up."""


def _batches_of(num_documents: int, name: str, **changes: Any) -> TTTConfig:
    recipe = RECIPES[name]
    return replace(recipe, lora=replace(LORA.lora, batch_documents=num_documents), **changes)


CASES: dict[str, tuple[TTTConfig, dict[str, Any]]] = {
    "lora": (_batches_of(4, "lora"), {}),
    "cut": (_batches_of(4, "lora"), {"max_tokens": 150}),
    "one place": (_batches_of(1, "lora"), {}),
    "all": (_batches_of(4, "all", phases=(4, 8)), {}),
}
"""Settings and limits; two documents share a forward pass, so that batches of four have two groups."""


def wandering_stream() -> np.ndarray:
    """Documents in the order of their grading; each text comes again in the other process's next document."""
    draw = np.random.default_rng(3)
    texts = draw.integers(2, VOCAB_SIZE, (4, 40))
    numbers = [(place + 2 * batch) % 4 for batch in range(3) for place in range(4)]
    lengths = [*range(34, 24, -1), 9, 3]
    parts = [
        np.append(BOS_ID, texts[number, : length - 1])
        for number, length in zip(numbers, lengths, strict=True)
    ]
    return np.concatenate(parts).astype(np.uint16)


def score_case(world: World, name: str, **limits: Any) -> dict[str, Any]:
    """What a process has of a score, and the targets that it graded itself."""
    ttt, usual = CASES[name]
    own: list[int] = []
    scoring = Scoring(
        network(),
        wandering_stream(),
        ToyVocabulary(),
        replace(WINDOWS, batch_tokens=32),
        observe=lambda targets_N, log_probs_NV: own.extend(targets_N.tolist()),
        world=world,
    )
    limits = {**usual, **limits}
    scoring = replace(scoring, max_tokens=limits.pop("max_tokens", None))
    result = score_adapting(scoring, ttt, **limits)
    return {"nats": result.nats_N, "tally": result.tally, "notes": result.notes, "own": set(own)}


def stop_early(world: World) -> None:
    """From now on process 1 finds its time to be up."""

    def stops(self: Deadline, num_graded: int) -> bool:
        if world.rank == 1 and num_graded >= STOP_AT and self.stopped_after is None:
            self.stopped_after = num_graded
        return self.stopped_after is not None

    Deadline.stops = stops


def evaluate_toy(world: World, artifact: Path, data: Path, folder: Path, method: str) -> tuple[Scores, str]:
    """The scores that a process has, and what it said."""
    log = RunLog(folder / f"{method}{world.rank}", quiet=True)
    scores = evaluate(artifact, data, EvaluateConfig(method=method), log, ttt=True, world=world)
    log.close()
    return scores, (folder / f"{method}{world.rank}.log").read_text()


def score_together(world: World, artifact: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Everything that the tests look at, in one go: starting processes is what takes time."""
    found: dict[str, Any] = {name: score_case(world, name) for name in CASES}
    for method in ("lora", "sgd"):
        found[f"evaluated {method}"] = evaluate_toy(world, artifact, data, folder, method)
    stop_early(world)
    for name in ("lora", "all"):
        found[f"late {name}"] = score_case(world, name, max_seconds=1e6)
    return found
