import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import QUANTIZERS, PackConfig, Quantizer, decode_artifact, pack
from golf.pack.calibrate import calibrate
from golf.pack.container import ArtifactError, read_container, write_container
from golf.pack.fit import MIN_BAND_BYTES, BudgetError
from golf.pack.report import describe_artifact

TINY = ModelConfig(
    vocab_size=64, num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_hidden=96, context=32,
    rotary_dims=4, bigram_buckets=64, bigram_width=16,
)  # fmt: skip


def network(config: ModelConfig = TINY, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(config)
    model.initialize()
    return model


def weights_of(model: GPT) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def header_of(config: ModelConfig) -> dict[str, object]:
    return {"model": dataclasses.asdict(config), "compute_dtype": "float32", "tokenizer_sha256": "0" * 64}


SCHEMES = [PackConfig(scheme) for scheme in QUANTIZERS]
each_scheme = pytest.mark.parametrize("config", SCHEMES, ids=lambda config: config.scheme)


def calibrated(model: GPT):
    tokens = torch.randint(0, 64, (4, 4, 33), generator=torch.Generator().manual_seed(0))
    return calibrate(model, [(batch[:, :-1], batch[:, 1:]) for batch in tokens])


@each_scheme
def test_weights_come_back_close_and_the_header_whole(config):
    weights = weights_of(network())
    header, back = decode_artifact(pack(weights, header_of(TINY), config, 10**6).artifact)
    assert header.items() >= json.loads(json.dumps(header_of(TINY))).items()
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == torch.float32
        assert torch.allclose(back[name], tensor, atol=0.04 * float(tensor.abs().max()) + 1e-9)


@each_scheme
def test_packing_twice_gives_the_same_bytes_whatever_the_order_of_the_weights(config):
    weights = weights_of(network())
    reverse = dict(reversed(weights.items()))
    first = pack(weights, header_of(TINY), config, 10**6).artifact
    assert first == pack(reverse, header_of(TINY), config, 10**6).artifact


def test_packing_with_a_calibration_gives_the_same_bytes_every_time():
    model = network()
    sizes = [
        pack(weights_of(model), header_of(TINY), PackConfig("entropy"), 8000, calibrated(model)).artifact
        for _ in range(2)
    ]
    assert sizes[0] == sizes[1]


@each_scheme
def test_the_artifact_fits_the_limit_and_uses_it(config):
    weights = weights_of(network())
    largest = len(pack(weights, header_of(TINY), config, 10**6).artifact)
    for share in (0.95, 0.9, 0.85):
        limit = int(share * largest)
        size = len(pack(weights, header_of(TINY), config, limit).artifact)
        assert 0.94 * limit <= size <= limit


def test_twenty_random_models_land_in_the_band_or_say_why_not():
    rng = np.random.default_rng(0)
    outcomes = []
    for seed in range(20):
        width = 8 * int(rng.integers(2, 4))
        config = dataclasses.replace(
            TINY,
            vocab_size=int(rng.integers(33, 120)),
            num_layers=int(rng.integers(1, 3)),
            width=width,
            mlp_hidden=int(rng.integers(17, 90)),
            bigram_buckets=int(rng.integers(17, 100)),
        )
        model = network(config, seed)
        weights = {name: weight * float(rng.lognormal()) for name, weight in weights_of(model).items()}
        num_weights = sum(weight.numel() for weight in weights.values())
        limit = int(num_weights * rng.uniform(2.5, 5.0) / 8) + 500
        packed = pack(weights, header_of(config), PackConfig("entropy"), limit)
        assert len(packed.artifact) <= limit
        decode_artifact(packed.artifact)
        outcomes.append(packed.report["fit"])
        if outcomes[-1] == "band":
            assert len(packed.artifact) >= limit - MIN_BAND_BYTES
        elif outcomes[-1] == "near":
            assert len(packed.artifact) >= 0.98 * limit
    assert outcomes.count("near") <= 2


def test_the_margin_is_left_unused():
    packed = pack(weights_of(network()), header_of(TINY), PackConfig("entropy", margin_bytes=700), 11_000)
    assert packed.report["spare_bytes"] >= 700
    assert len(packed.artifact) > 10_000


def test_a_calibrated_model_loses_less_than_an_uncalibrated_one_of_the_same_size():
    model, reference = network(), network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    inputs = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(1))
    plain = model(inputs).detach().log_softmax(-1)

    def divergence(**options):
        artifact = pack(weights_of(model), header_of(TINY), PackConfig("entropy"), 9000, **options).artifact
        reference.load_state_dict(decode_artifact(artifact)[1])
        return float((plain.exp() * (plain - reference(inputs).detach().log_softmax(-1))).sum(-1).mean())

    assert divergence(calibration=calibrated(model)) < 0.8 * divergence()


@each_scheme
def test_too_little_room_is_refused_with_both_numbers_and_what_would_fit(config):
    with pytest.raises(BudgetError, match=r"artifact is [\d,]+ bytes .*2,000 .* parameters would fit"):
        pack(weights_of(network()), header_of(TINY), config, 2000)


@each_scheme
def test_mutated_artifacts_are_refused(config):
    artifact = pack(weights_of(network()), header_of(TINY), config, 10**6).artifact
    rng = np.random.default_rng(0)
    for _ in range(1000):
        changed = bytearray(artifact)
        changed[rng.integers(len(changed))] ^= rng.integers(1, 256)
        with pytest.raises(ArtifactError):
            decode_artifact(bytes(changed))
        with pytest.raises(ArtifactError):
            decode_artifact(artifact[: rng.integers(len(artifact))])


def test_zeros_everywhere_come_back_as_zeros():
    weights = {name: torch.zeros_like(weight) for name, weight in weights_of(network()).items()}
    _, back = decode_artifact(pack(weights, header_of(TINY), PackConfig("entropy"), 10**6).artifact)
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("scheme", ["entropy", "int5"])
def test_a_large_table_that_training_never_reached_is_packed_and_read(scheme):
    wide = dataclasses.replace(TINY, bigram_buckets=1 << 17)
    weights = weights_of(network(wide))
    weights["bigram.table"] = torch.zeros_like(weights["bigram.table"])
    _, back = decode_artifact(pack(weights, header_of(wide), PackConfig(scheme), 10**7).artifact)
    assert not back["bigram.table"].any()


def test_no_artifact_is_written_that_its_reader_refuses(monkeypatch):
    wide = dataclasses.replace(TINY, bigram_buckets=1 << 17)
    weights = {name: torch.zeros_like(weight) for name, weight in weights_of(network(wide)).items()}
    monkeypatch.setattr("golf.pack.container.EXPANSION_FLOOR", 1 << 20)
    with pytest.raises(ValueError, match="carry too little"):
        pack(weights, header_of(wide), PackConfig("entropy"), 10**7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(bad):
    weights = {name: tensor.clone() for name, tensor in weights_of(network()).items()}
    weights["smear.gate"][3] = bad
    with pytest.raises(ValueError, match=r"smear\.gate"):
        pack(weights, header_of(TINY), SCHEMES[0], 10**6)


@pytest.mark.parametrize("scheme", ["entropy", "trellis", "auto"])
def test_an_absurd_outlier_is_packed_or_refused_in_words_and_never_unreadable(scheme):
    for power in (40, 50, 62, 70, 90):
        weights = {name: tensor.clone() for name, tensor in weights_of(network()).items()}
        query = weights["blocks.0.attention.query.weight"]
        query.zero_()
        query[0, 0], query[5, 7] = 2.0**power, 1.0
        try:
            artifact = pack(weights, header_of(TINY), PackConfig(scheme), 10**6).artifact
        except ValueError as refused:
            assert "too far apart" in str(refused) and power >= 70
            continue
        _, back = decode_artifact(artifact)
        found = back["blocks.0.attention.query.weight"]
        assert float(found[0, 0]) == pytest.approx(2.0**power, rel=0.01)


@pytest.mark.parametrize("seed", range(12, 20))
def test_rows_at_the_ends_of_what_a_grid_holds_are_read_again(seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: tensor.clone() for name, tensor in weights_of(network()).items()}
    query = weights["blocks.0.attention.query.weight"]
    query[:] = torch.randn(query.shape, generator=generator)
    query[0] *= 2.0 ** (26 + seed % 7)
    query[1::2] *= 1.07
    for scheme in ("entropy", "trellis"):
        _, back = decode_artifact(pack(weights, header_of(TINY), PackConfig(scheme), 10**6).artifact)
        assert torch.isfinite(back["blocks.0.attention.query.weight"]).all()


@pytest.mark.parametrize("scheme", ["entropy", "trellis"])
def test_weights_that_lie_too_far_apart_for_codes_are_refused(scheme):
    weights = {name: tensor.clone() for name, tensor in weights_of(network()).items()}
    weights["blocks.0.attention.query.weight"][3] *= 1e33
    with pytest.raises(ValueError, match="too far apart to be packed"):
        pack(weights, header_of(TINY), PackConfig(scheme), 10**6)


def test_weights_of_another_model_are_refused_by_name():
    weights = weights_of(network())
    with pytest.raises(ValueError, match=r"embedding\.weight"):
        pack(weights, header_of(dataclasses.replace(TINY, vocab_size=65)), SCHEMES[0], 10**6)
    del weights["smear.gate"]
    with pytest.raises(ValueError, match=r"smear\.gate"):
        pack(weights, header_of(TINY), SCHEMES[0], 10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**15}, {"vocab_size": 1 << 24, "width": 1 << 24}, {"num_layers": 10**9},
        {"num_layers": 0}, {"width": -8},
        {"num_heads": 0}, {"num_heads": "4"}, {"width": 32.5}, {"width": None}, {"unknown": 1},
        {"mlp_hidden": 95}, {"num_layers": [3]},
    ],
    ids=str,
)  # fmt: skip
def test_a_hostile_model_config_is_refused_before_memory_is_taken(change):
    artifact = pack(weights_of(network()), header_of(TINY), SCHEMES[0], 10**6).artifact
    header, payload = read_container(artifact)
    header["model"] = {**header["model"], **change}
    with pytest.raises(ArtifactError):
        decode_artifact(write_container(header, bytes(payload)))


@pytest.mark.parametrize(
    "header", [{}, {"model": None}, {"model": []}, {"model": {}, "scheme": "other"}], ids=str
)
def test_a_header_without_a_model_or_of_another_scheme_is_refused(header):
    with pytest.raises(ArtifactError):
        decode_artifact(write_container(header, b""))


def test_an_unknown_quantizer_is_refused_with_the_list_of_those_that_exist():
    with pytest.raises(ValueError, match="'int4' is unknown; there are entropy, trellis, auto, int5"):
        PackConfig(scheme="int4")
    header, payload = read_container(pack(weights_of(network()), header_of(TINY), SCHEMES[0], 10**6).artifact)
    for scheme in ("int4", None, ["int5"]):
        with pytest.raises(ArtifactError, match="expected one of entropy, trellis, auto, int5"):
            decode_artifact(write_container({**header, "scheme": scheme}, bytes(payload)))


def fit_half(weights, layout, calibration, limit_bytes, wrap):
    """fp16 values: the smallest quantizer there can be."""
    return wrap(b"".join(weight.half().numpy().tobytes() for weight in weights.values())), {"notes": []}


def decode_half(payload, layout):
    shapes = [torch.Size(part.shape) for part in layout.values()]
    parts = torch.from_numpy(np.frombuffer(payload, np.float16).astype(np.float32)).split(
        [shape.numel() for shape in shapes]
    )
    return {name: part.view(shape) for name, shape, part in zip(layout, shapes, parts, strict=True)}


def test_a_quantizer_is_added_by_one_line_in_the_table(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "half", Quantizer(fit_half, decode_half))
    weights = weights_of(network())
    packed = pack(weights, header_of(TINY), PackConfig(scheme="half"), 10**6)
    header, back = decode_artifact(packed.artifact)
    assert header["scheme"] == packed.report["scheme"] == "half"
    assert all(torch.equal(back[name], weight.half().float()) for name, weight in weights.items())
    assert describe_artifact(packed.artifact, weights, None) is None


def test_an_artifact_of_an_earlier_version_decodes_to_the_weights_that_were_scored():
    """The digest was computed by the version that wrote it."""
    artifact = Path(__file__).parents[1] / "fixtures" / "artifact_first_build.bin"
    header, weights = decode_artifact(artifact.read_bytes())
    digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights.values())).hexdigest()
    assert header["scheme"] == "entropy"
    assert digest == "6603c4cee5a37bace5370a97eb627c17d70dba53cd9cc2a617fcbc7cbfb04474"


@pytest.mark.gpu
def test_a_calibration_on_a_gpu_packs_as_one_on_the_cpu_does():
    model = network()
    weights, found = weights_of(model), calibrated(model)
    on_cpu = pack(weights, header_of(TINY), PackConfig(), 10**6, found)
    on_gpu = pack(weights, header_of(TINY), PackConfig(), 10**6, found.moved_to(torch.device("cuda")))
    assert len(on_gpu.artifact) == pytest.approx(len(on_cpu.artifact), rel=0.01)
    back, expected = (decode_artifact(packed.artifact)[1] for packed in (on_gpu, on_cpu))
    for name, weight in weights.items():
        error, scale = (back[name] - expected[name]).abs().max(), weight.abs().max()
        assert float(error) <= 0.05 * float(scale) + 1e-9
