"""Why no GGUF file is made of a network: the parts of it that llama.cpp has in no architecture."""

from golf.model.config import ModelConfig


def unsupported_fields(config: ModelConfig) -> list[str]:
    """The fields of which no architecture of llama.cpp has the like, each with its value and what it means.

    Not among them is what some architecture has: a softcap, sinks, gates, normed queries, xIELU. No single
    architecture needs to have all that is left.
    """
    lacking = {
        "plain_blocks": (not config.plain_blocks, "U-net skips, ln_scale, a mix with the embedding"),
        "xsa": (config.xsa, "exclusive self-attention"),
        "attention": (config.attention != "gqa", "attention of this kind"),
        "document_mask": (config.document_mask, "attention that ends at each BOS"),
        "positions": (config.positions == "rotary+alibi", "both rotary positions and ALiBi"),
        "activation_slope": (config.activation_slope != 0, "a slope of squared ReLU"),
        "heterogeneous_experts": (config.heterogeneous_experts, "experts of unlike sizes"),
        "dense_connections": (config.dense_connections, "connections across depth"),
        "parallel_residual_blocks": (config.parallel_residual_blocks > 0, "sublayers on two streams"),
        "smear": (config.smear != "off", "the previous token's embedding in this one's"),
        "bigram_buckets": (config.bigram_buckets > 0, "a table of hashed pairs"),
        "ngram_buckets": (bool(config.ngram_buckets), "tables of hashed n-grams"),
    }
    return [f"{name}={vars(config)[name]} ({means})" for name, (has, means) in lacking.items() if has]


def gguf_error(config: ModelConfig) -> ValueError:
    """What is said in place of a GGUF file: the fields, or that its writer is not built."""
    fields = unsupported_fields(config)
    if fields:
        return ValueError(
            f"no GGUF: no architecture of llama.cpp has {'; '.join(fields)}. --to transformers exports it"
        )
    return ValueError(
        "no GGUF: architectures of llama.cpp have the parts of this network, but this toolkit has no writer "
        "for them. --to transformers exports it"
    )
