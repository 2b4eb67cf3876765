"""An exported model as a class of transformers.

Shapes: B batch, T tokens read, N new tokens, L last positions, V vocabulary.
"""

import json
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor, nn
from transformers import (  # pyright: ignore[reportMissingImports]
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer  # pyright: ignore[reportMissingImports]
from transformers.modeling_outputs import (  # pyright: ignore[reportMissingImports]
    CausalLMOutputWithPast,
)

from golf.export.configuration_golf import GolfConfig
from golf.export.network_golf import (
    CONFIG,
    build_network,
    choose_compute_dtype,
    count_visits,
    find_padding,
    read_tokens,
)


class GolfForCausalLM(PreTrainedModel, GenerationMixin):
    """The network with the methods of transformers' causal language models.

    A DynamicCache has a layer of keys and values for each visit of a block, and one of the tokens, since the
    embedding and the document mask read earlier tokens. ValueError for a `config` of another network.
    """

    config_class = GolfConfig
    base_model_prefix = "model"

    def __init__(self, config: GolfConfig):
        super().__init__(config)
        # As JSON has it, lists for tuples.
        own = json.loads(json.dumps(asdict(CONFIG)))
        if config.network != own:
            given = config.network or {}
            names = sorted(name for name in own | given if own.get(name) != given.get(name))
            raise ValueError(f"config.json is of another network than network_golf.py: {', '.join(names)}")
        self.model = build_network()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `build_network` has drawn the weights."""

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, whose rows the head reads too."""
        return self.model.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DynamicCache | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, fp32 (B, N, V), of the tokens `input_ids` (B, N) behind those in the cache.

        `past_key_values` is the name of `cache` in earlier versions of transformers. `labels` (B, N) are
        tokens, -100 for none; each is compared with the logits before it, and the loss has no cache.
        `logits_to_keep` is the number of last positions to compute, 0 for all, or the positions. ValueError
        for padding as in `find_padding`, for another cache than DynamicCache, and for arguments that this
        network does not read.
        """
        # Earlier versions of transformers pass positions in the cache, whose length says the same.
        others.pop("cache_position", None)
        unread = sorted(name for name, value in others.items() if value is not None and value is not False)
        if unread:
            raise ValueError(f"{', '.join(unread)}: this network reads input_ids and attention_mask alone")
        store = cache if cache is not None else past_key_values
        if store is None and (self.config.use_cache if use_cache is None else use_cache) and labels is None:
            store = DynamicCache()
        tokens_BT = input_ids
        if store is not None:
            tokens_BT = self._all_tokens(store, input_ids)
        is_text_BT = None if attention_mask is None else find_padding(attention_mask, tokens_BT)
        self.model.compute_dtype = choose_compute_dtype(
            self.model.embedding.weight, self.config.compute_dtype
        )
        num_new = num_last = input_ids.size(1)
        if isinstance(logits_to_keep, int) and logits_to_keep:
            num_last = min(logits_to_keep, num_new)
        logits_BLV = read_tokens(self.model, tokens_BT, num_new, num_last, store, is_text_BT)
        if isinstance(logits_to_keep, Tensor):
            logits_BLV = logits_BLV[:, logits_to_keep]
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits_BLV,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        kept: dict[str, Any] = {} if store is None else {CACHE_FIELD: store}
        found = CausalLMOutputWithPast(loss=loss, logits=logits_BLV, **kept)
        return found.to_tuple() if return_dict is False else found

    def _all_tokens(self, store: DynamicCache, input_ids: Tensor) -> Tensor:
        """The tokens that the cache has and the new ones, (B, T), which are added to it."""
        if not isinstance(store, DynamicCache):
            raise ValueError(
                f"the cache is a {type(store).__name__}; expected a DynamicCache, which keeps tokens too"
            )
        num_visits = count_visits(self.model)
        store.layers += [DynamicLayer() for _ in range(num_visits + 1 - len(store.layers))]
        tokens_B1T1 = input_ids[:, None, :, None]
        return store.update(tokens_B1T1, tokens_B1T1, num_visits)[0][:, 0, :, 0]


_OUTPUTS = {field.name for field in fields(CausalLMOutputWithPast)}
CACHE_FIELD = "cache" if "cache" in _OUTPUTS else "past_key_values"
"""The name of the cache among a model's outputs, which depends on the version of transformers."""
