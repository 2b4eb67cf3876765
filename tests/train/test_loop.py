"""The loop: it learns, keeps its budget, goes on exactly where it was stopped, and stops when it must."""

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.batches import TrainBatches
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.kernels import KernelError, present_kernels
from golf.model.loss import token_nats
from golf.system.cli import Stopped
from golf.system.clock import StageClock
from golf.system.device import Runtime
from golf.system.distributed import World
from golf.system.log import RunLog
from golf.train.checkpoint import CheckpointError, save_checkpoint
from golf.train.config import Recipe, TrainConfig
from golf.train.loop import DeviceMemoryError, DivergenceError, Trainer
from golf.train.optim import OptimConfig
from golf.train.schedule import Budget, ScheduleConfig

MODEL = ModelConfig(32, 2, 16, 2, 1, 24, 16, rotary_dims=4, bigram_buckets=16, bigram_width=4)
CPU_KERNELS = present_kernels(torch.device("cpu"))
CONFIG = TrainConfig(
    batch_tokens=128, micro_batch_tokens=64, held_out_tokens=64, reports=4, checkpoint_seconds=1e9
)


def make_text() -> np.ndarray:
    """Documents in which a token mostly decides the next one, so that there is something to learn."""
    draw = np.random.default_rng(0)
    tokens = [1]
    for _ in range(6000):
        tokens.append(1 if draw.random() < 0.02 else 2 + (tokens[-1] * 7 + draw.integers(2)) % 30)
    return np.array(tokens, dtype=np.uint16)


def make_trainer(
    budget: Budget,
    config: TrainConfig = CONFIG,
    optim: OptimConfig | None = None,
    model_config: ModelConfig = MODEL,
    schedule: ScheduleConfig | None = None,
    compiled: bool = False,
) -> Trainer:
    torch.manual_seed(0)
    model = GPT(model_config)
    model.initialize()
    return Trainer(
        model,
        TrainBatches([make_text()], seed=0, held_out_tokens=64),
        Recipe(budget, config, optim or OptimConfig(), schedule or ScheduleConfig()),
        Runtime(torch.device("cpu"), torch.float32, compiled),
        lambda *_: 1.0,
        StageClock(),
        RunLog(quiet=True),
        torch.arange(32).flip(0) if config.prefix_weight else None,
    )


def all_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    outputs = trainer.average.outputs()
    return {f"{kind}/{name}": weight for kind, weights in outputs.items() for name, weight in weights.items()}


def test_kernels_that_are_not_there_are_refused_before_training():
    with pytest.raises(KernelError, match=f"this machine has {', '.join(CPU_KERNELS)}"):
        make_trainer(Budget(steps=2), replace(CONFIG, attention="cudnn"))


def test_training_lowers_the_loss(tmp_path):
    trainer = make_trainer(Budget(steps=60))
    first = trainer.step().figures.read()[0]
    trainer.train(tmp_path / "c.pt")
    assert trainer.step().figures.read()[0] < first - 1.0


def test_the_step_budget_is_kept_exactly(tmp_path):
    trainer = make_trainer(Budget(steps=7))
    trainer.train(tmp_path / "c.pt")
    assert trainer.steps == 7 and trainer.tokens == 7 * 128


def test_the_time_budget_is_never_passed(tmp_path):
    trainer = make_trainer(Budget(seconds=4.0), TrainConfig(**{**vars(CONFIG), "reserve_seconds": 2.0}))
    trainer.train(tmp_path / "c.pt")
    assert trainer.steps > 1
    assert trainer.progress < 0.75, "the reserve was trained on"


def test_warm_up_leaves_no_trace(tmp_path):
    cold, warm = make_trainer(Budget(steps=3)), make_trainer(Budget(steps=3))
    warm.warm_up()
    for trainer in (cold, warm):
        trainer.train(tmp_path / "c.pt")
    assert all(torch.equal(cold_w, all_weights(warm)[name]) for name, cold_w in all_weights(cold).items())


def test_accumulated_gradients_equal_those_of_one_micro_batch(tmp_path):
    two, one = (
        make_trainer(Budget(steps=2), TrainConfig(**{**vars(CONFIG), "micro_batch_tokens": tokens}))
        for tokens in (64, 128)
    )
    for trainer in (two, one):
        trainer.train(tmp_path / "c.pt")
    for name, weight in all_weights(two).items():
        torch.testing.assert_close(weight, all_weights(one)[name], atol=2e-3, rtol=0)


LOOPING = replace(MODEL, num_layers=4, recurrence_first=1, recurrence_last=2, recurrence=2)
IN_PHASES = ScheduleConfig(recurrence_start=0.5, context_growth=(0.3,), lr_rewarmup=0.2, batch_growth=(0.7,))


@pytest.mark.parametrize(
    ("stop_at", "signum"), [(1, signal.SIGINT), (4, signal.SIGUSR1), (9, signal.SIGTERM)]
)
@pytest.mark.parametrize(("model", "schedule"), [(MODEL, None), (LOOPING, IN_PHASES)], ids=["seed", "phases"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, stop_at, signum, model, schedule
):
    how = {"model_config": model, "schedule": schedule}
    whole = make_trainer(Budget(steps=10), **how)
    whole.train(tmp_path / "whole.pt")
    first = make_trainer(Budget(steps=10), **how)
    draw_batch = first.batches.next

    def stop_then_draw(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        if first.steps == stop_at - 1:
            os.kill(os.getpid(), signum)
        return draw_batch(num_sequences, context)

    first.batches.next = stop_then_draw
    with pytest.raises(Stopped) as stopped:
        first.train(tmp_path / "c.pt")
    assert stopped.value.code == 128 + signum
    if (tmp_path / "c.pt").is_file():
        second = make_trainer(Budget(steps=10), **how)
        torch.manual_seed(123)
        second.resume(tmp_path / "c.pt")
        assert second.steps == stop_at and second.tokens == first.tokens
        second.train(tmp_path / "c.pt")
        assert all(
            torch.equal(weight, all_weights(second)[name]) for name, weight in all_weights(whole).items()
        )


@pytest.mark.parametrize(
    ("signum", "by_torchrun", "saves"),
    [
        (signal.SIGTERM, False, True),
        (signal.SIGUSR1, True, True),
        (signal.SIGINT, True, True),
        (signal.SIGINT, False, False),
    ],
)
def test_a_signal_that_is_passed_on_besides_saves_and_a_second_ctrl_c_ends_at_once(
    tmp_path, monkeypatch, signum, by_torchrun, saves
):
    monkeypatch.delenv("RANK", raising=False)
    if by_torchrun:
        monkeypatch.setenv("RANK", "0")
    trainer = make_trainer(Budget(steps=3))
    draw_batch = trainer.batches.next

    def stop_twice_then_draw(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        return draw_batch(num_sequences, context)

    trainer.batches.next = stop_twice_then_draw
    with pytest.raises(Stopped):
        trainer.train(tmp_path / "c.pt")
    assert (tmp_path / "c.pt").is_file() == saves


def test_a_run_goes_through_its_phases(tmp_path):
    trainer = make_trainer(Budget(steps=10), model_config=LOOPING, schedule=IN_PHASES)
    seen = []
    draw_batch = trainer.batches.next

    def note_then_draw(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((trainer.steps, context, trainer.model.looping))
        return draw_batch(num_sequences, context)

    trainer.batches.next = note_then_draw
    trainer.train(tmp_path / "c.pt")
    one_each = [(0, 8, False), (1, 8, False), (2, 8, False), (3, 16, False), (4, 16, False)]
    two_each = [(step, 16, True) for step in (7, 7, 8, 8, 9, 9)]
    assert seen == [*one_each, (5, 16, True), (6, 16, True), *two_each]
    assert trainer.tokens == 64 * len(seen)
    assert trainer.model.looping


def test_a_run_too_short_for_recurrence_is_scored_with_it_all_the_same(tmp_path):
    late = ScheduleConfig(recurrence_start=1.0)
    trainer = make_trainer(Budget(steps=2), model_config=LOOPING, schedule=late)
    trainer.train(tmp_path / "c.pt")
    assert trainer.model.looping


def test_warm_up_visits_every_kind_of_step(tmp_path):
    trainer = make_trainer(Budget(steps=10), model_config=LOOPING, schedule=IN_PHASES)
    seen = set()
    inner = trainer.loss

    def note_then_compute(model: GPT, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.add((inputs.size(1), model.looping))
        return inner(model, inputs, targets)

    trainer.loss = note_then_compute
    trainer.warm_up()
    warm = set(seen)
    seen.clear()
    trainer.train(tmp_path / "c.pt")
    assert warm == seen == {(8, False), (16, False), (16, True)}


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    trainer = make_trainer(Budget(steps=50), TrainConfig(**{**vars(CONFIG), "checkpoint_seconds": 0.0}))
    draw_batch = trainer.batches.next

    def spoil_then_draw(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        if trainer.steps == 5:
            with torch.no_grad():
                trainer.model.skip_weights.fill_(float("nan"))
        return draw_batch(num_sequences, context)

    trainer.batches.next = spoil_then_draw
    with pytest.raises(DivergenceError, match="nan nats"):
        trainer.train(tmp_path / "c.pt")
    again = make_trainer(Budget(steps=50))
    again.resume(tmp_path / "c.pt")
    assert 1 <= again.steps <= 5
    assert all(weight.isfinite().all() for weight in all_weights(again).values())


def test_a_rate_far_too_high_is_called_divergence(tmp_path):
    trainer = make_trainer(
        Budget(steps=200),
        TrainConfig(**{**vars(CONFIG), "divergence_nats": 0.1}),
        OptimConfig(matrix_lr=50.0, embedding_lr=10.0),
    )
    with pytest.raises(DivergenceError, match="diverged"):
        trainer.train(tmp_path / "c.pt")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    make_trainer(Budget(steps=1)).train(tmp_path / "c.pt")
    other = make_trainer(Budget(steps=1))
    other.model = GPT(ModelConfig(**{**vars(MODEL), "num_layers": 3}))
    with pytest.raises(CheckpointError, match="another configuration"):
        other.resume(tmp_path / "c.pt")


@pytest.mark.parametrize("wrong", [{}, {"seconds": 1.0, "steps": 1}, {"steps": 0}, {"seconds": -1.0}])
def test_a_budget_is_seconds_or_steps(wrong):
    with pytest.raises(ValueError, match="budget"):
        Budget(**wrong)


def test_batch_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="micro_batch_tokens"):
        make_trainer(Budget(steps=1), TrainConfig(batch_tokens=100, micro_batch_tokens=64))
    with pytest.raises(ValueError, match="from 0% of the run on"):
        make_trainer(Budget(steps=1), schedule=ScheduleConfig(context_growth=(0.2, 0.5)))
    with pytest.raises(ValueError, match=r"train\.batch_tokens 42"):
        make_trainer(Budget(steps=1), schedule=ScheduleConfig(batch_growth=(0.2, 0.5)))


def test_micro_batches_that_do_not_fit_the_memory_are_halved_and_the_log_says_so(tmp_path, capsys):
    whole, small = make_trainer(Budget(steps=4)), make_trainer(Budget(steps=4))
    small.log = RunLog()
    inner, sizes = small.loss, []

    def run_out_above_32(model: GPT, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        sizes.append(inputs.numel())
        if inputs.numel() > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(model, inputs, targets)

    small.loss = run_out_above_32
    small.warm_up()
    assert small.micro_batch_tokens == 32 and sizes == [64, 32, 32]
    message = "micro-batches of 64 tokens exceed the device's memory; halved to 32"
    assert message in capsys.readouterr().out
    for trainer in (whole, small):
        trainer.train(tmp_path / "c.pt")
    assert small.tokens == whole.tokens
    for name, weight in all_weights(whole).items():
        torch.testing.assert_close(weight, all_weights(small)[name], atol=2e-3, rtol=0)


def test_a_memory_that_holds_no_sequence_ends_the_run():
    trainer = make_trainer(Budget(steps=4))

    def run_out(model: GPT, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.loss = run_out
    with pytest.raises(DeviceMemoryError, match="a micro-batch of 16 tokens"):
        trainer.warm_up()


SIGREG = replace(CONFIG, sigreg_weight=0.1, sigreg_until=0.6)
WITH_PREFIXES = replace(SIGREG, prefix_weight=0.25, prefix_until=0.4)
MANY = replace(CONFIG, batch_tokens=2520, micro_batch_tokens=2520)
SHALLOW = replace(LOOPING, num_layers=2, recurrence_first=1, recurrence_last=1)
"""Of few blocks, each of which costs time in every graph."""


@pytest.mark.parametrize(
    ("model", "schedule", "config", "num_graphs"),
    [
        (SHALLOW, IN_PHASES, CONFIG, 3),
        (SHALLOW, IN_PHASES, SIGREG, 6),
        (replace(MODEL, num_layers=1), ScheduleConfig(), WITH_PREFIXES, 3),
        (
            replace(MODEL, num_layers=1, context=9),
            ScheduleConfig(context_growth=tuple(n / 9 for n in range(1, 9))),
            MANY,
            9,
        ),
    ],
    ids=["phases", "sigreg", "sigreg and prefix", "nine contexts"],
)
def test_all_graphs_of_a_compiled_run_are_made_by_its_warm_up(
    tmp_path, monkeypatch, model, schedule, config, num_graphs
):
    graphs, compile_with = [], torch.compile

    def note(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(compile_with, backend=note))
    trainer = make_trainer(Budget(steps=9), config, None, model, schedule, compiled=True)
    trainer.warm_up()
    assert len(graphs) == num_graphs
    trainer.train(tmp_path / "c.pt")
    assert len(graphs) == num_graphs


def test_an_evaluation_waits_for_the_step_before_it(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("golf.train.loop.synchronize", lambda device: done.append("waited"))
    trainer = make_trainer(Budget(steps=4), replace(CONFIG, num_evals=2))
    trainer.evaluate = lambda *_: done.append("evaluated") or 1.0
    trainer.train(tmp_path / "c.pt")
    evals = [place for place, what in enumerate(done) if what == "evaluated"]
    assert len(evals) == 2 and all(done[place - 1] == "waited" for place in evals)


def test_compiled_code_is_tagged_with_the_attention_kernels_of_the_run(monkeypatch):
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    tags = []
    for name in CPU_KERNELS:
        make_trainer(Budget(steps=1), replace(CONFIG, attention=name), compiled=True)
        tags.append(torch.compiler.config.cache_key_tag)
    assert tags == list(CPU_KERNELS)


def test_text_is_graded_by_the_graph_of_training_and_by_no_other():
    trainer = make_trainer(Budget(steps=2), compiled=True)
    calls = []
    nats = trainer.objective.nats
    trainer._nats = lambda *arguments: calls.append(arguments[1].shape) or nats(*arguments)
    inputs_BT, targets_BT = torch.randint(2, 32, (2, 4, 16))
    trainer.model.looping = False
    assert trainer.can_grade(trainer.phases[-1].context)
    assert not trainer.can_grade(trainer.phases[-1].context // 2)
    nats_BT = trainer.grade(inputs_BT, targets_BT)
    with torch.no_grad():
        expected_BT = token_nats(trainer.model(inputs_BT), targets_BT)
    assert torch.equal(nats_BT, expected_BT) and not nats_BT.requires_grad
    trainer.loss(trainer.model, inputs_BT, targets_BT)
    assert calls == [(4, 16), (4, 16)]
    assert not make_trainer(Budget(steps=2)).can_grade(16), "what is not compiled has nothing to share"


def test_text_is_graded_by_the_graph_of_training_once_no_term_is_on():
    trainer = make_trainer(Budget(steps=2), WITH_PREFIXES, compiled=True)
    assert not trainer.model.looping
    able = []
    for progress in (0.0, 0.39, 0.4, 0.6):
        trainer.objective.advance(progress)
        able.append(trainer.can_grade(16))
    assert able == [False, False, False, True]


def test_checkpoints_take_no_training_time(tmp_path, monkeypatch):
    trainer = make_trainer(Budget(steps=6), replace(CONFIG, checkpoint_seconds=0.0))
    phases = []

    def save(path: Path) -> None:
        phases.append(trainer.clock.elapsed("train"))
        time.sleep(0.02)
        phases.append(trainer.clock.elapsed("train"))

    monkeypatch.setattr(trainer, "_save", save)
    trainer.train(tmp_path / "c.pt")
    assert len(phases) >= 2 * 6
    for before, after in zip(phases[:12:2], phases[1:12:2], strict=True):
        assert before == after


def test_averages_belong_to_the_point_that_a_step_has_reached(monkeypatch):
    trainer, seen = make_trainer(Budget(seconds=10.0)), []
    clock = iter([0.0, 3.0, 7.0])
    monkeypatch.setattr(trainer.clock, "elapsed", lambda name: next(clock))
    monkeypatch.setattr(trainer.average, "update", seen.append)
    trainer._read_clock()
    trainer.step()
    trainer.step()
    assert seen == [0.3, 0.7]


def test_every_generator_is_restored(tmp_path):
    trainer = make_trainer(Budget(steps=3))
    trainer.train(tmp_path / "c.pt")
    torch.manual_seed(5)
    trainer._save(tmp_path / "c.pt")
    expected = torch.rand(4)
    torch.manual_seed(6)
    other = make_trainer(Budget(steps=3))
    other.resume(tmp_path / "c.pt")
    assert torch.equal(torch.rand(4), expected)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(state["generators"]) == {"cpu"}


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    trainer = make_trainer(Budget(steps=1))
    trainer.train(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    state["optimizers"] = {"muon": state["optimizers"]["matrix"], "adam": state["optimizers"]["scalar"]}
    save_checkpoint(tmp_path / "old.pt", state)
    with pytest.raises(CheckpointError, match="a run of an earlier version cannot be resumed"):
        make_trainer(Budget(steps=1)).resume(tmp_path / "old.pt")


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_micro_batches_that_one_would_read(size):
    config = replace(CONFIG, batch_tokens=64 * size)

    def trainer_of(rank: int, num_processes: int) -> Trainer:
        trainer = make_trainer(Budget(steps=1), config)
        trainer.world = World(rank, num_processes)
        return trainer

    alone = trainer_of(0, 1)
    trainers = [trainer_of(rank, size) for rank in range(size)]
    for context in (8, 8, 16, 16, 8):
        for trainer in trainers:
            for found, expected in zip(
                trainer.next_micro_batch(context), alone.next_micro_batch(context), strict=True
            ):
                assert torch.equal(found, expected)
    assert all(trainer.batches.state_dict() == alone.batches.state_dict() for trainer in trainers)
