"""What a process of several does in the tests, and the processes; importing it costs what the work needs."""

import multiprocessing
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from golf.clock import PhaseClock
from golf.data.batches import TrainBatches
from golf.log import RunLog
from golf.model.gpt import GPT, ModelConfig
from golf.runtime import Runtime
from golf.score.scorer import score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.train.averaging import AveragingConfig
from golf.train.budget import Budget, TrainConfig
from golf.train.loop import Interrupted, Trainer
from golf.train.optim import OptimConfig
from golf.train.schedule import ScheduleConfig
from golf.world import World, WorldError

MODEL = ModelConfig(
    32, 4, 16, 2, 1, 24, 16, rotary_dims=4, bigram_buckets=16, bigram_width=4, loop_first=1, loop_last=2
)
STEPS = 20


def toy_text() -> np.ndarray:
    """Documents in which a token mostly decides the next one."""
    draw = np.random.default_rng(0)
    tokens = [1]
    for _ in range(6000):
        tokens.append(1 if draw.random() < 0.02 else 2 + (tokens[-1] * 7 + draw.integers(2)) % 30)
    return np.array(tokens, dtype=np.uint16)


def toy_trainer(world: World, dtype: torch.dtype = torch.float32) -> Trainer:
    """A run through contexts, batches and recurrence, the same in every process."""
    torch.manual_seed(0)
    model = GPT(replace(MODEL, loop_visits=2))
    model.initialize()
    model.compute_dtype = dtype
    return Trainer(
        model,
        TrainBatches([toy_text()], seed=0, held_out_tokens=64),
        Budget(steps=STEPS),
        Runtime(torch.device("cpu"), dtype, compiled=False, world=world),
        PhaseClock(),
        RunLog(quiet=True),
        lambda: 1.0,
        TrainConfig(batch_tokens=256, micro_batch_tokens=64, held_out_tokens=64, checkpoint_seconds=1e9),
        OptimConfig(),
        ScheduleConfig(loop_start=0.5, context_growth=(0.3,), batch_growth=(0.2,)),
        AveragingConfig(),
    )


def losses_of(trainer: Trainer, steps: int) -> list[float]:
    """The loss of each of the next steps."""
    return [float(trainer.step().loss) for _ in range(steps)]


class LetterVocabulary:
    """Every token stands for one byte."""

    size = MODEL.vocab_size

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.ones(len(targets), dtype=np.int64)


def score_toy(world: World) -> tuple[Tally, np.ndarray]:
    """The first 1,000 targets under windows of stride 4, in chunks of 64."""
    torch.manual_seed(0)
    model = GPT(MODEL)
    model.initialize()
    windows = WindowConfig(stride=4, batch_tokens=64)
    result = score(model, toy_text()[:1001], LetterVocabulary(), windows, chunk_tokens=64, world=world)
    return result.tally, result.nats_N


def work_together(world: World, folder: Path) -> dict[str, Any]:
    """Everything that the tests look at, in one go: starting processes is what takes time."""
    trainer = toy_trainer(world)
    trainer.warm_up()
    found: dict[str, Any] = {
        "float32": losses_of(trainer, STEPS),
        "bfloat16": losses_of(toy_trainer(world, torch.bfloat16), 8),
    }
    found["weights"] = {name: weight.numpy() for name, weight in trainer.average.outputs()["ema"].items()}
    found["score"] = score_toy(world)
    stopped = toy_trainer(world)
    draw = stopped.batches.next

    def stop_in_one_process(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        if stopped.steps == 2 and world.rank == 1:
            stopped._request_stop(signal.SIGINT, None)
        return draw(num_sequences, context)

    stopped.batches.next = stop_in_one_process
    try:
        stopped.train(folder / f"stopped{world.rank}.pt")
    except Interrupted as stop:
        found["stopped"] = str(stop)
    found["agreed"] = world.agree(5.0 + world.rank, world.rank == 1)
    found["shared"] = world.share(lambda: f"from {world.rank}")
    try:
        world.require_same({"model.width": 16 + world.rank, "seed": 1})
    except WorldError as error:
        found["refused"] = str(error)
    return found


def _process(rank: int, size: int, port: int, results: Any, function: Any, arguments: tuple) -> None:
    torch.set_num_threads(1)
    world = World(rank, size, rank, size)
    store = dist.TCPStore("127.0.0.1", port, size, is_master=world.is_first)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = function(world, *arguments)
    dist.barrier()
    if rank == size - 1:
        results.put((rank, found))
        results.close()
        results.join_thread()
        os._exit(1)
    try:
        world.agree(0.0, False)
    except WorldError as error:
        found["lost"] = str(error)
    results.put((rank, found))


def run_together(function: Any, size: int, *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` gives in each of `size` new processes, in the order of ranks.

    The last one then dies, and the others note as `lost` what they learn of it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, size, port, results, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return [found[rank] for rank in range(size)]
