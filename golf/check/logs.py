"""Reads what a training log says, in every dialect the public records use: numbers with their lines.

The dialects: the baseline's `step:a/b val_loss:x val_bpb:y train_time:Tms`, its later labels
(`final_int6_sliding_window_exact`, `legal_ttt_exact`, `DIAGNOSTIC post_ema`), the one with a
`Hyperparameters:` block and `a/b val_loss: x` (openai/parameter-golf PR #1218 onwards), phased test-time
training (PR #1610 onwards), `kind key:value` of this project, and hand-made mixtures of them.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from golf.check.findings import Quote
from golf.score.tally import Tally

MAX_LINE_CHARACTERS = 2000
"""Longer lines are cut: no known log line needs more, and the patterns then take bounded time."""
MILLISECONDS_FROM = 50_000
"""A time without a unit above this is in milliseconds: 50,000 s would be 14 hours."""
MAX_UNNAMED_MODEL_BYTES = 24_000_000
"""A model above this, whose line does not say that it is packed, is not."""
MAX_UNREAD_KEPT = 100
UNCOMPRESSED_FROM = 48_000_000
"""Above three times the limit a total is of uncompressed weights, or of something else altogether."""

# Source that a script printed into its own log.
_SOURCE_START = re.compile(
    r"(import \w|from [\w.]+ import |def \w+\(|class \w+[(:]|@\w+|#!/|if __name__\b|async def |\"\"\"|''')"
)
_SOURCE_START_CHARACTERS = frozenset("ifdca@#\"'")
_SOURCE_END = re.compile(r"={40,}\s*$|Running Python \d")
_LOG_LINE = re.compile(
    r"step:\d+/\d+ |\d+/\d+ (?:train|val)_loss: \d|Serialized model|Total submission size|Code size"
    r"|(?:final|legal|quantized|ttt|DIAGNOSTIC)\w*[ :].*val_loss[:=]\d"
    r"|stopping_early:|val_(?:loader|tokens):|train_(?:loader|shards):|model_params:\d"
    r"|world_size:\d|tie_embeddings:|train_batch_tokens:\d|peak memory"
)
_CODE = re.compile(r"\{[^{}]*\}|\blog0?\(|\bprint\(|\.format\(|^\s*(#(?!\s*\d)|return\b|assert\b|raise\b)")

# Scores.
_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)\b)"
_BPB = re.compile(
    r"(?<![\w.])((?:(?!val_)[a-z0-9]{1,20}_){0,5})(?:val_bpb|val_bits_per_byte|bpb)(?:_exact|_final)?"
    rf"\s*(?:\(([^()]{{1,40}})\)\s*)?(?:[:=]\s*|(?=\d\.\d{{3}})){_NUMBER}",
    re.I,
)
_NO_SCORE = re.compile(
    r"(?:^|[\W_])(?:delta|gain|diff(?:erence)?|improvement|gap|penalty|degradation|cost|target|sota|prior"
    r"|prev(?:ious)?"
    r"|baseline|ref(?:erence)?|threshold|est|estimated|train)[\W_]*$",
    re.I,
)
"""Words right before `bpb` with which it is a difference, an aim, an estimate or another run's."""
_LOSS = re.compile(rf"val_loss\s*[:=]\s*{_NUMBER}", re.I)
_STEP = re.compile(r"(?:^\s*|\bstep\s*[:=]?\s*)(\d+)\s*/\s*(\d+)\b")
_PLAIN_STEP = re.compile(r"\bstep\s*[:=]\s*(\d+)\b")
_PROGRESS = re.compile(
    r"running_|held_out|chunk\s*(?:\[|[:=]?\s*\d+\s*/\s*\d)|\bbatch \d+/\d+"
    r"|\[\d+/\d+\]|^\s*\d+%|^\s*ttp\b|\bpartial\b|\bprogress\b",
    re.I,
)
UNQUANTIZED = re.compile(
    r"pre[-_ ]?(?:quant|pack|export|compress)|post[-_ ]?(?:ema|swa)|\braw\b|unquanti[sz]ed|\bbf16\b"
    r"|\b(?:ema|swa)\b(?!.{0,60}(?:int\d|quant|round))"
    r"|\bfp32\b|name:(?:last|averaged)\b",
    re.I,
)
_DIAGNOSTIC = re.compile(r"\bdiagnostic\b", re.I)
_SCORED = re.compile(r"\b(tokens|bytes)(?:_scored)?\s*[:=]\s*(\d{1,15})\b")
MAX_BPB = 100.0
"""A score at this or above, at 0 or below it is a placeholder: the best so far, before there is one."""
_TIME = r"\s*[:=]\s*([\d.]+)\s*(ms|s|m|min)?\b"
_EVAL_TIME = re.compile(
    r"(?:(?<![\w.])(?:eval_time|eval_seconds)|^(?:(?:ttt_)?score|stage) .{0,400}\bseconds)" + _TIME
)
"""`seconds` alone are those of the evaluation in this project's lines only."""

# Settings.
_SETTING = re.compile(r"^  ([a-z]\w*): (.*)$")
_CONFIG = re.compile(r"(?:^config |\s)([a-z]\w*):(\{.*?\}(?=\s\w+:|$)|\S+)")
"""A part of this project's `config` line: a name and a value, which may be a JSON object."""
_PAIR = re.compile(r"(?:^|\s)([a-z]\w*):(\S+)")
_SHARED_SETTINGS = frozenset(
    "model_params world_size grad_accum_steps num_heads num_kv_heads tie_embeddings embed_lr head_lr "
    "matrix_lr scalar_lr train_batch_tokens train_seq_len iterations warmup_steps max_wallclock_seconds "
    "attention_mode num_layers model_dim vocab_size tokens_per_step mtp_num_heads train_shards outer_layers "
    "main_layers".split()
)
"""Settings printed as `key:value` that runs of one configuration share."""
_RUN_SETTINGS = re.compile(
    r"seed$|run_id|logfile|_path$|_dir$|_root$|_files?$|^rank$|local_rank|is_main_process|distributed|output"
    r"|name$|^wandb|^git|host|timestamp|^slurm|^save|^load|^resume|_tag$|port$|verbose|debug"
    r"|(?:log|loss|val|eval|print|save)_every$"
)
"""Settings that may differ between runs of one configuration: names and places. `data_dir` and its like are
paths on somebody's machine."""

_EXPORT = re.compile(r"fineweb\w{0,8}_sp(\d{4,5})")
_CASE_OPS = re.compile(r"caps|case_?ops", re.I)
_PYTHON = re.compile(r"Running Python (\d+\.\d+)")
_GPU = re.compile(r"\|\s+\d+\s+(NVIDIA [A-Z][\w .-]*?)\s{2,}")
_COUNT = r"(\d[\d,_]*)"
_HESSIANS = re.compile(r"(?:collected \d+ Hessians|calibrated \d+ layers) in ([\d.]+)s")
_FACTS = (
    (
        "train_seconds",
        "train",
        re.compile(r"(?<![\w.])(?:total_)?(?:train_time|training_time|train_seconds)" + _TIME),
    ),
    (
        "train_seconds",
        "training ",
        re.compile(r"^\W*Training (?:complete|completed|finished|done)[^\d]{1,20}([\d.]+)\s*(ms|s|m|min)\b"),
    ),
    ("total_eval_seconds", "total_eval", re.compile(r"\btotal_eval_time" + _TIME)),
    ("hessian_seconds", "hessians", _HESSIANS),
    ("hessian_seconds", "calibrated", _HESSIANS),
    ("hessian_seconds", "calibrate |", re.compile(r"^calibrate \| ([\d.]+)$")),
    ("warmup_seconds", "warmup", re.compile(r"compile warmup done \(([\d.]+)s\)")),
    ("seed", "seed", re.compile(r"(?:^|\s)[Ss]eed\s*[:=]\s*(\d{1,10})\b")),
    (
        "val_tokens",
        "tokens",
        re.compile(r"(?:^\s*(?i:val|validation)[_ ]tokens\s*[:=]\s*|^val_loader:.*\btokens:)" + _COUNT),
    ),
    ("train_shards", "shards", re.compile(r"\btrain_shards\s*[:=]\s*(\d+)")),
    ("world_size", "world", re.compile(r"\b[Ww]orld[_ ]size\s*[:=]\s*(\d+)")),
)
"""Facts of one number: name, a word the line must hold, the pattern. A second group is the unit of a time."""
FACT_PATTERNS = {
    name: " or ".join(pattern.pattern for other, _, pattern in _FACTS if other == name) for name, *_ in _FACTS
}
"""What reads each fact, for a person."""

_FALLBACK = re.compile(
    r"fall(?:ing|s)?[ -]?back to zlib|zlib fallback|(?:zstandard|zstd|brotli|lrzip)\b.{0,40}"
    r"(?:not (?:found|installed|available)|missing|unavailable)",
    re.I,
)
_FRACTION = re.compile(
    r"\bval_doc_fraction\s*[:=]\s*0?\.\d+|\b(?:val|eval)_(?:max_)?tokens?_(?:limit|cap)\s*[:=]\s*[1-9]\d*",
    re.I,
)
_VOCABULARY = re.compile(
    r"vocab(?:ulary)?(?:_size| size)?\W{0,3}(\d+)\D{0,40}?(?:!=|mismatch|differs|does not match|expected|but)"
    r".{0,60}?(\d{3,6})|vocab\w*.{0,40}mismatch",
    re.I,
)
_SAYS_OVER = re.compile(
    r"\b(?:over|exceeds?|above|too (?:big|large) for)\s+(?:the\s+)?"
    r"(?:16 ?MB|16,?000,?000|(?:size |byte )?(?:limit|cap)\b)"
    r"|\b(?:budget_ok|\w*size_ok|within[_ ](?:16 ?MB )?limit|under[_ ]16 ?MB"
    r"|fits?(?:_in)?_16_?MB|submission_valid\w*)"
    r"\s*[:=]\s*(?:false|no\b|0\b)",
    re.I,
)
_MARKS = (
    ("over", ("over", "exceed", "above", "too ", "ok", "limit", "16", "valid"), _SAYS_OVER),
    ("vocabulary", ("vocab",), _VOCABULARY),
    ("fallback", ("zlib", "zst", "brotli", "lrzip"), _FALLBACK),
    (
        "cache",
        ("gram",),
        re.compile(
            r"\bn-?gram(?:_cache|\d*\b)(?!\w*\s*[:=]\s*(?:0\b|false|none|off|disabled|no))"
            r"|\bngram\w*:(?!\s*(?:0\b|false|none|off|disabled|no))",
            re.I,
        ),
    ),
    ("partial", ("val_", "eval_"), _FRACTION),
    ("partial", ("ppm", "mix_bpb", "n_bytes"), re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*\d", re.I)),
)
"""Lines that rules look at: the mark, words of which the line must hold one in lower case, the pattern."""
CRASH = re.compile(
    r"Traceback \(most recent call last\)|Fatal Python error|terminate called after throwing|Bus error\b"
    r"|(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:$|:\s*(?![-+\d.eE% ]*$))"
    r"|(?:Killed|Segmentation fault|Aborted)(?:\s+\(core dumped\))?\s*$"
    r"|.{0,80}\bline \d+:\s+\d+ (?:Killed|Aborted|Segmentation fault)"
    r"|slurmstepd: error: .{0,200}(?:CANCELLED|oom)|.{0,200}Watchdog caught collective operation timeout"
    r"|.{0,200}\bChildFailedError\b|[WE]\d{4} .{0,160}(?:failed \(exitcode|closing signal SIG)"
)
"""What a program that fails prints, at the beginning of a line: a caught failure has words before it."""
_CRASH_WORDS = re.compile(
    r"Error|Exc|Interrupt|Traceback|Killed|Fatal|termin|Abort|fault|slurm|Watchdog|exitcode|SIG"
)
_RANK = re.compile(r"^(?:\[(?:rank|default)\s?\d{1,4}\]:? ?)+")
"""What torchrun puts before each line of a process."""

# Sizes.
_FIGURE = re.compile(
    r"(?<![\w.])(?P<number>\d{1,3}(?:,\d{3})+|\d+(?:_\d{3})+|\d+(?:\.\d+)?)\s{0,3}"
    r"(?P<unit>bytes|byte|B|KiB|KB|kB|MiB|MB)?(?![\w.])"
)
_UNREAD = re.compile(
    r"(?:bpb|bits[ _/-]per[ _/-]byte|val\w*[ _]loss|\bloss|artifact|submission|\bsize).{0,60}\d"
    r"|\d (?:bytes|[km]i?b)\b"
)
"""In lower case: a line that states a score, a loss or a size in some way."""
_UNDERSTOOD = re.compile(r"^\s*peak memory|\bval_bpb:enabled|^\s*[\w :]+ \| [\d,.]+$|^table ")
"""Lines of known scripts with such words that state none of these, or state it again."""
_LABEL_CHARACTERS = 80
_UNITS = {"bytes": 1, "byte": 1, "B": 1, "KB": 10**3, "kB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}
_SIZE_WORDS = re.compile(
    r"byte|total|submission|artifact|code|\bsizes?\b|\bsz:|quantized|compressed|serialized|/\s?16[,_]?000"
)
"""A line without any of these, in lower case, states no size."""
_NO_STATEMENT = re.compile(
    r"""file "|\w(?:Warning|Error|Exception)\b|\[(?:WARNING|ERROR|DEBUG)\]|\[?[WEI]\d{4} \d\d:|https?://"""
    r"""|[\w.-]/[\w./-]+\.(?:py|cpp|cu|h|so)\b|^\s*(?:\^|\+|>>>|\.\.\.)"""
    r"""|^\s*(?:\w+ = [A-Za-z_(\[{]|(?:if|elif|for|while|with)\b.*:$)""",
)
"""A warning, a traceback, a path of code, a difference or a line of source: its numbers are no sizes."""
_NOT_SIZE = re.compile(
    r"param|token|step|time|second|window|chunk|doc|memory|peak|flop|shard|batch|layer|budget|limit|cap\b"
    r"|target|headroom|margin|slack|under|over|left|payload|raw_torch|ratio|train|dim|head|\bN_bytes|num_bytes|scored"
    r"|eval|grad|world|rank|wait|download|host|alloc|reserved|sent|dataset|buffer|cache|hessian|val_bytes|text",
    re.I,
)
_TOTAL_SIZE = re.compile(
    r"total|submission[_ ]*(?:size|bytes)|bytes_total|artifact\s*\+\s*code|code\s*\+\s*(?:model|artifact)"
    r"|(?:model|weights|artifact)\s*\+\s*(?:code|script)|combined|^\s*submission\b"
    r"|\bfinal[ _]size|\bbundle|^size$",
    re.I,
)
_OF_ENTRY = re.compile(r"submission|artifact|size|model|compress", re.I)
"""A total as large as uncompressed weights is one of the entry with such a word, else of anything."""
_CODE_SIZE = re.compile(r"code|script", re.I)
_MODEL_SIZE = re.compile(
    r"(?:serialized|quantized)[ _]model|artifact|compressed|model[_ ](?:bytes|size|file)|\bmodel$"
    r"|blob|weights",
    re.I,
)
_RAW_SIZE = re.compile(r"\buncompressed|raw\b|^raw_|\braw_|fp32", re.I)
_COMPRESSED_SIZE = re.compile(
    r"int\d|quant|zstd|zlib|lzma|brotli|lrzip|pergroup|compress|gptq|ternary|\bans\b|artifact", re.I
)
_FITS = re.compile(r"\bfits?\b|\bunder\b|\bok\b|within|valid\b|\u2713|\u2705|\bPASS", re.I)
_OVER = re.compile(r"\bover\b|exceed|too (?:big|large)|\bnot\b|\bFAIL|\u2717|\u274c|\binvalid\b", re.I)
_PUNCTUATION = " \t-*>|[]():,;.=/+~\"'`"
_EQUALS = ("=", "->", "\u2192")
"""Before a figure that is the sum of those before it."""
MAX_FIGURES = 24
"""Of one line; a line with more is a table or a dump."""
_TRAILING_LABEL = re.compile(r"\s*\(?(total|submission|artifact|code|model|script|weights)\b", re.I)
_SHORT_SIZES = re.compile(r"\W{0,8}(?:sz|sizes?):")
_OF_LIMIT = re.compile(r"\s*/\s*16(?:[,_]?000){2}\b")
_OTHER_UNIT = re.compile(
    r"\s*(?:tokens?|param|steps?|docs?|documents|chunks|windows|sequences|ms|s|seconds)\b"
)
TWO_UNITS_AGREE = 0.06
"""Relative difference up to which two figures of one label are one size, in bytes and in MB or MiB."""
_SIZE_LINE = re.compile(r"byte|size|artifact|submission|compress|code|\bmb\b|of the limit")
MIN_PLAIN_TOTAL = 1_000_000
"""A total without a unit is one of bytes from here on."""

Stated = tuple[float, float]
"""A stated value, and its resolution: the value of one unit in its last digit."""
Stage = Literal["training", "unquantized", "final"]
"""Where a score was taken: during training, after averaging but before quantisation, or on the artifact."""
SizeKind = Literal["total", "model", "raw_model", "code", "raw_code"]
"""total is code and compressed weights; raw_model is uncompressed weights, raw_code unpacked source."""


@dataclass(frozen=True)
class Fact:
    """A number that a log states; `resolution` is one unit in its last digit, 0 for a count."""

    value: float
    at: Quote
    resolution: float = 0.0


@dataclass(frozen=True)
class LoggedSize:
    """A byte count that a log states, as printed, or rounded from a decimal figure."""

    kind: SizeKind
    label: str
    num_bytes: int
    exact: bool
    """Printed in bytes, not in kB or MB."""
    says_fits: bool
    """The line says that it is within the limit."""
    at: Quote
    half_step: float = 0.0
    """Half of the last digit of one printed in kB or MB, in bytes: the most that rounding explains."""


@dataclass(frozen=True)
class LoggedScore:
    """A score that a log states, val_loss in nats per token, val_bpb in bits per byte; None if not stated."""

    label: str
    stage: Stage
    val_loss: float | None
    val_bpb: float
    resolution: float
    """One unit in the last printed digit of val_bpb."""
    eval_seconds: float | None
    num_tokens: int | None
    """Scored tokens and bytes, if the line states them."""
    num_bytes: int | None
    at: Quote

    @property
    def stated(self) -> Stated:
        """val_bpb and its resolution."""
        return self.val_bpb, self.resolution

    @property
    def bytes_per_token(self) -> float | None:
        """Mean bytes a token stands for; None if a unit is missing or not of a plausible size."""
        if self.val_loss is None or not (0 < self.val_loss < 1e3 and 0 < self.val_bpb < 1e3):
            return None
        return bytes_per_token(self.val_loss, self.val_bpb)


@dataclass
class ParsedLog:
    """What one log says. Empty where it says nothing."""

    file: str
    scores: list[LoggedScore] = field(default_factory=list)
    sizes: list[LoggedSize] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    """The last one stated, by name: steps and the names of _FACTS."""
    settings: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Configuration: value as printed, and line number."""
    marks: dict[str, list[Quote]] = field(default_factory=dict)
    """Lines by mark: crash and the marks of _MARKS."""
    unread: list[Quote] = field(default_factory=list)
    """The first MAX_UNREAD_KEPT lines with a score, a size or a loss in words, and a number, of which nothing
    was read; `num_unread` is how many there are."""
    num_unread: int = 0
    vocabulary: str | None = None
    """The export of the text, by the name of its folder: sp1024, sp4096, sp8192 or CaseOps sp8192."""
    python: str | None = None
    gpus: tuple[str, ...] = ()
    last_line: Quote | None = None

    @functools.cached_property
    def final_score(self) -> LoggedScore | None:
        """The score that counts: the last one on the artifact that is no diagnostic, with all its digits."""
        return self._last("final")

    @functools.cached_property
    def unquantized_score(self) -> LoggedScore | None:
        """The last score before quantisation, taken after averaging or else in training."""
        return self._last("unquantized") or self._last("training")

    @property
    def has_content(self) -> bool:
        """Whether anything of a training run was recognised."""
        return bool(self.scores or self.sizes or "steps" in self.facts)

    def sizes_of(self, *kinds: SizeKind) -> list[LoggedSize]:
        """The stated sizes of these kinds, in order."""
        return [size for size in self.sizes if size.kind in kinds]

    def fact(self, name: str) -> float | None:
        """The value of a fact, or None."""
        return self.facts[name].value if name in self.facts else None

    def _last(self, stage: Stage) -> LoggedScore | None:
        scores = [score for score in self.scores if score.stage == stage]
        scores = [score for score in scores if not _DIAGNOSTIC.search(score.label)] or scores
        if not scores:
            return None
        last = scores[-1]
        same = [s for s in scores if abs(s.val_bpb - last.val_bpb) <= 0.6 * last.resolution]
        return max(same, key=lambda score: (-score.resolution, score.at.line), default=last)


def bytes_per_token(val_loss: float, val_bpb: float) -> float:
    """Mean bytes of text a token stands for if `val_loss` nats per token are `val_bpb` bits per byte."""
    return Tally(val_loss, num_tokens=1, num_bytes=1).bits_per_byte / val_bpb


def numbered(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """The lines of `text` with their numbers; only a newline ends a line, as editors and grep count them."""
    for number, line in enumerate(text.split("\n"), first):
        yield number, line.rstrip("\r")


def skip_source(file: str, numbered: Iterable[tuple[int, str]]) -> list[Quote]:
    """The lines of a log that are neither empty nor Python source which the script printed into it.

    Source goes from a line that starts Python source to a row of `=` or `Running Python`. Inside it, lines
    of the common kinds are kept (two writers of one file can mix the log into the source); if it has no such
    end, all lines that do not look like source are kept. Lines come in as (number, text) pairs, so that a
    file read in parts keeps its numbers.
    """
    kept: list[Quote] = []
    source: list[Quote] = []
    for number, text in numbered:
        at = Quote(file, number, text[:MAX_LINE_CHARACTERS].rstrip())
        if not at.text:
            continue
        if source and _SOURCE_END.match(at.text):
            kept += [at for at in source if _LOG_LINE.match(at.text) and not _CODE.search(at.text)]
            kept.append(at)
            source = []
        elif source or (at.text[:1] in _SOURCE_START_CHARACTERS and _SOURCE_START.match(at.text)):
            source.append(at)
        else:
            kept.append(at)
    patterns = (_SOURCE_START.match, _CODE.search, re.compile("=None").search)
    return kept + [at for at in source if not any(pattern(at.text) for pattern in patterns)]


def parse_log(file: str, numbered: Iterable[tuple[int, str]]) -> ParsedLog:
    """Reads a log given as (line number, text) pairs; printed source and templates are not log lines."""
    lines = skip_source(file, numbered)
    log = ParsedLog(file, last_line=lines[-1] if lines else None)
    in_settings = in_traceback = False
    for at, following in zip(lines, [*lines[1:], None], strict=False):
        if following and _is_loss(at) and _is_loss(following):
            continue  # The following line on the training loss updates what this one states.
        text = _RANK.sub("", at.text) if at.text[0] == "[" else at.text
        in_traceback = in_traceback and text[:1].isspace()
        if in_traceback:
            continue
        in_settings = text.startswith("Hyperparameters:") or (in_settings and text.startswith("  "))
        if in_settings:
            if match := _SETTING.match(text):
                _take_setting(log, at, *match.groups())
        elif text.startswith("config "):
            for name, value in _CONFIG.findall(text):
                _take_setting(log, at, name, value)
        elif text.startswith("|"):
            log.gpus += tuple(_GPU.findall(text))
        elif _CRASH_WORDS.search(text) and CRASH.match(text):
            log.marks.setdefault("crash", []).append(at)
            in_traceback = text.startswith("Traceback")
        elif text.lstrip().startswith(('{"', '"')):
            log.sizes += read_sizes(at)
        elif not ("{" in text or "(" in text or "#" in text) or not _CODE.search(text):
            _read_line(log, at)
    return log


def charged_total(sizes: list[LoggedSize]) -> LoggedSize | None:
    """The total a log ends on: the last one printed that is no sum over uncompressed weights.

    Where only the packed model and the code are printed, their sum, at the model's line.
    """
    last_of = {size.kind: size for size in sizes}
    model, code = packed_model(sizes), last_of.get("code")
    most_code = code.num_bytes if code else 1_000_000
    raws = [size for size in sizes if size.kind == "raw_model" and size is not model]
    totals = [size for size in sizes if size.kind == "total"]
    totals = [t for t in totals if t.num_bytes <= UNCOMPRESSED_FROM or _OF_ENTRY.search(t.label)]
    totals = [t for t in totals if not any(0 <= t.num_bytes - raw.num_bytes <= most_code for raw in raws)]
    packed = [size for size in totals if not is_uncompressed(size)]
    totals = packed if packed or (model and code) else totals
    totals = [size for size in totals if size.exact] or totals
    if totals:
        # A total of a try that did not fit is followed by the weights of the next one.
        last = totals[-1]
        if not (model and model.at.line > last.at.line and model.num_bytes > 0.8 * last.num_bytes):
            return last
    if model is None or (code is None and not totals):
        return None
    code = code or LoggedSize("code", "code not stated", 0, True, False, model.at)
    label = f"{model.label} + {code.label}"
    exact, half_step = model.exact and code.exact, model.half_step + code.half_step
    return LoggedSize("total", label, model.num_bytes + code.num_bytes, exact, False, model.at, half_step)


def is_uncompressed(size: LoggedSize) -> bool:
    """Whether a size is too large for a packed model and its words name no codec."""
    return size.num_bytes > UNCOMPRESSED_FROM and not _COMPRESSED_SIZE.search(size.label)


def packed_model(sizes: list[LoggedSize]) -> LoggedSize | None:
    """The last size of packed weights; where none is called so, the last that is small enough to be them."""
    models = [size for size in sizes if size.kind == "model"]
    plain = [s for s in sizes if s.kind == "raw_model" and not _RAW_SIZE.search(s.label)]
    models = models or [size for size in plain if size.num_bytes <= MAX_UNNAMED_MODEL_BYTES]
    models = [size for size in models if size.exact] or models
    return models[-1] if models else None


def read_sizes(at: Quote) -> list[LoggedSize]:
    """The byte counts of one line, in its order; limits, memory, parameters and tokens are not among them."""
    found: list[LoggedSize] = []
    text = at.text
    lowered = text.lower()
    if not _SIZE_WORDS.search(lowered) or 'file "' in lowered or _NO_STATEMENT.search(text):
        return found
    fits = bool(_FITS.search(text)) and not _OVER.search(text)
    is_short, label_start = bool(_SHORT_SIZES.match(text)), 0
    for match in itertools.islice(_FIGURE.finditer(text), MAX_FIGURES):
        number = float(match["number"].replace(",", "").replace("_", ""))
        unit = match["unit"]
        before = text[label_start : match.start()]
        if unit is None and number < 1_000:
            if before.rstrip().endswith((":", "=")):
                label_start = match.end()
            continue
        label = before[-_LABEL_CHARACTERS:].strip(_PUNCTUATION)
        label_start = match.end()
        num_bytes = round(min(number, 1e12) * _UNITS[unit or "bytes"])
        exact = unit in (None, "bytes", "byte", "B")
        if is_short and before.endswith(" t="):
            label = "total size (t)"
        elif _OF_LIMIT.match(text, match.end()):
            label = "total (of the limit)"
        elif before.rstrip().endswith(_EQUALS) and " + " in text[:label_start]:
            label = "total (a sum)"
        elif before.rstrip().endswith("+"):
            trailing = _TRAILING_LABEL.match(text, match.end())
            label = trailing[1] if trailing else label
        elif not label and (trailing := _TRAILING_LABEL.match(text, match.end())):
            label = trailing[1]
        elif not label and unit and found:
            if abs(num_bytes / found[-1].num_bytes - 1) > TWO_UNITS_AGREE:
                continue
            label = found[-1].label
        kind = _kind_of_size(label)
        if kind is None or (_NOT_SIZE.search(label) and "of the limit" not in label):
            continue
        if unit is None and not (number.is_integer() and _states_bytes(label, kind, num_bytes, lowered)):
            continue
        if unit is None and _OTHER_UNIT.match(text, match.end()):
            continue
        if not 1_000 <= num_bytes <= 10**11 or num_bytes in (16_000_000, 16_777_216):
            continue
        half_step = 0.0 if exact else 0.5 * 10.0 ** -len(match["number"].partition(".")[2]) * _UNITS[unit]
        if found and (found[-1].kind, found[-1].label) == (kind, label) and found[-1].exact != exact:
            # One size in two units: the exact one counts.
            if not exact:
                continue
            found.pop()
        found.append(LoggedSize(kind, label, num_bytes, exact, fits, at, half_step))
    return found


def _states_bytes(label: str, kind: SizeKind, num_bytes: int, lowered_line: str) -> bool:
    """Whether a number without a unit is one of bytes, by its label or, for a total, by its line."""
    is_plain = kind == "total" and MIN_PLAIN_TOTAL <= num_bytes <= UNCOMPRESSED_FROM
    if is_plain and "param" not in lowered_line and _SIZE_LINE.search(lowered_line + label):
        return True
    return "byte" in (lowered_line if kind == "total" else label.lower()) or "size" in label.lower()


def _kind_of_size(label: str) -> SizeKind | None:
    if _TOTAL_SIZE.search(label):
        return "total"
    if _CODE_SIZE.search(label):
        return "raw_code" if _RAW_SIZE.search(label) else "code"
    if _MODEL_SIZE.search(label):
        return "raw_model" if _RAW_SIZE.search(label) or not _COMPRESSED_SIZE.search(label) else "model"
    if _COMPRESSED_SIZE.search(label) and re.search(r"bytes?$|size$|file$", label, re.I):
        return "model"
    return "raw_model" if label.lower().startswith("raw_model") else None


def _is_loss(at: Quote) -> bool:
    return "train_loss" in at.text and "bpb" not in at.text


def _take_setting(log: ParsedLog, at: Quote, name: str, value: str) -> None:
    if name in ("seed", "world_size") and value.isdigit():
        log.facts[name] = Fact(float(value), at)
    if name == "val_doc_fraction" and _FRACTION.search(at.text):
        log.marks.setdefault("partial", []).append(at)
    if not _RUN_SETTINGS.search(name):
        log.settings[name] = (value, at.line)


def _read_line(log: ParsedLog, at: Quote) -> None:
    text, lowered = at.text, at.text.lower()
    known = len(log.scores) + len(log.sizes) + len(log.marks)
    if "bpb" in lowered or "bits_per_byte" in lowered:
        log.scores += reversed(_read_scores(at))
    log.sizes += read_sizes(at)
    is_fact = _read_facts(log, at)
    for mark, words, pattern in _MARKS:
        if any(word in lowered for word in words) and pattern.search(text):
            log.marks.setdefault(mark, []).append(at)
    if "steps" not in log.facts:
        shared = (pair for pair in _PAIR.findall(text) if pair[0] in _SHARED_SETTINGS)
        log.settings |= {name: (value, at.line) for name, value in shared}
    if not is_fact and known == len(log.scores) + len(log.sizes) + len(log.marks):
        states = _UNREAD.search(lowered) and not _UNDERSTOOD.search(lowered)
        if states and not _PROGRESS.search(text) and not _NO_STATEMENT.search(text):
            log.num_unread += 1
            if len(log.unread) < MAX_UNREAD_KEPT:
                log.unread.append(at)


def _read_scores(at: Quote) -> list[LoggedScore]:
    """The scores of a line, the one that the line is about first."""
    if _PROGRESS.search(at.text):
        return []
    scores = (_read_score(at, match) for match in _BPB.finditer(at.text))
    return [score for score in scores if score]


def _read_score(at: Quote, match: re.Match[str]) -> LoggedScore | None:
    first = _BPB.search(at.text)
    loss = _LOSS.search(at.text) if first and match.start() == first.start() else None
    if _NO_SCORE.search(at.text[: match.end(1)]):
        return None
    before = at.text[: min(match.end(1), loss.start() if loss else match.end(1))]
    label = " ".join(part for part in (before.strip(" :=-_\t"), match.group(2)) if part)
    value = float(match.group(3))
    if not 0 < value < MAX_BPB and not (math.isnan(value) and "best" not in label.lower()):
        return None
    stage: Stage = "unquantized" if UNQUANTIZED.search(label) else "final"
    if _STEP.search(at.text) or _PLAIN_STEP.search(at.text):
        stage = "training"
    seconds = _EVAL_TIME.search(at.text)
    scored = {name: int(count) for name, count in _SCORED.findall(at.text)}
    if len(scored) < 2 and "_scored" not in at.text:
        scored = {}  # A lone count of bytes is the artifact's as well.
    digits = match.group(3).partition(".")[2]
    return LoggedScore(
        label=label,
        stage=stage,
        val_loss=float(loss.group(1)) if loss else None,
        val_bpb=value,
        resolution=10.0 ** -len(digits) if digits.isdigit() else 1.0,
        eval_seconds=_seconds(*seconds.groups()) if seconds else None,
        num_tokens=scored.get("tokens"),
        num_bytes=scored.get("bytes"),
        at=at,
    )


def _read_facts(log: ParsedLog, at: Quote) -> bool:
    """Takes the facts of a line; whether there were any."""
    is_fact = False
    text, lowered, step = at.text, at.text.lower(), None
    if "/" in text and ("step" in text or "loss" in text):
        step = _STEP.search(text)
    if step is None and "stop" in text:
        step = _PLAIN_STEP.search(text)
    if step:
        is_fact = True
        value, total = float(step.group(1)), step.groups()[1:]
        before = log.facts.get("steps")
        # A log of every 20th step may end 19 before the last one, unless it says where it stopped.
        ends = "stop" in text or (total and value == float(total[0]))
        gap = 0.0 if ends or before is None else max(0.0, value - before.value)
        log.facts["steps"] = Fact(value, at, gap)
    for name, word, pattern in _FACTS:
        if name == "seed" and name in log.facts and not lowered.lstrip().startswith("seed"):
            continue  # A seed of something else, of the data or the evaluation.
        if word in lowered and (found := pattern.search(text)):
            is_fact = True
            number, *unit = found.groups()
            value, digit = _to_float(number), 0.0
            if unit:
                scale = _seconds("1", unit[0]) if unit[0] else 1.0
                value, digit = _seconds(number, unit[0]), 10.0 ** -len(number.partition(".")[2]) * scale
            if math.isfinite(value):
                log.facts[name] = Fact(value, at, digit)
    if log.vocabulary is None and "_sp" in text and (export := _EXPORT.search(text)):
        log.vocabulary = f"CaseOps sp{export[1]}" if _CASE_OPS.search(text) else f"sp{export[1]}"
    if "Running Python" in text and (python := _PYTHON.match(text)):
        log.python = python.group(1)
    return is_fact


def _to_float(number: str) -> float:
    """The value of digits and points, also in groups; nan for several points or a point alone."""
    number = number.replace(",", "").replace("_", "")
    return float(number) if number.count(".") <= 1 and number != "." else math.nan


def _seconds(number: str, unit: str | None) -> float:
    value = _to_float(number)
    if unit is None:
        unit = "ms" if value > MILLISECONDS_FROM else "s"
    return value * {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}[unit]
