"""Which fields of a network's configuration no architecture of llama.cpp, so no GGUF file, expresses."""

from golf.model.config import ModelConfig


def unsupported_fields(config: ModelConfig) -> list[str]:
    """The fields with their values and what llama.cpp lacks for each; empty if it has an architecture.

    They share blocks x + f(norm(x)), feed-forwards with GELU, SwiGLU or squared ReLU, grouped queries, rotary
    or learned positions or ALiBi, and an output matrix that may be the token embedding.
    """
    not_shared = {
        "plain_blocks": (
            not config.plain_blocks,
            "U-net skips, ln_scale, a mix with the embedding, output scales",
        ),
        "xsa": (config.xsa, "exclusive self-attention"),
        "qk_norm": (config.qk_norm, "a gain per head on normed queries"),
        "attention": (config.attention != "gqa", "attention of this kind"),
        "attention_gate": (config.attention_gate != 0, "a gate per head that reads 12 channels"),
        "attention_gate_dense": (config.attention_gate_dense, "a gate of attention's output in such blocks"),
        "attention_sinks": (config.attention_sinks, "sinks in blocks without a mixture of experts"),
        "document_mask": (config.document_mask, "a mask of the documents in a window"),
        "positions": (config.positions in ("rotary+alibi", "none"), "positions of this kind"),
        "feedforward": (
            config.feedforward not in ("relu2", "gelu", "swiglu"),
            "this activation in such blocks",
        ),
        "activation_slope": (config.activation_slope != 0, "a slope of squared ReLU"),
        "num_experts": (config.num_experts > 1, "a mixture whose softmax is over two experts of such a kind"),
        "norm": (config.norm not in ("rms", "rms-gain", "layer"), "a norm of this kind"),
        "dense_connections": (config.dense_connections, "connections across depth"),
        "parallel_residual_blocks": (config.parallel_residual_blocks > 0, "two residual streams"),
        "recurrence": (config.recurrence > 1, "blocks that run several times"),
        "logit_softcap": (config.logit_softcap != 0, "a softcap of the logits behind such blocks"),
        "smear": (config.smear != "off", "the previous token's embedding in this one's"),
        "bigram_buckets": (config.bigram_buckets > 0, "tables of hashed n-grams"),
        "ngram_buckets": (bool(config.ngram_buckets), "tables of hashed n-grams"),
    }
    return [f"{name}={vars(config)[name]} ({lacks})" for name, (has, lacks) in not_shared.items() if has]


def gguf_error(config: ModelConfig) -> ValueError:
    """Why there is no GGUF file of this network: the fields, or that its writer is not built."""
    fields = unsupported_fields(config)
    if fields:
        return ValueError(
            f"no GGUF: llama.cpp has no architecture with {'; '.join(fields)}. --to transformers exports it"
        )
    return ValueError(
        "no GGUF: llama.cpp has architectures of such blocks, but this toolkit has no writer for them; "
        "--to transformers exports this network"
    )
