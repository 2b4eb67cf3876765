from pathlib import Path

from benchmarks.ttt import Bench, TTTBenchmark, grid_of, measure_gains, measure_speedup, try_settings
from benchmarks.ttt_steps import SpeedOptions, measure_operations, measure_speeds
from golf.system.device import choose_runtime
from golf.system.log import RunLog


def options_for(artifact_path: Path, dataset_folder: Path) -> TTTBenchmark:
    return TTTBenchmark(
        artifact_path,
        data=dataset_folder,
        grid_tokens=150,
        rates=(0.001,),
        ranks=(4,),
        chunks=(8,),
        speed_documents=2,
        speed_tokens=40,
        device="cpu",
    )


def test_the_benchmark_measures_gains_speed_and_the_grid(artifact_path: Path, dataset_folder: Path) -> None:
    bench = Bench(options_for(artifact_path, dataset_folder))
    figures = measure_gains(bench) | measure_speedup(bench)
    assert {"sliding_bpb", "sgd_gain_bpb", "lora_gain_bpb", "p_paired", "batched_speedup"} < set(figures)
    assert figures["batched_largest_difference_nats"] < 1e-4
    rows = try_settings(bench, RunLog(quiet=True))
    assert {row["setting"] for row in rows} == {name for name, _ in grid_of(bench.options, bench.ttt)}
    assert len({row["gain_bpb"] for row in rows if row["setting"].startswith("sgd")}) == 2


def test_speeds_of_a_preset_are_measured_on_made_up_documents() -> None:
    options = SpeedOptions(preset="cpu-10min", tiny=True, arms=("recorded-4", "called-4"), batches=1)
    log = RunLog(quiet=True)
    recorded, called = measure_speeds(options, choose_runtime("cpu"), log)
    assert recorded["steps"] == called["steps"] > 0
    assert abs(recorded["nats_a_token"] - called["nats_a_token"]) < 1e-3
    counts = {row["way"]: row["operations"] for row in measure_operations(options, log)}
    assert 0 < counts["recorded"] < counts["called"]
