"""How many documents can learn side by side in the memory there is."""

import os

import torch

from golf.model.gpt import GPT
from golf.score.windows import WindowConfig
from golf.ttt.document_plan import DocumentBatch
from golf.ttt.lora import LoraConfig, find_matrices

_USABLE_SHARE = 0.8
_ACTIVATIONS_PER_CHANNEL = 24
"""Numbers that a block keeps for its backward pass, for each position of a chunk and channel of the width."""
_KEYS_KEPT = 3
"""Tensors as large as a window's keys that attention keeps for it; two more have a head for each query."""


class LoraMemoryError(ValueError):
    """Adapters that do not fit into memory even for one document at a time."""


def free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Memory that a process can take on the device; None where the system does not say.

    Each of `num_processes` on this machine has a GPU of its own, or an equal part of the machine's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // num_processes
    except (AttributeError, ValueError):
        return None


def lora_bytes(model: GPT, windows: WindowConfig, config: LoraConfig, chunk_tokens: int) -> tuple[int, int]:
    """Bytes that adapters take whatever is done, and further bytes for each document that learns.

    Kept are the adapters of every place in a batch; a document adds moments and gradients, the inputs of
    every visit's attention over two windows, and what the backward pass of a chunk needs, estimated: the
    chunk's activations, and the keys and values of its window.
    """
    adapters = sum(
        matrix.num_adapters * config.rank * sum(matrix.shape)
        for matrix in find_matrices(model, config.projections)
    )
    number_bytes = model.compute_dtype.itemsize
    width, visits = model.config.width, len(model.plan)
    windows_bytes = 2 * visits * windows.context * width * number_bytes
    shared_width = width // model.config.num_heads * model.config.num_kv_heads
    keys_bytes = visits * windows.context * (_KEYS_KEPT * shared_width + 2 * width) * number_bytes
    chunk_bytes = visits * chunk_tokens * width * _ACTIVATIONS_PER_CHANNEL * number_bytes
    logits_bytes = 4 * 4 * chunk_tokens * model.config.vocab_size
    moments_bytes = 4 * adapters * (2 + bool(config.beta_first))
    each = moments_bytes + windows_bytes + keys_bytes + chunk_bytes + logits_bytes
    return 4 * adapters * config.batch_documents, each


def plan_documents_at_once(
    model: GPT, windows: WindowConfig, config: LoraConfig, batches: list[DocumentBatch], memory: int | None
) -> int:
    """Documents that learn side by side: what a batch and a forward pass have, or fewer if memory is short.

    LoraMemoryError if not even one fits into `memory` bytes.
    """
    wanted = min(windows.batch_tokens // windows.context, max(len(batch.documents) for batch in batches))
    if memory is None:
        return wanted
    chunk_tokens = min(windows.context, max(batch.chunk_tokens for batch in batches))
    kept, each = lora_bytes(model, windows, config, chunk_tokens)
    fitting = int(_USABLE_SHARE * memory - kept) // each
    if fitting < 1:
        raise LoraMemoryError(
            f"adapters of rank {config.rank} for {config.batch_documents} documents take {kept:,} bytes, and "
            f"{each:,} more for each that learns; {memory:,} are free"
        )
    return min(wanted, fitting)
