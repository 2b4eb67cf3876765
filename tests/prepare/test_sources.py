import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from data_samples import SHARED, sample_text

from golf.data.manifest import open_dataset
from golf.data.shards import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare import common_docs
from golf.prepare import sources as prepare_module
from golf.prepare.__main__ import main
from golf.prepare.challenge import EXPORTS, ChallengeConfig
from golf.prepare.common_docs import CommonDocs
from golf.prepare.docs import DocsText
from golf.prepare.shards import DOCUMENTS_NAME, VALIDATION_DOCUMENTS
from golf.prepare.sources import prepare_default
from golf.prepare.split import SplitConfig
from golf.system.log import RunLog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": sample_text(seed)}) + "\n" for seed in range(200)))
    return path


def test_text_is_prepared_with_a_tokenizer_trained_on_it(corpus: Path, tmp_path: Path, capsys):
    arguments = f"--source text --files {corpus} --vocab-size 400 --data {tmp_path / 'a'}"
    assert main([*arguments.split(), "--licence", "MIT", "--max-docs", "150"]) == 0
    manifest = open_dataset(tmp_path / "a").manifest
    assert (manifest.name, manifest.licence, manifest.vocab_size) == ("corpus", "MIT", 400)
    assert sum(file.num_documents for file in manifest.files) == 150
    assert manifest.revision.endswith("first 150 documents")
    printed = capsys.readouterr().out
    assert "corpus: files corpus.jsonl (MIT)" in printed
    assert "corpus_bpe.model, 400 pieces" in printed


def test_text_is_prepared_with_a_given_tokenizer(corpus: Path, tmp_path: Path, tiny_model_path: Path):
    arguments = (
        f"--source text --files {corpus} --tokenizer {tiny_model_path} --out {tmp_path / 'a'} --name mine"
    )
    assert main([*arguments.split(), "--split.val-fraction", "0.3"]) == 0
    dataset = open_dataset(tmp_path / "a")
    assert (dataset.manifest.name, dataset.manifest.tokenizer) == ("mine", "tiny.model")


@pytest.mark.parametrize(
    ("tokenizer", "options", "num_tokens"),
    [
        ("fineweb_1024_bpe", "", 1_040_298),
        pytest.param(
            *("fineweb_8192_caseops_bpe", "--case-ops fused --val-tokenizer fineweb_1024_bpe.model", 735_362),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_text_can_go_with_a_published_validation_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, options: str, num_tokens: int
):
    if not SHARED.exists():
        pytest.skip("the challenge's data is not at hand")
    head = tmp_path / "head.jsonl.zst"
    with open(SHARED / "corpus" / "train_corpus.jsonl.zst", "rb") as file:
        reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file)
        lines = reader.read(1_000_000).split(b"\n")[:20]
    head.write_bytes(zstandard.compress(b"\n".join(lines)))
    monkeypatch.chdir(SHARED / "tokenizers")
    val = SHARED / "fineweb_sp1024" / "fineweb_val_000000.bin"
    arguments = f"--source text --files {head} --tokenizer {tokenizer}.model --val-shard {val} {options}"
    assert main([*arguments.split(), "--data", str(tmp_path / "a")]) == 0
    manifest = open_dataset(tmp_path / "a").manifest
    assert (manifest.num_tokens("val"), manifest.val_text_bytes) == (num_tokens, 2_504_867)
    assert manifest.files[0].num_documents == 902


def test_text_with_marked_case_is_prepared_whole(corpus: Path, tmp_path: Path, capsys):
    arguments = f"--source text --files {corpus} --vocab-size 400 --case-ops fused --val-docs 20"
    assert main([*arguments.split(), "--sample-bytes", "20000", "--data", str(tmp_path / "a")]) == 0
    manifest = open_dataset(tmp_path / "a").manifest
    assert manifest.case_ops and manifest.files[0].num_documents == 20
    assert "validation is the first 20 documents of the text" in " ".join(capsys.readouterr().out.split())


DOCS = [sample_text(seed) for seed in range(300)]


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommonDocs:
    """A common text of 300 documents and some repeats, which are all installed."""
    monkeypatch.setattr(common_docs, "DOCS_SPLIT", SplitConfig(val_fraction=0.1, val_max_bytes=3000))
    docs = DocsText([*DOCS, *DOCS[:9]], "manuals", "PSF-2.0", "python 3.11, torch 2.13", 3, 0)
    pinned = common_docs.pin_common(docs, tmp_path / "common", RunLog(quiet=True), 400)
    monkeypatch.setattr(prepare_module, "read_docs", lambda processes: docs)
    monkeypatch.setattr(prepare_module, "DOCS_VOCAB_SIZE", 400)
    monkeypatch.setattr(prepare_module, "load_common", lambda: common_docs.load_common(tmp_path / "common"))
    monkeypatch.setattr(
        prepare_module, "common_tokenizer", lambda: tmp_path / "common" / "docs_400_bpe.model"
    )
    return pinned


def test_the_same_documents_in_any_order_are_the_common_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common: CommonDocs
):
    log = RunLog(tmp_path / "run", quiet=True)
    docs = DocsText(DOCS[::-1], "manuals", "PSF-2.0", "python 3.11, torch 2.13", 3, 0)
    monkeypatch.setattr(prepare_module, "read_docs", lambda processes: docs)
    manifest = prepare_default("docs", tmp_path / "a", 400, log)
    assert common_docs.fingerprint(manifest) == common.fingerprint
    assert (manifest.name, manifest.licence, manifest.revision) == ("docs_400", "PSF-2.0", docs.revision)
    assert manifest.notes[0].startswith("this is the common text")
    assert f"fingerprint {common.fingerprint}, that of the common text" in (tmp_path / "run.log").read_text()
    assert "DIFFERS" not in (tmp_path / "run.log").read_text()


def test_other_versions_of_documents_are_left_out_and_validation_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common: CommonDocs
):
    whole = prepare_default("docs", tmp_path / "whole", 400, RunLog(quiet=True))
    other = [*(f"{text} In version 3.14 too." for text in DOCS), *DOCS[::2]]
    docs = DocsText(other, "manuals", "PSF-2.0", "python 3.14, torch 2.13", 3, 0)
    monkeypatch.setattr(prepare_module, "read_docs", lambda processes: docs)
    log = RunLog(tmp_path / "run", quiet=True)
    part = prepare_default("docs", tmp_path / "part", 400, log)
    assert (part.name, part.val_text_bytes) == ("docs_400_partial", whole.val_text_bytes)
    for name in ("fineweb_val_000000.bin", "docs_400_bpe.model"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert 0 < part.files[1].num_documents <= 150 < whole.files[1].num_documents
    dataset = open_dataset(tmp_path / "part")
    assert "version" not in dataset.vocabulary.decode_tokens(dataset.train_shards()[0])
    said = (tmp_path / "run.log").read_text()
    assert "training DIFFERS from the common text" in said and "Other versions: python 3.14" in said
    assert "NOT that of the common text" in said


def test_the_shipped_text_fits_its_shipped_tokenizer():
    common = common_docs.load_common()
    vocabulary = Vocabulary.load(common_docs.common_tokenizer())
    num_tokens = sum(1 + len(vocabulary.encode_text(text)) for text in common.validation)
    assert (vocabulary.size, len(common.validation), num_tokens) == (512, 106, 66_210)
    assert len(set(common.training)) == 12_177
    assert not {common_docs.exact_digest(text) for text in common.validation} & set(common.training)


def test_the_challenge_is_fetched_with_as_many_shards_as_the_run_reads(tmp_path: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare_module, "fetch_challenge", lambda folder, config, log: asked.append(config))
    prepare_default("challenge", tmp_path / "a", 1024, RunLog(quiet=True), train_shards=20)
    prepare_default("challenge", tmp_path / "a", 1024, RunLog(quiet=True))
    assert [config.train_shards for config in asked] == [20, 8]


def test_another_number_of_pieces_is_fetched_from_where_it_is_published(tmp_path: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare_module, "fetch_challenge", lambda folder, config, log: asked.append(config))
    prepare_default("challenge", tmp_path / "a", 8192, RunLog(quiet=True), train_shards=12)
    assert [(config.variant, config.train_shards, config.with_documents) for config in asked] == [
        ("sp8192", 12, False)
    ]
    assert asked[0].repository == EXPORTS[8192] != EXPORTS[1024]


@pytest.mark.parametrize(("vocab_size", "is_asked_for"), [(8192, True), (4096, False)])
def test_pieces_that_nobody_has_prepared_are_made_from_the_challenges_documents(
    tmp_path: Path, monkeypatch, vocab_size, is_asked_for
):
    fetched, made, log = [], [], RunLog(tmp_path / "run", quiet=True)

    def fetch(folder: Path, config: ChallengeConfig, log: RunLog) -> None:
        fetched.append(config)
        if not config.with_documents:
            raise DataError("the hub has no such dataset")

    monkeypatch.setattr(prepare_module, "fetch_challenge", fetch)
    monkeypatch.setattr(prepare_module, "prepare_text", lambda options, log: made.append(options))
    prepare_default("challenge", tmp_path / "a", vocab_size, log, train_shards=2)
    said = (tmp_path / "run.log").read_text()
    assert ("the hub has no such dataset" in said) is is_asked_for
    assert f"making shards of {vocab_size:,} pieces" in said and "minutes of" in said
    documents = fetched[-1]
    assert (documents.repository, documents.with_documents) == (EXPORTS[1024], True)
    (options,) = made
    assert (options.source, options.data, options.vocab_size) == ("text", tmp_path / "a", vocab_size)
    assert options.text.max_docs == VALIDATION_DOCUMENTS + math.ceil(2 * 100e6 * 3.727 / 3021)
    # The first documents of this file are validation, always.
    assert options.text.files[0].name == DOCUMENTS_NAME


def test_the_challenges_own_shards_are_never_made_from_other_text(tmp_path: Path, monkeypatch):
    def fetch(*rest: object) -> None:
        raise DataError("no network")

    monkeypatch.setattr(prepare_module, "fetch_challenge", fetch)
    with pytest.raises(DataError, match="no network"):
        prepare_default("challenge", tmp_path / "a", 1024, RunLog(quiet=True))


BAD = {
    "--source docs --files x": "--files is for source text; the source is docs",
    "--source challenge --vocab-size 9": "--vocab-size is for source docs or text; the source is challenge",
    "--source text --train-shards 9": "--train-shards is for source challenge; the source is text",
    "--source docs --split.val-fraction 0.1": "--split is for source text; the source is docs",
    "--source challenge --case-ops marks": "--case-ops is for source text; the source is challenge",
    "--source text --vocab-size 9 --files docs_selected.jsonl --val-docs 10000": "would train on the others",
    "--source text": "source text needs either --tokenizer FILE.model or --vocab-size N",
    "--source text --tokenizer a.model --vocab-size 9": "either --tokenizer FILE.model or --vocab-size N",
    "--source text --vocab-size 400 --files none.txt": "none.txt: no such file",
    "--source text --vocab-size 400 --files LICENSE.csv": "LICENSE.csv: .csv is not readable here",
    "--source text --tokenizer none.model --files LICENSE.txt": "none.model: no such file",
    "--source shards": "has no fineweb_train_*.bin or fineweb_val_*.bin",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_options_are_one_line_and_exit_code_2(arguments: str, tmp_path: Path, capsys):
    assert main([*arguments.split(), "--data", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert BAD[arguments] in error
    assert error.startswith("golf prepare: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_options_fail(tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        main(["--source", "docs", "--data", str(tmp_path / "a"), "--vocabsize", "512"])
    assert caught.value.code == 2


def test_ctrl_c_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def stopped(processes: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "read_docs", stopped)
    assert main(["--source", "docs", "--data", str(tmp_path / "a")]) == 130
    assert capsys.readouterr().err.startswith("golf prepare: stopped")


def test_the_module_runs_as_a_program(tmp_path: Path):
    command = [sys.executable, "-m", "golf.prepare", "--source", "shards", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("golf prepare: ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_docs_of_this_installation_are_most_of_the_common_text(tmp_path: Path):
    manifest = prepare_default("docs", tmp_path / "a", 512, RunLog(quiet=True))
    common = common_docs.load_common()
    assert manifest.num_tokens("val") == 66_210
    assert manifest.files[1].num_documents > 0.5 * len(common.training)
    is_whole = manifest.name == "docs_512"
    assert (common_docs.fingerprint(manifest) == common.fingerprint) is is_whole
