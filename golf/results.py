"""What a run measures, typed: a stage's result, and all of them together as results.json holds them.

Every type here is written with dataclasses.asdict. A Tally is kept as its three sums, so that bits per byte
and nats per token are computed from it wherever they are shown.
"""

from dataclasses import dataclass, field
from typing import Any

from golf.score.tally import Tally
from golf.system.log import RunLog

RESULTS_VERSION = 2
"""Of the schema of results.json and of `--score --json`."""
STAGE_TITLES = {
    "last": "last weights",
    "averaged": "averaged weights",
    "quantized": "quantised",
    "test_time_trained": "test-time-trained",
}
"""The stages of a score, in the order in which they arise; `quantized` and later ones are the artifact's."""
NATS_ARRAYS = {"quantized": "nats", "test_time_trained": "ttt_nats"}
"""The artifact's own stages, with the array of per_document.npz that has their nats."""


@dataclass(frozen=True)
class Stage:
    """One score on the validation text."""

    name: str
    """A key of STAGE_TITLES."""
    tally: Tally
    windows: str
    """disjoint (each window starts where the last one ended), sliding, or by document."""
    context: int | None = None
    """Tokens of a window."""
    stride: int | None = None
    """Tokens that a window grades, after the first."""
    batch_tokens: int | None = None
    """Input tokens of one forward pass."""
    seconds: float | None = None
    """Wall clock of this scoring, without loading."""
    partial: bool = False
    """Whether less than the whole validation text was scored."""
    output: str | None = None
    """Which weights these are: last, ema, swa, ema+swa."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else the scorer says, of test-time training above all."""

    def __post_init__(self) -> None:
        if self.name not in STAGE_TITLES:
            raise ValueError(f"stage is {self.name!r}; expected one of {', '.join(STAGE_TITLES)}")

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return STAGE_TITLES[self.name]

    @property
    def order_bytes(self) -> int:
        """Bytes that a decoder must be told of the order in which documents were graded."""
        return int(self.notes.get("order_bytes", 0))

    @property
    def decodable(self) -> str:
        """What a decoder needs besides the artifact and as many bits as the score."""
        return f"with {self.order_bytes:,} bytes of order" if self.order_bytes else "as it stands"

    @property
    def adaptation_stopped_after_tokens(self) -> int | None:
        """How many tokens were graded when a time limit ended test-time training; None if it did not."""
        return self.notes.get("adaptation_stopped_after_tokens")

    def figures(self) -> dict[str, Any]:
        """The figures of a log line."""
        return {
            "name": self.name,
            "val_bpb": self.tally.bits_per_byte,
            "val_loss": self.tally.nats_per_token,
            "windows": self.windows,
            "tokens_scored": self.tally.num_tokens,
            "bytes_scored": self.tally.num_bytes,
        }


@dataclass(frozen=True)
class Scores:
    """The scores of one artifact on one text, and what pins both."""

    stages: tuple[Stage, ...]
    artifact_bytes: int
    artifact_sha256: str
    """Of the bytes that were read and scored."""
    validation_sha256: str
    """Of the whole validation text's tokens as little-endian uint16."""
    compute_dtype: str | None
    """The dtype in which the artifact was scored; None where an earlier version did not say."""
    environment: dict[str, Any]
    """Hardware and versions, as `golf.system.device.environment` gives them."""
    load_seconds: float = 0.0
    """Wall clock of reading data and decoding the artifact."""
    max_tokens: int | None = None
    """Limit on the tokens to score that was asked for."""
    sample_documents: int | None = None
    ttt: dict[str, Any] | None = None
    """Settings of test-time training, where it was used."""
    left_out: str | None = None
    """Why a run left its test-time training out."""
    wall_seconds: float | None = None
    """Of the whole process, as the one that started it measured."""
    documents_sha256: str | None = None
    """Of the file with the sums by document."""
    version: int = RESULTS_VERSION

    @property
    def seconds(self) -> float:
        """Wall clock of loading and of all scoring."""
        return self.load_seconds + sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def partial(self) -> bool:
        """Whether any score is of less than the whole validation text."""
        return any(stage.partial for stage in self.stages)

    def stage(self, name: str) -> Stage | None:
        """The score of this name; None if there is none."""
        return next((stage for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True)
class WeightScores:
    """Scores of a run's weights before packing."""

    stages: tuple[Stage, ...]
    max_tokens: int | None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What the training stage did."""

    model_parameters: int
    steps: int
    train_tokens: int
    tokens_per_second: float
    final_progress: float
    """Share of the budget that was used, 0 to 1."""
    epochs: float
    """How often the training text was read."""
    micro_batch_tokens: int
    """Tokens of a forward and backward pass that fits the device."""
    attention: tuple[str, ...]
    """Attention kernels, in the order in which they are tried."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, up to the end of training."""


@dataclass(frozen=True)
class Averaging:
    """Which weights were kept."""

    output: str
    """last, ema, swa or ema+swa."""
    held_out_bpb: dict[str, float]
    """Bits per byte of each candidate on the held-out slice of the training text."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, up to the end of the stage; likewise below."""


@dataclass(frozen=True)
class Calibrated:
    """How much training text the calibration read."""

    num_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Packing:
    """Sizes of the files on disk, in bytes, and what pins them."""

    code_bytes: int
    artifact_bytes: int
    limit_bytes: int
    """What `total_bytes` was held against."""
    code_sha256: str
    """Of the script that was charged."""
    artifact_sha256: str
    """Of the artifact file that is charged."""
    report: dict[str, Any] = field(default_factory=dict)
    """What the quantizer says: scheme, bits a weight, how the size was fitted."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes of the artifact by part; the rest of it is framing."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Code and artifact."""
        return self.code_bytes + self.artifact_bytes


@dataclass(frozen=True)
class DataFacts:
    """The text: whose it is, how much of it there is, and what pins it."""

    name: str
    source: str
    licence: str
    tokenizer_sha256: str
    validation_sha256: str
    """Of the validation tokens as little-endian uint16."""
    validation_tokens: int
    validation_bytes: int
    """Of the decoded text."""
    manifest_sha256: str | None = None
    """Of the dataset's manifest.json, which pins the training text too."""
    xz_bits_per_byte: float | None = None
    """Compressed size of the same validation text under xz -9."""
    zstd22_bits_per_byte: float | None = None
    notes: tuple[str, ...] = ()
    """What else a reader of the score must know about the text."""

    @property
    def compressors(self) -> dict[str, float]:
        """Bits per byte of general compressors on the same text, by name, as far as they were measured."""
        found = {"zstd -22": self.zstd22_bits_per_byte, "xz -9": self.xz_bits_per_byte}
        return {name: bits for name, bits in found.items() if bits is not None}

    def better_compressors(self, bits_per_byte: float) -> str:
        """Names of the general compressors that do better than a score; empty where none does."""
        return " and ".join(name for name, bits in self.compressors.items() if bits < bits_per_byte)


@dataclass(frozen=True)
class Feature:
    """A technique that was asked for, whether it acted, and what shows it."""

    name: str
    active: bool
    evidence: str
    failed: bool = False
    """Whether it had reason and time to act, and did not; a phase beyond the run's end has not failed."""

    @property
    def state(self) -> str:
        """active, not active, or without effect."""
        return "active" if self.active else "without effect" if self.failed else "not active"


@dataclass(frozen=True)
class Results:
    """Everything a run measured: results.json."""

    name: str
    preset: str
    seed: int
    config: dict[str, Any]
    """The resolved RunConfig, nested."""
    training: Training
    averaging: Averaging
    packing: Packing
    scores: Scores
    data: DataFacts
    seconds: dict[str, float]
    """By phase of the run."""
    environment: dict[str, Any]
    """Hardware and versions of training."""
    command: str | None = None
    """The command line that made the run."""
    dollars: float | None = None
    """Cost of the machine over all phases, where its price was given."""
    toolkit_commit: str = "unknown"
    features: tuple[Feature, ...] = ()
    portrait: dict[str, Any] = field(default_factory=dict)
    """Codes by part and loss by position of the artifact."""
    version: int = RESULTS_VERSION

    def __post_init__(self) -> None:
        if self.stage("quantized") is None:
            raise ValueError("has no stage 'quantized', the artifact's own score")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The scores, in the order in which they arose."""
        return self.scores.stages

    @property
    def final(self) -> Stage:
        """The score that counts: the artifact's last."""
        return self.stages[-1]

    @property
    def before_quantization(self) -> Stage | None:
        """The score of the weights that were packed."""
        found = [stage for stage in self.stages if stage.name not in NATS_ARRAYS]
        return found[-1] if found else None

    @property
    def partial(self) -> bool:
        """Whether less than the whole validation text was scored."""
        return self.scores.partial

    def stage(self, name: str) -> Stage | None:
        """The score of this name; None if there is none."""
        return self.scores.stage(name)

    @property
    def quantized(self) -> Stage:
        """The artifact's score without test-time training."""
        return next(stage for stage in self.stages if stage.name == "quantized")

    @property
    def train_seconds(self) -> float:
        """Wall clock that counts as training; averaging and calibration do, since they read training text."""
        return self.seconds.get("train", 0.0) + self.seconds.get("calibrate", 0.0)

    @property
    def eval_seconds(self) -> float:
        """Wall clock of loading and the scoring that counts; of the whole phase where only that is known."""
        own = self.final.seconds
        return self.seconds.get("score", 0.0) if own is None else self.scores.load_seconds + own


def print_results(results: Results, log: RunLog) -> None:
    """The closing tables: scores by stage, bytes, seconds by phase."""
    log.table(
        "scores on the validation text" + (" (a part of it)" if results.partial else ""),
        ("stage", "bits per byte", "nats per token", "windows"),
        [
            (
                f"{stage.title} ({stage.output})" if stage.output else stage.title,
                round(stage.tally.bits_per_byte, 6),
                round(stage.tally.nats_per_token, 6),
                f"stride {stage.stride}" if stage.windows == "sliding" else stage.windows,
            )
            for stage in results.stages
        ],
    )
    size = results.packing
    rows = [("code", size.code_bytes), ("artifact", size.artifact_bytes), ("total", size.total_bytes)]
    left = size.limit_bytes - size.total_bytes
    log.table("bytes", ("part", "bytes"), [*rows, ("limit", size.limit_bytes), ("left", left)])
    log.table("seconds", ("phase", "seconds"), [(name, round(s, 1)) for name, s in results.seconds.items()])
