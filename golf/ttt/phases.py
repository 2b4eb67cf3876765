"""Gradient descent on the whole model between documents, on those that were graded so far."""

import torch
from torch import Tensor

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
            adapt_to_documents(self.model, graded, optimizer, self.config, self.caps)
        for parameter in learning:
            parameter.requires_grad_(False)
        self.phases_done = sum(boundary <= len(graded) for boundary in self.config.phases)

    @property
    def caps(self) -> Tensor | None:
        """`ForwardState.log_caps_2` of the model's forward passes; None if the softcap does not learn."""
        return self.log_caps_2 if self.config.cap_rate else None
