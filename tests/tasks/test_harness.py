"""The same items through lm-eval: its prompts, its counting, this project's model."""

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from tiny_samples import hellaswag_task

from golf.system.log import RunLog
from golf.tasks.harness import HarnessModel, main, register
from golf.tasks.suite import run_tasks, split_articles

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")


def harness_samples(opened, config: dict, tmp_path, monkeypatch) -> list[dict]:
    """lm-eval's record of each item, in the order of the file."""
    from lm_eval.evaluator import simple_evaluate

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = register()(str(opened.path), str(opened.tokenizer), "cpu", opened.context)
    found = simple_evaluate(model, tasks=[config], bootstrap_iters=0)
    return sorted(found["samples"][config["task"]], key=lambda sample: sample["doc_id"])


@needs_lm_eval
def test_hellaswag_agrees_item_by_item(opened, evals_folder, tmp_path, monkeypatch):
    file = evals_folder / "hellaswag" / "hellaswag_val_6.jsonl"
    config = hellaswag_task("hellaswag_here", file)
    (ours,) = run_tasks(opened, ["hellaswag"], evals_folder, None, "error", RunLog(quiet=True))
    theirs = harness_samples(opened, config, tmp_path, monkeypatch)
    assert len(theirs) == len(ours.items) == 6
    for mine, other in zip(ours.items, theirs, strict=True):
        assert mine["nats"] == pytest.approx([-response[0] for response in other["filtered_resps"]], rel=1e-6)
        assert (float(mine["correct"]), float(mine["correct_by_length"])) == (other["acc"], other["acc_norm"])


@needs_lm_eval
def test_wikitext_agrees_article_by_article(opened, evals_folder, tmp_path, monkeypatch):
    from lm_eval.tasks.wikitext import preprocess_wikitext

    articles = split_articles((evals_folder / "wikitext2" / "wiki.test.tokens").read_text())
    file = tmp_path / "pages.jsonl"
    file.write_text("".join(json.dumps({"page": article}) + "\n" for article in articles))
    config = {
        "task": "wikitext_here",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": preprocess_wikitext.wikitext_detokenizer,
        "process_results": preprocess_wikitext.process_results,
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    (ours,) = run_tasks(opened, ["wikitext2"], evals_folder, None, "error", RunLog(quiet=True))
    theirs = harness_samples(opened, config, tmp_path, monkeypatch)
    for mine, other in zip(ours.items, theirs, strict=True):
        assert (-mine["nats_disjoint"], mine["words"]) == pytest.approx(other["word_perplexity"], rel=1e-6)
        assert (-mine["nats_disjoint"], mine["bytes"]) == pytest.approx(other["byte_perplexity"], rel=1e-6)


def test_generation_stops_where_it_is_told(opened):
    model = HarnessModel(str(opened.path), str(opened.tokenizer), "cpu")
    instance = SimpleNamespace(args=("the of", {"until": [" "], "max_gen_toks": 6}))
    free = SimpleNamespace(args=("the of", {"until": [], "max_gen_toks": 6}))
    stopped, whole = model.generate_until([instance, free])
    assert whole.startswith(stopped) and " " not in stopped


@pytest.mark.parametrize("wrong", [{"context": "many"}, {"long": "cut"}, {"seed": "-1"}])
def test_arguments_that_are_wrong_are_named(opened, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}'; expected"):
        HarnessModel(str(opened.path), str(opened.tokenizer), "cpu", **wrong)


def test_a_broken_lm_eval_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("golf.tasks.harness.find_spec", lambda name: object())
    for name in ["lm_eval", *(name for name in sys.modules if name.startswith("lm_eval."))]:
        monkeypatch.setitem(sys.modules, name, None)
    register.cache_clear()
    assert main() == 2
    error = capsys.readouterr().err
    assert "lm-eval cannot be imported" in error and error.count("\n") == 1


def test_without_lm_eval_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("golf.tasks.harness.find_spec", lambda name: None)
    assert main() == 2
    error = capsys.readouterr().err
    assert "pip install 'lm-eval" in error and error.count("\n") == 1
