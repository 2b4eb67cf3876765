"""The studies that ship: each can be read, and each switch has a row in one."""

import dataclasses

import pytest

from golf.lab.study import SHIPPED, load_study
from golf.model.config import ModelConfig
from golf.system.stored import config_to_dict

NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
SIZES = {"vocab_size", "num_heads", "bigram_width", "bos_id"}
SETTINGS = {"embedding_std", "rotary_base", "qk_gain", "output_init"}
"""Fields that are no switch."""
FRONTIER = {"xsa", "skip_gates", "parallel_residual_blocks", "ngram_buckets", "dense_connections"}
"""Switches of the leaderboard's networks, which `python -m benchmarks.recipe` compares."""


@pytest.mark.parametrize("name", NAMES)
def test_a_study_that_ships_can_be_run(name):
    study = load_study(name)
    assert len(study.arms) > 5 and study.seeds == 3 and study.intro
    for arm in study.arms[1:]:
        assert not arm.expects or arm.claim


def test_every_switch_has_a_row_in_a_study():
    told = set()
    for name in NAMES:
        base, *others = (config_to_dict(arm.config) for arm in load_study(name).arms)
        for other in others:
            for part in ("model", "train", "optim", "schedule"):
                told |= {key for key in base[part] if base[part][key] != other[part][key]}
    switches = {field.name for field in dataclasses.fields(ModelConfig)} - SIZES - SETTINGS - FRONTIER
    switches |= {"sigreg_weight", "sigreg_real_only", "sigreg_until", "matrix", "gradient_clip"}
    switches |= {"context_growth"}
    assert switches - told - {"document_mask"} == set()
