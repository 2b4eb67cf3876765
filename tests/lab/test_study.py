"""What a study file may say, and the one line it gets otherwise."""

from pathlib import Path

import pytest

from golf.lab.__main__ import main
from golf.lab.study import StudyError, find_study, load_study, override
from golf.presets import PRESETS

HEAD = 'title = "T"\npreset = "cpu"\ntokens = 8192\nset.model.width = 64\n'
BASE = '[[arms]]\nname = "base"\n'
GELU = '[[arms]]\nname = "gelu"\nexpects = "lower"\nclaim = "better"\nset.model.feedforward = "gelu"\n'


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_study_is_its_preset_with_common_and_own_fields_replaced(tmp_path):
    study = load_study(written(tmp_path, HEAD + BASE + GELU))
    base, gelu = study.arms
    assert (base.config.model.width, base.config.model.feedforward) == (64, "relu2")
    assert (gelu.config.model.width, gelu.config.model.feedforward) == (64, "gelu")
    assert base.config.optim == PRESETS["cpu"].config.optim
    batch_tokens = PRESETS["cpu"].config.train.batch_tokens
    assert (base.config.steps, base.config.minutes) == (8192 // batch_tokens, None)
    assert (gelu.claim, gelu.expects, study.seeds) == ("better", "lower", 3)


def test_the_command_line_replaces_the_budget(tmp_path):
    path = written(tmp_path, HEAD + BASE)
    assert load_study(path, minutes=0.5).arms[0].config.minutes == 0.5
    assert (
        load_study(path, tokens=40_960).arms[0].config.steps
        == 40_960 // PRESETS["cpu"].config.train.batch_tokens
    )


def test_a_report_goes_beside_a_study_toml_else_under_docs_in_a_clone_else_to_the_runs(tmp_path, monkeypatch):
    out = Path("out")
    assert find_study(written(tmp_path, ""), out)[1:] == ("mine", Path("docs/studies/mine"))
    assert find_study("switches", out)[2] == Path("docs/studies/switches")
    own = tmp_path / "study.toml"
    own.write_text("")
    assert find_study(str(own), out) == (own, tmp_path.name, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_study("mine.toml", out)[2] == Path("out/mine/report")
    path, name, report = find_study("switches", out)
    assert (path.is_file(), name, report) == (True, "switches", Path("out/switches/report"))
    assert load_study("switches").folder == Path("runs/lab/switches/report")


def test_a_study_of_ones_own_goes_before_one_of_its_name_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path("docs/studies/switches/study.toml")
    own.parent.mkdir(parents=True)
    own.write_text(HEAD + BASE)
    assert find_study("switches") == (own, "switches", own.parent)
    assert [arm.name for arm in load_study("switches").arms] == ["base"]


WRONG = {
    "there is no field model.widht; did you mean model.width?": HEAD.replace("width", "widht") + BASE,
    "model.width is 'wide'; expected int": HEAD.replace("64", '"wide"') + BASE,
    "feedforward is 'selu'; expected one of relu2, gelu, swiglu, xielu": HEAD
    + BASE
    + GELU.replace('= "gelu"\n', '= "selu"\n'),
    "arms 'base' and 'gelu' are equal": HEAD + BASE + GELU.replace('"gelu"\n', '"relu2"\n').replace(
        'name = "relu2"', 'name = "gelu"'
    ),
    "two arms are named 'base'": HEAD + BASE + BASE,
    "a run needs one budget": HEAD + "minutes = 1.0\n" + BASE,
    "preset is 'cpv'": HEAD.replace("cpu", "cpv") + BASE,
    "titel is not a key of a study": HEAD.replace("title", "titel") + 'title = "T"\n' + BASE,
    "arms is missing": HEAD,
    "every arm needs a name": HEAD + "[[arms]]\n",
    "arm 'base': width 64 must divide into num_heads 5": HEAD + BASE + "set.model.num_heads = 5\n",
    "arm 'base': train.batch_tokens": HEAD + BASE + "set.train.batch_tokens = 100\n",
    "expects is 'up'": HEAD + BASE + 'expects = "up"\n',
    "seeds is 0": HEAD + "seeds = 0\n" + BASE,
    "not TOML": "title = ",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_study_is_refused_in_one_line(tmp_path, line, capsys):
    path = written(tmp_path, WRONG[line])
    with pytest.raises(StudyError) as raised:
        load_study(path)
    assert line in str(raised.value)
    assert main([path, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_study_and_two_budgets_are_refused(tmp_path, capsys):
    assert main(["no-such-study", "--data", str(tmp_path)]) == 2
    assert "there is no study 'no-such-study'" in capsys.readouterr().err
    path = written(tmp_path, HEAD + BASE)
    assert main([path, "--data", str(tmp_path), "--minutes", "1", "--tokens", "9"]) == 2
    assert "two budgets" in capsys.readouterr().err


def test_a_value_of_another_type_is_refused_and_an_integer_is_a_float():
    config = PRESETS["cpu"].config
    assert override(config, {"optim": {"matrix_lr": 1}}).optim.matrix_lr == 1
    assert override(config, {"schedule": {"context_growth": [0.5]}}).schedule.context_growth == (0.5,)
    for values in ({"model": {"width": True}}, {"model": {"skip_gates": 1}}, {"model": 3}):
        with pytest.raises(StudyError, match="expected"):
            override(config, values)
