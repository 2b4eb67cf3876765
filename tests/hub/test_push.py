"""An entry goes to the hub and comes back the same, and each failure is one line that says what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from entry_toys import draw_nothing
from huggingface_hub import ModelCard, constants
from writable_hub import Repository

from eval_bpb import main as score
from golf.chat import main as chat
from golf.entry.results import read_entry_results
from golf.export.__main__ import main as export
from golf.hub.address import HubError
from golf.hub.fetch import local_path
from golf.hub.push import main as push
from ttt import main as score_adapting


def send_entry(desk, name: str = "owner/tiny", *options: str) -> None:
    assert push([str(desk.entry), "--repo", name, *options]) == 0


def test_an_entry_is_read_back_byte_for_byte_without_its_programs(desk):
    send_entry(desk)
    sent = desk.hub.files("owner/tiny")
    local = {path.name for path in desk.entry.iterdir() if path.is_file()} - {".gitignore"}
    assert {name for name in sent if "/" not in name} == local
    assert {name for name in sent if "/" in name} == {
        f"data/{name}" for name in ("manifest.json", "tiny.model", "fineweb_val_000000.bin")
    }
    for name in set(sent) - {"README.md"}:
        assert sent[name] == (desk.entry / name).read_bytes()
    assert any(method == "PUT" for method, _ in desk.hub.requests), "nothing went through large storage"
    folder = local_path(Path("hf://owner/tiny"))
    fetched = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert set(fetched) == {"artifact_seed7.bin"} | {name for name in sent if "/" in name}
    for name, path in fetched.items():
        assert path.read_bytes() == (desk.entry / name).read_bytes()


def test_an_address_is_scored_as_the_folder_is(desk, tmp_path):
    send_entry(desk)
    for program, options in ((score, []), (score_adapting, ["--max-tokens", "100"])):
        found = []
        for place in (str(desk.entry), "hf://owner/tiny"):
            assert program([place, *options, "--json", str(tmp_path / "score.json")]) == 0
            found.append(json.loads((tmp_path / "score.json").read_text())["stages"][-1]["tally"])
        assert found[0] == found[1]


def test_both_directions_follow_the_environment_of_the_hubs_client(desk, tmp_path):
    """In processes of their own, which read it when they start."""
    environment = os.environ | {
        "HF_ENDPOINT": desk.hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def call(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    call("-m", "golf.hub.push", str(desk.entry), "--repo", "owner/tiny")
    reading = "from pathlib import Path; from golf.hub.fetch import local_path; print(local_path(Path({!r})))"
    folder = Path(call("-c", reading.format("hf://owner/tiny")).strip())
    assert folder.is_relative_to(tmp_path / "home")
    for name in ("artifact_seed7.bin", "data/tiny.model"):
        assert (folder / name).read_bytes() == (desk.entry / name).read_bytes()


def test_an_address_chats_as_the_folder_does(desk, capsys):
    send_entry(desk)
    said = []
    for place in (str(desk.entry), "hf://owner/tiny"):
        capsys.readouterr()
        assert chat([place, "--prompt", "the", "--max-tokens", "8", "--seed", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_offline_what_was_fetched_before_is_read(desk, monkeypatch):
    send_entry(desk)
    folder = local_path(Path("hf://owner/tiny"))
    desk.hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_path(Path("hf://owner/tiny")) == folder
    with pytest.raises(HubError, match="only what was fetched before"):
        local_path(Path("hf://owner/other"))
    assert not desk.hub.requests


def test_the_card_states_what_was_scored_in_the_hubs_own_schema(desk):
    send_entry(desk, "owner/tiny", "--licence", "mit")
    card = ModelCard(desk.hub.files("owner/tiny")["README.md"].decode())
    assert card.text.strip().startswith((desk.entry / "README.md").read_text().strip())
    assert "golf chat hf://owner/tiny\ngolf score hf://owner/tiny\n" in card.text
    data = card.data
    assert (data.license, data.pipeline_tag, data.tags) == ("mit", "text-generation", ["parameter-golf"])
    results = read_entry_results(desk.entry / "results.json")[7]
    stated = {each.metric_args["stage"]: each for each in data.eval_results}
    assert list(stated) == [stage.name for stage in results.stages]
    for stage in results.stages:
        found = stated[stage.name]
        assert found.metric_value == pytest.approx(stage.tally.bits_per_byte, abs=1e-12)
        assert found.metric_args["bytes_scored"] == stage.tally.num_bytes
        assert found.dataset_args["bytes"] == results.data.validation_bytes
        assert ("not in this repository" in found.metric_name) == (stage.name in ("last", "averaged"))


def test_metadata_that_the_readme_has_already_stay(desk, tmp_path):
    entry = shutil.copytree(desk.entry, tmp_path / "entry")
    text = (entry / "README.md").read_text()
    (entry / "README.md").write_text(f"---\nlicense: apache-2.0\nlanguage: en\ntags: [mine]\n---\n{text}")
    assert push([str(entry), "--repo", "owner/tiny"]) == 0
    data = ModelCard(desk.hub.files("owner/tiny")["README.md"].decode()).data
    assert (data.license, data.language, data.tags) == ("apache-2.0", "en", ["mine", "parameter-golf"])


def test_one_tag_that_the_readme_has_stays_one(desk, tmp_path):
    entry = shutil.copytree(desk.entry, tmp_path / "entry")
    text = (entry / "README.md").read_text()
    (entry / "README.md").write_text(f"---\ntags: mine\n---\n{text}")
    assert push([str(entry), "--repo", "owner/tiny"]) == 0
    assert ModelCard(desk.hub.files("owner/tiny")["README.md"].decode()).data.tags == [
        "mine",
        "parameter-golf",
    ]


def test_a_public_repository_gets_nothing_that_is_to_be_private(desk, capsys):
    send_entry(desk)
    before = desk.hub.repositories["model", "owner/tiny"].newest
    assert push([str(desk.entry), "--repo", "owner/tiny", "--private", "--exist-ok"]) == 2
    assert "owner/tiny: exists and is public; leave out --private" in one_line(capsys)
    assert desk.hub.repositories["model", "owner/tiny"].newest == before
    for options in ([], ["--exist-ok"]):
        send_entry(desk, "owner/hidden", "--private", *options)


def test_a_tokenizer_of_any_name_is_found_again_and_an_address_is_exported(desk, tmp_path, monkeypatch):
    entry = shutil.copytree(desk.entry, tmp_path / "entry")
    tokenizer = (entry / "data" / "tiny.model").rename(tmp_path / "README.md")
    shutil.rmtree(entry / "data")
    assert push([str(entry), "--repo", "owner/tiny", "--tokenizer", str(tokenizer)]) == 0
    assert desk.hub.files("owner/tiny")["tokenizer.model"] == tokenizer.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert export(["hf://owner/tiny", "--to", "safetensors"]) == 0
    assert (tmp_path / "exports" / "tiny-artifact_seed7-safetensors" / "model.safetensors").is_file()


def test_a_dry_run_shows_what_a_push_sends_and_needs_no_network(desk, capsys, monkeypatch):
    send_entry(desk)
    sent = desk.hub.files("owner/tiny")
    capsys.readouterr()
    desk.hub.requests.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    send_entry(desk, "owner/tiny", "--dry-run")
    shown = capsys.readouterr().out
    rows = dict(line.split() for line in shown.splitlines() if len(line.split()) == 2 and "." in line)
    assert {name: int(rows[name]) for name in sent} == {name: len(data) for name, data in sent.items()}
    assert "pipeline_tag: text-generation" in shown and not desk.hub.requests


def test_a_finished_run_is_sent_as_the_entry_that_it_makes(desk, monkeypatch):
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    assert push([str(desk.run), "--repo", "owner/run", "--private"]) == 0
    assert desk.hub.repositories["model", "owner/run"].private
    sent = desk.hub.files("owner/run")
    assert sent["artifact_seed7.bin"] == (desk.run / "artifact.bin").read_bytes()
    assert sent["tiny.model"] == (desk.run / "tiny.model").read_bytes()
    assert (local_path(Path("hf://owner/run")) / "tiny.model").is_file()


def test_an_update_leaves_no_artifact_of_an_earlier_push(desk, capsys):
    send_entry(desk)
    repository = desk.hub.repositories["model", "owner/tiny"]
    repository.add_commit(
        {**repository.files, "artifact_seed1.bin": b"1", "audit.json": b"{}", "notes.txt": b"mine"}
    )
    assert score(["hf://owner/tiny"]) == 2
    assert "give one of them: hf://owner/tiny/artifact_seed" in capsys.readouterr().err
    assert local_path(Path("hf://owner/tiny/artifact_seed7.bin")).is_file()
    send_entry(desk, "owner/tiny", "--exist-ok")
    said = capsys.readouterr().out
    for name in ("artifact_seed1.bin", "audit.json"):
        assert f"removed from the repository: {name}" in said and name not in repository.files
    assert repository.files["notes.txt"] == b"mine"


def test_a_revision_is_the_state_of_that_commit(desk):
    send_entry(desk)
    repository = desk.hub.repositories["model", "owner/tiny"]
    first = repository.newest
    repository.add_commit({**repository.files, "artifact_seed7.bin": b"another"})
    assert (local_path(Path("hf://owner/tiny")) / "artifact_seed7.bin").read_bytes() == b"another"
    at_first = local_path(Path(f"hf://owner/tiny@{first}")) / "artifact_seed7.bin"
    assert at_first.read_bytes() == (desk.entry / "artifact_seed7.bin").read_bytes()


def test_a_push_that_fails_after_the_repository_was_made_says_how_to_go_on(desk, capsys):
    desk.hub.no_commits = True
    assert push([str(desk.entry), "--repo", "owner/tiny"]) == 2
    error = capsys.readouterr().err
    assert "no right to write there (403)" in error and "with --exist-ok the same command goes on" in error
    desk.hub.no_commits = False
    send_entry(desk, "owner/tiny", "--exist-ok")
    assert "artifact_seed7.bin" in desk.hub.files("owner/tiny")


def test_files_that_the_hub_leaves_out_are_named(desk, capsys):
    desk.hub.ignored = {"artifact_seed7.bin"}
    assert push([str(desk.entry), "--repo", "owner/tiny"]) == 2
    assert "the hub left out artifact_seed7.bin; its .gitignore" in one_line(capsys)


def one_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("golf")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("token", "arguments", "expected"),
    [
        ("", ["--repo", "owner/tiny"], "there is no token, or it is not valid (401); `hf auth login`"),
        ("hf_reader", ["--repo", "owner/tiny"], "the token has no right to write there (403)"),
        ("hf_owner", ["--repo", "owner/there"], "owner/there: exists on the hub; --exist-ok updates it"),
        ("hf_owner", ["--repo", "tiny"], "--repo is 'tiny'; expected USER/NAME"),
        ("hf_owner", ["--repo", "owner/a b"], "expected USER/NAME"),
        ("hf_owner", ["--repo", "owner/tiny", "--licence", "mine"], '"license" must be one of'),
        ("hf_owner", ["--repo", "owner/tiny", "--data", "."], "both was given"),
    ],
)
def test_a_push_that_cannot_be_is_one_line(desk, capsys, monkeypatch, token, arguments, expected):
    assert push([str(desk.entry), "--repo", "owner/there"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("HF_TOKEN", token)
    assert push([str(desk.entry), *arguments]) == 2
    assert expected in one_line(capsys)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda entry: (entry / "results.json").unlink(), "has no results.json"),
        (lambda entry: (entry / "artifact_seed7.bin").unlink(), "has no artifact_seed7.bin; it is too large"),
        (lambda entry: (entry / "artifact_seed7.bin").write_bytes(b"x"), "the results are of"),
        (lambda entry: (entry / "train_gpt.py").write_bytes(b"x"), "train_gpt.py has sha256"),
        (lambda entry: (entry / "README.md").unlink(), "has no README.md"),
        (lambda entry: (entry / "data" / "tiny.model").write_bytes(b"x"), "tiny.model"),
        (lambda entry: shutil.rmtree(entry / "data"), "the tokenizer of"),
        (lambda entry: (entry / "README.md").write_text("---\n{\n---\n"), "block of metadata on top"),
        (
            lambda entry: (entry / "README.md").write_text("---\ntags: 5\n---\n"),
            "tags in the block of metadata",
        ),
        (lambda entry: (entry / "README.md").write_bytes(b"\xff"), "README.md: is no UTF-8"),
        (lambda entry: (entry / "plot.png").symlink_to(__file__), "plot.png is a link to "),
        (lambda entry: shutil.rmtree(entry), "no such folder; expected an entry or a finished run"),
    ],
)
def test_an_entry_that_is_not_whole_is_not_sent(desk, tmp_path, capsys, monkeypatch, spoil, expected):
    monkeypatch.chdir(tmp_path)
    entry = shutil.copytree(desk.entry, tmp_path / "entry")
    spoil(entry)
    assert push([str(entry), "--repo", "owner/tiny"]) == 2
    assert expected in one_line(capsys)
    assert not desk.hub.requests


def test_a_run_that_is_not_finished_is_not_sent(desk, tmp_path, capsys):
    run = shutil.copytree(desk.run, tmp_path / "run")
    (run / "results.json").unlink()
    assert push([str(run), "--repo", "owner/tiny"]) == 2
    assert "the run is not finished; --resume continues it" in one_line(capsys)


LEADS_NOWHERE = {
    "hf://owner/none": "no such repository, or one that needs a token (404)",
    "hf://owner/tiny@v9": "the repository has no such revision",
    "hf://owner/tiny/artifact_seed8.bin": "the repository has no such file",
    "hf://owner/empty": "holds no artifact; expected artifact.bin or artifact_seed<N>.bin",
    "hf://owner/hidden": "no such repository, or one that needs a token (404)",
    "hf://datasets/owner/empty": "no such repository",
    "hf://tiny": "hf://tiny is no address; expected hf://USER/NAME",
    "hf://owner/tiny/../../x": "is no address",
}


def test_an_address_that_leads_nowhere_is_one_line(desk, capsys, monkeypatch):
    send_entry(desk)
    send_entry(desk, "owner/hidden", "--private")
    desk.hub.repositories["model", "owner/empty"] = Repository(private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    for address, expected in LEADS_NOWHERE.items():
        capsys.readouterr()
        assert chat([address, "--prompt", "the"]) == 2
        assert expected in one_line(capsys)


def test_an_endpoint_or_a_token_that_cannot_be_is_one_line(desk, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_schlüssel")
    assert push([str(desk.entry), "--repo", "owner/tiny"]) == 2
    assert "owner/tiny: the token is not of ASCII" in one_line(capsys)
    monkeypatch.setattr(constants, "ENDPOINT", "http://[::1")
    for program, arguments in (
        (push, [str(desk.entry), "--repo", "owner/tiny"]),
        (score, ["hf://owner/tiny"]),
    ):
        assert program(arguments) == 2
        assert "HF_ENDPOINT is 'http://[::1', which is no address" in capsys.readouterr().err


def test_without_a_network_both_directions_say_so(desk, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert push([str(desk.entry), "--repo", "owner/tiny"]) == 2
    assert "the hub does not answer" in one_line(capsys)
    assert chat(["hf://owner/tiny", "--prompt", "the"]) == 2
    assert "is there a network?" in one_line(capsys)


@pytest.mark.parametrize("option", ["--verify", "--audit", "--prove"])
def test_what_runs_a_script_or_writes_beside_it_asks_for_a_folder(desk, capsys, option):
    assert score(["hf://owner/tiny@v1", option]) == 2
    error = capsys.readouterr().err
    assert f"{option[2:]} takes a folder on this machine" in error
    assert "`hf download owner/tiny --revision v1 --local-dir FOLDER`" in error


def test_more_than_the_limit_is_not_fetched(desk, capsys, monkeypatch):
    send_entry(desk)
    monkeypatch.setattr("golf.hub.fetch.MAX_FETCH_BYTES", 1000)
    assert chat(["hf://owner/tiny", "--prompt", "the"]) == 2
    assert "bytes of weights and text; at most 1,000 are fetched" in one_line(capsys)
