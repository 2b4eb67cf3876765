"""All four tasks on a tiny model, through the command too."""

import json
import math
from pathlib import Path

import pytest

from golf.system.log import RunLog
from golf.tasks.__main__ import main
from golf.tasks.files import TaskDataError
from golf.tasks.likelihood import encode_request, likelihoods
from golf.tasks.suite import (
    balanced_examples,
    best_threshold,
    build_prompt,
    count_words,
    detokenize,
    last_number,
    parse_tasks,
    read_gsm8k,
    read_hellaswag,
    read_labeled_lines,
    run_tasks,
    split_articles,
    stated_answer,
)

EVALS = Path(__file__).parents[2].parent / "shared" / "data" / "evals"


def test_hellaswag_takes_the_likeliest_ending(opened, evals_folder):
    (result,) = run_tasks(opened, ["hellaswag"], evals_folder, None, "error", RunLog(quiet=True))
    assert len(result.items) == 6
    item = result.items[2]
    request = encode_request(opened.vocabulary, "Words: the and.  is For it", " the and .")
    (grade,) = likelihoods(opened, [request], RunLog(quiet=True), "test")
    assert item["nats"][0] == pytest.approx(grade.nats, rel=1e-5)
    assert item["chosen"] == item["nats"].index(min(item["nats"]))
    right = sum(i["chosen"] == i["gold"] for i in result.items) / 6
    assert result.metric("accuracy").value == right
    assert result.metric("accuracy").low < right < result.metric("accuracy").high or right in (0, 1)


def test_wikitext_counts_words_and_bytes_of_the_file(opened, evals_folder):
    (result,) = run_tasks(opened, ["wikitext2"], evals_folder, None, "error", RunLog(quiet=True))
    text = (evals_folder / "wikitext2" / "wiki.test.tokens").read_text()
    articles = split_articles(text)
    assert len(result.items) == 3 and " \n" + "".join(articles) == text
    assert sum(item["bytes"] for item in result.items) == len("".join(articles).encode())
    nats = sum(item["nats_disjoint"] for item in result.items)
    words = sum(count_words(article) for article in articles)
    metric = result.metric("word_perplexity_disjoint")
    assert metric.value == pytest.approx(math.exp(nats / words))
    assert metric.low <= metric.value <= metric.high
    tokens = sum(item["tokens"] for item in result.items)
    assert metric.chance == pytest.approx(opened.vocabulary.size ** (tokens / words))


def test_tokenised_text_is_put_back_together():
    shown = 'the film \'s title ( 1 @,@ 200 @-@ 3 @.@ 5 ) , " so " it was : here . Then \n = = Part = = \n'
    wanted = 'the film\'s title (1,200-3.5), "so" it was: here. Then\n== Part ==\n'
    assert detokenize(shown) == wanted


def test_sst2_chooses_its_prompt_on_train_alone(opened, evals_folder):
    (result,) = run_tasks(opened, ["sst2"], evals_folder, None, "error", RunLog(quiet=True))
    tried = result.notes["tried"]
    best = max(row["train_accuracy"] for row in tried)
    chosen = next(row for row in tried if row["train_accuracy"] == best)
    assert (chosen["template"], chosen["shots"]) == (result.notes["template"], result.notes["shots"])
    assert [item["gold"] for item in result.items] == [0, 1, 0, 1, 0]


def test_examples_have_both_labels_in_turn(evals_folder):
    train = read_labeled_lines(evals_folder / "sst2" / "train.tsv", ("0", "1"))
    four, two = balanced_examples(train, 4, 0), balanced_examples(train, 2, 0)
    assert [line.fields["label"] for line in four] == ["1", "0", "1", "0"]
    assert four[:2] == two
    with pytest.raises(TaskDataError, match="6 examples of both labels are needed"):
        balanced_examples(train[:4], 6, 0)


def test_the_threshold_is_where_most_are_right():
    margins = [-3.0, -1.0, 0.5, 2.0, 4.0, 6.0]
    assert best_threshold(margins, [False, False, False, True, True, True]) == 1.25


def test_gsm8k_generates_and_compares_numbers(opened, evals_folder, monkeypatch):
    monkeypatch.setattr("golf.tasks.suite.MAX_NEW_TOKENS", 8)
    monkeypatch.setattr("golf.tasks.suite.NUM_SAMPLES", 2)
    (result,) = run_tasks(opened, ["gsm8k"], evals_folder, None, "error", RunLog(quiet=True))
    assert [item["gold"] for item in result.items] == ["0000", "1000", "2000"]
    assert {metric.name for metric in result.metrics} == {
        "exact_match",
        "exact_match_by_last_number",
        "exact_match_sampled",
    }
    assert result.metric("exact_match").chance == pytest.approx(1 / 3)
    assert all(len(item["sampled_answers"]) == 2 for item in result.items)


def test_answers_are_read_as_numbers():
    assert stated_answer("so it is 4\n#### $5") is None
    assert stated_answer("it is\n#### 1,234.") == "1234"
    assert stated_answer("#### -7.00 and") == "-7"
    assert last_number("first 3, then $1,250.50 of it.") == "1250.50"
    assert last_number("none") is None


def test_a_prompt_has_as_many_examples_as_fit(opened, evals_folder):
    train = read_gsm8k(evals_folder / "gsm8k" / "train.jsonl")
    vocabulary = opened.vocabulary
    all_tokens, five = build_prompt(vocabulary, train[:5], train[5], 10_000)
    fewer, count = build_prompt(vocabulary, train[:5], train[5], len(all_tokens) - 1)
    assert five == 5 and 0 < count < 5 and len(fewer) < len(all_tokens)
    assert "<<" not in vocabulary.decode_tokens(all_tokens)


def test_the_command_writes_every_item(model_folder, evals_folder, tmp_path):
    arguments = [str(model_folder), "--data", str(evals_folder), "--tasks", "wikitext2,hellaswag"]
    assert main([*arguments, "--limit", "2", "--context", "96", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "tasks.json").read_text())
    assert facts["kind"] == "artifact" and facts["limit"] == 2
    assert set(facts["tasks"]) == {"wikitext2", "hellaswag"}
    for task in facts["tasks"]:
        assert len((tmp_path / f"{task}.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("task", ["hellaswag", "sst2", "gsm8k"])
def test_items_longer_than_the_context_are_cut_and_counted(
    model_folder, evals_folder, tmp_path, capsys, task, monkeypatch
):
    monkeypatch.setattr("golf.tasks.suite.MAX_NEW_TOKENS", 8)
    monkeypatch.setattr("golf.tasks.suite.NUM_SAMPLES", 1)
    out = tmp_path / "out"
    arguments = [str(model_folder), "--data", str(evals_folder), "--tasks", task, "--out", str(out)]
    assert main([*arguments, "--context", "6"]) == 0
    notes = json.loads((out / "tasks.json").read_text())["tasks"][task]["notes"]
    assert notes["cut"] > 0
    said = f"{task}: of items longer than the context, {notes['cut']} cut"
    assert said in capsys.readouterr().out
    for item in (out / f"{task}.jsonl").read_text().splitlines():
        assert "correct" in json.loads(item)


@pytest.mark.parametrize("task", ["hellaswag", "sst2", "gsm8k"])
def test_an_item_longer_than_the_context_is_named_if_wanted(
    model_folder, evals_folder, tmp_path, capsys, task
):
    out = tmp_path / "out"
    arguments = [str(model_folder), "--data", str(evals_folder), "--tasks", task, "--out", str(out)]
    assert main([*arguments, "--context", "4", "--long", "error"]) == 2
    assert ", line " in capsys.readouterr().err
    assert main([*arguments, "--context", "4", "--long", "skip"]) == 2
    assert "fits the context of 4 tokens" in capsys.readouterr().err
    assert not out.exists()


def test_names_and_folders_that_do_not_exist_are_said(model_folder, tmp_path, capsys):
    with pytest.raises(TaskDataError, match="no task is called 'mmlu'; expected some of hellaswag"):
        parse_tasks("sst2,mmlu")
    assert main([str(model_folder), "--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.skipif(not EVALS.is_dir(), reason="the public evaluation files are not there")
def test_the_public_files_are_read_whole():
    assert len(read_hellaswag(EVALS / "hellaswag" / "hellaswag_val_1000.jsonl")) == 1000
    assert len(read_gsm8k(EVALS / "gsm8k" / "test.jsonl")) == 1319
    assert len(split_articles((EVALS / "wikitext2" / "wiki.test.tokens").read_text(encoding="utf-8"))) == 62
    assert len(read_labeled_lines(EVALS / "sst2" / "dev.tsv", ("0", "1"))) > 870
