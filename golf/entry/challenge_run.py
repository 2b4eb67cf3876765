"""Runs an entry's script for some seconds as the challenge runs it, under torchrun, in its layout of folders.

The script runs in a copy of its folder that holds nothing else, in a temporary tree

    records/TRACK/NAME/      the files of the pull request
    data/datasets/fineweb10B_sp<V>/fineweb_{train,val}_NNNNNN.bin
    data/tokenizers/fineweb_<V>_bpe.model

with the rights of whoever started this: torchrun's rendezvous needs a network interface, which the isolation
of golf.audit.isolate does not have. The clone is read, and never written to.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from golf.check.logs import numbered, parse_log
from golf.data.manifest import MANIFEST_NAME, Dataset, find_byte_file, open_dataset, open_shards
from golf.data.shards import DataError, read_shard, write_shard
from golf.entry.results import EntryError
from golf.results import Results

MAX_RUN_SECONDS = 1800.0
"""Wall clock of the whole script: start, steps, packing and scoring."""
TRAIN_CONTEXTS, VALIDATION_CONTEXTS = 32, 2
"""Tokens of a made dataset, as multiples of the model's context."""
NUM_SHOWN_LINES = 20
"""Of a script that failed."""
_STEP = re.compile(r"^step:(\d+)/", re.M)
_GRACE_SECONDS = 10.0


def stated_number(run: Results, name: str) -> int:
    """A field of the model's configuration; EntryError unless the results state it as a number above 0."""
    value = run.config.get("model", {}).get(name)
    if type(value) is not int or value < 1:
        raise EntryError(
            f"results.json: model.{name} of seed {run.seed} is {value!r}; expected a number above 0"
        )
    return value


@dataclass(frozen=True)
class Layout:
    """Where the challenge's data lies, from inside of a record folder."""

    vocab_size: int

    @classmethod
    def of(cls, run: Results) -> "Layout":
        """The layout of the vocabulary that a run was made for."""
        return cls(stated_number(run, "vocab_size"))

    @property
    def shards(self) -> str:
        """Folder of shards under the challenge's data/."""
        return f"datasets/fineweb10B_sp{self.vocab_size}"

    @property
    def tokenizer(self) -> str:
        """SentencePiece model under the challenge's data/."""
        return f"tokenizers/fineweb_{self.vocab_size}_bpe.model"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of the challenge's script that name the data."""
        return {
            "DATA_PATH": f"../../../data/{self.shards}/",
            "TOKENIZER_PATH": f"../../../data/{self.tokenizer}",
            "VOCAB_SIZE": str(self.vocab_size),
        }

    def is_in(self, data: Path) -> bool:
        """Whether a data/ folder holds shards of both splits and the tokenizer."""
        return (data / self.tokenizer).is_file() and all(
            any((data / self.shards).glob(f"fineweb_{split}_*.bin")) for split in ("train", "val")
        )


@dataclass(frozen=True)
class ScriptRun:
    """What running the script came to."""

    seconds: float
    steps: int
    """Of training; 0 where it came to none."""
    val_bpb: float | None
    """The last score that the script printed, on a few tokens and worth nothing else."""
    source: str
    """Whose text it ran on."""
    failure: str = ""
    """Why it did not do all that it should, in one line."""
    last_lines: tuple[str, ...] = ()
    """What a script that failed printed last."""


class Text(NamedTuple):
    """A folder with text: a data/ folder of the challenge's layout, a dataset of this toolkit, or shards."""

    folder: Path
    whose: str
    """As the pull request calls it, which says nothing of this machine's folders."""


def find_text(layout: Layout, clone: Path, entry: Path, given: Path | None) -> Text | None:
    """Where the script's text is: `given`, else the clone's data/, else the entry's; None without any."""
    if given is not None:
        return Text(given, given.resolve().name)
    if layout.is_in(clone / "data"):
        return Text(clone / "data", "the challenge's data")
    has_own = (entry / "data" / MANIFEST_NAME).is_file()
    return Text(entry / "data", "the entry's own text") if has_own else None


def run_in_layout(folder: Path, text: Text, first: Results, seconds: float) -> ScriptRun:
    """Trains by the script in a copy of `folder` for `seconds`, packs and scores.

    A data/ folder of the challenge's layout is used as it is; of another text a small dataset of that layout
    is made. Raises ValueError for a text that does not fit the entry.
    """
    layout, context = Layout.of(first), stated_number(first, "context")
    options: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        place = Path(root, *folder.parts[-3:])
        shutil.copytree(folder, place)
        source = text.whose
        if layout.is_in(text.folder):
            (Path(root) / "data").symlink_to(text.folder.resolve(), target_is_directory=True)
            # All of it takes a GPU minutes, and a processor days.
            options = ["--max-tokens", str(VALIDATION_CONTEXTS * context)]
        else:
            make_dataset(Path(root) / "data", text.folder, layout, context)
            source = f"a small dataset of {text.whose}"
        variables = {**layout.variables, "RUN_ID": "check", "SEED": str(first.seed)}
        variables["MAX_WALLCLOCK_SECONDS"] = f"{seconds:g}"
        started = time.monotonic()
        code, printed = run_under_torchrun(place, options, variables)
        return _describe(code, printed, time.monotonic() - started, source)


def run_under_torchrun(
    folder: Path, options: list[str], variables: Mapping[str, str]
) -> tuple[int | None, str]:
    """Exit code, None where it took longer than MAX_RUN_SECONDS, and output of one process of torchrun."""
    # Imported here: torch takes two seconds, which a refused entry does without.
    from golf.system.device import end_with_parent, env_without_torchrun

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    process = subprocess.Popen(
        [*command, "train_gpt.py", *options],
        cwd=folder,
        env=env_without_torchrun() | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=end_with_parent(),
    )
    try:
        printed, _ = process.communicate(timeout=MAX_RUN_SECONDS)
        return process.returncode, printed
    except BaseException as stop:
        # Asked first: torchrun ends its own processes when it is asked, and cannot when it is killed.
        process.terminate()
        try:
            printed, _ = process.communicate(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
        if isinstance(stop, subprocess.TimeoutExpired):
            return None, printed
        raise


def _describe(code: int | None, printed: str, seconds: float, source: str) -> ScriptRun:
    score = parse_log("stdout", numbered(printed)).final_score
    steps = max(map(int, _STEP.findall(printed)), default=0)
    if code is None:
        failure = f"it took longer than {MAX_RUN_SECONDS:,.0f} s"
    elif code:
        failure = f"it ended with {code}: {_reason(printed)}"
    elif steps == 0:
        failure = "it made no step of training"
    elif "Total submission size: " not in printed or score is None:
        failure = "it printed no size, or no score of its artifact"
    else:
        return ScriptRun(seconds, steps, score.val_bpb, source)
    lines = tuple(printed.rstrip().splitlines()[-NUM_SHOWN_LINES:])
    return ScriptRun(seconds, steps, None, source, failure, lines)


def _reason(printed: str) -> str:
    """The script's own message, else the first exception, for torchrun's report of it comes last."""
    for pattern in (
        r"^(?:\[rank0\]: ?)?(train_gpt\.py: .+)$",
        r"^(?:\[rank0\]: ?)?([\w.]*(?:Error|Exception)\b.*)$",
    ):
        if found := re.search(pattern, printed, re.M):
            return found[1][:300]
    return (printed.strip().splitlines() or ["no message"])[-1][:300]


def make_dataset(root: Path, text: Path, layout: Layout, context: int) -> None:
    """Writes a small dataset of the challenge's layout into `root`, a data/ folder that is not there yet.

    Its text is the beginning of the first training and of the first validation shard of `text`. A folder
    without training shards, as entries bring them along, gives validation text for both. Raises DataError
    for too little text and for another vocabulary than the layout's.
    """
    dataset, tokenizer = _open(text, layout)
    if (size := dataset.vocabulary.size) != layout.vocab_size:
        raise DataError(f"{text}: its tokenizer has {size} pieces; the entry needs {layout.vocab_size}")
    files = {split: [f for f in dataset.manifest.files if f.split == split] for split in ("train", "val")}
    if not files["val"]:
        raise DataError(f"{text}: has no validation shards")
    validation = dataset.open_shard(files["val"][0])
    cut = _next_document(validation, VALIDATION_CONTEXTS * context, dataset.vocabulary.bos_id)
    present = [file for file in files["train"] if (text / file.name).is_file()]
    training = dataset.open_shard(present[0]) if present else validation[cut:]
    training = training[: _end_of_training(training, context, dataset.vocabulary.bos_id)]
    if len(training) < TRAIN_CONTEXTS // 2 * context:
        raise DataError(
            f"{text}: has {len(training):,} tokens to train on; the entry's context of {context} needs "
            f"{TRAIN_CONTEXTS // 2 * context:,}. Give --data a folder with training shards"
        )
    shards = root / layout.shards
    shards.mkdir(parents=True)
    (root / layout.tokenizer).parent.mkdir()
    shutil.copyfile(tokenizer, root / layout.tokenizer)
    write_shard(shards / "fineweb_train_000000.bin", training)
    written = shards / "fineweb_val_000000.bin"
    write_shard(written, validation[:cut])
    if dataset.vocabulary.case_ops:
        counts = read_shard(find_byte_file(text / files["val"][0].name))
        write_shard(written.with_suffix(".bytes"), counts[:cut])


def _open(text: Path, layout: Layout) -> tuple[Dataset, Path]:
    """A dataset and its tokenizer, which of shards without a manifest is where the challenge has it."""
    if (text / MANIFEST_NAME).is_file():
        dataset = open_dataset(text)
        return dataset, text / dataset.manifest.tokenizer
    tokenizer = Path(os.path.abspath(text)).parent.parent / layout.tokenizer
    return open_shards(text, tokenizer), tokenizer


def _next_document(tokens: np.ndarray, at: int, bos_id: int) -> int:
    """Where the first document at or after a place starts; the end where none does."""
    starts = np.flatnonzero(tokens[at:] == bos_id)
    return at + int(starts[0]) if len(starts) else len(tokens)


def _end_of_training(tokens: np.ndarray, context: int, bos_id: int) -> int:
    """At most TRAIN_CONTEXTS contexts, such that the last one or two begin a document, which is held out."""
    starts = np.flatnonzero(tokens[: TRAIN_CONTEXTS * context] == bos_id)
    return min(len(tokens), (int(starts[-1]) if len(starts) else 0) + 2 * context)
