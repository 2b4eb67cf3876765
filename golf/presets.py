"""Presets: configurations by name. Schedules are fractions of the run, so any budget can be set."""

from dataclasses import dataclass, replace
from typing import Literal

from golf.config import RunConfig
from golf.model.config import ModelConfig
from golf.pack.artifact import PackConfig
from golf.score.windows import WindowConfig
from golf.train.averaging import AveragingConfig
from golf.train.config import TrainConfig
from golf.train.optim import OptimConfig
from golf.train.schedule import ScheduleConfig
from golf.ttt.lora import LoraConfig
from golf.ttt.sgd import TTTConfig
from golf.ttt.tilt import TiltConfig


@dataclass(frozen=True)
class Preset:
    """A configuration, the text it is meant for, and its purpose."""

    config: RunConfig
    purpose: str
    source: Literal["docs", "challenge"] = "challenge"


SEED = RunConfig(
    minutes=10.0,
    train=TrainConfig(reserve_seconds=5.0),
    averaging=AveragingConfig(output="ema+swa"),
    pack=PackConfig(scheme="int5"),
)
"""The model card of openai/parameter-golf #334: 11 layers of width 512, orthogonal initialization, Muon and
AdamW, cosine warmdown, the mean of EMA samples as output, int5 with zstd-22, windows of stride 64, and SGD on
graded text for three epochs a chunk, on all blocks but the first two."""
PR334 = replace(
    SEED,
    model=replace(SEED.model, output_init="zero"),
    optim=OptimConfig(by_shape=True, embedding_weight_decay=0.0, scalar_weight_decay=0.0, gradient_clip=0.0),
    schedule=ScheduleConfig(warmdown_shape="linear"),
    averaging=AveragingConfig(output="swa"),
)
"""What the script of openai/parameter-golf #334 does where it differs from its model card: linear warmdown,
outputs that start at zero, no decay under Adam, no gradient clip, the bigram table, the mix with the
embedding and the skip weights under Muon, and the mean of the weights themselves as output."""
H100_107 = RunConfig(
    minutes=107.0,
    model=ModelConfig(
        vocab_size=8192,
        mlp_hidden=2048,
        context=3072,
        rotary_base=10_000.0,
        qk_gain=5.25,
        xsa=True,
        attention_gate=0.5,
        activation_slope=0.3,
        skip_gates=True,
        parallel_residual_blocks=3,
        recurrence_first=3,
        recurrence_last=5,
        recurrence=3,
        smear="add-raw",
        bigram_buckets=0,
        output_init="zero",
    ),
    train=TrainConfig(
        batch_tokens=786_432,
        micro_batch_tokens=49_152,
        reserve_seconds=5.0,
        held_out_tokens=524_288,
        checkpoint_seconds=300.0,
    ),
    optim=OptimConfig(
        matrix_lr=0.028,
        matrix_weight_decay=0.095,
        momentum=0.97,
        row_normalize=True,
        newton_schulz="polar-express",
        embedding_lr=0.03,
        embedding_weight_decay=0.085,
        scalar_lr=0.02,
        scalar_weight_decay=0.02,
        adam_beta2=0.99,
        gradient_clip=0.3,
    ),
    schedule=ScheduleConfig(
        warmdown=0.85,
        warmdown_shape="linear",
        floor=0.1,
        momentum_warmup=0.3,
        momentum_start=0.92,
        context_growth=(0.1, 0.7),
        lr_rewarmup=0.0064,
    ),
    averaging=AveragingConfig(ema_window=0.05),
    score=WindowConfig(stride=512),
    ttt=TTTConfig(
        method="lora",
        lora=LoraConfig(rank=80, alpha=144.0, rate=8e-5, decay=2.0, batch_documents=64),
        tilt=TiltConfig(boost=2.625, table_bits=24),
        phases=(2500,),
        learning_rate=0.001,
        epochs=1,
        frozen_blocks=0,
        cap_rate=1e-4,
    ),
)
"""The frontier's recipe: network, adapters, tilt and phase of openai/parameter-golf #2135, the activation
slope of #1948 and the chunks of #2014."""
H100_30 = replace(
    H100_107,
    minutes=30.0,
    model=replace(H100_107.model, context=2048),
    train=replace(H100_107.train, batch_tokens=262_144, micro_batch_tokens=65_536),
    optim=replace(H100_107.optim, matrix_lr=0.03, momentum=0.95),
    schedule=replace(H100_107.schedule, momentum_warmup=0.08, recurrence_start=0.4, context_growth=(0.3,)),
)
H100_10 = replace(
    H100_30,
    minutes=10.0,
    model=replace(H100_30.model, recurrence_first=0, recurrence_last=0, recurrence=1),
    train=replace(H100_30.train, batch_tokens=131_072, micro_batch_tokens=131_072),
    optim=replace(H100_30.optim, matrix_lr=0.035),
    schedule=replace(H100_30.schedule, warmdown=0.75, floor=0.05, context_growth=(0.4,)),
    averaging=AveragingConfig(ema_window=0.03),
)
CPU = RunConfig(
    minutes=1.0,
    model=ModelConfig(
        vocab_size=512,
        num_layers=2,
        width=128,
        num_heads=4,
        num_kv_heads=2,
        mlp_hidden=384,
        context=256,
        rotary_dims=8,
        bigram_buckets=32_768,
        ngram_buckets=(32_768, 32_768),
        bigram_width=32,
    ),
    train=TrainConfig(
        batch_tokens=2048,
        micro_batch_tokens=2048,
        warmup_steps=1,
        reports=30,
        held_out_tokens=16_384,
        checkpoint_seconds=15.0,
    ),
    optim=OptimConfig(
        matrix_lr=0.03, row_normalize=True, newton_schulz="polar-express", embedding_lr=0.03, adam_beta2=0.99
    ),
    schedule=ScheduleConfig(warmdown_shape="linear", context_growth=(0.4,), lr_rewarmup=0.0064),
    pack=PackConfig(calibration_tokens=16_384),
    ttt=TTTConfig(method="lora", order="stream", chunk_tokens=16_384),
)
"""The number of steps is what binds: two layers, and tables of which a token reads a row each (docs/recipe.md
has what each choice is worth)."""
CPU_10 = replace(
    CPU,
    minutes=10.0,
    model=replace(
        H100_10.model,
        vocab_size=1024,
        num_layers=2,
        width=256,
        num_heads=4,
        num_kv_heads=2,
        mlp_hidden=1024,
        context=512,
        parallel_residual_blocks=1,
        bigram_buckets=32_768,
        ngram_buckets=(32_768, 32_768),
        bigram_width=32,
    ),
    train=replace(CPU.train, reports=60, held_out_tokens=32_768, checkpoint_seconds=60.0),
    optim=replace(H100_10.optim, matrix_lr=0.03, scalar_lr=0.04, gradient_clip=1.0),
    schedule=H100_10.schedule,
    averaging=H100_10.averaging,
    pack=PackConfig(calibration_tokens=32_768),
)
"""The frontier's recipe at two layers, with tables of two to four tokens and rates of 0.03 for matrices and
tables."""
GPT2 = RunConfig(
    minutes=60.0,
    model=ModelConfig(
        vocab_size=50_257,
        num_layers=12,
        width=768,
        num_heads=12,
        num_kv_heads=12,
        mlp_hidden=3072,
        rotary_dims=64,
        rotary_base=10_000.0,
        positions="learned",
        qk_norm=False,
        norm="layer",
        feedforward="gelu",
        plain_blocks=True,
        logit_softcap=0.0,
        smear="off",
        bigram_buckets=0,
        embedding_std=0.02,
    ),
    train=TrainConfig(micro_batch_tokens=32_768, reserve_seconds=5.0, held_out_tokens=524_288),
    optim=OptimConfig(
        matrix="adamw",
        matrix_lr=6e-4,
        matrix_weight_decay=0.1,
        embedding_lr=6e-4,
        embedding_weight_decay=0.1,
        scalar_lr=6e-4,
        scalar_weight_decay=0.0,
    ),
    schedule=ScheduleConfig(warmdown=1.0, floor=0.1),
    averaging=AveragingConfig(output="last"),
)
"""GPT-2's smallest network without biases of its matrices: 124.4 M parameters."""
GPT2_MINI = replace(
    GPT2,
    minutes=5.0,
    model=replace(
        GPT2.model,
        vocab_size=512,
        num_layers=6,
        width=384,
        num_heads=6,
        num_kv_heads=6,
        mlp_hidden=1536,
        context=256,
    ),
    train=CPU.train,
    optim=replace(GPT2.optim, matrix_lr=1e-3, embedding_lr=1e-3, scalar_lr=1e-3),
)
MODERN_MODEL = replace(
    GPT2.model,
    width=1024,
    num_heads=16,
    num_kv_heads=16,
    mlp_hidden=4096,
    positions="rotary",
    norm="rms-gain",
    feedforward="swiglu",
    attention_sinks=True,
)
GQA_MODEL = replace(
    MODERN_MODEL, num_kv_heads=4, context=2048, norm="layer", feedforward="gelu", attention_sinks=False
)

PRESETS: dict[str, Preset] = {
    "h100-10min": Preset(
        H100_10, "the frontier's network, ten minutes on one H100: small batches, no recurrence"
    ),
    "h100-30min": Preset(H100_30, "the frontier's network, half an hour on one H100"),
    "h100-107min": Preset(H100_107, "the frontier's recipe, the leaderboard's compute on one H100"),
    "8xh100-10min": Preset(
        replace(H100_107, minutes=10.0),
        "the leaderboard's setting: torchrun --standalone --nproc_per_node=8 train_gpt.py",
    ),
    "seed": Preset(SEED, "the 26.7 M model of openai/parameter-golf #334, ten minutes on a GPU"),
    "pr334": Preset(PR334, "the same model as the script of #334 trains it, ten minutes on a GPU"),
    "cpu": Preset(CPU, "2 layers of width 128, one minute of training on two cores", "docs"),
    "cpu-10min": Preset(
        CPU_10, "the frontier's recipe at 2 layers of width 256, ten minutes on two cores", "docs"
    ),
    "gpt2-small": Preset(GPT2, "for studies: the smallest GPT-2, learned positions, AdamW"),
    "gpt2-mini": Preset(GPT2_MINI, "for studies: GPT-2 with six layers of width 384", "docs"),
    "modern-253m": Preset(
        replace(GPT2, model=MODERN_MODEL),
        "for studies: 12 layers of width 1,024 with RoPE, RMSNorm, SwiGLU and attention sinks, 253 M",
    ),
    "gqa-1024": Preset(
        replace(GPT2, model=GQA_MODEL),
        "for studies: GPT-2 with RoPE and grouped queries, width 1,024, context 2,048",
    ),
}
