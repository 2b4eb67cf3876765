"""A lab: tiny data, a tiny study, and a call of the program on both."""

from pathlib import Path

from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf.lab.__main__ import main

STUDY = """
title = "A tiny study & its <arms>"
preset = "cpu"
intro = "Two arms."
reading = "As expected."
tokens = 256
seeds = 2
validation_tokens = 64
[set]
model = {num_layers = 1, width = 16, num_heads = 2, num_kv_heads = 1, mlp_hidden = 32, context = 32, \
rotary_dims = 4, bigram_buckets = 16, bigram_width = 4}
train = {batch_tokens = 64, micro_batch_tokens = 64, warmup_steps = 0, num_evals = 2, \
held_out_tokens = 64}
averaging.output = "last"
[[arms]]
name = "base"
[[arms]]
name = "gelu"
claim = "lower, says the source"
expects = "lower"
set.model.feedforward = "gelu"
[[arms]]
name = "ahead"
set.model.future_tokens = 1
[[arms]]
name = "sigreg"
set.train.sigreg_weight = 0.1
[[arms]]
name = "failing"
set.optim.matrix_lr = 1e30
[search]
model.qk_gain = {low = 0.5, high = 2.0}
model.norm = {choices = ["rms", "layer"]}
"""


def make_lab(folder: Path) -> Path:
    """A folder with data/ and study/study.toml."""
    write_tiny_dataset(folder / "data", tiny_tokenizer(), num_documents=80)
    (folder / "study").mkdir()
    (folder / "study" / "study.toml").write_text(STUDY)
    return folder


def lab_arguments(lab: Path, *more: str) -> list[str]:
    """The command line of the tiny study."""
    study = str(lab / "study" / "study.toml")
    return [study, "--data", str(lab / "data"), "--out", str(lab / "runs"), "--device", "cpu", *more]


def call(lab: Path, *more: str) -> int:
    """The exit code of the program on the tiny study."""
    return main(lab_arguments(lab, *more))
