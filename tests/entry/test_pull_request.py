"""Pull requests to the challenge, made in clones that git made."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from entry_toys import audit, draw_nothing, edit, make_results, make_run, scale_documents
from record_toys import make_record
from tiny_samples import write_tiny_dataset

from golf.data.manifest import open_shards
from golf.data.reference import CANONICAL_BYTES
from golf.data.shards import DataError, read_shard
from golf.entry.build import build
from golf.entry.challenge_run import Layout, find_text, make_dataset
from golf.entry.pull_request import Asked, best_public, fit_readme, make_pull_request
from golf.entry.results import read_results
from golf.entry.submission import TOOLKIT
from golf.programs.submit import main

ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "records/track_non_record_16mb/2026-11-27_docs-one-minute"
WHO = ("--author", "Ann Author", "--github-id", "ann")
SCRIPT = b'''"""Says what it was given."""
import os
import sys

shards, tokenizer = sorted(os.listdir(os.environ["DATA_PATH"])), os.path.isfile(os.environ["TOKENIZER_PATH"])
raise RuntimeError(f"saw {sorted(os.listdir())} {shards} {tokenizer} {sys.argv[1:]} {os.environ['SEED']}")
'''


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A work tree with the challenge's folders, and a bare repository as its origin."""
    folder = tmp_path / "parameter-golf"
    for track in ("track_10min_16mb", "track_non_record_16mb"):
        (folder / "records" / track).mkdir(parents=True)
        (folder / "records" / track / "old.md").write_text("An earlier record.\n")
    (folder / "README.md").write_text("# Parameter Golf\n")
    (folder / ".gitignore").write_text("data/datasets\ndata/tokenizers\nlogs/\n")
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(folder, "init", "-q", "-b", "main")
    for name, value in (("user.name", "A"), ("user.email", "a@b.c"), ("github.user", "")):
        git(folder, "config", name, value)
    git(folder, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "push", "-q", "origin", "main")
    return folder


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry of three seeds whose logs state what its results do."""
    return toy_entry(tmp_path, monkeypatch)


def toy_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int = 0, **changes: object) -> Path:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    runs = [make_run(tmp_path / f"runs/{seed}", seed, script=SCRIPT) for seed in (42, 7, 99)]
    for run in runs:
        edit(run, config__model__context=16, config__model__vocab_size=320, **changes)
        if num_bytes:
            scale_documents(run, num_bytes)
        results = read_results(run / "results.json")
        size, lines = results.packing, [f"run {run.name}, seed {results.seed}"]
        lines.append(f"size code_bytes:{size.code_bytes} artifact_bytes:{size.artifact_bytes}")
        lines.append(f"Total submission size: {size.total_bytes} bytes")
        lines += [
            f"stage name:{stage.name} val_bpb:{stage.tally.bits_per_byte:.8g} val_loss:"
            f"{stage.tally.nats_per_token:.8g} windows:{stage.windows} tokens_scored:"
            f"{stage.tally.num_tokens} bytes_scored:{stage.tally.num_bytes}"
            for stage in results.stages
        ]
        (run / "run.log").write_text("\n".join(lines) + "\n")
        audit(run)
    return build(
        runs, tmp_path / "records", "track_non_record_16mb", "A tiny network.", None, TOOLKIT, TOOLKIT
    )


def added(clone: Path) -> list[str]:
    """What lies in the clone beyond its first commit."""
    return git(clone, "status", "--porcelain", "--untracked-files=all", "--ignored").splitlines()


def row(said: str, name: str) -> str:
    """The line of one check."""
    (found,) = re.findall(rf"^  {re.escape(name)}  +(\w+  +.+)$", said, re.M)
    return " ".join(found.split())


def test_the_committed_entry_becomes_a_pull_request_that_its_own_script_has_run_for(clone, tmp_path, capfd):
    text = tmp_path / "text.md"
    arguments = [str(ENTRY), "--into", str(clone), "--seconds", "0.5", "--pr-text", str(text), *WHO]
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert re.match(r"passed under torchrun .* [1-9]\d* steps, packed and scored", row(said, "script runs"))
    assert row(said, "validation text").startswith("warning 112,523 bytes of docs_512; expected all 151.08")
    folder = clone / "records/track_non_record_16mb" / ENTRY.name
    names = ["README.md", "requirements.txt", "submission.json", "train_gpt.py", "train_seed42.log"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "train_gpt.py").read_bytes() == (ENTRY / "train_gpt.py").read_bytes()
    readme = (folder / "README.md").read_text()
    assert "training.svg" not in readme and "## Training\n" not in readme and "--score" not in readme
    assert "By Ann Author (ann), " in readme and readme.count("torchrun") == 1
    stored = json.loads((folder / "submission.json").read_text())
    assert (stored["author"], stored["github_id"], stored["track"]) == (
        "Ann Author",
        "ann",
        "non-record-16mb",
    )
    assert stored["val_bpb"] == pytest.approx(1.6204118) and stored["bytes_total"] == 2_376_158
    # The commands as they are printed; afterwards the branch differs from main by this folder alone.
    typed = said.partition("Type, with your fork as origin:\n\n")[2].partition("\n\n")[0]
    subprocess.run(["bash", "-e", "-c", typed], check=True, capture_output=True)
    changed = git(tmp_path / "origin.git", "diff", "--name-status", "main", ENTRY.name).split()
    assert changed[::2] == ["A"] * 5
    assert changed[1::2] == [f"records/track_non_record_16mb/{ENTRY.name}/{name}" for name in names]
    title = "Non-record: docs-one-minute, val_bpb 1.6204 (one seed)"
    assert text.read_text().startswith(f"{title}\n\n## Summary\n") and title in typed
    assert "SEED=42 RUN_ID=seed42 torchrun --standalone" in text.read_text()
    assert str(tmp_path) not in text.read_text() and str(ROOT) not in text.read_text()


def test_a_script_that_fails_under_torchrun_is_told_with_what_it_saw_and_its_copy_removed(
    entry, clone, dataset_folder, capfd
):
    """It sees its own folder, the clone's data and the challenge's variables."""
    make_dataset(clone / "data", dataset_folder, Layout(320), 1)
    before = added(clone)
    assert main([str(entry), "--into", str(clone), *WHO]) == 1
    said = capfd.readouterr().out
    names = ["README.md", "requirements.txt", "submission.json", "train_gpt.py"]
    names += [f"train_seed{seed}.log" for seed in (42, 7, 99)]
    saw = f"{names} ['fineweb_train_000000.bin', 'fineweb_val_000000.bin'] True ['--max-tokens', '32'] 42"
    assert row(said, "script runs") == (
        f"failed it ended with 1: RuntimeError: saw {saw} (on the challenge's data)"
    )
    assert "the script's last lines:" in said and said.rstrip().endswith("--keep leaves it for a look")
    assert "git switch" not in said and added(clone) == before


def test_without_text_the_run_is_skipped_and_the_exit_code_says_so(entry, clone, capfd):
    assert main([str(entry), "--into", str(clone), "--keep", "--with", "results.json", *WHO]) == 1
    said = capfd.readouterr().out
    assert row(said, "script runs").startswith("skipped no text: give --data DIR, a dataset of 320 pieces")
    assert said.count("  passed  ") == 9 and "not ready: script runs\n" in said
    target = clone / "records/track_non_record_16mb" / entry.name
    assert (target / "results.json").read_bytes() == (entry / "results.json").read_bytes()
    assert "`audit.json`" not in (target / "README.md").read_text()
    assert main([str(entry), "--into", str(clone), "--seconds", "0", *WHO]) == 2
    assert "is there already; move it away" in capfd.readouterr().err


def spoil_log(entry: Path, old: str, new: str) -> None:
    path = entry / "train_seed7.log"
    path.write_text(re.sub(old, new, path.read_text()))


def no_readme(entry: Path, clone: Path) -> None:
    (entry / "README.md").unlink()


def no_log(entry: Path, clone: Path) -> None:
    (entry / "train_seed7.log").unlink()


def logs_ignored(entry: Path, clone: Path) -> None:
    with (clone / ".git/info/exclude").open("a") as file:
        file.write("*.log\n")


def no_blurb(entry: Path, clone: Path) -> None:
    stored = json.loads((entry / "submission.json").read_text())
    (entry / "submission.json").write_text(json.dumps(stored | {"blurb": "", "date": "soon"}))


def dead_link(entry: Path, clone: Path) -> None:
    with (entry / "README.md").open("a") as file:
        file.write("\nSee [the notes](notes/ideas.md) and [the challenge](https://example.org/a).\n")


def other_figure(entry: Path, clone: Path) -> None:
    text = (entry / "README.md").read_text()
    (entry / "README.md").write_text(re.sub(r"\d\.\d{4,}", "0.1234", text))


def broken_script(entry: Path, clone: Path) -> None:
    (entry / "train_gpt.py").write_text("if:\n")


def longer_script(entry: Path, clone: Path) -> None:
    with (entry / "train_gpt.py").open("ab") as file:
        file.write(b"#" * 16_000_000)


def other_artifact(entry: Path, clone: Path) -> None:
    (entry / "artifact_seed7.bin").write_bytes(b"other")


def other_score(entry: Path, clone: Path) -> None:
    spoil_log(entry, r"(test_time_trained val_bpb:)\d", r"\g<1>9")


def other_size(entry: Path, clone: Path) -> None:
    spoil_log(entry, r"Total submission size: \d", "Total submission size: 9")


def other_seed(entry: Path, clone: Path) -> None:
    spoil_log(entry, "seed 7", "seed 8\nval_bpb:nan val_loss:nan")


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (no_readme, "files", "the entry has no README.md"),
        (no_readme, "README.md", "the entry has none"),
        (no_log, "files", "the entry has no train_seed7.log"),
        (no_log, "log", "there is no log of seed 7"),
        (logs_ignored, "files", "git ignores train_seed42.log, train_seed7.log, train_seed99.log"),
        (no_blurb, "submission.json", "blurb is ''; expected a value of type str; date is 'soon'"),
        (dead_link, "README.md", "points to notes/ideas.md, which is not in the folder"),
        (other_figure, "README.md", "does not state val_bpb"),
        (broken_script, "script compiles", "invalid syntax"),
        (broken_script, "size", "train_gpt.py is not the script that seed 42 charged"),
        (broken_script, "golf check", "script-syntax"),
        (longer_script, "size", "bytes; the limit is 16,000,000"),
        (other_artifact, "size", "artifact_seed7.bin is not the artifact that was scored"),
        (other_score, "log", "train_seed7.log states val_bpb 9."),
        (other_size, "log", "train_seed7.log states 9"),
    ],
)
def test_each_check_fails_once_and_says_what_is_wrong(entry, clone, capfd, spoil, check, says):
    spoil(entry, clone)
    assert main([str(entry), "--into", str(clone), "--seconds", "0", *WHO]) == 1
    found = row(capfd.readouterr().out, check)
    assert found.startswith("failed ") and says in found
    assert added(clone) == []


def test_nobody_submits_for_the_toolkit_and_git_knows_who_does(entry, clone, capfd):
    assert main([str(entry), "--into", str(clone), "--seconds", "0"]) == 1
    assert row(capfd.readouterr().out, "author") == "failed github_id unknown: give --author and --github-id"
    git(clone, "config", "github.user", "ann")
    assert main([str(entry), "--into", str(clone), "--seconds", "0"]) == 1
    assert row(capfd.readouterr().out, "author") == "passed A, ann on GitHub"


def test_what_is_no_entry_or_no_clone_is_refused_in_one_line_and_nothing_is_written(
    entry, clone, tmp_path, capfd
):
    local, empty = tmp_path / "records/local/2026-01-01_a", tmp_path / "empty"
    shutil.copytree(entry, local)
    empty.mkdir()
    half = tmp_path / "half"
    git(tmp_path, "init", "-q", str(half))

    def refuses(says: str, *arguments: object) -> None:
        assert main([*map(str, arguments), "--seconds", "0"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("golf submit: ") and says in line
        assert not list((clone / "records").glob("*/2*"))

    refuses("empty has no results.json", empty, "--into", clone, "--record-track", "track_10min_16mb")
    refuses("lies in local/, which is no track of the challenge; give --record-track", local, "--into", clone)
    refuses("is no folder; expected a clone of the challenge", entry, "--into", tmp_path / "none")
    refuses("not a git repository", entry, "--into", empty)
    refuses("lies in the work tree", entry, "--into", clone / "records")
    refuses("half: has no README.md", entry, "--into", half)
    refuses("--with ../x: ", entry, "--into", clone, "--with", "../x")
    refuses("--data records is for the trial", entry, "--into", clone, "--data", "records")
    refuses("is for track_10min_16mb; the track is", entry, "--into", clone, "--against", entry)
    refuses("such file", entry, "--into", clone, "--with", "none.json")
    (clone / "README.md").write_text("changed\n")
    git(clone, "add", "README.md")
    refuses("README.md is staged and would become part of the pull request", entry, "--into", clone)
    git(clone, "restore", "--staged", ".")
    gone = clone / "records/track_non_record_16mb" / entry.name
    gone.mkdir()
    (gone / "a.md").write_text("a\n")
    git(clone, "add", str(gone))
    git(clone, "commit", "-q", "-m", "second")
    shutil.rmtree(gone)
    refuses("the work tree is not clean in records/track_non", entry, "--into", clone)


def test_an_interrupted_check_leaves_nothing_in_the_clone(entry, clone, dataset_folder, monkeypatch):
    def interrupted(*arguments: object) -> None:
        assert added(clone)
        raise KeyboardInterrupt

    monkeypatch.setattr("golf.entry.pull_request.run_in_layout", interrupted)
    assert main([str(entry), "--into", str(clone), "--data", str(dataset_folder), *WHO]) == 130
    assert added(clone) == []


def test_a_record_is_claimed_where_the_rule_holds_and_warned_of_with_the_numbers_where_not(
    clone, tmp_path, monkeypatch
):
    box, slow = {"hardware": "8 x NVIDIA H100 80GB HBM3"}, {"prepare": 1.0, "train": 599.0, "calibrate": 2.5}
    environment = make_results(7, b"")["environment"] | box
    entry = toy_entry(tmp_path, monkeypatch, CANONICAL_BYTES, environment=environment, seconds=slow)
    asked = Asked("track_10min_16mb", seconds=0, author="Ann", github_id="ann")
    made = make_pull_request(entry, clone, asked)
    results = {check.name: check for check in made.checks}
    warned = {name for name, check in results.items() if check.result == "warning"}
    assert results["time"].detail == "training 601.5 s and evaluation 6.2 s; each at most 600 s"
    assert warned == {"time"} and made.title.startswith("Record: tiny run, val_bpb 0.0000 (3-")
    assert results["record"].detail.startswith("0.00000 against 1.05650 of #2135: the gain, 1.05650 bpb")
    assert "torchrun --standalone --nproc_per_node=8" in made.body and "- [ ] time: " in made.body
    shutil.rmtree(made.target)
    other = make_record(tmp_path / "others")
    against = Asked("track_10min_16mb", seconds=0, against=entry, author="Ann", github_id="ann")
    assert not best_public().documents and other.is_dir()
    made = make_pull_request(entry, clone, against)
    (record,) = (check for check in made.checks if check.name == "record")
    assert record.result == "warning" and "is 0.00 times 0.005 nats per token, p = " in record.detail
    assert made.title.startswith("10min_16mb: ")


def test_a_readme_keeps_its_words_and_loses_what_points_to_files_left_behind():
    text = (
        "# A\n\nWhy it works, see [the plot](training.svg) and [here](https://a.b/training.svg).\n\n"
        "## Training\n\n![training](training.svg)\n\n## Bytes\n\n- `a.bin`: 5 bytes\n\n"
        "## Reproduce\n\nrun `a.bin`\n\n## Notes\n\n- Audited (`audit.json`).\n"
        "- see audit.json. my_audit.json\n"
    )
    assert fit_readme(text, ["a.bin", "audit.json", "training.svg"], "## Reproduce\n\nso\n") == (
        "# A\n\nWhy it works, see the plot and [here](https://a.b/training.svg).\n\n"
        "## Bytes\n\n- `a.bin` (not in this folder): 5 bytes\n\n"
        "## Reproduce\n\nso\n\n## Notes\n\n- Audited.\n- see audit.json (not in this folder). my_audit.json\n"
    )
    assert fit_readme("# A\n", [], "## Reproduce\n\nso\n") == "# A\n\n## Reproduce\n\nso\n"


def test_a_small_dataset_of_the_challenges_layout_is_cut_at_documents(dataset_folder, tmp_path):
    layout, whole = Layout(320), tmp_path / "whole"
    make_dataset(tmp_path / "data", dataset_folder, layout, 1)
    assert layout.is_in(tmp_path / "data") and not layout.is_in(dataset_folder)
    shards = tmp_path / "data" / layout.shards
    train, val = (np.array(read_shard(shards / f"fineweb_{split}_000000.bin")) for split in ("train", "val"))
    source = read_shard(dataset_folder / "fineweb_train_000000.bin")
    assert (train == source[: len(train)]).all() and 16 <= len(train) <= 34
    assert (train[-2:] == 1).any() and train[0] == val[0] == 1 and len(val) >= 2
    dataset = open_shards(shards, tmp_path / "data" / layout.tokenizer)
    assert dataset.vocabulary.size == 320
    # Without training shards, as an entry brings its text along, and without a manifest.
    shutil.copytree(tmp_path / "data", whole)
    validation = "fineweb_val_000000.bin"
    shutil.copyfile(dataset_folder / validation, whole / layout.shards / validation)
    (whole / layout.shards / "fineweb_train_000000.bin").unlink()
    make_dataset(tmp_path / "own", whole / layout.shards, layout, 1)
    train = np.array(read_shard(tmp_path / "own" / layout.shards / "fineweb_train_000000.bin"))
    source = np.array(read_shard(dataset_folder / validation))
    assert (train == source[len(val) :][: len(train)]).all() and train[0] == 1
    with pytest.raises(DataError, match="its tokenizer has 320 pieces; the entry needs 512"):
        make_dataset(tmp_path / "no", dataset_folder, Layout(512), 1)
    with pytest.raises(DataError, match="tokens to train on; the entry's context of 512 needs 8,192"):
        make_dataset(tmp_path / "no", dataset_folder, layout, 512)
    assert not (tmp_path / "no").exists()


def test_the_text_given_comes_before_the_clones_and_that_before_the_entrys(clone, dataset_folder, tmp_path):
    layout, entry = Layout(320), tmp_path / "entry"
    assert find_text(layout, clone, entry, None) is None
    write_tiny_dataset(entry / "data", (dataset_folder / "tiny.model").read_bytes())
    assert find_text(layout, clone, entry, None) == (entry / "data", "the entry's own text")
    make_dataset(clone / "data", dataset_folder, layout, 1)
    assert find_text(layout, clone, entry, None) == (clone / "data", "the challenge's data")
    given = find_text(layout, clone, entry, dataset_folder)
    assert given is not None and given.folder == dataset_folder


def test_commands_are_quoted_for_a_shell(entry, clone, tmp_path):
    spaced = tmp_path / "a clone's"
    os.rename(clone, spaced)
    made = make_pull_request(entry, spaced, Asked("track_non_record_16mb", seconds=0))
    assert shlex.split(made.commands[0]) == ["cd", str(spaced)]
