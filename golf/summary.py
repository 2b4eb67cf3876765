"""The tables that end a run."""

from typing import Any

from golf.system.log import RunLog

STAGE_NAMES = {
    "last": "last weights",
    "averaged": "averaged weights",
    "quantized": "the artifact",
    "test_time_trained": "the artifact, learning as it is scored",
}


def print_results(results: dict[str, Any], log: RunLog) -> None:
    """The closing tables: what each stage scored, what the parts weigh, where the seconds went."""
    stages = results["stages"]
    log.table(
        "scores on the validation text" + (" (a part of it)" if results["partial"] else ""),
        ("stage", "bits per byte", "nats per token", "windows"),
        [
            (
                f"averaged weights ({stage['output']})" if name == "averaged" else STAGE_NAMES[name],
                round(stage["val_bpb"], 6),
                round(stage["val_loss"], 6),
                f"stride {stage['stride']}" if "stride" in stage else stage["windows"],
            )
            for name, stage in stages.items()
        ],
    )
    size = results["bytes"]
    left = size["limit"] - size["total"]
    rows = [("code", size["code"]), ("artifact", size["artifact"]), ("total", size["total"])]
    log.table("bytes", ("part", "bytes"), [*rows, ("limit", size["limit"]), ("left", left)])
    log.table(
        "seconds", ("phase", "seconds"), [(name, round(s, 1)) for name, s in results["seconds"].items()]
    )


def cost(dollars_per_hour: float | None, seconds: dict[str, float]) -> float | None:
    """What the machine cost over all phases; None where no price was given."""
    return None if dollars_per_hour is None else dollars_per_hour * sum(seconds.values()) / 3600
