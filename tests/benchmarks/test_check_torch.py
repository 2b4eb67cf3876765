"""Training and scoring are whole graphs, made before the clock starts; the check finds those that are not."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.check_torch import (
    VOCAB_SIZE,
    as_traced,
    chosen_presets,
    count_scoring,
    count_training,
    expected_graphs,
    phases_of,
    tiny_dataset,
    tiny_run,
)
from golf.checks import check_config
from golf.config import RunConfig
from golf.data.manifest import Dataset
from golf.presets import PRESETS
from golf.train.loop import Trainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("graphs") / "data")


def shallow(name: str) -> RunConfig:
    """The preset's tiny run, of two layers; of three where one loops."""
    config = tiny_run(PRESETS[name].config)
    loops = (
        {"recurrence_first": 1, "recurrence_last": 1, "num_layers": 3} if config.model.recurrence > 1 else {}
    )
    lanes = min(1, config.model.parallel_residual_blocks)
    return replace(
        config, model=replace(config.model, **{"num_layers": 2, "parallel_residual_blocks": lanes, **loops})
    )


@pytest.mark.parametrize(("name", "num_graphs"), [("seed", 1), ("h100-10min", 2), ("h100-107min", 4)])
def test_a_run_compiles_nothing_after_its_warm_up(
    name: str, num_graphs: int, dataset: Dataset, tmp_path: Path
) -> None:
    assert expected_graphs(name) == num_graphs
    graphs = count_training(shallow(name), dataset, tmp_path / "run", as_traced)
    assert (graphs.warmed, graphs.ended) == (num_graphs, num_graphs)


def test_the_scorer_compiles_the_first_window_and_all_others(dataset: Dataset) -> None:
    assert count_scoring(shallow("h100-10min"), dataset, as_traced) == 2


def test_a_graph_that_only_a_later_step_needs_is_found(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_kind_alone(trainer: Trainer) -> None:
        phases, trainer.phases = trainer.phases, trainer.phases[:1]
        warm_up(trainer)
        trainer.phases = phases

    warm_up = Trainer.warm_up
    monkeypatch.setattr(Trainer, "warm_up", first_kind_alone)
    graphs = count_training(shallow("h100-10min"), dataset, tmp_path / "run", as_traced)
    assert (graphs.warmed, graphs.ended) == (1, 2)


@pytest.mark.parametrize("name", PRESETS)
def test_a_tiny_run_has_the_phases_and_parts_of_its_preset(name: str) -> None:
    preset, tiny = PRESETS[name].config, tiny_run(PRESETS[name].config)
    check_config(tiny, "cpu")
    whole, small = phases_of(preset), phases_of(tiny)
    assert [(phase.start, phase.looping) for phase in whole] == [(s.start, s.looping) for s in small]
    shrunk = {"vocab_size", "width", "mlp_hidden", "context", "rotary_dims", "bigram_buckets", "bigram_width"}
    shrunk |= {"ngram_buckets"}
    kept = {key: value for key, value in vars(preset.model).items() if key not in shrunk}
    assert kept == {key: vars(tiny.model)[key] for key in kept}
    assert bool(preset.model.bigram_buckets) == bool(tiny.model.bigram_buckets)
    assert len(preset.model.ngram_buckets) == len(tiny.model.ngram_buckets)
    assert tiny.model.vocab_size == VOCAB_SIZE and tiny.model.width <= 128


def test_a_preset_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no preset is called 'h200'; there are h100-10min"):
        chosen_presets("seed,h200")
