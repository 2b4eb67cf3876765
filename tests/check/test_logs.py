"""Reading of training logs: every dialect, every wording of a total, source and templates left alone."""

import pytest

from golf.check.findings import Quote
from golf.check.logs import ParsedLog, charged_total, numbered, parse_log, read_sizes, skip_source


def parse(*lines: str) -> ParsedLog:
    return parse_log("train.log", numbered("\n".join(lines)))


BASELINE = """\
val_loader:shards pattern=/x/fineweb_val_*.bin tokens:62021632
model_params:17059912
world_size:8 grad_accum_steps:1
tie_embeddings:True embed_lr:0.05 head_lr:0.0 matrix_lr:0.04 scalar_lr:0.04
seed:1337
warmup_step:20/20
step:50/20000 train_loss:3.9 train_time:2000ms step_avg:43.54ms
step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms step_avg:43.54ms
stopping_early: wallclock_cap train_time:600038ms step:13780/20000
peak memory allocated: 10184 MiB reserved: 10200 MiB
Serialized model: 67224983 bytes
Code size: 47642 bytes
Total submission size: 67272625 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570"""

HYPERPARAMETERS = """\
Hyperparameters:
  matrix_lr: 0.022
  seed: 314
  train_files: ./data/fineweb_train_*.bin
  world_size: 8
train_shards: 128
val_tokens: 40540160
0/20000 val_loss: 9.0096 val_bpb: 3.4879
4557/20000 val_loss: 2.8129 val_bpb: 1.0889
stopping_early: wallclock_cap train_time: 588119ms step: 4557/20000
pre-quantization post-ema val_loss:2.80977929 val_bpb:1.08775313 eval_time:7438ms
Code size (uncompressed): 131887 bytes
Code size (compressed): 28025 bytes
GPTQ:collected 67 Hessians in 12.7s
Serialized model quantized+brotli: 15943451 bytes
Total submission size quantized+brotli: 15971476 bytes
diagnostic quantized val_loss:2.84004242 val_bpb:1.09946892 eval_time:25390ms
ttt_lora:compile warmup done (90.3s)
ttp: b775/782 bl:2.2858 bb:1.0627 rl:2.2858 rb:1.0627 dl:6892-7524 gd:0
quantized_ttt_phased val_loss:2.79241542 val_bpb:1.08103103 eval_time:368074ms
total_eval_time:368.1s"""

OURS = """\
model_params model_params:26666073
step step:100/370 train_loss:3.2 lr_scale:1 tokens:1048576 tokens_per_second:250000
held_out step:100 tokens:1048576 bpb:1.9
size code_bytes:49461 artifact_bytes:15132620
Total submission size: 15182081 bytes
stage name:last val_bpb:1.3501 val_loss:2.2795 windows:disjoint tokens_scored:1000 bytes_scored:2436
stage name:averaged val_bpb:1.3402 val_loss:2.2628 windows:disjoint tokens_scored:1000 bytes_scored:2436
stage name:quantized val_bpb:1.3512345 val_loss:2.2814 tokens_scored:1000 bytes_scored:2436 seconds:12.5"""


def test_the_baseline_dialect() -> None:
    log = parse(*BASELINE.split("\n"))
    final = log.final_score
    assert final and (final.val_loss, final.val_bpb, final.at.line) == (2.07269931, 1.2243657, 17)
    assert log.unquantized_score and log.unquantized_score.val_bpb == 1.2172
    assert log.fact("train_seconds") == pytest.approx(600.038)
    assert [log.fact(name) for name in ("seed", "steps", "val_tokens", "world_size")] == [
        1337,
        13780,
        62021632,
        8,
    ]
    assert log.settings["matrix_lr"] == ("0.04", 4)
    total = charged_total(log.sizes)
    assert total and (total.num_bytes, total.at.line) == (15863489, 15)


def test_the_dialect_with_a_block_of_hyperparameters() -> None:
    log = parse(*HYPERPARAMETERS.split("\n"))
    assert log.final_score and log.final_score.label == "quantized_ttt_phased"
    assert log.final_score.eval_seconds == pytest.approx(368.074)
    assert log.unquantized_score and log.unquantized_score.val_bpb == 1.08775313
    assert log.settings == {"matrix_lr": ("0.022", 2), "world_size": ("8", 5)}
    facts = ("seed", "hessian_seconds", "warmup_seconds", "total_eval_seconds", "train_shards")
    assert [log.fact(name) for name in facts] == [314, 12.7, 90.3, 368.1, 128]
    assert [(s.kind, s.num_bytes) for s in log.sizes][:2] == [("raw_code", 131887), ("code", 28025)]


def test_this_projects_own_dialect() -> None:
    log = parse(*OURS.split("\n"))
    final = log.final_score
    assert final and (final.val_bpb, final.num_tokens, final.num_bytes) == (1.3512345, 1000, 2436)
    assert final.eval_seconds == 12.5
    assert log.unquantized_score and log.unquantized_score.val_bpb == 1.3402
    assert "val_tokens" not in log.facts
    total = charged_total(log.sizes)
    assert total and total.num_bytes == 15182081


def test_the_last_stage_counts_with_all_the_digits_it_was_printed_with() -> None:
    log = parse(
        "final_int6_sliding_window_exact val_loss:1.89385556 val_bpb:1.12165091",
        "final_int8_zlib_roundtrip_exact val_loss:1.89385556 val_bpb:1.12165091",
        "legal_ttt_exact val_loss:1.88919190 val_bpb:1.11888882",
        "legal_ttt val_loss:1.8892 val_bpb:1.1189 eval_time:407984ms",
    )
    assert log.final_score and log.final_score.val_bpb == 1.11888882


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("step:5/10 val_loss:2.1 val_bpb:1.2 train_time:5ms", "training"),
        ("5/10 val_loss: 2.1 val_bpb: 1.2", "training"),
        ("eval step=500 val_bpb=1.2", "training"),
        ("DIAGNOSTIC post_ema val_loss:1.9 val_bpb:1.1", "unquantized"),
        ("diagnostic pre-quantization post-ema val_loss:1.9 val_bpb:1.1", "unquantized"),
        ("pre_quant_val_bpb: 1.1", "unquantized"),
        ("val_bpb (pre-quant): 1.50", "unquantized"),
        ("val_bpb (int4 roundtrip): 1.60", "final"),
        ("ttt_sliding:done val_loss=1.889192 val_bpb=1.118889 elapsed=407.5s", "final"),
        ("ppm_mix bytes=29365687 mix_bpb=0.994872 ppm_only=2.27 nn_only=1.08", "final"),
        ("Final bpb: 1.2", "final"),
        ("final val_bpb 1.2244", "final"),
    ],
)
def test_where_a_score_was_taken(line: str, stage: str) -> None:
    (score,) = parse(line).scores
    assert score.stage == stage


@pytest.mark.parametrize(
    "line",
    [
        "  ttt_chunk [1/1893] bpb=1.159980 time=0.5s",
        "ttt_progress: batch 778/782 batch_loss:2.7 batch_bpb:1.1 running_loss:2.7 running_bpb:1.1",
        "ttp: b775/782 bl:2.28 bb:1.06 rl:2.28 rb:1.06",
        "held_out step:100 tokens:5 bpb:1.9",
        "val_bpb:enabled tokenizer_kind=sentencepiece",
        'log0(f"final val_bpb:{val_bpb:.4f} eval_time:{ms:.0f}ms")',
        "    # final_int8 val_loss:2.07 val_bpb:1.2244",
        'print("val_bpb:1.2244")',
    ],
)
def test_progress_and_templates_are_no_scores(line: str) -> None:
    assert parse(line).scores == []


TOTALS = [
    "Total submission size int8+zlib: 15912345 bytes",
    "Total submission size quantized+brotli:15912345",
    "Total submission size (int6+zstd): 15,912,345 bytes",
    "Total submission: 15912345 bytes",
    "total_submission_bytes: 15912345",
    "total_submission_size=15912345",
    "submission_size_bytes=15912345",
    "Submission size: 15.91 MB (15,912,345 bytes)",
    "Submission bytes: 15912345",
    "submission: 15912345 bytes",
    "Total int8+zlib: 15,912,345 bytes",
    "TOTAL: 15,912,345 bytes (UNDER 16MB)",
    "total_bytes: 15912345",
    "bytes_total=15912345",
    "total size: 15_912_345 bytes",
    "Total size: 15912345 / 16000000 bytes",
    "Total artifact size: 15912345 bytes",
    "Total artifact bytes: 15912345",
    "Total (code + model): 15912345 bytes",
    "Total compressed submission size: 15,912,345 bytes",
    "artifact + code: 15912345 bytes",
    "Code + model = 15912345 bytes",
    "model + code: 15912345 B",
    "Combined size: 15912345 bytes",
    "artifact_bytes:15850000 code_bytes:62345 total:15912345",
    "artifact: 15850000 bytes (code 62345 bytes) total 15912345 bytes",
    "[size] code=62345 bytes, total=15912345 bytes, limit=16000000 bytes",
    "  - total submission size : 15912345 bytes",
]


@pytest.mark.parametrize("line", TOTALS)
def test_a_total_is_read_in_every_wording(line: str) -> None:
    totals = [size for size in read_sizes(Quote("train.log", 1, line)) if size.kind == "total"]
    assert [size.num_bytes for size in totals] == [15912345]


@pytest.mark.parametrize(
    ("line", "num_bytes"),
    [("total: 15.9 MB", 15_900_000), ("Total size: 15.43 MiB", 16_179_528), ("total 15912.3 kB", 15_912_300)],
)
def test_a_total_in_larger_units_is_not_exact(line: str, num_bytes: int) -> None:
    (size,) = read_sizes(Quote("train.log", 1, line))
    assert (size.kind, size.num_bytes, size.exact) == ("total", num_bytes, False)


@pytest.mark.parametrize(
    "line",
    [
        "total_params: 26666073",
        "peak memory allocated: 10184 MiB reserved: 10200 MiB",
        "ttt_sliding:start chunks=1893 chunk_tokens=32768 total_windows=969088 stride=64",
        "Size budget: 16000000 bytes",
        "total training tokens: 2621440000",
        "total_docs:50000 prefix_docs:2000",
        "total_eval_time:399.3s",
        "step:100/370 tokens:1048576",
        "artifact limit: 16,000,000 bytes",
        "bytes under the limit in total: 87655",
        "total val_bytes: 151078222",
        "total allocated 15912345 bytes",
    ],
)
def test_other_large_numbers_are_no_sizes_of_a_submission(line: str) -> None:
    assert [size for size in read_sizes(Quote("train.log", 1, line)) if size.kind == "total"] == []


def test_small_numbers_end_a_label_only_as_values() -> None:
    sizes = read_sizes(Quote("train.log", 1, "size code_bytes:54 artifact_bytes:1600"))
    assert [(size.kind, size.num_bytes) for size in sizes] == [("model", 1600)]
    (size,) = read_sizes(Quote("train.log", 1, "Total size of part 3 of 4: 15912345 bytes"))
    assert (size.kind, size.num_bytes) == ("total", 15912345)


def test_without_a_total_the_compressed_model_and_the_code_are_added() -> None:
    log = parse(
        "Serialized model: 98437419 bytes",
        "Code size: 52930 bytes",
        "Total submission size: 98490349 bytes",
        "Serialized model int6+zstd: 15913048 bytes",
    )
    total = charged_total(log.sizes)
    assert total and total.num_bytes == 15913048 + 52930


def test_of_several_totals_the_last_counts() -> None:
    log = parse(
        "Total submission size: 16200000 bytes", "Total submission size: 15900000 bytes (after pruning)"
    )
    total = charged_total(log.sizes)
    assert total and (total.num_bytes, total.at.line) == (15900000, 2)


def test_an_uncompressed_total_does_not_hide_a_packed_one() -> None:
    log = parse("Total submission size: 15900000 bytes", "Total submission size: 67272625 bytes")
    total = charged_total(log.sizes)
    assert total and total.num_bytes == 15900000


SOURCE = [
    '"""',
    "The script.",
    "seed:7",
    '"""',
    "import os",
    "def main():",
    "    log0(",
    "        f'final val_bpb:{x:.4f}'",
    "    )",
    "    total = 15999999  # Total submission size: 15999999 bytes",
]


def test_echoed_source_is_stepped_over_up_to_the_rule() -> None:
    log = parse("logs/x.txt", *SOURCE, "=" * 100, "Running Python 3.12.3 (main)", *BASELINE.split("\n"))
    assert log.fact("seed") == 1337
    assert log.final_score and log.final_score.at.line == 13 + 17
    total = charged_total(log.sizes)
    assert total and total.num_bytes == 15863489
    assert log.python == "3.12"


def test_echoed_source_without_an_end_hides_no_log_line() -> None:
    log = parse(*SOURCE, *BASELINE.split("\n"))
    assert log.final_score and log.final_score.val_bpb == 1.2243657


def test_a_log_written_amid_its_own_source_is_read() -> None:
    lines = BASELINE.split("\n")
    log = parse(SOURCE[0], "The `train_gpt.py` and `trval_bpb:enabled", *lines, *SOURCE[4:], "=" * 100)
    assert log.final_score and log.final_score.val_bpb == 1.2243657
    assert log.fact("val_tokens") == 62021632


def test_line_numbers_are_those_of_the_file() -> None:
    lines = skip_source("train.log", numbered("a\r\nb\x0cc\nd", first=5))
    assert [(line.line, line.text) for line in lines] == [(5, "a"), (6, "b\x0cc"), (7, "d")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("train_time:600038ms", 600.038),
        ("train_time: 9.1m", 546.0),
        ("train_time:600.038s", 600.038),
        ("training_time: 10min", 600.0),
        ("train_time:600038", 600.038),
        ("train_seconds:600.0", 600.0),
    ],
)
def test_times_are_read_in_any_unit(text: str, seconds: float) -> None:
    assert parse(text).fact("train_seconds") == pytest.approx(seconds)


def test_telling_lines_are_marked_and_missing_ones_are_not() -> None:
    log = parse(
        "Traceback (most recent call last):",
        "WARNING: zstandard not installed, falling back to zlib",
        "ngram_cache: hits=7612859/7754688 (98.2%) alpha=0.2",
        "val_doc_fraction:0.1",
        "using zstd-22",
        "val_doc_fraction: 1.0",
    )
    assert {mark: [line.line for line in lines] for mark, lines in log.marks.items()} == {
        "crash": [1],
        "fallback": [2],
        "cache": [3],
        "partial": [4],
    }


def test_very_long_lines_are_cut_and_read_fast() -> None:
    log = parse("total " * 2_000_000, "final val_bpb:1.5")
    assert log.final_score and log.final_score.at.line == 2
