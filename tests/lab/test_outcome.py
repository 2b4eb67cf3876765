"""What an arm's runs come to, and whether they bear a claim out."""

import math
from pathlib import Path

import numpy as np
import pytest

from golf.lab.outcome import ArmOutcome, collect
from golf.lab.study import Arm, Study
from golf.lab.trial import Trial
from golf.presets import PRESETS
from golf.stats import Difference

A, B = (1.30, 1.34, 1.29), (1.40, 1.41, 1.39)


def fake_study(expects):
    config = PRESETS["cpu"].config
    arms = (Arm("base", config), Arm("new", config, "better", expects), Arm("broken", config))
    return Study("s", Path("s"), "T", "", "", arms, 3, 1, {})


class FakeTrial(Trial):
    def outcome(self):
        if self.arm == "broken":
            return {"reason": "diverged"}
        return {"validation_bpb": (B if self.arm == "base" else A)[self.seed - 1]}


@pytest.mark.parametrize(("expects", "verdict"), [("lower", "agrees"), ("higher", "contradicts"), ("", "")])
def test_a_claim_is_judged_by_the_interval(expects, verdict):
    study = fake_study(expects)
    trials = [FakeTrial(arm.name, seed, arm.config, Path("s")) for seed in (1, 2, 3) for arm in study.arms]
    base, new, broken = collect(study, trials)
    assert (base.difference, broken.difference) == (None, None)
    assert new.verdict == verdict
    assert new.difference.p_holm == new.difference.p
    assert (new.mean, new.deviation) == pytest.approx((np.mean(A), np.std(A, ddof=1)))
    assert broken.failures == ("diverged",) * 3 and math.isnan(broken.mean)
    unclear = Difference(-0.1, -0.3, 0.1, 0.2, 0.2)
    blurred = ArmOutcome(new.arm, (1, 2), (1.3, 1.5), (), (), unclear)
    assert blurred.verdict == ("not settled" if expects else "")


def test_the_speed_of_an_arm_is_that_of_its_fastest_seed():
    arm = fake_study("lower").arms[0]
    measured = tuple({"tokens_per_second": speed} for speed in (900.0, 1200.0, 1100.0))
    assert ArmOutcome(arm, (1, 2, 3), B, measured, (), None).tokens_per_second == 1200.0
    assert math.isnan(ArmOutcome(arm, (), (), (), (), None).tokens_per_second)
