"""The training loop: batches in, weights out, on a budget of seconds or steps.

Shapes: B batch, T time.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from golf.clock import PhaseClock
from golf.data.batches import TrainBatches
from golf.log import ProgressBar, RunLog
from golf.model.attention import fastest_attention
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.runtime import Runtime, synchronize
from golf.train.averaging import AveragingConfig, WeightAverage
from golf.train.budget import Budget, TrainConfig
from golf.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from golf.train.objective import Objective
from golf.train.optim import OptimConfig, Optimizers
from golf.train.reports import LaunchedStep, StepReports
from golf.train.schedule import ScheduleConfig, learning_rate_scale, muon_momentum
from golf.train.stages import plan_stages, stage_at


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


def move_tokens(tokens_BT: Tensor, device: torch.device) -> Tensor:
    """Token ids on the device; to a GPU from pinned memory, so that the host need not wait for the copy."""
    if device.type != "cuda":
        return tokens_BT.to(device)
    return tokens_BT.pin_memory().to(device, non_blocking=True)


def mean_nats(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The training loss: mean nats per token."""
    return token_nats(model(inputs_BT), targets_BT).mean()


class Trainer:
    """A model in training: the loop, its state, and what it says on the way.

    `held_out_bpb` scores the model as it is on text that is not trained on; its time is not training time.
    """

    def __init__(
        self,
        model: GPT,
        batches: TrainBatches,
        budget: Budget,
        runtime: Runtime,
        clock: PhaseClock,
        log: RunLog,
        held_out_bpb: Callable[[], float],
        config: TrainConfig,
        optim: OptimConfig,
        schedule: ScheduleConfig,
        averaging: AveragingConfig,
    ):
        loops = model.config.loop_visits > 1
        self.stages = plan_stages(model.config.context, config.batch_tokens, loops, schedule)
        config.check(self.stages)
        self.model, self.batches, self.budget = model, batches, budget
        self.runtime, self.clock, self.log = runtime, clock, log
        self.held_out_bpb = held_out_bpb
        self.config, self.optim, self.schedule = config, optim, schedule
        self.optimizers = Optimizers(model, optim, runtime.compute_dtype)
        self.average = WeightAverage(model, averaging)
        self.reports = StepReports(budget, config, self.stages, model.num_visits, clock, log)
        self.steps = 0
        self.tokens = 0
        """Trained on so far."""
        self._step_seconds = 0.0
        self._stop_requested = False
        self.objective = Objective(config)
        plain = not self.objective.regularizing and not len(model.future)
        loss = mean_nats if plain else self.objective.mean_nats
        self.loss = torch.compile(loss, dynamic=False, fullgraph=True) if runtime.compiled else loss

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        return self.budget.progress(self.steps, self.clock.elapsed("train"))

    def warm_up(self) -> None:
        """Runs `warmup_steps` of each kind with throw-away optimisers, then restores the weights."""
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        generator_state = torch.get_rng_state()
        optimizers = Optimizers(self.model, self.optim, self.runtime.compute_dtype)
        for context, looping in sorted({(stage.context, stage.looping) for stage in self.stages}):
            self.model.looping = looping
            shape = (self.config.micro_batch_tokens // context, context)
            tokens_BT = torch.randint(self.model.config.vocab_size, shape).to(self.runtime.device)
            for _ in range(self.config.warmup_steps):
                with fastest_attention(self.runtime.device):
                    self.loss(self.model, tokens_BT, tokens_BT).backward()
                optimizers.step()
                optimizers.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), before)
        torch.set_rng_state(generator_state)
        synchronize(self.runtime.device)

    def train(self, checkpoint_path: Path) -> None:
        """Trains until the budget is used, saving to `checkpoint_path` on the way and at the end.

        Raises DivergenceError, the last good checkpoint kept, and Interrupted after Ctrl-C, with a fresh one.
        """
        earlier_handler = signal.signal(signal.SIGINT, self._request_stop)
        try:
            with (
                self.clock.phase("train"),
                self.log.progress("train", 1.0, "of the run") as bar,
                fastest_attention(self.runtime.device),
            ):
                self._loop(checkpoint_path, bar)
                synchronize(self.runtime.device)
            self.model.looping = True
            save_checkpoint(checkpoint_path, self.state_dict())
        finally:
            signal.signal(signal.SIGINT, earlier_handler)

    def _loop(self, checkpoint_path: Path, bar: ProgressBar) -> None:
        last_save = self.clock.elapsed("train")
        next_look = self.progress + 1 / self.config.held_out_looks
        while not self._budget_used():
            started = self.clock.elapsed("train")
            self.reports.launched(self.step(), bar)
            now = self.clock.elapsed("train")
            self._step_seconds = now - started
            if self.progress >= next_look:
                next_look += 1 / self.config.held_out_looks
                with self.clock.paused():
                    self.log.event("held_out", step=self.steps, tokens=self.tokens, bpb=self.held_out_bpb())
            if self._stop_requested or now - last_save > self.config.checkpoint_seconds:
                self.reports.catch_up(bar)
                save_checkpoint(checkpoint_path, self.state_dict())
                last_save = self.clock.elapsed("train")
            if self._stop_requested:
                raise Interrupted(f"stopped at step {self.steps}")
        self.reports.catch_up(bar)

    def step(self) -> LaunchedStep:
        """One optimiser step; its loss stays on the device, so that nothing waits for it."""
        progress, device = self.progress, self.runtime.device
        stage = stage_at(progress, self.stages)
        lr_scale = learning_rate_scale(progress, self.schedule)
        self.optimizers.set_schedule(lr_scale, muon_momentum(progress, self.optim.momentum, self.schedule))
        self.model.looping = stage.looping
        self.objective.set_progress(progress)
        num_passes = stage.batch_tokens // self.config.micro_batch_tokens
        num_sequences = self.config.micro_batch_tokens // stage.context
        total = torch.zeros((), device=device)
        for _ in range(num_passes):
            tokens = self.batches.next(num_sequences, stage.context)
            inputs_BT, targets_BT = (move_tokens(tokens_BT, device) for tokens_BT in tokens)
            loss = self.loss(self.model, inputs_BT, targets_BT) / num_passes
            loss.backward()
            total += loss.detach()
        self.optimizers.step()
        self.optimizers.zero_grad()
        self.steps += 1
        self.tokens += stage.batch_tokens
        self.average.update(self.progress)
        return LaunchedStep(self.steps, self.tokens, self.batches.epoch, self.progress, lr_scale, total)

    def _budget_used(self) -> bool:
        if self.budget.seconds is None:
            return self.steps >= self.budget.steps
        elapsed = self.clock.elapsed("train")
        # Recurrence, a longer context or a larger batch make the steps to come dearer than the mean.
        next_step = max(elapsed / self.steps, self._step_seconds) if self.steps else 0.0
        return elapsed + next_step > self.budget.seconds - self.config.reserve_seconds and self.steps > 0

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        self.log.say("stopping after this step (again to stop at once)")

    def state_dict(self) -> dict[str, object]:
        """Everything that the rest of the run depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "generator": torch.get_rng_state(),
            "clock": self.clock.seconds,
            "steps": self.steps,
            "tokens": self.tokens,
            "first_loss": self.reports.first_loss,
        }

    def resume(self, checkpoint_path: Path) -> None:
        """Takes the state of `checkpoint_path`; CheckpointError if it is damaged or of another model."""
        state = load_checkpoint(checkpoint_path)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path} belongs to another configuration: {error}") from error
        self.batches.load_state_dict(state["batches"])
        torch.set_rng_state(state["generator"])
        self.clock.restore(state["clock"])
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.reports.first_loss = state["first_loss"]
