"""The patterns of log lines, and words that tell quickly where a pattern cannot match."""

import re

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)\b)"
BPB = re.compile(
    r"(?:val_bpb|val_bits_per_byte|mix_bpb|(?<![\w.])bpb)\s*(?:\(([^()]{1,40})\)\s*)?"
    rf"(?:[:=]\s*|(?=\d\.\d{{3}})){_NUMBER}",
    re.I,
)
LOSS = re.compile(rf"val_loss\s*[:=]\s*{_NUMBER}", re.I)
STEP = re.compile(r"(?:^\s*|\bstep\s*[:=]?\s*)(\d+)\s*/\s*(\d+)\b")
PLAIN_STEP = re.compile(r"\bstep\s*[:=]\s*(\d+)\b")
PROGRESS = re.compile(
    r"running_|held_out|chunk\s*\[|\bbatch \d+/\d+|\[\d+/\d+\]|^\s*\d+%|^\s*ttp\b|\bpartial\b|\bprogress\b",
    re.I,
)
UNQUANTISED = re.compile(
    r"pre[-_ ]?quant|post[-_ ]?(?:ema|swa)|\braw\b|unquanti[sz]ed|\bbf16\b|\bfp32\b|name:(?:last|averaged)\b",
    re.I,
)
DIAGNOSTIC = re.compile(r"\bdiagnostic\b", re.I)
_TRAIN_TIME = re.compile(r"(?:train_time|training_time|train_seconds)\s*[:=]\s*([\d.]+)\s*(ms|s|m|min)?\b")
_STEP_AVG = re.compile(r"\bstep_avg:\s*([\d.]+)ms")
EVAL_TIME = re.compile(r"(?<![\w.])(?:eval_time|eval_seconds|seconds)\s*[:=]\s*([\d.]+)\s*(ms|s|m|min)?\b")
SCORED = re.compile(r"\b(tokens|bytes)_scored\s*[:=]\s*(\d+)")
_TOTAL_EVAL = re.compile(r"\btotal_eval_time\s*[:=]\s*([\d.]+)\s*(ms|s|m|min)?\b")
_HESSIANS = re.compile(r"(?:collected \d+ Hessians|calibrated \d+ layers) in ([\d.]+)s")
_CALIBRATE = re.compile(r"^calibrate \| ([\d.]+)$")
_WARMUP = re.compile(r"compile warmup done \(([\d.]+)s\)")
_SEED = re.compile(r"(?:^|\s)seed\s*[:=]\s*(\d{1,10})\b")
_VAL_TOKENS = re.compile(r"(?:^\s*val_tokens\s*[:=]\s*|^val_loader:.*\btokens:)(\d+)")
_TRAIN_SHARDS = re.compile(r"\btrain_shards\s*[:=]\s*(\d+)")
_PARAMS = re.compile(r"\bmodel_params\s*[:=]\s*([\d,]+)")
_WORLD = re.compile(r"\bworld_size\s*[:=]\s*(\d+)")
PYTHON = re.compile(r"Running Python (\d+\.\d+)")
GPU = re.compile(r"\|\s+\d+\s+(NVIDIA [A-Z][\w .-]*?)\s{2,}")
SETTING = re.compile(r"^  ([a-z]\w*): (.*)$")
CONFIG = re.compile(r"(?:^config |\s)([a-z]\w*):(\{.*?\}(?=\s\w+:|$)|\S+)")
"""A part of this project's `config` line: a name and a value, which may be a JSON object."""
PAIR = re.compile(r"(?:^|\s)([a-z]\w*):(\S+)")
_FALLBACK = re.compile(
    r"fall(?:ing|s)?[ -]?back to zlib|zlib fallback|(?:zstandard|zstd|brotli|lrzip)\b.{0,40}"
    r"(?:not (?:found|installed|available)|missing|unavailable)",
    re.I,
)
_CACHE = re.compile(r"\bn-?gram(?:_cache|\d*\b)|\bngram\w*:", re.I)
FRACTION = re.compile(
    r"\bval_doc_fraction\s*[:=]\s*0?\.\d+|\b(?:val|eval)_(?:max_)?tokens?_(?:limit|cap)\s*[:=]\s*[1-9]\d*",
    re.I,
)
"""A setting that scores a part of the validation text."""
_COUNTED = re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*\d", re.I)
_ADAPTING = re.compile(r"\b(?:starting_ttt|ttt[\w:]*start|beginning TTT|ttt_phased)", re.I)

SHARED_SETTINGS = frozenset(
    "model_params world_size grad_accum_steps num_heads num_kv_heads tie_embeddings embed_lr head_lr "
    "matrix_lr scalar_lr train_batch_tokens train_seq_len iterations warmup_steps max_wallclock_seconds "
    "attention_mode num_layers model_dim vocab_size tokens_per_step mtp_num_heads train_shards outer_layers "
    "main_layers".split()
)
"""Settings printed as `key:value` that runs of one configuration share."""

MILLISECONDS_FROM = 50_000
"""A time without a unit above this is in milliseconds: 50,000 s would be 14 hours."""

RUN_SETTINGS = re.compile(
    r"seed$|run_id|logfile|_path$|_dir$|_files$|^rank$|local_rank|is_main_process|distributed|output"
    r"|^val_loss_every$"
)
"""Settings that may differ between runs of one configuration: names and places. `data_dir` and its like are
paths on somebody's machine."""

SIZE_WORDS = re.compile(r"byte|total|submission|artifact|code")
"""A line without any of these, in lower case, states no size."""

MARKS = (
    ("fallback", ("zlib", "zst", "brotli", "lrzip"), _FALLBACK),
    ("cache", ("gram",), _CACHE),
    ("partial", ("val_", "eval_"), FRACTION),
    ("partial", ("ppm", "mix_bpb", "n_bytes"), _COUNTED),
    ("adapting", ("ttt",), _ADAPTING),
)
"""Telling lines: the mark, words of which the pattern needs one, the pattern."""

TIME_FACTS = (("train_seconds", "train", _TRAIN_TIME), ("total_eval_seconds", "total_eval", _TOTAL_EVAL))
"""Facts in seconds, of a number and a unit: name, a word the pattern needs, the pattern."""

NUMBER_FACTS = (
    ("step_avg_ms", "step_avg", _STEP_AVG),
    ("hessian_seconds", "Hessians", _HESSIANS),
    ("hessian_seconds", "calibrated", _HESSIANS),
    ("hessian_seconds", "calibrate |", _CALIBRATE),
    ("warmup_seconds", "warmup", _WARMUP),
    ("seed", "seed", _SEED),
    ("val_tokens", "tokens", _VAL_TOKENS),
    ("train_shards", "shards", _TRAIN_SHARDS),
    ("model_params", "params", _PARAMS),
    ("world_size", "world", _WORLD),
)
"""Facts of one number: name, a word the pattern needs, the pattern."""
