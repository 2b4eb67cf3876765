"""Gradient descent on the whole model between documents, on those that were graded so far."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.score.scorer import ScoredChunk
from golf.ttt.sgd import TTTConfig, adapt_to_documents, adapted_parameters


class PhaseTrainer:
    """Trains the model in place after given numbers of graded documents (openai/parameter-golf #1610, #1626).

    Each phase takes all documents graded so far, with the settings and a fresh momentum of the method `sgd`.
    With a `cap_rate` two softcaps, of logits above and below 0, learn along (#1945).
    """

    def __init__(self, model: GPT, config: TTTConfig):
        self.model, self.config, self.phases_done = model, config, 0
        self._adapted = adapted_parameters(model, config.frozen_blocks)
        self.log_caps_2 = torch.zeros(2, device=next(model.parameters()).device)

    def due(self, num_documents: int) -> bool:
        """Whether so many graded documents call for a phase that was not done."""
        return sum(boundary <= num_documents for boundary in self.config.phases) > self.phases_done

    def learn(self, graded: list[ScoredChunk]) -> None:
        """One phase; the model is frozen again afterwards."""
        groups = [{"params": self._adapted, "lr": self.config.learning_rate}]
        if self.config.cap_rate:
            groups.append({"params": [self.log_caps_2], "lr": self.config.cap_rate})
        learning = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.SGD(groups, momentum=self.config.momentum)
        for parameter in learning:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            adapt_to_documents(self.model, graded, optimizer, self.config)
        for parameter in learning:
            parameter.requires_grad_(False)
        self.phases_done = sum(boundary <= len(graded) for boundary in self.config.phases)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While it lasts, the model's softcap is two, if they learn; at first both are what it was."""
        if not self.config.cap_rate:
            yield
            return

        def cap_apart(softcap: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            caps_2 = softcap.cap * self.log_caps_2.exp()
            caps_BLV = torch.where(inputs[0] > 0, caps_2[0], caps_2[1])
            return caps_BLV * torch.tanh(inputs[0] / caps_BLV)

        handle = self.model.softcap.register_forward_hook(cap_apart)
        try:
            yield
        finally:
            handle.remove()
