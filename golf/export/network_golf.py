"""The network of an export, and how it reads new tokens behind a cache of earlier ones.

Shapes: B batch, T tokens read, N new tokens, L last positions, K key/value heads, E head width, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor

from golf.model.config import ModelConfig
from golf.model.decoder import KeyValueCache
from golf.model.gpt import GPT
from golf.model.kernels import causal_mask
from golf.model.state import ForwardState, Positions
from golf.system.device import scoring_dtype

__all__ = [
    "CONFIG",
    "build_network",
    "choose_compute_dtype",
    "count_visits",
    "find_padding",
    "read_tokens",
]

CONFIG = ModelConfig()
"""The configuration of this network; fields that are not written have their default."""


class KeyValueStore(Protocol):
    """What keeps keys and values of earlier positions by the number of the visit; transformers' caches do."""

    def update(self, keys: Tensor, values: Tensor, visit: int, /) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values, (B, K, N, E); returns those of all tokens, (B, K, T, E)."""
        ...


class StoredPast(KeyValueCache):
    """Earlier positions whose keys and values a `KeyValueStore` keeps; without one there are none.

    `is_text_BT` masks padding that comes before the text of a row; None if there is none.
    """

    def __init__(self, network: GPT, num_tokens: int, store: KeyValueStore | None, is_text_BT: Tensor | None):
        super().__init__(network, num_tokens)
        self._store, self._is_text_BT = store, is_text_BT

    def positions(self) -> Positions:
        """Positions of all tokens read. Padding sees itself alone, since attention to nothing is NaN."""
        found = super().positions()
        if self._is_text_BT is None:
            return found
        device, num_read = self._is_text_BT.device, self.num_read
        visible = found.visible
        if visible is None:
            visible = causal_mask(self.num_new, num_read, device)[None, None]
        itself_NT = torch.eye(num_read, dtype=torch.bool, device=device)[-self.num_new :]
        return found._replace(visible=(visible & self._is_text_BT[:, None, None]) | itself_NT)

    def keys_values(self, visit: int, k_BLKE: Tensor, v_BLKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens."""
        if self._store is None:
            return k_BLKE, v_BLKE
        k_BKTE, v_BKTE = self._store.update(k_BLKE.transpose(1, 2), v_BLKE.transpose(1, 2), visit)
        return k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2)


def build_network() -> GPT:
    """The network with weights as before training; on the meta device, without values."""
    network = GPT(CONFIG)
    if not network.embedding.weight.is_meta:
        network.initialize()
    return network


def count_visits(network: GPT) -> int:
    """Number of keys and values that a `KeyValueStore` keeps: blocks, as often as they run."""
    return network.num_visits[1]


def choose_compute_dtype(weight: Tensor, trained: str) -> torch.dtype:
    """The dtype of activations: that of the weights, or if they are float32, that of the project's scoring.

    This is float32 on a CPU, else `trained`, "float32" or "bfloat16".
    """
    if weight.dtype != torch.float32:
        return weight.dtype
    return scoring_dtype(weight.device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[trained])


def find_padding(attention_mask_BT: Tensor, tokens_BT: Tensor) -> Tensor | None:
    """Whether each token is text, boolean (B, T); None if no row has padding before its text.

    Padding behind the text needs no mask, since attention is causal. ValueError for a mask of other shape or
    with a gap, and for padding before the text that this network cannot leave out.
    """
    config = CONFIG
    if attention_mask_BT.shape != tokens_BT.shape:
        got, expected = tuple(attention_mask_BT.shape), tuple(tokens_BT.shape)
        raise ValueError(
            f"attention_mask has shape {got}; expected {expected}, one value for each token read"
        )
    is_text_BT = attention_mask_BT.bool()
    if is_text_BT.all():
        return None
    is_start_BT = is_text_BT.clone()
    is_start_BT[:, 1:] &= ~is_text_BT[:, :-1]
    if (is_start_BT.sum(1) != 1).any():
        raise ValueError(
            "attention_mask has a row without text, or with padding inside; expected one run of 1"
        )
    if is_text_BT[:, 0].all():
        return None
    reason = ""
    if config.positions == "learned":
        reason = "its learned positions count from the row's beginning"
    elif config.attention_sinks or config.positions in ("alibi", "rotary+alibi"):
        reason = "its attention with sinks or ALiBi takes no mask"
    if reason:
        raise ValueError(
            f"this network reads no padding before the text: {reason}; set padding_side to right, or read "
            "the rows one by one"
        )
    if config.smear != "off" or config.bigram_buckets or config.ngram_buckets:
        first = tokens_BT[is_start_BT]
        if (first != config.bos_id).any():
            raise ValueError(
                f"a text behind padding begins with token {int(first[first != config.bos_id][0])}; expected "
                f"BOS, {config.bos_id}: without it the embedding, which reads earlier tokens, reads padding"
            )
    return is_text_BT


def read_tokens(
    network: GPT,
    tokens_BT: Tensor,
    num_new: int,
    num_last: int,
    store: KeyValueStore | None = None,
    is_text_BT: Tensor | None = None,
) -> Tensor:
    """Logits of the last `num_last` of the `num_new` last tokens, fp32, (B, num_last, V).

    Keys and values of the tokens before them are in `store`.
    """
    if store is None and is_text_BT is None:
        return network(tokens_BT, num_last)
    past = StoredPast(network, tokens_BT.size(1), store, is_text_BT)
    inputs_BN = past.extend(tokens_BT, num_new)
    return network(inputs_BN, num_last, ForwardState(past))
