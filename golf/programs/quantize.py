"""Packs a run's weights into artifact.bin and prints its bytes by tensor and how they compare to the limit.

    golf quantize runs/NAME
    golf quantize --forecast --preset seed --model.num-layers 12

Exit code 1 when code and artifact do not fit, 2 on bad input.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from golf.command import value_of
from golf.data.reference import LIMIT_BYTES
from golf.entry.finalize import charged_script
from golf.model.config import ModelConfig
from golf.pack.artifact import QUANTIZERS, PackConfig, pack
from golf.pack.fit import BudgetError, bytes_for_artifact
from golf.pack.layout import artifact_bytes_at, bits_that_fit, count_elements, implied_layout
from golf.pack.report import coder_input, compare_coders, describe_artifact, draw_report
from golf.presets import PRESETS
from golf.run import load_calibration
from golf.run_folder import RunFolder
from golf.system.cli import run_program
from golf.system.files import read_sealed_json, require_output, write_bytes, write_json
from golf.system.log import RunLog
from golf.system.options import read_options
from golf.system.stored import config_to_dict
from golf.train.checkpoint import load_weights

FORECAST_BITS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
LEAST = {"limit_bytes": 1}


@dataclass(frozen=True)
class QuantizeConfig:
    """Pack a run's weights, or forecast the size of a shape's."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Run folder: weights.safetensors, calibration.safetensors, config.json, train_gpt.py (also counted)."""
    forecast: bool = False
    """Forecast the size from the shapes of a network, before training."""
    preset: str | None = None
    """Preset whose network it is, but for what --model says."""
    out: Path | None = None
    """Path of the artifact; artifact.bin in the run folder by default."""
    json: Path | None = None
    """Also write the figures here."""
    png: Path | None = None
    """Path of the picture; the artifact's with .png by default."""
    compare: bool = True
    """Whether other coders compress the same codes for comparison, which takes minutes for 26 million."""
    limit_bytes: int = LIMIT_BYTES
    """Limit on code and artifact together; the default is the challenge's."""
    pack: PackConfig = field(default_factory=PackConfig)
    """How weights become bytes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network of a forecast; by default the preset's."""

    def __post_init__(self) -> None:
        if self.forecast == (self.run is not None):
            raise ValueError("give a run folder to pack, or --forecast --preset NAME")
        if self.forecast and self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; there are {', '.join(PRESETS)}")
        if self.forecast and (self.out or self.png):
            raise ValueError("--out and --png go with a run folder; --forecast writes no artifact")
        if self.forecast and (self.pack != PackConfig() or not self.compare):
            raise ValueError("--pack.* and --compare go with a run folder; --forecast is for any quantizer")
        if not self.forecast and (self.preset is not None or self.model != ModelConfig()):
            raise ValueError("--preset and --model.* go with --forecast; a run has its own configuration")


def read_run(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights, artifact header and code bytes of a run folder; raises ValueError if it cannot be read."""
    run = RunFolder(folder)
    for file in (run.weights, run.config, run.script):
        if not folder.exists():
            raise ValueError(f"{folder}: no such folder")
        if not file.is_file():
            raise ValueError(f"{folder} has no {file.name}; expected a run folder")
    stored = read_sealed_json(run.config)
    if "header" not in stored:
        raise ValueError(f"{run.config} lacks the header of an artifact")
    return load_weights(run.weights), stored["header"], run.script.stat().st_size


def quantize(folder: Path, config: QuantizeConfig, log: RunLog) -> dict[str, Any]:
    """Packs, writes artifact and picture, prints the sizes; returns the figures."""
    out = config.out or RunFolder(folder).artifact
    weights, header, code_bytes = read_run(folder)
    require_output(out, "--out")
    calibration = load_calibration(folder) if QUANTIZERS[config.pack.scheme].needs_calibration else None
    room_bytes = bytes_for_artifact(code_bytes, config.limit_bytes)
    packed = pack(weights, header, config.pack, room_bytes, calibration)
    write_bytes(out, packed.artifact)
    total_bytes = code_bytes + len(packed.artifact)
    report = {"code_bytes": code_bytes, "total_bytes": total_bytes, **packed.report}
    described = describe_artifact(packed.artifact, weights, calibration)
    if described is not None:
        report |= described
        others = compare_coders(*coder_input(packed.artifact), log) if config.compare else {}
        report["totals"] |= {f"{name}_bytes": size for name, size in others.items()}
        print_report(report, others, log)
        draw_report(report, config.png or out.with_suffix(".png"))
    log.record("packed", **report)
    for line in packed.report["notes"]:
        log.info(line)
    log.info(f"{out}: {total_bytes:,} bytes with its code; the limit is {config.limit_bytes:,}")
    log.info(f"at these bits per weight, {packed.report['num_weights_that_fit']:,} weights would fit")
    return report


def print_report(report: dict[str, Any], others: dict[str, int | None], log: RunLog) -> None:
    """Prints tables of the artifact's bytes by tensor, and of other coders on the same codes."""
    log.table(
        "tensors",
        ("tensor", "shape", "step", "bits", "bytes", "error %", "escaped %", "levels"),
        [
            (
                row["name"].removeprefix("blocks.").removesuffix(".weight"),
                "x".join(map(str, row["shape"])),
                f"{row['median_step']:.3g}",
                f"{row['bits_per_weight']:.2f}",
                round(row["bytes"]),
                f"{100 * row['error_share']:.2f}",
                f"{100 * row['saturation']:.3f}",
                row["levels"],
            )
            for row in report["tensors"]
        ],
    )
    totals = report["totals"]
    sizes = {
        "the whole artifact": totals["artifact_bytes"],
        "entropy of its codes by context": round(totals["context_entropy_bytes"]),
        "entropy of its codes by tensor": round(totals["tensor_entropy_bytes"]),
        **{f"{name} on its codes": size for name, size in others.items() if size is not None},
    }
    num_weights = totals["num_weights"]
    rows = [(name, size, f"{8 * size / num_weights:.4f}") for name, size in sizes.items()]
    log.table("the same codes under other coders", ("coder", "bytes", "bits per weight"), rows)


def forecast(preset: str, model: ModelConfig, limit_bytes: int, log: RunLog) -> dict[str, Any]:
    """Prints the size of a network's weights at several precisions; returns the figures."""
    config = dataclasses.replace(PRESETS[preset].config, model=model)
    layout = implied_layout(config_to_dict(config.model))
    code_bytes = len(charged_script(config, "packed", RunLog(quiet=True)))
    room_bytes = bytes_for_artifact(code_bytes, limit_bytes)
    num_weights, fitting = count_elements(layout), bits_that_fit(layout, room_bytes)
    if fitting <= 0:
        raise BudgetError(f"{room_bytes:,} bytes are left for {num_weights:,} weights: none fits")
    described = f"preset {preset}"
    if model != PRESETS[preset].config.model:
        described += " with another network"
    sizes = {bits: code_bytes + artifact_bytes_at(layout, bits) for bits in FORECAST_BITS}
    log.table(
        f"{described}: {num_weights:,} weights, {code_bytes:,} bytes of code (packed)",
        ("bits per matrix weight", "total bytes", "of the limit"),
        [(bits, size, f"{100 * size / limit_bytes:.1f}%") for bits, size in sizes.items()],
    )
    log.info(f"{limit_bytes:,} bytes have room for {fitting:.2f} bits per weight of matrices and tables")
    return {
        "preset": preset,
        "num_weights": num_weights,
        "code_bytes": code_bytes,
        "bits_per_weight_that_fit": fitting,
        "total_bytes_by_bits_per_weight": {str(bits): size for bits, size in sizes.items()},
    }


def run_command(config: QuantizeConfig, log: RunLog) -> None:
    """Packs or forecasts, and writes the figures to --json."""
    if config.forecast:
        report = forecast(str(config.preset), config.model, config.limit_bytes, log)
    else:
        report = quantize(Path(config.run or "."), config, log)
    if config.json:
        write_json(config.json, report)


def main(arguments: list[str], program: str = "golf quantize") -> int:
    """Exit code: 0 done, 1 over the limit, 2 bad input, 130 stopped."""

    def work() -> None:
        default = None
        preset = value_of("--preset", arguments)
        if "--forecast" in arguments and preset in PRESETS:
            default = QuantizeConfig(forecast=True, preset=preset, model=PRESETS[preset].config.model)
        options = read_options(QuantizeConfig, arguments, program, __doc__, default, LEAST)
        run_command(options, RunLog())

    return run_program(program, work, {BudgetError: 1})
