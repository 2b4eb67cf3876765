"""Reads a growing text without reading its beginning again: keys and values of what was read are kept.

The network is the one that trains. While a decoder reads, hooks on its attention hand the new positions
the keys and values of all earlier ones; everything else in it treats each position alone.
Shapes: B batch, T time, N new positions, H new positions with their history, C columns, R rotated dimensions,
V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import Attention
from golf.model.gpt import GPT
from golf.model.positions import rotary_tables
from golf.model.varlen import Documents

HISTORY = 2
"""Earlier tokens that an embedding takes in: the smear the one before, whose bigram takes in one more."""
FORGOTTEN_SHARE = 8
"""One over the share of a full window that is forgotten at a time."""
CHECK_TOKENS = 12
CHECK_TOLERANCE = 1e-3
"""Largest error of a logit, computed in fp32, with which a network counts as one that can be cached."""

ReadText = Callable[[Tensor], Tensor]
"""Takes new tokens (B, N) of a growing text, gives the logits of the token after them, fp32 (B, V)."""


class Decoder:
    """A growing text of `capacity` tokens at most, and the keys and values of what was read of it.

    With `sink_tokens` a full window goes on: its first tokens stay, on which networks rest their attention,
    the oldest others are forgotten, and positions are counted within what is left (arXiv:2309.17453).
    """

    def __init__(self, model: GPT, capacity: int, sink_tokens: int | None = None):
        if sink_tokens is not None and not 0 <= sink_tokens <= capacity // 2:
            raise ValueError(
                f"sink_tokens is {sink_tokens}; expected 0 to {capacity // 2}, half of the window"
            )
        self.model, self.capacity, self.sink_tokens = model, capacity, sink_tokens
        self._tokens_BT: Tensor | None = None
        self._kept: dict[tuple[nn.Module, int], Tensor] = {}
        self._uses: dict[nn.Module, int] = {}
        self._num_new = self._num_asked = 0
        self._attentions = [module for module in model.modules() if isinstance(module, Attention)]
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def num_read(self) -> int:
        """Tokens read so far."""
        return 0 if self._tokens_BT is None else self._tokens_BT.size(1)

    @torch.no_grad()
    def read(self, tokens_BN: Tensor, num_last: int = 1) -> Tensor:
        """Reads on; logits of the last `num_last` (at most N) positions, fp32, shape (B, num_last, V).

        ValueError for no token, or for more than the capacity.
        """
        if self.sink_tokens is not None and self.num_read + tokens_BN.size(1) > self.capacity:
            self._forget(self.sink_tokens, tokens_BN.size(1))
        length = self.num_read + tokens_BN.size(1)
        if not tokens_BN.size(1) or length > self.capacity:
            raise ValueError(
                f"{tokens_BN.size(1)} tokens behind {self.num_read}; the room is {self.capacity}"
            )
        before = tokens_BN[:, :0] if self._tokens_BT is None else self._tokens_BT
        self._tokens_BT = torch.cat((before, tokens_BN), dim=1)
        self._num_new = tokens_BN.size(1)
        self._uses.clear()
        with self._cached():
            return self.model(self._tokens_BT[:, -(self._num_new + HISTORY) :], num_last)

    def _forget(self, num_sinks: int, num_new: int) -> None:
        """Makes room for new tokens, and for some more, so that what is kept is not moved at every token."""
        wanted = max(self.num_read + num_new - self.capacity, self.capacity // FORGOTTEN_SHARE)
        dropped = min(wanted, self.num_read - num_sinks)
        end, rest = self.num_read, num_sinks + dropped
        for kept_BTC in self._kept.values():
            kept_BTC[:, num_sinks : end - dropped] = kept_BTC[:, rest:end].clone()
        self._tokens_BT = torch.cat((self._tokens_BT[:, :num_sinks], self._tokens_BT[:, rest:]), dim=1)

    @contextmanager
    def _cached(self) -> Iterator[None]:
        handles = []
        if self.model.positions is not None:
            handles.append(self.model.positions.register_forward_pre_hook(self._before_positions))
        for attention in self._attentions:
            handles.append(attention.register_forward_pre_hook(self._before_attention))
            handles.append(attention.register_forward_hook(self._after_attention))
            # Modulated keys and values are made of the queries of the same positions, too.
            queries = [attention.query] if attention.modulated else []
            for projection in (attention.key, attention.value, *queries):
                handles.append(projection.register_forward_pre_hook(self._before_projection))
                handles.append(projection.register_forward_hook(self._after_projection))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before_positions(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """The places that the last tokens of the whole text have."""
        (places_H,) = inputs
        return (places_H + self.num_read - places_H.size(0),)

    def _before_attention(self, module: nn.Module, inputs: tuple) -> tuple:
        """New positions alone, behind as many empty ones as were read before."""
        x_BHD, (cos_HR, _, *documents), self._num_asked = inputs
        earlier = self.num_read - self._num_new
        x_BTD = F.pad(x_BHD[:, -self._num_new :], (0, 0, earlier, 0))
        if self._rotary is None:
            base = self.model.config.rotary_base
            self._rotary = rotary_tables(self.capacity, cos_HR.size(1), base, x_BHD.device)
        cos_TR, sin_TR = self._rotary
        places = cos_TR[: self.num_read], sin_TR[: self.num_read]
        if documents:
            numbers_BT = (self._tokens_BT == self.model.config.bos_id).cumsum(1)
            places = (*places, Documents(numbers_BT, None, None))
        return x_BTD, places, min(self._num_asked, self._num_new)

    def _after_attention(self, module: nn.Module, inputs: tuple, output_BND: Tensor) -> Tensor:
        """The stream still has the history's rows, which nothing reads again."""
        return F.pad(output_BND, (0, 0, self._num_asked - output_BND.size(1), 0))

    def _before_projection(self, module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0][:, -self._num_new :],)

    def _after_projection(self, module: nn.Module, inputs: tuple, output_BNC: Tensor) -> Tensor:
        """All positions' keys (or values), of which the new ones were just computed."""
        visit = self._uses.get(module, 0)
        self._uses[module] = visit + 1
        if (module, visit) not in self._kept:
            shape = (output_BNC.size(0), self.capacity, output_BNC.size(2))
            self._kept[module, visit] = output_BNC.new_zeros(shape)
        kept_BTC = self._kept[module, visit]
        kept_BTC[:, self.num_read - self._num_new : self.num_read] = output_BNC
        return kept_BTC[:, : self.num_read]


class RereadingDecoder:
    """The same, reading all from the beginning at each step: for networks that a `Decoder` does not know."""

    def __init__(self, model: GPT, capacity: int):
        self.model, self.capacity = model, capacity
        self._tokens_BT: Tensor | None = None

    @property
    def num_read(self) -> int:
        """Tokens read so far."""
        return 0 if self._tokens_BT is None else self._tokens_BT.size(1)

    @torch.no_grad()
    def read(self, tokens_BN: Tensor, num_last: int = 1) -> Tensor:
        """Reads on; logits of the last `num_last` positions, fp32, shape (B, num_last, V)."""
        before = tokens_BN[:, :0] if self._tokens_BT is None else self._tokens_BT
        self._tokens_BT = torch.cat((before, tokens_BN), dim=1)
        return self.model(self._tokens_BT, num_last)


def can_cache(model: GPT) -> bool:
    """Whether a `Decoder` gives this network's logits, tried in fp32 on a few random tokens."""
    draw = torch.Generator().manual_seed(0)
    shape = (2, CHECK_TOKENS)
    tokens_BT = torch.randint(model.config.vocab_size, shape, generator=draw)
    tokens_BT = tokens_BT.to(next(model.parameters()).device)
    dtype, model.compute_dtype = model.compute_dtype, torch.float32
    try:
        with torch.no_grad():
            wanted_BTV = model(tokens_BT)
        decoder = Decoder(model, CHECK_TOKENS)
        for start, end in ((0, 5), (5, 6), (6, 7), (7, CHECK_TOKENS)):
            found_BNV = decoder.read(tokens_BT[:, start:end], end - start)
            if not torch.allclose(found_BNV, wanted_BTV[:, start:end], atol=CHECK_TOLERANCE, rtol=0.0):
                return False
        return True
    finally:
        model.compute_dtype = dtype
