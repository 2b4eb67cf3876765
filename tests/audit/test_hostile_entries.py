"""Each hostile entry is stopped by the line of defence that the table names, and no honest one is accused."""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile_entries
import numpy as np
import pytest
import torch
from hostile_entries import HONEST, HOSTILE, QUIET, SCORERS, Surroundings, artifact_of

import eval_bpb
from golf.audit.isolate import Limits, Outcome, find_mechanism, run_isolated, run_project
from golf.audit.rescore import (
    ArtifactScorer,
    AuditConfig,
    audit_artifact,
    audit_scorer,
    choose_stream,
    probe_memory,
)
from golf.check.check import check_folder, render
from golf.data.manifest import open_dataset
from golf.entry import verify
from golf.evaluate import EvaluateConfig, read_model, read_settings
from golf.score.scorer import Scoring
from golf.system.clock import StageClock

PROBING = AuditConfig(targets=3, chunks=2)
FEW = Limits(seconds=3, memory_bytes=1 << 29, processes=64, scratch_bytes=1 << 26, output_bytes=1 << 20)
VERIFIED = [name for name, each in HOSTILE.items() if each.line not in ("check", "probes")]
QUICK = {
    *("states less than it makes", "behaves where it is verified", "claims a part as the whole"),
    *("counts the leading space twice", "lets the rows of a batch read each other"),
    *("is scored on a part under the same name", "counts less code than it has"),
    *("shows one artifact as three seeds", "has a link as artifact", "states nan"),
    *("writes its figures as a link", "writes infinite figures", "reads the environment"),
    *("reads the home folder", "changes the text", "phones loopback", "forks a daemon"),
    *("prints without end", "steers the terminal", "hides code in a module beside it"),
    *("is as it was made", "works in several processes"),
}
"""One or more of each line of defence, which take no time; the others are slow together."""
needs_isolation = pytest.mark.skipif(find_mechanism() is None, reason="nothing isolates a program here")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Surroundings, list[str]]]:
    """The verifier's own files and a server, with what it heard."""
    with hostile_entries.surroundings(tmp_path_factory.mktemp("verifier")) as made:
        yield made


@pytest.fixture(scope="module")
def place(machine: tuple[Surroundings, list[str]]) -> Surroundings:
    return machine[0]


@pytest.fixture(scope="module")
def true_entry(place: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_entries.make_true_entry(tmp_path_factory.mktemp("true") / "entry", place.data)


@pytest.fixture
def entry(true_entry: Path, tmp_path: Path) -> Path:
    return shutil.copytree(true_entry, tmp_path / "entry")


@pytest.fixture(scope="module")
def scoring(place: Surroundings, true_entry: Path) -> Scoring:
    _, model, header = read_model(artifact_of(true_entry), torch.device("cpu"))
    dataset, clock = open_dataset(place.data), StageClock()
    with clock.stage("score"):
        tokens = dataset.validation_tokens(clock)
    return Scoring(model, tokens, dataset.vocabulary, read_settings(header, EvaluateConfig())[0])


def test_there_are_enough_of_both_kinds_and_each_says_what_it_tries() -> None:
    assert len(HOSTILE) + len(SCORERS) >= 100 and len(HONEST) >= 10
    assert all(hostile.tries for hostile in HOSTILE.values())
    assert {hostile.line for hostile in HOSTILE.values()} == set(hostile_entries.Line.__args__)


@pytest.mark.parametrize("scorer_type", [ArtifactScorer, *SCORERS])
def test_a_scorer_that_breaks_a_rule_is_found_by_a_probe(
    scorer_type: type[ArtifactScorer], scoring: Scoring, true_entry: Path
) -> None:
    name, probe = SCORERS.get(scorer_type, ("", ""))
    _, _, header = read_model(artifact_of(true_entry), torch.device("cpu"))
    ttt = replace(read_settings(header, EvaluateConfig())[1], learning_rate=0.5)
    scorer = scorer_type(scoring, None if name == "sliding windows" else ttt, 64)
    stream = choose_stream(scoring.tokens, 129, scoring.vocabulary.bos_id, 0)
    reports, _ = audit_scorer(scorer, stream, PROBING, False, None, QUIET)
    found = {report.probe for report in reports if report.violations}
    assert probe in found if probe else not found


def test_weights_that_know_one_text_better_than_another_of_its_kind_are_found() -> None:
    draw = np.random.default_rng(0)
    training_D, validation_D = draw.normal(3.0, 0.5, (2, 64))
    assert probe_memory(validation_D, training_D).passed
    assert probe_memory(validation_D + 2.0, training_D).passed
    assert probe_memory(validation_D[:8] - 0.5, training_D[:8]).passed
    (said,) = probe_memory(validation_D - 1.0, training_D).violations
    assert "the weights hold some of the validation text" in said


@pytest.mark.parametrize("name", [name for name, each in HOSTILE.items() if each.line == "check"])
def test_the_files_alone_show_it(name: str, entry: Path, place: Surroundings) -> None:
    HOSTILE[name].build(entry, place)
    said = render(check_folder(entry))
    assert re.search(HOSTILE[name].words, said), said
    assert place.secret not in said and all(line.isprintable() for line in said.split("\n"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, each in HOSTILE.items() if each.line == "probes"])
def test_an_audit_shows_it(name: str, entry: Path, place: Surroundings) -> None:
    def violations() -> str:
        artifact = artifact_of(entry)
        found = audit_artifact(artifact, place.data, EvaluateConfig(), PROBING, QUIET, False)
        return "; ".join(text for probe in found["probes"] for text in probe["violations"])

    assert violations() == ""
    HOSTILE[name].build(entry, place)
    assert re.search(HOSTILE[name].words, violations())


# What --verify says of the others.


class Cage:
    """Runs scripts within small limits and notes how they ended; scores an artifact once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.limits: Limits | None = None
        self.scored: dict[tuple[Any, ...], Outcome] = {}
        self.ended: list[str] = []
        """What came out of scripts: why they failed, what they printed, what they attempted."""

    def run_isolated(self, command: Sequence[str], **how: Any) -> Outcome:
        """Runs a script."""
        outcome = run_isolated(command, **{**how, "limits": self.limits or how["limits"]})
        figures = outcome.files.get("figures.json")
        tried = ""
        if figures is not None:
            with suppress(ValueError, LookupError, TypeError, RecursionError):
                tried = str(json.loads(figures.read_bytes()[:200_000])["environment"]["tried"])
        self.ended.append(f"{outcome.failure} {tried} {outcome.stdout[-9999:]!r} {outcome.stderr[-9999:]!r}")
        return outcome

    def run_project(
        self,
        function: str,
        arguments: Sequence[str],
        *,
        inputs: Mapping[str, Path],
        into: Path,
        **how: Any,
    ) -> Outcome:
        """This project's own score of an artifact; the same artifact's is remembered."""
        key = function, *arguments, *(path.read_bytes() for path in inputs.values())
        if key not in self.scored:
            folder = self.folder / str(len(self.scored))
            folder.mkdir()
            self.scored[key] = run_project(function, arguments, inputs=inputs, into=folder, **how)
        outcome = self.scored[key]
        return replace(
            outcome, files={name: shutil.copyfile(path, into / name) for name, path in outcome.files.items()}
        )


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Cage:
    return Cage(tmp_path_factory.mktemp("scores"))


@pytest.fixture
def cage(scores: Cage, place: Surroundings, monkeypatch: pytest.MonkeyPatch) -> Cage:
    scores.ended.clear()
    scores.limits = FEW
    monkeypatch.setattr(verify, "run_isolated", scores.run_isolated)
    monkeypatch.setattr(verify, "run_project", scores.run_project)
    monkeypatch.setattr(verify, "MAX_SCORE_SECONDS", 20.0)
    monkeypatch.setenv("GOLF_TOKEN", place.secret)
    monkeypatch.setenv("HOME", str(place.home))
    return scores


def files_below(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of each file."""
    found = (path for folder in folders for path in folder.rglob("*") if not path.is_dir())
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def traces(place: Surroundings) -> list[str]:
    """Processes and files that carry the marker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if place.marker.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    folders = [
        tempfile.gettempdir(),
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/run",
        "/",
        sys.prefix,
        str(Path.cwd()),
    ]
    folders += [folder for folder in sys.path if Path(folder).is_dir()]
    return found + [str(path) for folder in folders for path in Path(folder).glob(f"*{place.marker}*")]


@pytest.fixture
def unharmed(machine: tuple[Surroundings, list[str]], entry: Path) -> Iterator[Callable[[], None]]:
    """To be called before verifying; afterwards nothing of the verifier's may have changed."""
    place, heard = machine
    before: list[dict[Path, tuple[int, int]]] = []
    with open(place.home / ".ssh" / "id") as secret:
        os.set_inheritable(secret.fileno(), True)
        yield lambda: before.append(files_below(place.root, entry))
    assert files_below(place.root, entry) == before[0]
    assert traces(place) == [] and heard == []


def verification(
    entry: Path, place: Surroundings, cage: Cage, capsys: pytest.CaptureFixture
) -> tuple[int, str]:
    """The exit code of --verify, and all that it and the script said."""
    figures = entry.parent / "verified.json"
    arguments = ["--verify", str(entry), "--data", str(place.data), "--device", "cpu", "--json", str(figures)]
    code = eval_bpb.main(arguments)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).split("\n")), "it steers the terminal"
    said = [out, err, *cage.ended]
    if figures.exists():
        compared = json.loads(figures.read_text())["comparisons"]
        said += [each["what"] for each in compared if not each["agrees"]]
    text = "\n".join(said)
    assert place.secret not in text and "'got " not in text and '"got ' not in text
    return code, text


def cases(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; those that are not quick are marked slow."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


@needs_isolation
@pytest.mark.parametrize("name", cases(VERIFIED))
def test_verification_stops_it(
    name: str,
    entry: Path,
    place: Surroundings,
    cage: Cage,
    unharmed: Callable[[], None],
    capsys: pytest.CaptureFixture,
) -> None:
    hostile = HOSTILE[name]
    hostile.build(entry, place)
    unharmed()
    code, said = verification(entry, place, cage, capsys)
    assert re.search(hostile.words, said, re.S), said
    # What a cage keeps from doing harm may go on to state the truth.
    assert code in ((0, 1, 2) if hostile.line == "cage" else (1, 2)), said


@needs_isolation
@pytest.mark.parametrize("name", cases(HONEST))
def test_an_honest_entry_is_not_accused(
    name: str,
    entry: Path,
    place: Surroundings,
    cage: Cage,
    unharmed: Callable[[], None],
    capsys: pytest.CaptureFixture,
) -> None:
    HONEST[name](entry, place)
    cage.limits = None
    unharmed()
    code, said = verification(entry, place, cage, capsys)
    is_foreign = name == "is of a fork with another artifact"
    assert (code, "reported by the entry, not verified" in said) == (int(is_foreign), is_foreign), said
    assert "DIFFERS" not in said, said


ODD_KINDS = (
    r"pipe as artifact|artifact without|decodes to|giant network|bomb of zstd|frame|behind its|damaged"
)
ODD_ARTIFACTS = [name for name in HOSTILE if re.search(ODD_KINDS, name)]


@needs_isolation
@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_ARTIFACTS)
@pytest.mark.parametrize("command", [["--audit"], ["--prove"], []])
def test_an_odd_artifact_is_one_line_of_every_program(
    name: str, command: list[str], entry: Path, place: Surroundings, capsys: pytest.CaptureFixture
) -> None:
    HOSTILE[name].build(entry, place)
    assert eval_bpb.main([str(entry), *command, "--data", str(place.data), "--device", "cpu"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said.isprintable() and artifact_of(entry).name in said, said
    assert not (entry / "audit.json").exists()


@needs_isolation
@pytest.mark.slow
def test_a_text_that_the_entry_brings_and_a_part_of_it_are_said(
    entry: Path, place: Surroundings, capsys: pytest.CaptureFixture
) -> None:
    HONEST["is scored on a part and says so"](entry, place)
    HONEST["brings its text along"](entry, place)
    assert eval_bpb.main(["--verify", str(entry), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "the text is the entry's own" in said and "a part of the text, its first 400 tokens" in said
