"""The training loop: batches in, weights out, on a budget of seconds or steps.

Shapes: B batch, T time.
"""

import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from golf.data.batches import TrainBatches
from golf.model.gpt import GPT
from golf.model.kernels import attention_kernels, choose_kernels, present_kernels
from golf.model.positions import rotary_tables
from golf.system.clock import StageClock
from golf.system.device import Runtime, release_memory, synchronize, tag_compiled_code
from golf.system.log import ProgressBar, RunLog
from golf.train.averaging import AveragingConfig, WeightAverage
from golf.train.budget import Budget, TrainConfig, fit_micro_batches, halve_micro_batches
from golf.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from golf.train.exchange import GradientAllReduce
from golf.train.feed import BatchFeed
from golf.train.objective import Objective, target_nats
from golf.train.optim import OptimConfig, Optimizers
from golf.train.phases import phase_at, plan_phases
from golf.train.reports import LaunchedFigures, LaunchedStep, StepReports
from golf.train.schedule import ScheduleConfig, learning_rate_scale, muon_momentum

MAX_GRAPHS = 64
"""Far more than a run has kinds of steps; torch's own limit is 8."""
INLINED_READS, INLINED_OPERATIONS = 12, 60
"""Up to how many reads and operations Inductor computes a value where it is used, instead of writing it out.

Its own limits, 8 and 30, fall in the middle of a norm's gradient, which is then written in fp32 and read, and
what is to be added to it too, by each of its users; with these the sum is written, once, in bf16.
"""


def prepare_compiler() -> None:
    """Sets what torch.compile needs to be told about training, for this process."""
    # Every kind of step is a graph of one function, and one more than the limit is an error.
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    torch._inductor.config.realize_acc_reads_threshold = INLINED_READS
    torch._inductor.config.realize_opcount_threshold = INLINED_OPERATIONS
    # Else each element of every query and key has its cosine and sine computed anew, at each pass.
    torch.compiler.assume_constant_result(rotary_tables)


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class DeviceMemoryError(ValueError):
    """Not even the smallest pass fits the device's memory."""


class Trainer:
    """A model in training: the loop, its state, and what it says on the way.

    `held_out_bpb` scores the model as it is on text that is not trained on; its time is not training time.
    In a world of several processes each has its part of every step; what depends on the clock follows that of
    the first.
    """

    def __init__(
        self,
        model: GPT,
        batches: TrainBatches,
        budget: Budget,
        runtime: Runtime,
        clock: StageClock,
        log: RunLog,
        held_out_bpb: Callable[[], float],
        config: TrainConfig,
        optim: OptimConfig,
        schedule: ScheduleConfig,
        averaging: AveragingConfig,
    ):
        loops = model.config.recurrence > 1
        self.phases = plan_phases(model.config.context, config.batch_tokens, loops, schedule)
        config.check(self.phases)
        self.model, self.batches, self.budget = model, batches, budget
        self.runtime, self.clock, self.log = runtime, clock, log
        self.held_out_bpb = held_out_bpb
        self.config, self.optim, self.schedule = config, optim, schedule
        self.world = runtime.world
        self.micro_batch_tokens = fit_micro_batches(config.micro_batch_tokens, self.phases, self.world.size)
        """Tokens of a pass, once it is known what fits the device."""
        self.feed = BatchFeed(batches, self.world, runtime.device, ahead=runtime.device.type == "cuda")
        self.exchange = GradientAllReduce(model, self.world)
        self.attention = choose_kernels(config.attention, present_kernels(runtime.device))
        """Attention kernels in the order to try them."""
        self.optimizers = Optimizers(model, optim, runtime.compute_dtype, self.world)
        self.average = WeightAverage(model, averaging)
        self.reports = StepReports(budget, config, self.phases, model.num_visits, clock, log)
        self.steps = 0
        self.tokens = 0
        """Trained on so far."""
        self._seconds = clock.elapsed("train")
        self._step_seconds = 0.0
        self._stop_requested = self._stopping = False
        self.objective = Objective(config)
        self.is_plain = not self.objective.regularizing and not len(model.future)
        """Whether the loss is the mean of the targets' nats and nothing else."""
        self._forward = target_nats if self.is_plain else self.objective.mean_nats
        if runtime.compiled:
            prepare_compiler()
            tag_compiled_code(self.attention)
            self._forward = torch.compile(self._forward, dynamic=False, fullgraph=True)

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        return self.budget.progress(self.steps, self._seconds)

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """Context and recurrence of each kind of step that the run has; the dearest first."""
        return sorted({(phase.context, phase.looping) for phase in self.phases}, reverse=True)

    def loss(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The training loss of a micro-batch, a scalar: mean nats per token, and what the config adds."""
        found = self._forward(model, inputs_BT, targets_BT)
        # The mean stands outside the compiled graph, so that `grade` reads the same graph.
        return found.mean() if self.is_plain else found

    def can_grade(self, context: int) -> bool:
        """Whether windows of this length, as the model stands, have a graph that training compiled."""
        return self.runtime.compiled and self.is_plain and (context, self.model.looping) in self.kinds

    def grade(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target (B, T), fp32, by training's own forward pass: no other graph is compiled."""
        with torch.enable_grad(), attention_kernels(self.model, self.attention):
            return self._forward(self.model, inputs_BT, targets_BT).detach()

    def warm_up(self) -> None:
        """Runs `warmup_steps` of each kind with throw-away optimisers, then restores the weights.

        Where a pass does not fit the device's memory, passes are halved for every process and the whole run;
        DeviceMemoryError if they cannot be.
        """
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        generators = self._generators()
        while not self._warm_up_each_kind():
            self._halve_passes()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), before)
        self._set_generators(generators)
        synchronize(self.runtime.device)

    def _warm_up_each_kind(self) -> bool:
        """Whether all kinds of passes fit every process's device."""
        optimizers = Optimizers(self.model, self.optim, self.runtime.compute_dtype, self.world)
        ends = (
            [self.config.sigreg_until] if self.config.sigreg_weight and self.config.sigreg_until < 1 else []
        )
        for (context, looping), progress in product(self.kinds, [0.0, *ends]):
            self.model.looping = looping
            self.objective.set_progress(progress)
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

    def _halve_passes(self) -> None:
        tokens = self.micro_batch_tokens
        half = halve_micro_batches(tokens, self.phases)
        if not half:
            raise DeviceMemoryError(f"a pass of {tokens:,} tokens does not fit the device's memory")
        self.log.info(f"passes of {tokens:,} tokens do not fit the device's memory; {half:,} and more passes")
        self.micro_batch_tokens = half
        # Graphs of the larger passes would count against the number that are kept.
        torch.compiler.reset()

    def _fits(self, inputs_BT: Tensor, targets_BT: Tensor) -> bool:
        try:
            with attention_kernels(self.model, self.attention):
                self._loss_of(inputs_BT, targets_BT).backward()
                synchronize(self.runtime.device)
        except torch.OutOfMemoryError:
            return False
        return True

    def _loss_of(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.loss(self.model, inputs_BT, targets_BT)

    def train(self, checkpoint_path: Path) -> None:
        """Trains until the budget is used, saving to `checkpoint_path` on the way and at the end.

        Raises DivergenceError, the last good checkpoint kept, and Interrupted after Ctrl-C, with a fresh one.
        """
        earlier_handler = signal.signal(signal.SIGINT, self._request_stop)
        try:
            with (
                self.clock.stage("train"),
                self.log.progress("train", 1.0, "of the run") as bar,
                attention_kernels(self.model, self.attention),
            ):
                self._loop(checkpoint_path, bar)
                synchronize(self.runtime.device)
            self.feed.settle()
            self.model.looping = self.model.config.recurrence > 1
            self._save(checkpoint_path)
        finally:
            signal.signal(signal.SIGINT, earlier_handler)

    def _loop(self, checkpoint_path: Path, bar: ProgressBar) -> None:
        self._look_at_clock()
        last_save = self._seconds
        next_eval = self.progress + 1 / self.config.num_evals
        while not self._budget_used():
            started = self._seconds
            self.reports.launched(self.step(), bar)
            self._step_seconds = self._seconds - started
            if self.progress >= next_eval:
                next_eval += 1 / self.config.num_evals
                # The step that the device still works on is training.
                synchronize(self.runtime.device)
                with self.clock.paused():
                    self.log.event("held_out", step=self.steps, tokens=self.tokens, bpb=self.held_out_bpb())
            if self._stopping or self._seconds - last_save > self.config.checkpoint_seconds:
                self.reports.catch_up(bar)
                synchronize(self.runtime.device)
                with self.clock.paused():
                    self._save(checkpoint_path)
                last_save = self._seconds
            if self._stopping:
                raise Interrupted(f"stopped at step {self.steps}")
        self.reports.catch_up(bar)

    def _look_at_clock(self) -> None:
        elapsed = self.clock.elapsed("train")
        self._seconds, self._stopping = self.world.all_reduce_any(elapsed, self._stop_requested)

    def step(self) -> LaunchedStep:
        """One optimiser step; its loss stays on the device, so that nothing waits for it."""
        progress = self.progress
        phase = phase_at(progress, self.phases)
        lr_scale = learning_rate_scale(progress, self.schedule)
        self.optimizers.set_schedule(lr_scale, muon_momentum(progress, self.optim.momentum, self.schedule))
        self.model.looping = phase.looping
        self.objective.set_progress(progress)
        num_passes = phase.batch_tokens // self.micro_batch_tokens
        total = torch.zeros((), device=self.runtime.device)
        for left in reversed(range(num_passes // self.world.size)):
            tokens = self.feed.next(self.micro_batch_tokens // phase.context, phase.context)
            loss = self._loss_of(*tokens) / num_passes
            if not left:
                self.exchange.begin()
            loss.backward()
            total += loss.detach()
        loss_is_summed = self.world.sum(total)
        self.exchange.finish()
        norm = self.optimizers.step()
        self.optimizers.zero_grad()
        loss_is_summed()
        self.steps += 1
        self.tokens += phase.batch_tokens
        # Averages belong to the point of the run that this step has reached, not to where it began.
        self._look_at_clock()
        self.average.update(self.progress)
        figures = LaunchedFigures(total, norm)
        return LaunchedStep(self.steps, self.tokens, self.feed.epoch, self.progress, lr_scale, figures)

    def _budget_used(self) -> bool:
        if self.budget.seconds is None:
            return self.steps >= self.budget.steps
        # Recurrence, a longer context or a larger batch make the steps to come dearer than the mean.
        next_step = max(self._seconds / self.steps, self._step_seconds) if self.steps else 0.0
        return (
            self._seconds + next_step > self.budget.seconds - self.config.reserve_seconds and self.steps > 0
        )

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        # torchrun passes on what every process of a terminal has received already.
        if self._stop_requested and self.world.size == 1:
            raise KeyboardInterrupt
        self._stop_requested = True
        self.log.info("stopping after this step (again to stop at once)")

    def _save(self, path: Path) -> None:
        if self.world.is_first:
            save_checkpoint(path, self.state_dict())

    def state_dict(self) -> dict[str, object]:
        """Everything that the rest of the run depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.feed.state_dict(),
            "generators": self._generators(),
            "clock": self.clock.seconds,
            "steps": self.steps,
            "tokens": self.tokens,
            "first_loss": self.reports.first_loss,
        }

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

    def resume(self, checkpoint_path: Path) -> None:
        """Takes the state of `checkpoint_path`; CheckpointError if it is damaged or of another model."""
        state = self.world.broadcast(lambda: load_checkpoint(checkpoint_path))
        try:
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path} belongs to another configuration: {error}") from error
        self.feed.load_state_dict(state["batches"])
        # Before they were kept by device there was one, the CPU's.
        self._set_generators(state["generators"] if "generators" in state else {"cpu": state["generator"]})
        self.clock.restore(state["clock"])
        self._seconds = self.clock.elapsed("train")
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.reports.first_loss = state["first_loss"]
