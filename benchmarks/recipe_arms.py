"""The recipes that are compared, at a scale that a CPU can train: seed, frontier, and each change to it."""

from dataclasses import dataclass, replace

from golf.config import RunConfig
from golf.model.config import ModelConfig
from golf.pack.artifact import PackConfig
from golf.presets import H100_10, SEED
from golf.train.config import TrainConfig

TECHNIQUES: dict[str, tuple[str, ...]] = {
    "leaky activation": ("model.activation_slope",),
    "wide feed-forward": ("model.mlp_hidden",),
    "exclusive attention": ("model.xsa",),
    "query gain": ("model.qk_gain",),
    "rotary base": ("model.rotary_base",),
    "attention gate": ("model.attention_gate",),
    "skip gates": ("model.skip_gates",),
    "two lanes": ("model.parallel_residual_blocks",),
    "smear behind a gate": ("model.smear",),
    "zero outputs": ("model.output_init",),
    "row normalisation": ("optim.row_normalize",),
    "polar express": ("optim.newton_schulz",),
    "weight decays": (
        "optim.matrix_weight_decay",
        "optim.embedding_weight_decay",
        "optim.scalar_weight_decay",
    ),
    "momentum": ("optim.momentum", "schedule.momentum_start", "schedule.momentum_warmup"),
    "beta2": ("optim.adam_beta2",),
    "gradient clip": ("optim.gradient_clip",),
    "warmdown": ("schedule.warmdown", "schedule.warmdown_shape", "schedule.floor"),
    "context growth": ("schedule.context_growth", "schedule.lr_rewarmup"),
    "small batch": ("train.batch_tokens", "train.micro_batch_tokens"),
}
"""What the frontier's recipe differs in; without a technique these fields are as in the seed's."""

ADDITIONS: dict[str, dict[str, object]] = {
    "recurrence": {"model.recurrence": 2},
    "no bigram": {"model.bigram_buckets": 0},
    "rates of ten minutes": {
        "optim.matrix_lr": H100_10.optim.matrix_lr,
        "optim.embedding_lr": H100_10.optim.embedding_lr,
        "optim.scalar_lr": H100_10.optim.scalar_lr,
    },
    "rates of 0.03": {"optim.matrix_lr": 0.03, "optim.embedding_lr": 0.03},
    "n-gram tables": {"model.bigram_buckets": 32_768, "model.ngram_buckets": (32_768,)},
    "n-gram tables and rates of 0.03": {
        "model.bigram_buckets": 32_768,
        "model.ngram_buckets": (32_768,),
        "optim.matrix_lr": 0.03,
        "optim.embedding_lr": 0.03,
    },
    "smear after the norm": {"model.smear": "add"},
    "dense connections": {"model.dense_connections": True, "model.skip_gates": False},
    "prefix tokens": {"train.prefix_weight": 0.25},
    "document mask": {"model.document_mask": True},
    "shuffled documents": {"train.shuffle_documents": True},
}
"""What the larger presets have and runs of a hundred steps at 1,024 pieces leave out, and what none has."""


@dataclass(frozen=True)
class Scale:
    """Sizes that all recipes share."""

    width: int = 256
    """Of the networks."""
    layers: int = 4
    """Blocks of the networks."""
    context: int = 512
    """Tokens of context."""
    batch_tokens: int = 8_192
    """Tokens of a step of the seed's recipe, in two micro-batches; the frontier's takes a quarter of them."""


def seed_recipe(scale: Scale) -> RunConfig:
    """The seed at a small scale: every default but the sizes, and a packing that needs no calibration."""
    return RunConfig(
        model=ModelConfig(
            num_layers=scale.layers,
            width=scale.width,
            num_heads=scale.width // 64,
            num_kv_heads=max(1, scale.width // 128),
            mlp_hidden=3 * scale.width,
            context=scale.context,
        ),
        train=TrainConfig(
            batch_tokens=scale.batch_tokens,
            micro_batch_tokens=scale.batch_tokens // 2,
            warmup_steps=1,
            reports=10,
            num_evals=1,
            held_out_tokens=16_384,
            checkpoint_seconds=1e9,
        ),
        pack=PackConfig(scheme="int5"),
    )


def frontier_recipe(scale: Scale) -> RunConfig:
    """The frontier's recipe for ten minutes at the same scale, lanes and loops moved with the depth.

    At 1,024 pieces it keeps the seed's bigram (the frontier dropped it at 4,096), and in so few steps the
    seed's learning rates: the fewer the steps, the higher the best rate (openai/parameter-golf #436).
    """
    seed = seed_recipe(scale)
    rates = ("matrix_lr", "embedding_lr", "scalar_lr")
    sizes = ("vocab_size", "num_layers", "width", "num_heads", "num_kv_heads", "context", "bigram_buckets")
    middle = scale.layers // 2
    batch_tokens = scale.batch_tokens * H100_10.train.batch_tokens // SEED.train.batch_tokens
    model = replace(
        H100_10.model,
        **{name: vars(seed.model)[name] for name in sizes},
        mlp_hidden=4 * scale.width,
        parallel_residual_blocks=max(1, scale.layers // 4),
        recurrence_first=middle - 1,
        recurrence_last=middle,
    )
    return replace(
        seed,
        model=model,
        train=replace(seed.train, batch_tokens=batch_tokens, micro_batch_tokens=batch_tokens),
        optim=replace(H100_10.optim, **{name: vars(seed.optim)[name] for name in rates}),
        schedule=H100_10.schedule,
        averaging=H100_10.averaging,
    )


def with_fields(config: RunConfig, changes: dict[str, object]) -> RunConfig:
    """The configuration with some fields, `part.name`, changed."""
    parts: dict[str, dict[str, object]] = {}
    for path, value in changes.items():
        part, name = path.split(".")
        parts.setdefault(part, {})[name] = value
    # Those of a part at once: one may be valid only with another.
    return replace(config, **{part: replace(vars(config)[part], **fields) for part, fields in parts.items()})


def without(technique: str, frontier: RunConfig, seed: RunConfig) -> RunConfig:
    """The frontier's recipe with the fields of a technique as in the seed's."""
    paths = {path: path.split(".") for path in TECHNIQUES[technique]}
    return with_fields(frontier, {path: vars(vars(seed)[part])[name] for path, (part, name) in paths.items()})


def all_recipes(scale: Scale) -> dict[str, RunConfig]:
    """Every arm's configuration, without seed and budget."""
    seed, frontier = seed_recipe(scale), frontier_recipe(scale)
    arms = {"seed": seed, "frontier": frontier}
    arms |= {f"less {name}": without(name, frontier, seed) for name in TECHNIQUES}
    arms |= {f"with {name}": with_fields(frontier, changes) for name, changes in ADDITIONS.items()}
    half = {"schedule.batch_growth": (0.3,), "train.micro_batch_tokens": frontier.train.batch_tokens // 2}
    return arms | {"with batch growth": with_fields(frontier, half)}
