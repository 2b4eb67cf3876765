"""Decoding with a cache: keys and values of the tokens read so far are kept.

Shapes: B batch, T tokens read, N new tokens, K key/value heads, E head width, V vocabulary.
"""

import torch
from torch import Tensor

from golf.model.document_mask import visible_keys
from golf.model.gpt import GPT
from golf.model.positions import rotary_tables
from golf.model.state import ForwardState, Past, Positions

FORGOTTEN_SHARE = 8
"""One over the share of a full window that is forgotten at a time."""


class KeyValueCache(Past):
    """Keys, before rotation, and values of up to `capacity` tokens, for every visit."""

    def __init__(self, model: GPT, capacity: int):
        self.model, self.capacity = model, capacity
        self.num_read = 0
        """Tokens read, the new ones among them."""
        self._tokens_BT = torch.empty(0)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        config = model.config
        rotary_dims = config.rotary_dims if config.positions.startswith("rotary") else 0
        device = model.embedding.weight.device
        self._tables = rotary_tables(capacity, rotary_dims, config.rotary_base, device)

    def extend(self, tokens_BT: Tensor, num_new: int) -> Tensor:
        """Makes the last `num_new` of all tokens the new ones; returns the inputs of the forward pass."""
        self._tokens_BT, self.num_read, self.num_new = tokens_BT, tokens_BT.size(1), num_new
        # The embedding reads earlier tokens: the smear the one before, whose longest n-gram begins before it.
        history = 2 + len(self.model.config.ngram_buckets)
        inputs_BN = tokens_BT[:, -(num_new + history) :]
        self.num_before = self.num_read - inputs_BN.size(1)
        return inputs_BN

    def positions(self) -> Positions:
        """Positions of all tokens read."""
        cos_TR, sin_TR = (table[: self.num_read] for table in self._tables)
        if not self.model.config.document_mask:
            return Positions(cos_TR, sin_TR)
        visible = visible_keys(self._tokens_BT, self.model.config.bos_id, self.num_new)
        return Positions(cos_TR, sin_TR, visible)

    def keys_values(self, visit: int, k_BLKE: Tensor, v_BLKE: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values; returns those of all tokens."""
        if visit not in self._kept:
            num_rows, _, *heads = k_BLKE.shape
            shape = (num_rows, self.capacity, *heads)
            self._kept[visit] = k_BLKE.new_zeros(shape), v_BLKE.new_zeros(shape)
        for kept_BTKE, new_BLKE in zip(self._kept[visit], (k_BLKE, v_BLKE), strict=True):
            kept_BTKE[:, self.num_read - k_BLKE.size(1) : self.num_read] = new_BLKE
        k_BTKE, v_BTKE = self._kept[visit]
        return k_BTKE[:, : self.num_read], v_BTKE[:, : self.num_read]

    def forget(self, start: int, end: int) -> None:
        """Drops the tokens from `start` to `end`; later ones move up."""
        for kept in self._kept.values():
            for kept_BTKE in kept:
                kept_BTKE[:, start : start + self.num_read - end] = kept_BTKE[:, end : self.num_read].clone()


class Decoder:
    """Reads a growing text of at most `capacity` tokens.

    With `sink_tokens` a full window goes on: its first tokens stay, since attention needs them as sinks, the
    oldest others are forgotten, and positions are counted within the window (arXiv:2309.17453).
    """

    def __init__(self, model: GPT, capacity: int, sink_tokens: int | None = None):
        if sink_tokens is not None and not 0 <= sink_tokens <= capacity // 2:
            raise ValueError(
                f"sink_tokens is {sink_tokens}; expected 0 to {capacity // 2}, half of the window"
            )
        self.model, self.capacity, self.sink_tokens = model, capacity, sink_tokens
        self._cache = KeyValueCache(model, capacity)
        self._tokens_BT: Tensor | None = None

    @property
    def num_read(self) -> int:
        """Tokens in the window."""
        return 0 if self._tokens_BT is None else self._tokens_BT.size(1)

    @torch.inference_mode()
    def read(self, tokens_BN: Tensor, num_last: int = 1) -> Tensor:
        """Reads on; logits of the last `num_last` (at most N) positions, fp32, shape (B, num_last, V).

        ValueError for no token, or for more than the capacity.
        """
        num_new = tokens_BN.size(1)
        if self.sink_tokens is not None and self.num_read + num_new > self.capacity:
            self._forget(self.sink_tokens, num_new)
        if not num_new or self.num_read + num_new > self.capacity:
            raise ValueError(f"{num_new} tokens after {self.num_read}; the capacity is {self.capacity}")
        before = tokens_BN[:, :0] if self._tokens_BT is None else self._tokens_BT
        self._tokens_BT = torch.cat((before, tokens_BN), dim=1)
        inputs_BN = self._cache.extend(self._tokens_BT, num_new)
        return self.model.forward(inputs_BN, num_last, ForwardState(self._cache))

    def _forget(self, num_sinks: int, num_new: int) -> None:
        """Makes room for new tokens, and for some more, so that the cache is not moved at every token."""
        wanted = max(self.num_read + num_new - self.capacity, self.capacity // FORGOTTEN_SHARE)
        dropped = min(wanted, self.num_read - num_sinks)
        self._cache.forget(num_sinks, num_sinks + dropped)
        tokens_BT = self._tokens_BT
        assert tokens_BT is not None, "tokens were read before some are forgotten"
        self._tokens_BT = torch.cat((tokens_BT[:, :num_sinks], tokens_BT[:, num_sinks + dropped :]), dim=1)
