"""A run's configuration, composed of those of its parts; every field belongs to the part that reads it."""

from dataclasses import dataclass, field, replace

from golf.model.config import ModelConfig
from golf.pack.artifact import PackConfig
from golf.score.windows import WindowConfig
from golf.system.stored import ConfigError
from golf.train.averaging import AveragingConfig
from golf.train.config import Recipe, TrainConfig
from golf.train.optim import OptimConfig
from golf.train.schedule import Budget, ScheduleConfig
from golf.ttt.sgd import TTTConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes, its data aside."""

    seed: int = 42
    """Seed of the weights and of the order of the text."""
    minutes: float | None = None
    """Training budget in minutes; warm-up, packing and scoring come on top."""
    steps: int | None = None
    """Training budget in optimiser steps, instead of minutes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimisers."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate and momentum over the run."""
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Which weights leave training."""
    pack: PackConfig = field(default_factory=PackConfig)
    """From weights to bytes."""
    score: WindowConfig = field(default_factory=WindowConfig)
    """The sliding windows of the score."""
    ttt: TTTConfig = field(default_factory=TTTConfig)
    """Test-time training."""

    def budget(self) -> Budget:
        """The training budget; ValueError unless exactly one of minutes and steps is given."""
        return Budget(None if self.minutes is None else 60.0 * self.minutes, self.steps)

    def recipe(self) -> Recipe:
        """What the trainer reads of the configuration."""
        return Recipe(self.budget(), self.train, self.optim, self.schedule, self.averaging)


def fit_to_vocabulary(config: RunConfig, preset: RunConfig, vocab_size: int, bos_id: int) -> RunConfig:
    """The config with the data's vocabulary; ConfigError if another size was asked for by name."""
    asked = config.model.vocab_size
    if asked not in (vocab_size, preset.model.vocab_size):
        raise ConfigError(f"model.vocab_size is {asked}, but the data's tokenizer has {vocab_size} pieces")
    return replace(config, model=replace(config.model, vocab_size=vocab_size, bos_id=bos_id))
