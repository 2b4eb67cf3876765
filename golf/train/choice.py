"""Which weights leave training."""

from torch import Tensor, nn

from golf.system.log import RunLog
from golf.train.loop import Trainer


def choose_output(trainer: Trainer, log: RunLog) -> tuple[str, dict[str, Tensor], dict[str, float]]:
    """Name and CPU weights of the average to keep, and the held-out bits per byte of each candidate."""
    wanted = trainer.average.config.output
    outputs = {
        name: {key: weight.clone() for key, weight in weights.items()}
        for name, weights in trainer.average.outputs().items()
        if wanted in ("auto", name)
    }
    held_out = {}
    for name, weights in outputs.items():
        trainer.model.load_state_dict(weights)
        held_out[name] = trainer.held_out_bpb()
    best = min(held_out, key=held_out.__getitem__)
    log.event("average", output=best, **{f"held_out_bpb_{name}": bpb for name, bpb in held_out.items()})
    return best, {key: weight.cpu().contiguous() for key, weight in outputs[best].items()}, held_out


def weights_sum(model: nn.Module) -> float:
    """A number that differs where weights do, almost surely."""
    return sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())
