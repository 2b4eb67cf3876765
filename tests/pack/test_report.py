import dataclasses
import json
import math

import pytest
import torch
from test_calibrate import TINY, tiny_batches, tiny_model

from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import calibrate
from golf.pack.layout import artifact_bytes_at, bits_that_fit, implied_layout
from golf.pack.report import coder_input, compare_coders, describe_artifact, draw_report, part_of
from golf.system.log import RunLog


@pytest.fixture(scope="module", params=["entropy", "trellis", "auto"])
def packed(request):
    model = tiny_model()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    calibration = calibrate(model, tiny_batches(4))
    header = {"model": dataclasses.asdict(TINY)}
    return pack(weights, header, PackConfig(request.param), 6000, calibration).artifact, weights, calibration


def test_the_parts_add_up_to_the_artifact(packed):
    report = describe_artifact(*packed)
    totals = report["totals"]
    assert totals["artifact_bytes"] == len(packed[0])
    assert math.isclose(sum(totals["bytes_by_part"].values()), len(packed[0]))
    assert math.isclose(sum(row["error_share"] for row in report["tensors"]), 1.0)
    coded = sum(row["bytes"] for row in report["tensors"])
    assert totals["context_entropy_bytes"] < 1.02 * coded < 1.02 * len(packed[0])
    json.dumps(report, allow_nan=False)


def test_errors_and_levels_are_those_of_the_decoded_weights(packed):
    artifact, weights, calibration = packed
    _, back = decode_artifact(artifact)
    for row in describe_artifact(*packed)["tensors"]:
        error = (weights[row["name"]] - back[row["name"]]).double()
        assert row["shape"] == list(error.shape)
        assert math.isclose(row["squared_error"], float(error.square().sum()), rel_tol=1e-5)
        if (hessian := calibration.hessian(row["name"])) is not None:
            curved = ((error @ hessian.double()) * error).sum(1)
            assert row["forecast_loss_rise_nats"] == pytest.approx(
                float(calibration.fisher(row["name"]).double() @ curved) / 2, rel=0.05
            )
        assert (
            row["levels"] >= back[row["name"]].unique().numel() / max(1, len(error)) if error.dim() else True
        )


def test_without_a_calibration_no_rise_is_forecast():
    model = tiny_model()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    artifact = pack(weights, {"model": dataclasses.asdict(TINY)}, PackConfig(), 10**6).artifact
    report = describe_artifact(artifact, weights, None)
    assert "forecast_loss_rise_nats" not in report["totals"]
    assert "forecast_loss_rise_nats" not in report["tensors"][0]


def test_a_quantizer_without_codes_by_tensor_has_no_report():
    weights = {name: parameter.detach() for name, parameter in tiny_model().named_parameters()}
    artifact = pack(weights, {"model": dataclasses.asdict(TINY)}, PackConfig("int5"), 10**6).artifact
    assert describe_artifact(artifact, weights, None) is None


def test_general_compressors_need_more_bytes_than_the_context_entropy(packed):
    sizes = compare_coders(*coder_input(packed[0]), RunLog(quiet=True))
    entropy = describe_artifact(*packed)["totals"]["context_entropy_bytes"]
    assert set(sizes) == {"zstd22", "lzma9", "seed_recipe", "brotli11"}
    assert all(size is None or size > entropy for size in sizes.values())


def test_a_coder_that_is_not_installed_is_said_and_left_out(packed, monkeypatch, capsys):
    monkeypatch.setattr("golf.pack.report.find_spec", lambda name: None)
    assert compare_coders(*coder_input(packed[0]), RunLog())["brotli11"] is None
    assert "brotli is not installed" in capsys.readouterr().out


def test_the_picture_is_a_png(packed, tmp_path):
    draw_report(describe_artifact(*packed), tmp_path / "artifact.png")
    assert (tmp_path / "artifact.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact.png"]


def test_every_weight_belongs_to_a_part():
    names = {part_of(name) for name in implied_layout(dataclasses.asdict(TINY))}
    assert names == {"attention", "feedforward", "embeddings", "small tensors"}


def test_the_estimate_from_shapes_is_close_to_the_artifact():
    config = dataclasses.replace(TINY, width=64, mlp_hidden=200, vocab_size=300, num_layers=3)
    torch.manual_seed(0)
    layout = implied_layout(dataclasses.asdict(config))
    weights = {name: torch.randn(part.shape) for name, part in layout.items()}
    for bits in (3.0, 4.5):
        limit = artifact_bytes_at(layout, bits)
        packed = pack(weights, {"model": dataclasses.asdict(config)}, PackConfig(), limit)
        large = sum(math.prod(shape) for shape, kind in layout.values() if kind != "small")
        report = describe_artifact(packed.artifact, weights, None)
        coded = 8 * sum(row["bytes"] for row in report["tensors"] if part_of(row["name"]) != "small tensors")
        assert coded / large == pytest.approx(bits, rel=0.15)
        assert bits_that_fit(layout, limit) == pytest.approx(bits, rel=1e-3)
