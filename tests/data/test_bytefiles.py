from pathlib import Path

import numpy as np
import pytest
from data_samples import sample_text

from golf.audit.rescore import probe_bytes
from golf.data.manifest import Manifest, find_byte_file, open_dataset
from golf.data.shards import DataError, read_shard, write_shard
from golf.prepare.__main__ import main
from golf.prepare.build import build_dataset
from golf.prepare.shards import TextOrigin, adopt_shards, iterate_documents
from golf.prepare.split import GivenValidation, SplitConfig
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.score.scorer import tally_targets
from golf.system.clock import StageClock
from golf.system.files import read_sealed_json, write_sealed_json
from golf.system.log import RunLog

TEXTS = [sample_text(seed) for seed in range(120)] + [
    "NASA\ufb01 \u2122 \ue001The \ue004 E\u0301TE J\u030cA 1\ue003"
]
ORIGIN = TextOrigin("sample", "made up", "none", "1")
QUIET = RunLog(quiet=True)


@pytest.fixture(scope="module", params=["marks", "fused"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CaseOps dataset, the last text in its validation; each test works on a copy or only reads."""
    folder = tmp_path_factory.mktemp("caseops") / "data"
    stream = TextStream(((text, 0) for text in TEXTS[-40:] + TEXTS[:-40]), 1, "documents")
    choice = TokenizerChoice(vocab_size=400, case_ops=request.param)
    given = GivenValidation(first_documents=40)
    build_dataset(folder, ORIGIN, stream, choice, SplitConfig(), QUIET, given)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy without its manifest, as somebody may have published it."""
    (tmp_path / "copy").mkdir()
    for path in folder.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "copy"


def test_the_bytes_of_a_shard_are_those_of_its_normalised_original(folder: Path):
    dataset = open_dataset(folder)
    tokens = dataset.validation_tokens(StageClock())
    normalised = [dataset.vocabulary.normalize_text(text) for text in TEXTS[-40:]]
    decoded = [dataset.vocabulary.decode_tokens(document[1:]) for document in iterate_documents(tokens, 1)]
    assert decoded == normalised
    counts = read_shard(find_byte_file(folder / "fineweb_val_000000.bin"))
    sizes = [int(part.sum()) for part in np.split(counts, np.flatnonzero(tokens == 1))[1:]]
    assert sizes == [len(text.encode()) for text in normalised]
    assert dataset.manifest.val_text_bytes == sum(sizes)
    assert dataset.manifest.case_ops and dataset.manifest.files[0].bytes_sha256


def test_the_score_and_the_audits_own_count_charge_the_original_bytes(folder: Path):
    dataset = open_dataset(folder)
    tokens = dataset.validation_tokens(StageClock())
    vocabulary, stated = dataset.vocabulary, dataset.manifest.val_text_bytes
    nats_N = np.ones(len(tokens) - 1, dtype=np.float32)
    assert tally_targets(nats_N, tokens, vocabulary).num_bytes == stated
    assert probe_bytes(vocabulary.count_bytes, vocabulary.decode_tokens, tokens, 1, stated).passed
    marked = probe_bytes(vocabulary.count_bytes, vocabulary._pieces.decode, tokens, 1, stated)
    assert len(marked.violations) > 5


def test_training_batches_have_no_byte_files(folder: Path):
    assert not list(folder.glob("fineweb_train*.bytes"))
    assert [file.bytes_sha256 == "" for file in open_dataset(folder).manifest.files] == [False, True]


def test_a_missing_byte_file_is_one_clear_error(copy: Path, capsys: pytest.CaptureFixture[str]):
    (copy / "fineweb_val_000000.bytes").unlink()
    message = r"fineweb_val_000000\.bytes: no such file; it says how many bytes of the original text"
    with pytest.raises(DataError, match=message):
        open_dataset(copy)
    (copy / "manifest.json").unlink()
    assert main(["--source", "shards", "--data", str(copy)]) == 2
    error = capsys.readouterr().err
    assert "no such file; it says how many bytes" in error and error.count("\n") == 1


def test_a_byte_file_that_counts_otherwise_is_refused(copy: Path):
    shard = copy / "fineweb_val_000000.bin"
    counts = np.array(read_shard(find_byte_file(shard)))
    counts[7] += 1
    write_shard(find_byte_file(shard), counts)
    with pytest.raises(DataError, match=r"fineweb_val_000000\.bytes: has changed .*; the manifest says"):
        open_dataset(copy).validation_tokens(StageClock())
    (copy / "manifest.json").unlink()
    with pytest.raises(
        DataError, match=r"token 7 of fineweb_val_000000\.bin is \d+ bytes there; it stands for"
    ):
        adopt_shards(copy, None, ORIGIN, QUIET)
    write_shard(find_byte_file(shard), counts[1:])
    with pytest.raises(DataError, match=r"has \d+ counts; fineweb_val_000000\.bin has \d+ tokens"):
        adopt_shards(copy, None, ORIGIN, QUIET)


@pytest.mark.parametrize("more", [0, 5])
def test_byte_files_of_a_published_export_are_compared(copy: Path, more: int):
    own = copy / "fineweb_val_000000.bytes"
    counts = np.array(read_shard(own))
    counts[9] += more
    write_shard(copy / "fineweb_val_bytes_000000.bin", counts)
    before = own.read_bytes()
    own.unlink()
    (copy / "manifest.json").unlink()
    manifest = adopt_shards(copy, None, ORIGIN, QUIET)
    assert own.read_bytes() == before
    said = [note for note in manifest.notes if note.startswith("fineweb_val_bytes_000000.bin says")]
    assert len(said) == bool(more)


def test_manifests_without_case_ops_are_written_as_before(tmp_path: Path, tiny_model_path: Path):
    stream = TextStream(((text, 0) for text in TEXTS), 1, "documents")
    choice = TokenizerChoice(tiny_model_path)
    build_dataset(tmp_path / "a", ORIGIN, stream, choice, SplitConfig(val_fraction=0.2), QUIET)
    text = (tmp_path / "a" / "manifest.json").read_text()
    assert "case_ops" not in text and "bytes_sha256" not in text
    assert not list((tmp_path / "a").glob("*.bytes"))
    assert Manifest.load(tmp_path / "a").case_ops is False


def test_a_tokenizer_of_the_other_kind_than_the_manifest_says_is_refused(copy: Path):
    fields = read_sealed_json(copy / "manifest.json")
    write_sealed_json(copy / "manifest.json", {**fields, "case_ops": False})
    with pytest.raises(DataError, match=r"CaseOps are .* True\), and .* False\) in the manifest"):
        open_dataset(copy)
