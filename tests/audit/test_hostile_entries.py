"""Each hostile entry is stopped by the line of defence that the table names, and no honest one is accused."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hostile_entries
import pytest
import torch
from hostile_entries import HONEST, HOSTILE, QUIET, SCORERS, Surroundings, artifact_of

from golf.audit.rescore import ArtifactScorer, AuditConfig, audit_artifact, audit_scorer, choose_stream
from golf.check.check import check_folder, render
from golf.data.manifest import open_dataset
from golf.evaluate import EvaluateConfig, read_model, read_settings
from golf.score.scorer import Scoring
from golf.system.clock import StageClock

PROBING = AuditConfig(targets=3, chunks=2)


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


@pytest.mark.parametrize("name", [name for name, each in HOSTILE.items() if each.line == "check"])
def test_the_files_alone_show_it(name: str, entry: Path, place: Surroundings) -> None:
    HOSTILE[name].build(entry, place)
    said = render(check_folder(entry))
    assert re.search(HOSTILE[name].words, said), said
    assert place.secret not in said and all(line.isprintable() for line in said.split("\n"))


@pytest.mark.parametrize("name", [name for name, each in HOSTILE.items() if each.line == "probes"])
def test_an_audit_shows_it(name: str, entry: Path, place: Surroundings) -> None:
    def violations() -> str:
        artifact = artifact_of(entry)
        found = audit_artifact(artifact, place.data, EvaluateConfig(), PROBING, QUIET, False)
        return "; ".join(text for probe in found["probes"] for text in probe["violations"])

    assert violations() == ""
    HOSTILE[name].build(entry, place)
    assert re.search(HOSTILE[name].words, violations())
