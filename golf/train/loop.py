"""The training loop: batches in, weights out, on a budget of seconds or of steps.

Shapes: B batch, T time.
"""

import math
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.model.kernels import attention_kernels, present_kernels, require_kernel
from golf.model.positions import rotary_tables
from golf.system.cli import Stopped, handling_stops
from golf.system.clock import StageClock
from golf.system.device import (
    Runtime,
    is_out_of_memory,
    is_torchruns,
    release_memory,
    synchronize,
    tag_compiled_code,
)
from golf.system.log import ProgressBar, RunLog
from golf.train.averaging import WeightAverage
from golf.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from golf.train.config import Recipe, fit_micro_batches, halve_micro_batches
from golf.train.objective import Objective
from golf.train.optim import Optimizers
from golf.train.schedule import (
    Phases,
    forecast_run,
    learning_rate_scale,
    muon_momentum,
    phase_at,
    plan_phases,
)

Evaluate = Callable[[GPT, Callable[[Tensor, Tensor], Tensor] | None, int], float]
"""evaluate(model, grade, batch_tokens): bits per byte on held-out text. `grade` is `Trainer.grade`, or None
where training compiled no graph that can be used; forward passes of `batch_tokens` fit the device."""

START_OF_RUN = 0.05
"""Share of the run in which the loss may rise above that of the first step."""
FIRST_STEPS = 30
"""Number of steps in which it may, too."""
FORECAST_STEP = 6
"""The step after which the size of the run is forecast, from the time of the steps since the first."""


class DivergenceError(ValueError):
    """The loss is not finite, or far above that of the first step."""


class DeviceMemoryError(ValueError):
    """Not even the smallest micro-batch fits the device's memory."""


def prepare_compiler() -> None:
    """Configures torch.compile for training, in this process."""
    # Every kind of step is a graph of one function, and one more than the limit, by default 8, is an error.
    torch._dynamo.config.recompile_limit = 64
    # Up to how many reads and operations Inductor computes a value where it is used, instead of writing it
    # out. Its own limits, 8 and 30, fall in the middle of a norm's gradient, which is then written in fp32
    # and read by each of its users, as is what is added to it; with these the sum is written once, in bf16.
    torch._inductor.config.realize_acc_reads_threshold = 12  # pyright: ignore[reportAttributeAccessIssue]
    torch._inductor.config.realize_opcount_threshold = 60  # pyright: ignore[reportAttributeAccessIssue]
    # Else cosine and sine are computed anew for each element of every query and key, in each forward pass.
    torch.compiler.assume_constant_result(rotary_tables)


def weights_sum(model: nn.Module) -> float:
    """A number that almost surely differs between models whose weights differ."""
    return sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())


class BatchSource(Protocol):
    """Batches for a Trainer; TrainBatches in pretraining."""

    @property
    def epoch(self) -> float:
        """Epochs served so far."""
        ...

    def next(self, num_sequences: int, context: int) -> tuple[Tensor, Tensor]:
        """The next inputs_BT and targets_BT, int64 on the CPU."""
        ...

    def skip(self, num_sequences: int, context: int) -> None:
        """Skips what `next` would return."""

    def state_dict(self) -> dict[str, Any]:
        """The position, for `load_state_dict`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""


class LaunchedFigures:
    """Scalars on their way from the device: reading them waits for the step they belong to, and no later one.

    A plain `.item()` is queued behind everything launched since; a copy to pinned memory is not.
    """

    def __init__(self, *scalars: Tensor):
        self._values = torch.stack([scalar.detach().float() for scalar in scalars])
        self._copied: torch.cuda.Event | None = None
        if self._values.device.type == "cuda":
            self._values = self._values.to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[float]:
        """The scalars in the order they were given."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


class LaunchedStep(NamedTuple):
    """A step that the device may still be working on."""

    number: int
    tokens: int
    """Trained on so far."""
    epoch: float
    progress: float
    lr_scale: float
    figures: LaunchedFigures
    """Mean nats per token, and the gradient's norm before clipping."""


class StepReports:
    """Reads each step once the next one is launched, so that the device never waits.

    Checks its loss, logs `train.reports` of the steps, makes the forecast.
    """

    def __init__(self, recipe: Recipe, phases: Phases, model: GPT, clock: StageClock, log: RunLog):
        self.budget, self.config, self.clock, self.log = recipe.budget, recipe.train, clock, log
        self.phases, self.model = phases, model
        self.first_loss = math.nan
        """The loss of the run's first step."""
        self._pending: LaunchedStep | None = None
        self._num_due, self._num_read = -1, 0
        self._first_read = 0, 0.0

    def launched(self, step: LaunchedStep | None, bar: ProgressBar) -> None:
        """Reads the step before and keeps `step` for the next call; None waits for the last one and logs it.

        Raises DivergenceError if the loss that is read diverged.
        """
        before, self._pending = self._pending, step
        if before is None:
            return
        loss, gradient_norm = before.figures.read()
        number, progress, seconds = before.number, before.progress, self.clock.elapsed("train")
        if math.isnan(self.first_loss):
            self.first_loss = loss
        is_early = progress <= START_OF_RUN or number <= FIRST_STEPS
        # Written so that NaN and infinity fail it, too.
        if not loss < self.first_loss + (math.inf if is_early else self.config.divergence_nats):
            raise DivergenceError(
                f"the run has diverged: the loss is {loss:.4g} nats at step {number}, from "
                f"{self.first_loss:.4g} at the start; the last good checkpoint is kept"
            )
        self._num_read += 1
        if self._num_read == 1:
            self._first_read = before.tokens, seconds
        num_due = math.floor(progress * self.config.reports + 1e-9)
        if num_due > self._num_due or step is None:
            self._num_due = num_due
            total = self.budget.steps or max(number, round(number / max(progress, 1e-9)))
            speed = before.tokens / seconds
            self.log.event(
                "step",
                step=f"{number}/{total}",
                train_loss=round(loss, 5),
                grad_norm=round(gradient_norm, 4),
                lr_scale=round(before.lr_scale, 4),
                tokens=before.tokens,
                tokens_per_second=round(speed),
                train_seconds=round(seconds, 2),
            )
            bar.move_to(100 * progress, f"loss {loss:.3f}  {speed:,.0f} tokens/s")
        if self._num_read == FORECAST_STEP:
            tokens, earlier = self._first_read
            log_forecast(self, before, (seconds - earlier) / (before.tokens - tokens))


def log_forecast(reports: StepReports, step: LaunchedStep, token_seconds: float) -> None:
    """Logs the size of the whole run, from the seconds that a token took until this step."""
    phase = phase_at(step.progress, reports.phases)
    run = forecast_run(reports.phases, reports.model.num_visits, phase, token_seconds, reports.budget)
    epochs = round(run.tokens * step.epoch / step.tokens, 3)
    size = {"steps": run.steps, "tokens": run.tokens, "epochs": epochs}
    reports.log.event("forecast", **size, train_seconds=round(run.seconds))


class Trainer:
    """A model in training: `train` is the loop, `step` one optimizer step.

    With several processes (`runtime.world`) each computes its share of every step's micro-batches; what
    depends on the clock follows that of process 0. `evaluate` is called during training with the model as it
    is; its time is not training time.
    """

    def __init__(
        self,
        model: GPT,
        batches: BatchSource,
        recipe: Recipe,
        runtime: Runtime,
        evaluate: Evaluate,
        clock: StageClock,
        log: RunLog,
        prefixes_V: Tensor | None = None,
    ):
        self.config = recipe.train
        self.optim, self.schedule = recipe.optim, recipe.schedule
        self.loops = model.config.recurrence > 1
        self.phases = plan_phases(model.config.context, self.config.batch_tokens, self.loops, self.schedule)
        self.config.check(self.phases)
        self.model, self.batches, self.budget, self.evaluate = model, batches, recipe.budget, evaluate
        self.runtime, self.world, self.clock, self.log = runtime, runtime.world, clock, log
        self.micro_batch_tokens = fit_micro_batches(self.config, self.phases, self.world.size)
        """`warm_up` halves it until it fits the device."""
        self.attention = present_kernels(runtime.device)
        """Attention kernels in the order to try them."""
        if self.config.attention != "auto":
            self.attention = require_kernel(self.config.attention, self.attention)
        self.optimizers = Optimizers(model, self.optim, runtime.compute_dtype, self.world)
        self.average = WeightAverage(model, recipe.averaging)
        self.reports = StepReports(recipe, self.phases, model, clock, log)
        self.steps = self.tokens = 0
        self._seconds, self._step_seconds = clock.elapsed("train"), 0.0
        self._stop_signal, self._stopping = 0, False
        self.objective = Objective(self.config, prefixes_V)
        self._nats = self.objective.nats
        if runtime.compiled:
            prepare_compiler()
            tag_compiled_code(self.attention)
            self._nats = torch.compile(self._nats, dynamic=False, fullgraph=True)

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        return self.budget.progress(self.steps, self._seconds)

    def train(self, checkpoint_path: Path) -> None:
        """Trains until the budget is used, saving to `checkpoint_path` on the way and at the end.

        Raises DivergenceError, the last good checkpoint kept, and Stopped after Ctrl-C, SIGTERM or SIGUSR1,
        with a fresh one.
        """
        with handling_stops(self._request_stop):
            with (
                self.clock.stage("train"),
                self.log.progress("train", 100, "% of the run", lines=False) as bar,
                attention_kernels(self.model, self.attention),
            ):
                self._read_clock()
                last_save = self._seconds
                next_eval = self.progress + 1 / self.config.num_evals
                while not self._budget_is_used():
                    started = self._seconds
                    self.reports.launched(self.step(), bar)
                    self._step_seconds = self._seconds - started

                    if self.progress >= next_eval:
                        next_eval += 1 / self.config.num_evals
                        # The step that the device still works on is training, evaluation is not.
                        synchronize(self.runtime.device)
                        with self.clock.paused():
                            self.log.event(
                                "held_out", step=self.steps, tokens=self.tokens, bpb=self.held_out_bpb()
                            )

                    if self._stopping or self._seconds - last_save > self.config.checkpoint_seconds:
                        # The last step's loss is checked first: a diverged state is never saved.
                        self.reports.launched(None, bar)
                        synchronize(self.runtime.device)
                        with self.clock.paused():
                            self._save(checkpoint_path)
                        last_save = self._seconds
                    if self._stopping:
                        raise Stopped(f"stopped at step {self.steps}", self._stop_signal or signal.SIGTERM)
                self.reports.launched(None, bar)
                synchronize(self.runtime.device)
            self.model.looping = self.loops
            self._save(checkpoint_path)

    def step(self) -> LaunchedStep:
        """One optimizer step; its loss stays on the device, so that the host does not wait for it."""
        progress = self.progress
        phase = phase_at(progress, self.phases)
        lr_scale = learning_rate_scale(progress, self.schedule)
        self.optimizers.set_schedule(lr_scale, muon_momentum(progress, self.optim.momentum, self.schedule))
        self.model.looping = phase.looping
        self.objective.advance(progress)

        # Gradient accumulation: the mean over the step's micro-batches, of which each process has its share.
        num_micro_batches = phase.batch_tokens // self.micro_batch_tokens
        loss_sum = torch.zeros((), device=self.runtime.device)
        for _ in range(num_micro_batches // self.world.size):
            inputs_BT, targets_BT = self.next_micro_batch(phase.context)
            loss = self.loss(self.model, inputs_BT, targets_BT) / num_micro_batches
            loss.backward()
            loss_sum += loss.detach()
        loss_is_summed = self.world.sum(loss_sum)
        self.optimizers.all_reduce_gradients()
        gradient_norm = self.optimizers.step()
        self.optimizers.zero_grad()
        loss_is_summed()

        self.steps += 1
        self.tokens += phase.batch_tokens
        # Averages belong to the progress that this step has reached, not to that where it began.
        self._read_clock()
        self.average.update(self.progress)
        figures = LaunchedFigures(loss_sum, gradient_norm)
        return LaunchedStep(self.steps, self.tokens, self.batches.epoch, self.progress, lr_scale, figures)

    def next_micro_batch(self, context: int) -> tuple[Tensor, Tensor]:
        """This process's next inputs_BT and targets_BT, on the device; those of the others are skipped."""
        num_sequences, rank = self.micro_batch_tokens // context, self.world.rank
        self.batches.skip(rank * num_sequences, context)
        inputs_BT, targets_BT = self.batches.next(num_sequences, context)
        self.batches.skip((self.world.size - 1 - rank) * num_sequences, context)
        device = self.runtime.device
        if device.type == "cuda":
            # From pinned memory the copy is queued; from other memory it would wait for the device.
            inputs_BT, targets_BT = inputs_BT.pin_memory(), targets_BT.pin_memory()
        return inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)

    def loss(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean nats per token of a micro-batch, with all terms' gradient."""
        # The mean is outside the compiled graph, so that `grade` runs the same graph.
        return self._nats(model, inputs_BT, targets_BT).mean()

    def held_out_bpb(self) -> float:
        """Bits per byte of the model as it is on the held-out text."""
        grade = self.grade if self.can_grade(self.model.config.context) else None
        return self.evaluate(self.model, grade, self.micro_batch_tokens)

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """Context and recurrence of each kind of step that the run has, the most expensive first."""
        return sorted({(phase.context, phase.looping) for phase in self.phases}, reverse=True)

    def can_grade(self, context: int) -> bool:
        """Whether training has compiled a graph for windows of this length, the model as it is."""
        is_plain = self.objective.is_plain and not self.model.config.future_tokens
        return self.runtime.compiled and is_plain and (context, self.model.looping) in self.kinds

    def grade(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target (B, T), fp32, by the compiled graph of training: no other graph is compiled."""
        with torch.enable_grad(), attention_kernels(self.model, self.attention):
            return self._nats(self.model, inputs_BT, targets_BT).detach()

    def choose_output(self) -> tuple[str, dict[str, Tensor], dict[str, float]]:
        """Evaluates the averages that the config asks for; the model is left with the last of them.

        Returns the name of the best, its weights on the CPU, and the held-out bits per byte of each.
        """
        outputs = {
            name: {key: weight.clone() for key, weight in weights.items()}
            for name, weights in self.average.outputs().items()
            if self.average.config.output in ("auto", name)
        }
        held_out = {}
        for name, weights in outputs.items():
            self.model.load_state_dict(weights)
            held_out[name] = self.held_out_bpb()
        best = min(held_out, key=held_out.__getitem__)
        self.log.event("average", output=best, **{f"held_out_bpb_{name}": held_out[name] for name in outputs})
        return best, {key: weight.cpu().contiguous() for key, weight in outputs[best].items()}, held_out

    def warm_up(self) -> None:
        """Runs `warmup_steps` of each kind with optimizers of their own, then restores the weights.

        Compiles all graphs of the run. Where a micro-batch does not fit a process's device, all are halved,
        for the whole run; DeviceMemoryError if they cannot be.
        """
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        generators = self._generators()
        while not self._warm_up_each_kind():
            tokens = self.micro_batch_tokens
            self.micro_batch_tokens = half = halve_micro_batches(tokens, self.phases)
            if not half:
                raise DeviceMemoryError(f"a micro-batch of {tokens:,} tokens exceeds the device's memory")
            self.log.info(
                f"micro-batches of {tokens:,} tokens exceed the device's memory; halved to {half:,}"
            )
            # Graphs of the larger micro-batches would count against the number that are kept.
            torch.compiler.reset()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), before)  # pyright: ignore[reportPrivateImportUsage]
        self._set_generators(generators)
        synchronize(self.runtime.device)

    def _warm_up_each_kind(self) -> bool:
        """Whether micro-batches of all kinds fit every process's device."""
        optimizers = Optimizers(self.model, self.optim, self.runtime.compute_dtype, self.world)
        for (context, looping), start in product(self.kinds, self.objective.starts):
            self.model.looping = looping
            self.objective.advance(start)
            shape = (self.micro_batch_tokens // context, context)
            # Two tensors, as in training: a graph compiled for one that is both would not serve there.
            inputs_BT, targets_BT = (
                torch.randint(self.model.config.vocab_size, shape).to(self.runtime.device) for _ in range(2)
            )
            for _ in range(self.config.warmup_steps):
                if self.world.all_reduce_any(0.0, not self._fits(inputs_BT, targets_BT))[1]:
                    optimizers.zero_grad()
                    release_memory(self.runtime.device)
                    return False
                optimizers.step()
                optimizers.zero_grad()
        return True

    def _fits(self, inputs_BT: Tensor, targets_BT: Tensor) -> bool:
        """Whether a forward and backward pass fits this process's device."""
        try:
            with attention_kernels(self.model, self.attention):
                self.loss(self.model, inputs_BT, targets_BT).backward()
                synchronize(self.runtime.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _read_clock(self) -> None:
        elapsed = self.clock.elapsed("train")
        self._seconds, self._stopping = self.world.all_reduce_any(elapsed, bool(self._stop_signal))

    def _budget_is_used(self) -> bool:
        if self.budget.steps is not None:
            return self.steps >= self.budget.steps
        assert self.budget.seconds is not None
        # With recurrence, a longer context or a larger batch the next steps cost more than the mean.
        next_step = max(self._seconds / max(1, self.steps), self._step_seconds)
        limit = self.budget.seconds - self.config.reserve_seconds
        return self.steps > 0 and self._seconds + next_step > limit

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        # torchrun and studies pass on a signal that a terminal or scheduler has sent to all processes:
        # a repeated one is a person's if it is Ctrl-C, which studies do not pass on.
        is_persons = signum == signal.SIGINT and not is_torchruns()
        if self._stop_signal:
            if is_persons:
                raise Stopped(signum=signum)
            return
        self._stop_signal = signum
        self.log.info(f"stopping after this step{' (again to stop at once)' if is_persons else ''}")

    def _save(self, path: Path) -> None:
        if self.world.is_first:
            save_checkpoint(path, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "generators": self._generators(),
            "clock": self.clock.seconds,
            "steps": self.steps,
            "tokens": self.tokens,
            "first_loss": self.reports.first_loss,
        }

    def resume(self, checkpoint_path: Path) -> None:
        """Restores a checkpoint; CheckpointError if it is damaged or of another configuration."""
        state = self.world.broadcast(lambda: load_checkpoint(checkpoint_path))
        try:
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path} belongs to another configuration: {error}") from error
        self.batches.load_state_dict(state["batches"])
        self._set_generators(state["generators"])
        self.clock.restore(state["clock"])
        self._seconds = self.clock.elapsed("train")
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.reports.first_loss = state["first_loss"]

    def _generators(self) -> dict[str, Tensor]:
        """States of the random generators that a step may draw from, by kind of device."""
        states = {"cpu": torch.get_rng_state()}
        if self.runtime.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.runtime.device)
        return states

    def _set_generators(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.runtime.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.runtime.device)
