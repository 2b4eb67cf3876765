"""Packs a run's weights into artifact.bin, says where the bytes went and whether they fit 16,000,000.

    python quantize.py runs/NAME
    python quantize.py --estimate --preset seed

Exit code 1 when code and artifact do not fit, 2 on bad input.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from golf.entry.finalize import charged_script
from golf.pack.artifact import PackConfig, Packed, pack
from golf.pack.budget import LIMIT_BYTES, BudgetError, bytes_for_artifact
from golf.pack.calibrate import Calibration
from golf.pack.estimate import artifact_bytes_at, bits_that_fit
from golf.pack.layout import count_elements, implied_shapes
from golf.pack.report import coder_input, compare_coders, describe_artifact, draw_report
from golf.presets import PRESETS
from golf.run import load_calibration
from golf.run_folder import RunFolder
from golf.system.files import write_bytes, write_json
from golf.system.log import RunLog
from golf.system.program import run_program
from golf.system.stored import config_to_dict
from golf.train.checkpoint import load_weights

ESTIMATED_BITS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5)


@dataclass(frozen=True)
class QuantizeConfig:
    """Pack a run's weights, or forecast the size of a preset's."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A run folder: weights.safetensors, calibration.safetensors, config.json, and train_gpt.py, whose bytes
    are charged."""
    estimate: bool = False
    """Forecast the size from the preset's shape, before any training."""
    preset: str | None = None
    """Which preset to forecast."""
    out: Path | None = None
    """Where the artifact goes; artifact.bin in the run folder by default."""
    json: Path | None = None
    """Also write the figures here."""
    png: Path | None = None
    """Where the picture goes; artifact.png beside the artifact by default."""
    compare: bool = True
    """Whether other compressors are tried on the same codes (minutes for 26 million)."""
    limit_bytes: int = LIMIT_BYTES
    """Limit on code and artifact together; the default is the challenge's."""
    pack: PackConfig = field(default_factory=PackConfig)
    """From weights to bytes."""

    def __post_init__(self) -> None:
        if self.estimate == (self.run is not None):
            raise ValueError("give a run folder to pack, or --estimate --preset NAME")
        if self.estimate and self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; there are {', '.join(PRESETS)}")
        if not self.estimate and self.preset is not None:
            raise ValueError("--preset goes with --estimate; a run has its own configuration")


def read_run(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights, artifact header and code bytes of a run folder; ValueError for what cannot be read."""
    run = RunFolder(folder)
    for file in (run.weights, run.config, run.script):
        if not file.is_file():
            raise ValueError(f"{folder} has no {file.name}; expected a run folder")
    try:
        header = json.loads(run.config.read_text(encoding="utf-8"))["header"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{run.config} lacks what an artifact needs: {error!r}") from error
    return load_weights(run.weights), header, run.script.stat().st_size


def quantize(folder: Path, config: QuantizeConfig, log: RunLog) -> dict[str, Any]:
    """Packs, writes artifact and picture, prints what everything weighs; the figures."""
    weights, header, code_bytes = read_run(folder)
    calibration = load_calibration(folder) if config.pack.scheme == "entropy" else None
    room_bytes = bytes_for_artifact(code_bytes, config.limit_bytes)
    packed = pack(weights, header, config.pack, room_bytes, calibration)
    out = config.out or RunFolder(folder).artifact
    write_bytes(out, packed.artifact)
    total_bytes = code_bytes + len(packed.artifact)
    report = {"code_bytes": code_bytes, "total_bytes": total_bytes, **packed.report}
    if config.pack.scheme == "entropy":
        report |= explain(packed, weights, calibration, config, log)
        draw_report(report, config.png or out.with_suffix(".png"))
    log.record("packed", **report)
    for line in packed.report["notes"]:
        log.info(line)
    log.info(f"{out}: {total_bytes:,} bytes with its code; the limit is {config.limit_bytes:,}")
    log.info(f"at these bits a weight, {packed.report['num_weights_that_fit']:,} weights would fit")
    return report


def explain(
    packed: Packed,
    weights: dict[str, Tensor],
    calibration: Calibration | None,
    config: QuantizeConfig,
    log: RunLog,
) -> dict[str, Any]:
    """Tables of the artifact's bytes by tensor, and of other coders on the same codes."""
    report = describe_artifact(packed.artifact, weights, calibration)
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
    others = compare_coders(*coder_input(packed.artifact), log) if config.compare else {}
    totals |= {f"{name}_bytes": size for name, size in others.items()}
    sizes = {
        "the artifact, all told": totals["artifact_bytes"],
        "entropy of its codes by class": round(totals["class_entropy_bytes"]),
        "entropy of its codes by tensor": round(totals["tensor_entropy_bytes"]),
        **{f"{name} on its codes": size for name, size in others.items() if size is not None},
    }
    num_weights = totals["num_weights"]
    rows = [(name, size, f"{8 * size / num_weights:.4f}") for name, size in sizes.items()]
    log.table("the same codes under other coders", ("coder", "bytes", "bits a weight"), rows)
    return report


def estimate(preset: str, limit_bytes: int, log: RunLog) -> dict[str, Any]:
    """Prints what a preset's weights will weigh at several precisions; the figures."""
    config = PRESETS[preset].config
    shapes = implied_shapes(config_to_dict(config.model))
    code_bytes = len(charged_script(config, "packed", RunLog(quiet=True)))
    room_bytes = bytes_for_artifact(code_bytes, limit_bytes)
    num_weights, fitting = count_elements(shapes), bits_that_fit(shapes, room_bytes)
    sizes = {bits: code_bytes + artifact_bytes_at(shapes, bits) for bits in ESTIMATED_BITS}
    log.table(
        f"preset {preset}: {num_weights:,} weights, {code_bytes:,} bytes of code (packed)",
        ("bits a weight", "total bytes", "of the limit"),
        [(bits, size, f"{100 * size / limit_bytes:.1f}%") for bits, size in sizes.items()],
    )
    log.info(f"{limit_bytes:,} bytes have room for {fitting:.2f} bits a weight")
    return {
        "preset": preset,
        "num_weights": num_weights,
        "code_bytes": code_bytes,
        "bits_per_weight_that_fit": fitting,
        "total_bytes_by_bits_per_weight": {str(bits): size for bits, size in sizes.items()},
    }


def run_command(log: RunLog) -> None:
    """Runs the command line and writes its figures where it asks for them."""
    config = tyro.cli(QuantizeConfig, description=__doc__)
    if config.estimate:
        report = estimate(str(config.preset), config.limit_bytes, log)
    else:
        report = quantize(Path(config.run or "."), config, log)
    if config.json:
        write_json(config.json, report)


def main() -> int:
    """Exit code: 0 done, 1 over the limit, 2 bad input, 130 stopped."""
    return run_program("quantize.py", lambda: run_command(RunLog()), {BudgetError: 1})


if __name__ == "__main__":
    sys.exit(main())
