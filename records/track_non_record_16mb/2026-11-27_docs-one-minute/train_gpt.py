"""Trains, packs and scores the language model of this entry, or scores its artifact.

torchrun --standalone --nproc_per_node=8 train_gpt.py      the whole run, on ./data of the challenge
python train_gpt.py --score artifact.bin --data DIR        scores an artifact in this process

A run writes logs/RUN_ID.txt and final_model_RUN_ID.bin; one that was stopped goes on from what is in logs/.
"""
# golf/entry_main.py and the definitions of golf that it reaches, in one file. Lines by room:
#   model          722
#   pack         1,168
#   system         690
#   score          363
#   train        1,016
#   data           389
#   ttt          1,339
#   config          35
#   results          5
#   evaluate        22
#   run             83
#   entry_main     253

import argparse
import ctypes
import dataclasses
import errno
import gc
import hashlib
import inspect
import io
import json
import math
import os
import pickle
import platform
import random
import re
import secrets
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import warnings
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import InitVar, asdict, dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby, pairwise, product
from math import ceil, lgamma, log
from pathlib import Path
from types import FrameType, MappingProxyType, UnionType
from typing import Any, Literal, NamedTuple, TextIO, TypeVar, get_args, get_origin

import numpy as np
import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
import zstandard
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.adamw import adamw

# golf/model/roles.py: Roles of parameters, each declared where the parameter is made; `GPT` refuses a parameter without one.
TensorKind = Literal["matrix", "embedding", "small"]
"""How a tensor is packed: as a matrix of the blocks, as another matrix or table, as a small tensor."""

class Role(NamedTuple):
    """What the rest of the project does with a parameter."""

    group: Literal["matrix", "embedding", "scalar"]
    """Optimizer group: hidden matrices, tables that tokens look up, and all others."""
    kind: TensorKind

MATRIX = Role("matrix", "matrix")
PROJECTION = Role("matrix", "embedding")
"""A matrix outside the blocks."""
TABLE = Role("embedding", "embedding")
SCALAR = Role("scalar", "small")
SKIP = Role("scalar", "embedding")
"""Skip weights: a table only where a network has 16 skips or more."""

def parameter(data: Tensor, role: Role) -> nn.Parameter:
    """A parameter with a role."""
    made = nn.Parameter(data)
    made.role = role  # type: ignore[attr-defined]
    return made

def roles_of(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by name; ValueError names one that has none."""
    roles = {}
    for name, each in model.named_parameters():
        if not isinstance(role := vars(each).get("role"), Role):
            raise ValueError(f"parameter {name} has no role; make it with golf.model.roles.parameter")
        roles[name] = role
    return roles

# golf/model/state.py: What a forward pass reads besides tokens and weights: earlier positions, adapters, caps of the logits.
Adapter = Callable[[Tensor, Tensor], Tensor]
"""Takes the input (B, L, I) and the output (B, L, O) of a matrix; returns the output to use in its place."""
NO_ADAPTERS: Mapping[str, Adapter] = MappingProxyType({})

class Positions(NamedTuple):
    """Positions of the keys that attention reads: rotary cosines and sines, and a mask."""

    cos_TR: Tensor
    sin_TR: Tensor
    visible: Tensor | None = None
    """Mask, of bool or as added, whose last L rows are those of the queries, (B, 1, ., T); None if causal."""
    bounds_S: Tensor | None = None
    """Cumulative lengths of the documents in the flattened batch, for the variable-length kernel."""

class Past:
    """Earlier positions of the text. This base class has none; subclasses override what they keep."""

    num_new: int
    """Positions to compute: the last of the inputs. Those before them only feed the embedding."""
    num_before: int = 0
    """Tokens of the text before the inputs, for learned positions."""

    def positions(self) -> Positions | None:
        """Positions of all keys; None: the inputs are the whole window, and count from 0."""
        return None

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """Inputs of attention (B, T, D): the new ones behind those of the past."""
        return x_BLD

    def keys_values(self, visit: int, k_BLKE: Tensor, v_BLKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, before rotation, and values (B, T, K, E): the new ones behind those of the past."""
        return k_BLKE, v_BLKE

@dataclass(frozen=True)
class ForwardState:
    """Optional argument of `GPT.forward`."""

    past: Past | None = None
    adapters: Sequence[Mapping[str, Adapter]] = ()
    """Adapters by visit, then by the name of the matrix (`Linear.adapter`); () for none."""
    head_adapter: Adapter | None = None
    log_caps_2: Tensor | None = None
    """Logarithms of factors on the softcap, for positive and for negative logits; None for one fixed cap."""

class VisitState(NamedTuple):
    """What one visit of a block reads besides the residual stream."""

    visit: int
    """Its number in the forward pass."""
    num_last: int
    """Positions to compute, the last ones."""
    positions: Positions
    past: Past | None = None
    adapters: Mapping[str, Adapter] = NO_ADAPTERS

# golf/model/layers.py: Layers that all parts of the network use: bias-free matrix, embedding, tied head, norms.
class Linear(nn.Module):
    """Bias-free linear map whose fp32 master weight is cast to its input's dtype at each use."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        init: Literal["orthogonal", "output", "zero"] = "orthogonal",
        adapter: str | None = None,
        role: Role = MATRIX,
    ):
        super().__init__()
        self.init, self.adapter = init, adapter
        self.weight = parameter(torch.empty(out_features, in_features), role)

    def forward(self, x: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        y = F.linear(x, self.weight.to(x.dtype))
        return y if adapter is None else adapter(x, y)

class Embedding(nn.Module):
    """A row of `weight`, shape (num_rows, width), for each token id."""

    def __init__(self, num_rows: int, width: int):
        super().__init__()
        self.weight = parameter(torch.empty(num_rows, width), TABLE)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Maps (B, T) to (B, T, width)."""
        return F.embedding(tokens_BT, self.weight)

class TiedHead(nn.Module):
    """Logits of all tokens by the rows of the embedding; a module, so that calibration can observe it."""

    def forward(self, x_BLD: Tensor, weight_VD: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Maps (B, L, D) to (B, L, V), in the dtype of x."""
        logits_BLV = F.linear(x_BLD, weight_VD.to(x_BLD.dtype))
        return logits_BLV if adapter is None else adapter(x_BLD, logits_BLV)

def rms_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over the last dimension (arXiv:1910.07467), without a learned gain."""
    return F.rms_norm(x, (x.size(-1),))

# golf/model/config.py: Sizes and switches of the network.
@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the network. The defaults are the preset `seed`: 26,666,073 parameters."""

    vocab_size: int = 1024
    """Tokens in the vocabulary."""
    num_layers: int = 11
    """Blocks; the first half feeds skips to the second."""
    width: int = 512
    """Channels of the residual stream."""
    num_heads: int = 8
    """Query heads; width / num_heads is the head width."""
    num_kv_heads: int = 4
    """Key/value heads, each shared by num_heads / num_kv_heads query heads."""
    mlp_hidden: int = 1536
    """Hidden units of each feed-forward sublayer."""
    context: int = 1024
    """Tokens of context in training, and in scoring unless said otherwise."""
    rotary_dims: int = 16
    """Dimensions of each head that RoPE rotates; the head width for full RoPE."""
    rotary_base: float = 50_000.0
    """Base of the rotary angles."""
    positions: Literal["rotary", "learned", "alibi", "rotary+alibi", "none"] = "rotary"
    """Position encoding: RoPE, a learned table of `context` rows, ALiBi (arXiv:2108.12409), both of RoPE and
    ALiBi, or none."""
    qk_gain: float = 1.5
    """Initial gain of each query head after its RMS norm."""
    qk_norm: bool = True
    """Whether queries and keys are RMS-normed, and queries scaled by a learned gain."""
    xsa: bool = False
    """Exclusive self-attention: whether outputs are made orthogonal to the position's own value."""
    attention_gate: float = 0.0
    """s in the gate sigmoid(s W x) on each head's output, W reading 12 channels; 0 for no gate."""
    attention_gate_dense: bool = False
    """Whether attention's output is gated per channel by sigmoid(W x), W a full matrix (arXiv:2505.06708)."""
    attention_sinks: bool = False
    """Whether each head has a learned sink logit: a key without a value."""
    document_mask: bool = False
    """Whether attention is masked to the document that a token belongs to."""
    attention: str = "gqa"
    """Kind of the attention sublayers, a key of ATTENTIONS: gqa, or co4 (modulated, arXiv:2510.08404)."""
    norm: str = "rms"
    """Norm of the blocks' inputs and of the last stream, a key of NORMS: rms, rms-gain or layer."""
    feedforward: str = "relu2"
    """Kind of the feed-forward sublayers, a key of FEEDFORWARDS: relu2, gelu, swiglu or xielu."""
    activation_slope: float = 0.0
    """s in the activation of relu2, max(u, s u)^2."""
    num_experts: int = 1
    """Experts that share mlp_hidden, two of which are active for each token; 1 for no mixture."""
    heterogeneous_experts: bool = False
    """Whether experts have sizes of 1 : 2 : 3 ... instead of one size."""
    plain_blocks: bool = False
    """Whether blocks are x + f(norm(x)) as in GPT-2, without ln_scale, embedding mix, output scales, U-net
    skips and norm of the embedding."""
    dense_connections: bool = False
    """Whether the stream after each block is mixed with the outputs of all earlier ones, by weights that
    depend on the position (MUDD, arXiv:2502.12170), in place of U-net skips and of the embedding mix."""
    skip_gates: bool = False
    """Whether a U-net skip is blended in by a learned gate; otherwise it is added."""
    parallel_residual_blocks: int = 0
    """Number of last blocks in which attention and feed-forward run in parallel on two residual streams."""
    recurrence_first: int = 0
    """First block of the depth recurrence."""
    recurrence_last: int = 0
    """Last block of the depth recurrence."""
    recurrence: int = 1
    """How often the group of blocks is run; 1 for no recurrence."""
    logit_softcap: float = 30.0
    """c in c * tanh(logit / c); 0 leaves logits as they are."""
    smear: Literal["blend", "add", "add-raw", "off"] = "blend"
    """Smear of the previous token's embedding: blended per channel, added behind a gate after the embedding's
    norm or (raw) before it, or off."""
    bigram_buckets: int = 2048
    """Rows of the hashed bigram table; 0 for none."""
    ngram_buckets: tuple[int, ...] = ()
    """Rows of further hashed tables: of three tokens, of four, and so on."""
    bigram_width: int = 64
    """Columns of each of these tables."""
    embedding_std: float = 0.005
    """Standard deviation of the token embedding at initialisation."""
    future_tokens: int = 0
    """Multi-token prediction (arXiv:2404.19737): number of further tokens that training predicts, each by a
    matrix of its own before the head. These matrices are not exported."""
    output_init: Literal["scaled", "zero"] = "scaled"
    """Attention and feed-forward outputs start orthogonal with gain 1 / sqrt(2 num_layers), or at zero."""
    bos_id: int = 1
    """The token that starts each document."""

# golf/model/kernels.py: Causal attention by the fastest kernels of the machine, chosen once for a run.
FUSED_KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's own, by the names that options have."""
MIN_CUDNN = 91501
"""9.15.1: earlier ones read beyond their tensors where 128 does not divide the length (pytorch #169849)."""

class KernelError(ValueError):
    """Kernels were asked for by name that this machine lacks."""

AttentionKernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes queries (B, H, L, E), keys and values (B, K, T, E); returns (B, H, L, E)."""

def causal_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
    """Attention of the last L queries over all T keys, each reading itself and the keys before it."""
    num_queries, num_keys = q_BHLE.size(2), k_BKTE.size(2)
    if num_queries == num_keys:
        dtype = q_BHLE.dtype
        if q_BHLE.device.type == "cpu" and dtype == torch.bfloat16:
            # The backward pass of torch's CPU kernel takes 2.4 times as long in bf16 as in fp32.
            q_BHLE, k_BKTE, v_BKTE = q_BHLE.float(), k_BKTE.float(), v_BKTE.float()
        y_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=True)
        return y_BHLE.to(dtype)
    # The causal flag of torch's kernels would align the first query with the first key.
    return masked_attention(q_BHLE, k_BKTE, v_BKTE, causal_mask(num_queries, num_keys, q_BHLE.device))

def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Whether each of the last L positions may see each of T, (L, T)."""
    keys_T = torch.arange(num_keys, device=device)
    return keys_T[None, :] <= keys_T[num_keys - num_queries :, None]

def repeating_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
    """`causal_attention` with key/value heads repeated first, for kernels that do not share them."""
    if q_BHLE.size(2) == k_BKTE.size(2):
        k_BKTE, v_BKTE = repeat_heads(q_BHLE, k_BKTE, v_BKTE)
    return causal_attention(q_BHLE, k_BKTE, v_BKTE)

class FlashAttention3:
    """The package `flash_attn_interface` (FlashAttention 3, for Hopper), where L = T."""

    def __init__(self) -> None:
        # Imported here: code that is being compiled cannot import.
        self._attend = import_module("flash_attn_interface").flash_attn_func

    def __call__(self, q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Outputs (B, H, L, E)."""
        if q_BHLE.size(2) != k_BKTE.size(2):
            return causal_attention(q_BHLE, k_BKTE, v_BKTE)
        # The package has heads after time.
        found = self._attend(*(x.transpose(1, 2) for x in (q_BHLE, k_BKTE, v_BKTE)), causal=True)
        y_BLHE = found[0] if isinstance(found, tuple) else found
        return y_BLHE.transpose(1, 2)

def masked_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, visible: Tensor) -> Tensor:
    """Attention where `visible`, boolean and broadcast to (B, H, L, T), says so."""
    if q_BHLE.device.type == "cuda":
        k_BKTE, v_BKTE = repeat_heads(q_BHLE, k_BKTE, v_BKTE)
    return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, attn_mask=visible, enable_gqa=True)

def repeat_heads(q_BHLE: Tensor, *shared_BKTE: Tensor) -> tuple[Tensor, ...]:
    """Key or value heads as often as queries share them, (B, H, T, E)."""
    group = q_BHLE.size(1) // shared_BKTE[0].size(1)
    return tuple(x_BKTE.repeat_interleave(group, dim=1) for x_BKTE in shared_BKTE)

def kernel_order(capability: tuple[int, int], has_flash_3: bool, cudnn_version: int) -> tuple[str, ...]:
    """The kernels of a GPU of that capability, in the order to try them."""
    if capability[0] < 8:
        return "efficient", "math"
    hopper = capability[0] == 9
    fastest = ("cudnn", "flash") if hopper and cudnn_version >= MIN_CUDNN else ("flash", "cudnn")
    return *(("fa3",) if hopper and has_flash_3 else ()), *fastest, "efficient", "math"

def present_kernels(device: torch.device) -> tuple[str, ...]:
    """The kernels that this machine has, in the order to try them."""
    if device.type != "cuda":
        return ("flash", "math") if cpu_flash_shares_heads() else ("math",)
    has_flash_3 = find_spec("flash_attn_interface") is not None
    version = torch.backends.cudnn.version() or 0
    return kernel_order(torch.cuda.get_device_capability(device), has_flash_3, version)

def cpu_flash_shares_heads() -> bool:
    """Whether torch's flash kernel of a CPU takes fewer key/value heads than queries; 2.8's does not."""
    q_BHLE, k_BKTE = torch.zeros(1, 2, 1, 8), torch.zeros(1, 1, 1, 8)
    try:
        with sdpa_kernels(("flash",)), warnings.catch_warnings(action="ignore"):
            causal_attention(q_BHLE, k_BKTE, k_BKTE)
    except RuntimeError:
        return False
    return True

def require_kernel(asked: str, present: Sequence[str]) -> tuple[str]:
    """The kernel that was asked for; KernelError, with those that are there, if it is none of them."""
    if asked not in present:
        raise KernelError(
            f"attention kernels {asked!r} were asked for; this machine has {', '.join(present)}"
        )
    return (asked,)

def attention_kernel(names: tuple[str, ...]) -> AttentionKernel:
    """The function that computes attention by the first of these kernels that can, within `sdpa_kernels`."""
    if "fa3" in names:
        return FlashAttention3()
    repeats = "efficient" in names and not {"cudnn", "flash"} & set(names)
    return repeating_attention if repeats else causal_attention

def sdpa_kernels(names: tuple[str, ...]) -> AbstractContextManager[object]:
    """Within the block torch's attention takes the first of these kernels that can do it."""
    fused = [FUSED_KERNELS[name] for name in names if name in FUSED_KERNELS]
    return sdpa_kernel(fused or list(FUSED_KERNELS.values()), set_priority=True)

@contextmanager
def attention_kernels(model: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    """Within the block the model's attention takes the first of these kernels that can do it."""
    kernel = attention_kernel(names)
    attentions: list[Any] = [module for module in model.modules() if "kernel" in vars(module)]
    before = [(module, module.kernel) for module in attentions]
    for module in attentions:
        module.kernel = kernel
    try:
        with sdpa_kernels(names):
            yield
    finally:
        for module, earlier in before:
            module.kernel = earlier

# golf/model/positions.py: Rotary position embedding (arXiv:2104.09864) on the first dimensions of each head.
def rotary_tables(length: int, num_dims: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a rotated dimension is multiplied by, and what its partner is: two fp32 tensors (T, R)."""
    pairs_P = torch.arange(0, num_dims, 2, dtype=torch.float32, device=device)
    angles_TP = torch.outer(
        torch.arange(length, dtype=torch.float32, device=device), base ** (-pairs_P / num_dims)
    )
    cos_TP, sin_TP = angles_TP.cos(), angles_TP.sin()
    return torch.cat((cos_TP, cos_TP), dim=1), torch.cat((-sin_TP, sin_TP), dim=1)

def rotate(x_BTHE: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotates the first R of E dimensions, pairing dimension i with i + P; the others pass unchanged."""
    num_rotated = cos_TR.size(1)
    halves = 2, num_rotated // 2
    cos_T12P, sin_T12P = (
        table_TR[:, None].to(x_BTHE.dtype).unflatten(-1, halves) for table_TR in (cos_TR, sin_TR)
    )
    x_BTH2P = x_BTHE[..., :num_rotated].unflatten(-1, halves)
    # (a, b) cos + (b, a) (-sin, sin): flip(-2) exchanges the partners.
    turned_BTH2P = torch.addcmul(x_BTH2P * cos_T12P, x_BTH2P.flip(-2), sin_T12P)
    return torch.slice_scatter(x_BTHE, turned_BTH2P.flatten(-2), dim=-1, end=num_rotated)

# golf/model/attention.py: Causal attention with fewer key/value heads than query heads.
class Attention(nn.Module):
    """Grouped-query attention with RMS-normed queries and keys, partial RoPE, and a gain per query head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.kernel = causal_attention
        width, self.head_width = config.width, config.width // config.num_heads
        self.query = Linear(width, width, adapter="query")
        self.key = Linear(width, config.num_kv_heads * self.head_width, adapter="key")
        self.value = Linear(width, config.num_kv_heads * self.head_width, adapter="value")
        self.output = Linear(width, width, init="output", adapter="output")
        self.qk_gain = parameter(torch.full((config.num_heads,), config.qk_gain), SCALAR)

    def forward(self, x_BLD: Tensor, state: VisitState) -> Tensor:
        """Output of the last `state.num_last` positions, shape (B, num_last, D)."""
        config, num_last, adapters = self.config, state.num_last, state.adapters
        x_BTD = x_BLD if state.past is None else state.past.inputs(state.visit, x_BLD)
        x_BLD = x_BTD[:, -num_last:]
        q_BLHE, k_BTKE, v_BTKE = self.project(x_BTD, x_BLD, adapters)
        # Expanded before it meets E: the gain's gradient is then a sum over E inside the kernel of the
        # norm's gradient, and a sum over the small (B, L, H) behind it.
        gain_BLH1 = self.qk_gain.to(q_BLHE.dtype).expand(q_BLHE.shape[:-1])[..., None]
        q_BLHE, k_BTKE = rms_norm(q_BLHE) * gain_BLH1, rms_norm(k_BTKE)
        if state.past is not None:
            k_BTKE, v_BTKE = state.past.keys_values(state.visit, k_BTKE, v_BTKE)
        cos_TR, sin_TR, visible, bounds_S = state.positions
        q_BLHE = rotate(q_BLHE, cos_TR[-num_last:], sin_TR[-num_last:])
        k_BTKE = rotate(k_BTKE, cos_TR, sin_TR)
        heads = q_BLHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        if visible is not None:
            y_BHLE = masked_attention(*heads, visible[:, :, -num_last:])
        else:
            y_BHLE = self.kernel(*heads)
        y_BLHE = y_BHLE.transpose(1, 2)
        y_BLD = y_BLHE.flatten(2)
        return self.output(y_BLD, adapters.get("output"))

    def project(
        self, x_BTD: Tensor, x_BLD: Tensor, adapters: Mapping[str, Adapter]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, H, E) of the last positions `x_BLD`, keys and values (B, T, K, E) of all."""
        shape = (-1, self.head_width)
        return (
            self.query(x_BLD, adapters.get("query")).unflatten(-1, shape),
            self.key(x_BTD, adapters.get("key")).unflatten(-1, shape),
            self.value(x_BTD, adapters.get("value")).unflatten(-1, shape),
        )

# golf/model/embeddings.py: Additions to the token embedding: hashed bigrams, and smears of the previous token.
def has_previous(inputs_BT: Tensor, bos_id: int) -> Tensor:
    """True where the position before belongs to the same document; boolean, shape (B, T)."""
    return F.pad(inputs_BT[:, 1:] != bos_id, (1, 0), value=False)

HASH_FACTORS = (36313, 27191, 51647, 43787, 61843)
"""Of a token, the one before it, the one before that, and so on."""

def ngram_buckets(inputs_BT: Tensor, order: int, num_buckets: int, bos_id: int) -> Tensor:
    """Hash of a token and the order - 1 before it to [0, num_buckets); bucket 0 where the document has fewer."""
    hashed_BT = HASH_FACTORS[0] * inputs_BT
    is_whole_BT = torch.ones_like(inputs_BT, dtype=torch.bool)
    for distance in range(1, order):
        inside_BT = has_previous(inputs_BT, bos_id)
        is_whole_BT = is_whole_BT & F.pad(inside_BT[:, : inside_BT.size(1) - distance + 1], (distance - 1, 0))
        hashed_BT = hashed_BT + HASH_FACTORS[distance] * F.pad(inputs_BT, (distance, 0))[:, :-distance]
    return torch.where(is_whole_BT, hashed_BT % num_buckets, 0)

class NgramHash(nn.Module):
    """A small embedding of the hashed n-gram that ends here, projected to the width."""

    def __init__(self, config: ModelConfig, order: int, num_buckets: int):
        super().__init__()
        self.order, self.bos_id = order, config.bos_id
        self.table = parameter(torch.zeros(num_buckets, config.bigram_width), TABLE)
        self.projection = Linear(config.bigram_width, config.width, role=PROJECTION)
        self.scale = parameter(torch.tensor(0.05), SCALAR)

    def forward(self, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D)."""
        buckets_BT = ngram_buckets(inputs_BT, self.order, self.table.size(0), self.bos_id)
        return self.projection(F.embedding(buckets_BT, self.table)) * self.scale

class SmearGate(nn.Module):
    """Blends each position with the one before: (1 - g) x_t + g x_{t-1}, g = sigmoid(gate) per channel."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.bos_id = config.bos_id
        self.gate = parameter(torch.zeros(config.width), SCALAR)

    def forward(self, x_BTD: Tensor, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D); unchanged where there is no previous token."""
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        share_BTD = torch.sigmoid(self.gate) * has_previous(inputs_BT, self.bos_id)[..., None]
        return x_BTD + share_BTD.to(x_BTD.dtype) * (previous_BTD - x_BTD)

# golf/model/feedforward.py: Feed-forward sublayers.
class FeedForward(nn.Module):
    """width -> hidden -> width with the activation max(u, s u)^2 between, s = `activation_slope`."""

    def __init__(self, config: ModelConfig, hidden: int):
        super().__init__()
        self.slope = config.activation_slope
        self.up = Linear(config.width, hidden, adapter="up")
        self.down = Linear(hidden, config.width, init="output", adapter="down")

    def activation(self, u_BTF: Tensor) -> Tensor:
        """Elementwise; subclasses override it."""
        return F.leaky_relu(u_BTF, self.slope).square()

    def forward(self, x_BTD: Tensor, adapters: Mapping[str, Adapter] = NO_ADAPTERS) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        u_BTF = self.up(x_BTD, adapters.get("up"))
        return self.down(self.activation(u_BTF), adapters.get("down"))

# golf/model/kinds.py: The kinds of each part of the network by name: a new kind is a file with its class, and a line here.
ATTENTIONS = {"gqa": Attention}
"""Attention sublayers (`ModelConfig.attention`): constructors that take the config."""
FEEDFORWARDS = {"relu2": FeedForward}
"""Feed-forward sublayers (`ModelConfig.feedforward`): constructors of (config, hidden units)."""
NORMS = {"rms": partial(nn.RMSNorm, elementwise_affine=False)}
"""Norms (`ModelConfig.norm`): constructors that take the width."""
SMEARS = {"blend": SmearGate}
"""Smears (`ModelConfig.smear`): constructors that take the config."""

def build_feedforward(config: ModelConfig) -> nn.Module:
    """The feed-forward sublayer of one block."""
    kind = FEEDFORWARDS[config.feedforward]
    return kind(config, config.mlp_hidden)

# golf/model/blocks.py: Blocks, the residual streams between them, and the order in which a forward pass runs them.
Streams = tuple[Tensor, Tensor]
"""Two residual streams: attention reads the first, the feed-forward the second."""

class Visit(NamedTuple):
    """One run of one block; depth recurrence (openai/parameter-golf #1204, #1394) runs some several times."""

    layer: int
    keeps: bool
    """Whether its output is a U-net skip for a later visit."""
    skip: int | None
    """Index of the skip that is added before the block; None for none."""

def plan_visits(config: ModelConfig, repeats: int) -> tuple[Visit, ...]:
    """The visits of a forward pass that runs the group of recurrent blocks `repeats` times."""
    first, end = config.recurrence_first, config.recurrence_last + 1
    order = [*range(first), *list(range(first, end)) * repeats, *range(end, config.num_layers)]
    num_kept = len(order) // 2
    return tuple(
        Visit(layer, place < num_kept, place - num_kept if num_kept <= place < 2 * num_kept else None)
        for place, layer in enumerate(order)
    )

def join_skip(
    stream: Tensor | Streams, skip_BTD: Tensor, weight_D: Tensor, gate_D: Tensor | None = None
) -> Tensor | Streams:
    """The stream (of two streams the first) with an earlier output: x + weight * skip, all per channel."""
    x_BTD = stream[0] if isinstance(stream, tuple) else stream
    scaled_BTD = weight_D.to(x_BTD.dtype) * skip_BTD
    if gate_D is None:
        joined_BTD = x_BTD + scaled_BTD
    else:
        joined_BTD = torch.lerp(scaled_BTD, x_BTD, torch.sigmoid(gate_D).to(x_BTD.dtype))
    return (joined_BTD, stream[1]) if isinstance(stream, tuple) else joined_BTD

class Block(nn.Module):
    """Attention and feed-forward, each on its normed input times `ln_scale`."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config = config
        width = config.width
        self.ln_scale = 1.0 / math.sqrt(layer + 1)
        self.attention_norm, self.feedforward_norm = NORMS[config.norm](width), NORMS[config.norm](width)
        mix_2D = torch.zeros(2, width)
        mix_2D[0] = 1.0
        self.mix = parameter(mix_2D, SCALAR)
        self.attention = ATTENTIONS[config.attention](config)
        self.attention_scale = parameter(torch.ones(width), SCALAR)
        self.feedforward = build_feedforward(config)
        self.feedforward_scale = parameter(torch.ones(width), SCALAR)

    def forward(self, x_BTD: Tensor, embedding_BTD: Tensor, state: VisitState) -> Tensor:
        """The stream after this block at the last `state.num_last` positions, shape (B, num_last, D)."""
        dtype = x_BTD.dtype
        x_BTD = self._mixed(x_BTD, embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(x_BTD) * self.ln_scale, state)
        x_BLD = x_BTD[:, -state.num_last :] + self.attention_scale.to(dtype) * attended_BLD
        fed_BLD = self.feedforward(self.feedforward_norm(x_BLD) * self.ln_scale, state.adapters)
        return x_BLD + self.feedforward_scale.to(dtype) * fed_BLD

    def _mixed(self, x_BTD: Tensor, embedding_BTD: Tensor) -> Tensor:
        with_stream_D, with_embedding_D = self.mix.to(x_BTD.dtype)
        return with_stream_D * x_BTD + with_embedding_D * embedding_BTD

class ParallelResidualBlock(Block):
    """A block whose sublayers run in parallel on two residual streams (openai/parameter-golf #1529)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.is_last = layer == config.num_layers - 1
        self.lane_keep = parameter(torch.full((2,), 1.1), SCALAR)
        self.lane_write = parameter(torch.ones(2, 2), SCALAR)

    # GPT gives two streams to these blocks, and to no other.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, streams: Streams, embedding_BTD: Tensor, state: VisitState
    ) -> Tensor | Streams:
        """Both streams, or their mean, at the last `state.num_last` positions."""
        dtype = embedding_BTD.dtype
        lanes = [stream_BTD[:, -state.num_last :] for stream_BTD in streams]
        mixed_BTD = self._mixed(streams[0], embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(mixed_BTD) * self.ln_scale, state)
        fed_BLD = self.feedforward(self.feedforward_norm(lanes[1]) * self.ln_scale, state.adapters)
        # (2, D): what each sublayer writes into each stream.
        from_attention = (self.lane_write[0, :, None] * self.attention_scale).to(dtype)
        from_feedforward = (self.lane_write[1, :, None] * self.feedforward_scale).to(dtype)
        keep_2 = self.lane_keep.to(dtype)
        for lane, stream_BLD in enumerate(lanes):
            kept_BLD = torch.addcmul(keep_2[lane] * stream_BLD, from_attention[lane], attended_BLD)
            lanes[lane] = torch.addcmul(kept_BLD, from_feedforward[lane], fed_BLD)
        first_BLD, second_BLD = lanes
        return (first_BLD + second_BLD) / 2 if self.is_last else (first_BLD, second_BLD)

def build_block(config: ModelConfig, layer: int) -> nn.Module:
    """Block number `layer`."""
    if layer < config.num_layers - config.parallel_residual_blocks:
        return Block(config, layer)
    return ParallelResidualBlock(config, layer)

# golf/model/loss.py: Softcap of the logits, and the project's only cross-entropy.
def softcap(logits: Tensor, cap: float, log_caps_2: Tensor | None = None) -> Tensor:
    """cap * tanh(logits / cap), of any shape; a cap of 0 leaves logits as they are."""
    if log_caps_2 is not None:
        caps_2 = cap * log_caps_2.exp()
        caps = torch.where(logits > 0, caps_2[0], caps_2[1])
        return caps * torch.tanh(logits / caps)
    return cap * torch.tanh(logits / cap) if cap else logits

def token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log probability of each target in nats, fp32, shape (B, T)."""
    logits_NV = logits_BTV.flatten(0, 1).float()
    return F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none").view_as(targets_BT)

# golf/model/gpt.py: The network: tokens in, logits out.
class GPT(nn.Module):
    """The network that a config describes; by default the seed's (openai/parameter-golf #334)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        for name, table in (("attention", ATTENTIONS), ("feedforward", FEEDFORWARDS), ("norm", NORMS)):
            if vars(config)[name] not in table:
                raise ValueError(f"{name} is {vars(config)[name]!r}; expected one of {', '.join(table)}")
        self.config = config
        self.compute_dtype = torch.float32
        self.looping = config.recurrence > 1
        self._plans = [plan_visits(config, repeats) for repeats in (1, config.recurrence)]
        self.embedding = Embedding(config.vocab_size, config.width)
        self.bigram = NgramHash(config, 2, config.bigram_buckets)
        self.ngrams = nn.ModuleList(
            NgramHash(config, order, buckets) for order, buckets in enumerate(config.ngram_buckets, start=3)
        )
        self.smear = SMEARS[config.smear](config)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.num_layers))
        self.norm = NORMS[config.norm](config.width)
        self.head = TiedHead()
        skips_SD = (sum(visit.keeps for visit in self._plans[1]), config.width)
        # A network of one visit has none.
        if skips_SD[0]:
            self.skip_weights = parameter(torch.ones(skips_SD), SKIP)
        self.future = nn.ModuleList(
            Linear(config.width, config.width, init="zero", role=PROJECTION)
            for _ in range(config.future_tokens)
        )
        roles_of(self)

    @property
    def plan(self) -> tuple[Visit, ...]:
        """The visits of a forward pass."""
        # int(): Dynamo of torch 2.10 and 2.11 cannot index a list with a bool.
        return self._plans[int(self.looping)]

    def initialize(self) -> None:
        """Draws all weights from torch's global generator: orthogonal matrices, normal embeddings."""
        config = self.config
        for module in self.modules():
            if isinstance(module, Embedding):
                nn.init.normal_(module.weight, std=config.embedding_std)
        for module in self.modules():
            if isinstance(module, Linear):
                if module.init == "zero":
                    nn.init.zeros_(module.weight)
                else:
                    gain = (2 * config.num_layers) ** -0.5 if module.init == "output" else 1.0
                    nn.init.orthogonal_(module.weight, gain)

    def forward(
        self, inputs_BT: Tensor, num_last: int | None = None, state: ForwardState | None = None
    ) -> Tensor:
        """Logits of the last `num_last` positions (all by default), fp32, shape (B, num_last, V)."""
        return self.read_out(self.last_stream(inputs_BT, num_last, state), state)

    def read_out(self, x_BLD: Tensor, state: ForwardState | None = None) -> Tensor:
        """Logits of a normed stream, fp32, (B, L, V)."""
        adapter, log_caps_2 = (None, None) if state is None else (state.head_adapter, state.log_caps_2)
        logits_BLV = self.head(x_BLD, self.embedding.weight, adapter).float()
        return softcap(logits_BLV, self.config.logit_softcap, log_caps_2)

    def last_stream(
        self, inputs_BT: Tensor, num_last: int | None = None, state: ForwardState | None = None
    ) -> Tensor:
        """The normed stream after the last block, which the head reads, (B, num_last, D)."""
        config, plan = self.config, self.plan
        past = None if state is None else state.past
        stream = embedding_BTD = self.embed(inputs_BT, past)
        length = embedding_BTD.size(1)
        num_last = length if num_last is None else min(num_last, length)
        positions = None if past is None else past.positions()
        if positions is None:
            positions = self._positions(inputs_BT, length, num_last)
        # What later visits read: the skips, or what dense connections mix.
        kept: list[Tensor] = []
        for index, visit in enumerate(plan):
            if visit.layer == config.num_layers - config.parallel_residual_blocks:
                stream = (stream, stream)
            if visit.skip is not None:
                gate_D = None
                stream = join_skip(stream, kept.pop(), self.skip_weights[visit.skip], gate_D)
            num_needed = num_last if index == len(plan) - 1 else length
            adapters = state.adapters[index] if state is not None and state.adapters else NO_ADAPTERS
            visit_state = VisitState(index, num_needed, positions, past, adapters)
            stream = self.blocks[visit.layer](stream, embedding_BTD, visit_state)
            if visit.keeps:
                kept.append(stream)
        return self.norm(stream)

    def embed(self, inputs_BT: Tensor, past: Past | None = None) -> Tensor:
        """The stream before the first block, (B, T, D); with a past, of the new positions alone."""
        x_BTD = self.embedding(inputs_BT)
        x_BTD = x_BTD + self.bigram(inputs_BT)
        for ngram in self.ngrams:
            x_BTD = x_BTD + ngram(inputs_BT)
        x_BTD = (rms_norm(x_BTD)).to(self.compute_dtype)
        x_BTD = self.smear(x_BTD, inputs_BT)
        return x_BTD if past is None else x_BTD[:, -past.num_new :]

    def _positions(self, inputs_BT: Tensor, num_queries: int, num_last: int) -> Positions:
        """Positions of a window that begins with the inputs, for queries of its last positions."""
        config, length = self.config, inputs_BT.size(1)
        rotary_dims = config.rotary_dims
        tables = rotary_tables(length, rotary_dims, config.rotary_base, inputs_BT.device)
        return Positions(*tables)

def distance_from_orthogonal(model: GPT) -> float:
    """Largest element of |W W^T - I| of the first block's query matrix: 0 for an orthogonal one."""
    matrix_RC = model.get_parameter("blocks.0.attention.query.weight").detach().double()
    gram_RR = matrix_RC @ matrix_RC.T
    return float((gram_RR - torch.eye(len(gram_RR), dtype=gram_RR.dtype, device=gram_RR.device)).abs().max())

# golf/pack/calibrate.py: Calibration: the Fisher information of the loss about each weight matrix, from forward and backward passes.
EMBEDDING_WEIGHT = "embedding.weight"
"""Used twice, as the input table and as the head; both uses count."""
PRIOR_LOOKUPS = 1.0
"""Lookups with the mean gradient of all that every row of the table is given beside its own."""
CALIBRATION_PASS_TOKENS = 16_384
"""Maximum tokens of a pass: it is not compiled, and keeps about 0.7 MB per token of a frontier network."""

@dataclass
class Calibration:
    """Sums over the tokens seen so far, on the model's device; by weight name."""

    num_tokens: int = 0
    moments_CC: dict[str, Tensor] = field(default_factory=dict)
    """Sum of x x^T, each token weighted by its mean squared output gradient; matrices only."""
    squares_R: dict[str, Tensor] = field(default_factory=dict)
    """Sum of squared weight gradients, mean over the row: of each token for matrices, else of each batch.
    Those of the embedding are expected ones."""

    def hessian(self, name: str) -> Tensor | None:
        """Hessian of the inputs, scaled to a mean diagonal of 1, fp32 (C, C); None unless a matrix."""
        total_CC = self.moments_CC.get(name)
        return None if total_CC is None else total_CC / total_CC.diagonal().mean().clamp_min(1e-30)

    def fisher(self, name: str) -> Tensor:
        """Mean second derivative of a token's loss by row, in nats per unit of weight squared, (R,)."""
        return self.squares_R[name] / self.num_tokens

    def add_uses(self, name: str, x_NC: Tensor, gradient_NR: Tensor) -> None:
        """Adds a matrix product's inputs and the summed loss's gradient by its outputs."""
        x_NC, squared_NR = x_NC.detach().flatten(0, -2).float(), gradient_NR.flatten(0, -2).float().square()
        weighted_NC = x_NC * squared_NR.mean(1, keepdim=True).sqrt()
        _add(self.moments_CC, name, weighted_NC.T @ weighted_NC)
        # sum over n of g_nr^2 mean_c(x_nc^2): (R, N) @ (N,).
        _add(self.squares_R, name, squared_NR.T @ x_NC.square().mean(1))

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Adds the summed loss's gradient by a weight that is not a matrix."""
        rows_RC = gradient.reshape(1, -1) if gradient.dim() < 2 else gradient.flatten(1)
        _add(self.squares_R, name, rows_RC.float().square().mean(1))

class Lookups:
    """Rows looked up in a table (V, C), and the loss's gradients by them."""

    def __init__(self, table: Tensor):
        num_rows, columns = table.shape
        self.counts_V, self.squares_V, self.expected_V = torch.zeros((3, num_rows), device=table.device)
        self.moments_CC = torch.zeros((columns, columns), device=table.device)

    def add(self, rows_N: Tensor, gradient_NC: Tensor) -> None:
        """Adds lookups and the summed loss's gradient by what was looked up."""
        gradient_NC = gradient_NC.flatten(0, -2).float()
        # A lookup is onehot(row) @ W: the gradient is by columns, so it takes the place of x in add_uses, and
        # the one-hot vector, whose mean square is 1 / num_rows, that of the output gradient.
        self.moments_CC += gradient_NC.T @ gradient_NC / len(self.counts_V)
        self.squares_V.index_add_(0, rows_N.flatten(), gradient_NC.square().mean(1))
        self.counts_V += rows_N.flatten().bincount(minlength=len(self.counts_V))

    def squares(self) -> Tensor:
        """Sum of the mean squared gradients by row, (V,), had the rows come as often as expected."""
        mean = self.squares_V.sum() / self.counts_V.sum().clamp_min(1)
        own_V = (self.squares_V + PRIOR_LOOKUPS * mean) / (self.counts_V + PRIOR_LOOKUPS)
        return self.expected_V * own_V

def calibrate(model: GPT, batches: Iterable[tuple[Tensor, Tensor]]) -> Calibration:
    """Runs `batches` (inputs_BT, targets_BT of training text) forward and backward through the model."""
    calibration = Calibration()

    def observe(add: Callable[[Tensor, Tensor], None]) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(lambda gradient: add(inputs[0], gradient))

        return hook

    lookups, cap = Lookups(model.embedding.weight), model.config.logit_softcap

    def observe_head(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        logits_NV = softcap(output.detach().flatten(0, -2).float(), cap)
        p_NV = logits_NV.softmax(-1)
        lookups.expected_V += p_NV.sum(0)
        slope_NV = 1 - (logits_NV / cap).square() if cap else torch.ones_like(logits_NV)
        calibration.add_uses(EMBEDDING_WEIGHT, inputs[0], (p_NV * (1 - p_NV)).sqrt() * slope_NV)

    handles = [
        model.embedding.register_forward_hook(observe(lookups.add)),
        model.head.register_forward_hook(observe_head),
    ]
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            uses = partial(calibration.add_uses, f"{name}.weight")
            handles.append(module.register_forward_hook(observe(uses)))
    try:
        for inputs_BT, targets_BT in batches:
            model.zero_grad(set_to_none=True)
            token_nats(model(inputs_BT), targets_BT).sum().backward()
            calibration.num_tokens += targets_BT.numel()
            for name, parameter in model.named_parameters():
                if name not in calibration.moments_CC:
                    # One without a gradient is of no effect.
                    unused = torch.zeros_like(parameter)
                    calibration.add_gradient(name, unused if parameter.grad is None else parameter.grad)
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    _add(calibration.moments_CC, EMBEDDING_WEIGHT, lookups.moments_CC)
    _add(calibration.squares_R, EMBEDDING_WEIGHT, lookups.squares())
    return calibration

def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value

# golf/system/stored.py: Configurations as JSON values and back, including those stored by earlier versions.
INT_BOUND = 1 << 63
"""Stored integers are smaller."""

class ConfigError(ValueError):
    """Options that contradict each other, or stored values that are no configuration."""

Renamed = str | Callable[[Any], dict[str, Any]]

RENAMED: dict[str, dict[str, Renamed]] = {
    "ModelConfig": {
        "query_gain": "qk_gain",
        "query_key_norm": "qk_norm",
        "exclusive_attention": "xsa",
        "modulated_attention": lambda is_on: {"attention": "co4"} if is_on else {},
        "documents_apart": "document_mask",
        "experts_unlike": "heterogeneous_experts",
        "lane_blocks": "parallel_residual_blocks",
        "loop_first": "recurrence_first",
        "loop_last": "recurrence_last",
        "loop_visits": "recurrence",
    },
    "OptimConfig": {"matrix_optimizer": "matrix"},
    "TrainConfig": {"held_out_looks": "num_evals", "kernels": lambda name: {}},
    "ScheduleConfig": {"loop_start": "recurrence_start", "rewarm": "lr_rewarmup"},
}
"""Earlier fields of stored configurations, by class: the name now, or a function from value to fields."""

def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A file's bytes; ConfigError for more than `max_bytes` and for a pipe or device, which may never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file")
    if status.st_size > max_bytes:
        raise ConfigError(f"{path} has {status.st_size:,} bytes; expected at most {max_bytes:,}")
    with open(path, "rb") as file:
        return file.read(max_bytes)

def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ConfigError for anything else, a number not finite, or a key given twice."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not readable as JSON: {error}") from error

def config_from_dict(kind: type, values: Any) -> Any:
    """A config of class `kind` from what `config_to_dict` returned."""
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is stored as a {type(values).__name__}; expected an object")
    values = _rename(RENAMED.get(kind.__name__, {}), values)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for name in values.keys() - fields.keys():
        raise ConfigError(f"{kind.__name__} has no field {name!r:.60}")
    where = f"{kind.__name__}."
    parts = {name: _value_from_json(fields[name].type, value, where + name) for name, value in values.items()}
    for name, item in fields.items():
        if name not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{kind.__name__} lacks its field {name!r}")
    try:
        return kind(**parts)
    except (ValueError, ArithmeticError) as error:
        raise ConfigError(str(error)) from error

def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is no number of JSON")
    return value

def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r:.60} is given twice")
        found[name] = value
    return found

def _rename(renamed: dict[str, Renamed], values: dict[str, Any]) -> dict[str, Any]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        now = renamed.get(name, name)
        pairs += [(now, value)] if isinstance(now, str) else now(value).items()
    try:
        return _without_twins(pairs)
    except ValueError as error:
        raise ConfigError(str(error)) from error

def _value_from_json(kind: Any, value: Any, name: str) -> Any:
    """`value` as one of type `kind`: a nested config, a tuple (JSON has lists), or the value itself."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value_from_json(inner[0], one, name) for one in value)
    if origin is dict and isinstance(value, dict):
        return {key: _value_from_json(inner[1], one, f"{name}.{key}") for key, one in value.items()}
    if origin is UnionType:
        for one in inner:
            with suppress(ConfigError):
                return _value_from_json(one, value, name)
    if kind is int or kind is float:
        # type, not isinstance: bool is a kind of int in Python.
        fits = type(value) in (int, kind) and abs(value) < (INT_BOUND if type(value) is int else math.inf)
    else:
        fits = kind is Any or type(value) is kind or (origin is Literal and value in list(inner))
    if not fits:
        expected = (
            " or ".join(map(repr, inner))
            if origin is Literal
            else (kind.__name__ if isinstance(kind, type) else kind)
        )
        raise ConfigError(f"{name} is {value!r:.60}; expected {expected}")
    return value

# golf/pack/container.py: The artifact file: a preamble, then one zstd frame that holds a JSON header and a quantizer's payload.
ARTIFACT_MAGIC = b"GOLF"
ARTIFACT_VERSION = 2
"""Increases when the payload's meaning changes; files of other versions raise ArtifactError."""
ARTIFACT_CODEC = b"zstd"
ZSTD_LEVEL = 22
MAX_EXPANSION = 32
"""Maximum number of codes, or of body bytes, per byte of the file: a quarter of a bit per weight."""
MAX_ARTIFACT_BYTES = 1 << 26
"""Four times the limit of an entry."""
EXPANSION_FLOOR = 1 << 20
"""Added to that bound, so that tiny models with few distinct codes pass it."""

_PREAMBLE = struct.Struct("<4sB4sQ")
_CHECKSUM_BYTES = 8
_FP16_BYTES = 2
_FP16_MAX_EXPONENT = 15

class ArtifactError(ValueError):
    """Bytes that are not an artifact of this project, or are damaged."""

def plausible_size(data_bytes: int) -> int:
    """Maximum number of codes, or of bytes, that a file of `data_bytes` may claim to hold."""
    return EXPANSION_FLOOR + MAX_EXPANSION * data_bytes

def write_container(header: dict[str, Any], payload: bytes) -> bytes:
    """The file's bytes, a function of header and payload alone."""
    # Canonical JSON: sorted keys, no spaces, ASCII; raises ValueError for NaN and infinity.
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    body = encode_count(len(text)) + text + payload
    # Tables of 5 MB instead of the level's 290: codes have no distant repeats, so the size is the same.
    window = min(20, max(10, len(body).bit_length()))
    tables = {"window_log": window, "hash_log": min(18, window), "chain_log": min(18, window)}
    parameters = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, source_size=len(body), **tables)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(body)
    preamble = _PREAMBLE.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, ARTIFACT_CODEC, len(body))
    data = preamble + container_checksum(preamble, frame) + frame
    if len(body) > plausible_size(len(data)):
        raise ValueError(f"weights carry too little: {len(body):,} bytes of codes became {len(data):,} bytes")
    return data

def read_container(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of a file; raises ArtifactError unless `write_container` wrote it."""
    start = _PREAMBLE.size + _CHECKSUM_BYTES
    if len(data) < start:
        raise ArtifactError(f"artifact is {len(data)} bytes; even an empty one has more than {start}")
    magic, version, codec, body_bytes = _PREAMBLE.unpack_from(data)
    if (magic, codec) != (ARTIFACT_MAGIC, ARTIFACT_CODEC):
        raise ArtifactError("this is no artifact, or one of another program: its first bytes differ")
    if version != ARTIFACT_VERSION:
        expected = f"expected {ARTIFACT_VERSION}: the train_gpt.py of its own entry reads it"
        raise ArtifactError(f"artifact is of version {version}; {expected}")
    frame = memoryview(data)[start:]
    if container_checksum(data[: _PREAMBLE.size], frame) != data[_PREAMBLE.size : start]:
        raise ArtifactError("artifact is damaged or cut off: its checksum does not match its bytes")
    try:
        # zstd allocates the size that the frame states, so it is checked before decompression.
        claimed, allowed = zstandard.get_frame_parameters(frame).content_size, plausible_size(len(data))
        if not claimed == body_bytes <= allowed:
            raise ArtifactError(f"its frame claims {claimed:,} bytes, it {body_bytes:,}; allowed {allowed:,}")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        reader = PayloadReader(memoryview(body))
        header = parse_json(bytes(reader.take(reader.take_count())))
    except (zstandard.ZstdError, ValueError) as error:
        raise ArtifactError(f"artifact cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError(f"artifact's header is a {type(header).__name__}; expected an object")
    return header, reader.rest

def read_artifact(path: Path) -> bytes:
    """An artifact file's bytes; ConfigError for what is no file, or too large to be one."""
    return read_bounded(path, MAX_ARTIFACT_BYTES)

def container_checksum(preamble: bytes, frame: bytes | memoryview) -> bytes:
    """The checksum between them."""
    return hashlib.sha256(b"".join([preamble, frame])).digest()[:_CHECKSUM_BYTES]

class PayloadReader:
    """Reads a payload from front to back; raises ArtifactError where it ends too early."""

    def __init__(self, data: memoryview):
        self.rest = data

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > len(self.rest):
            raise ArtifactError(f"payload ends early: {size:,} bytes expected, {len(self.rest):,} left")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def take_array(self, dtype: str, count: int) -> np.ndarray:
        """The next `count` values of a numpy type."""
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype=dtype)

    def take_count(self) -> int:
        """The count that `encode_count` wrote."""
        return int(self.take_array("<u4", 1)[0])

    def take_fp16_block(self, count: int) -> np.ndarray:
        """The block of `count` values that `encode_fp16_block` wrote, as fp32."""
        return decode_fp16_block(self.take(_FP16_BYTES * (count + 1)))

def encode_count(count: int) -> bytes:
    """A count, u32, as written in front of a section."""
    return struct.pack("<I", count)

def encode_fp16_block(values: np.ndarray, round_up: bool = False) -> bytes:
    """A shared power of two and fp16 values relative to it, so that no magnitude over- or underflows."""
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    largest = np.max(np.abs(values), initial=0.0)
    exponent = int(np.frexp(largest)[1]) - _FP16_MAX_EXPONENT if largest > 0 else 0
    scaled = np.ldexp(values, -exponent)
    block = scaled.astype("<f2")
    if round_up:
        block = np.where(block < scaled, np.nextafter(block, np.float16(np.inf)), block).astype("<f2")
    return np.array([exponent], dtype="<i2").tobytes() + block.tobytes()

def decode_fp16_block(data: bytes | memoryview) -> np.ndarray:
    """The values as fp32, exact; raises ArtifactError for NaN and infinity."""
    exponent = int(np.frombuffer(data, dtype="<i2", count=1)[0])
    block = np.frombuffer(data, dtype="<f2", offset=_FP16_BYTES)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ldexp(block.astype(np.float64), exponent).astype(np.float32)
    if not np.isfinite(values).all():
        raise ArtifactError("artifact holds an fp16 value that is not finite")
    return values

# golf/pack/entropy_coder.py: Entropy coder for integer codes: rANS (arXiv:1311.2540), each code under the table of its context.
NUM_CONTEXTS = 128
PRECISION_BITS = 12
ALPHABET = 256
ESCAPE = -128
"""Symbol of a code beyond +-127: the code itself is in the list of escapes."""
MOST_CODE = 2**30 - 1
"""Twice as much still fits into 32 bits."""
FINEST_CODED_CONTEXT = 47
"""Codes of finer contexts give up their lowest bits, one per octave: these are uniform and stored raw."""
RAW_BITS = np.maximum(0, -((FINEST_CODED_CONTEXT - np.arange(NUM_CONTEXTS)) // 8)).astype(np.uint8)
"""Number of low bits stored raw, by context."""
CODES_PER_TABLE = 8192
"""Contexts with fewer codes share a table with their neighbors: a table costs more than it saves them."""
MAX_LANES = 1024
MIN_LANES = 8
_SYMBOLS_PER_LANE = 1 << 13
_COUNT_CHUNK = 1 << 20
"""Codes counted at a time; numpy's bincount takes eight bytes for each."""
_MIN_STATE = np.uint32(1 << 16)
_WORD_BITS = np.uint32(16)
_WORD_MASK = np.uint32(0xFFFF)
_PRECISION, _SLOT_MASK = np.uint32(PRECISION_BITS), np.uint32((1 << PRECISION_BITS) - 1)

def smallest_int(codes: np.ndarray) -> np.ndarray:
    """Integers as int8, int16 or int32, whichever is the smallest that holds them."""
    largest = np.max(np.abs(codes), initial=0)
    return codes.astype(next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max))

def encode_codes(codes: list[np.ndarray], contexts: list[np.ndarray]) -> bytes:
    """The codes of all tensors, each (R, C) with uint8 contexts of the same shape."""
    table_of_context = share_tables(_count_contexts(contexts))
    symbols, escapes, low = zip(*map(split_codes, codes, contexts), strict=True)
    listed = np.concatenate(escapes)
    tables_N = _tables_of_codes(table_of_context, contexts)
    tables, stream = encode_symbols(np.concatenate(symbols), tables_N, int(table_of_context.max()) + 1)
    sections = [table_of_context.tobytes(), tables, encode_count(len(listed)), listed.tobytes(), *low, stream]
    return b"".join(sections)

def decode_codes(reader: PayloadReader, contexts: list[np.ndarray]) -> list[np.ndarray]:
    """The codes by tensor; raises ArtifactError unless the rest of the payload is exactly theirs."""
    table_of_context = reader.take_array("u1", NUM_CONTEXTS)
    frequencies_KA = decode_tables(reader)
    escapes = reader.take_array("<i4", reader.take_count())
    low = [take_low_bits(reader, contexts_RC) for contexts_RC in contexts]
    symbols_N = decode_rans(reader.rest, _tables_of_codes(table_of_context, contexts), frequencies_KA)
    sizes = [contexts_RC.size for contexts_RC in contexts]
    symbols = np.split(symbols_N, np.cumsum(sizes)[:-1])
    num_escaped = [int(np.count_nonzero(own_N.view(np.int8) == ESCAPE)) for own_N in symbols]
    if sum(num_escaped) != len(escapes):
        raise ArtifactError(f"{sum(num_escaped)} codes are marked as escaped; {len(escapes)} are listed")
    listed = np.split(escapes, np.cumsum(num_escaped)[:-1])
    return [join_codes(*tensor) for tensor in zip(symbols, contexts, listed, low, strict=True)]

def encode_symbols(symbols_N: np.ndarray, tables_N: np.ndarray, num_tables: int) -> tuple[bytes, bytes]:
    """Tables made for these symbols, and the rANS stream under them; symbols and tables are uint8."""
    frequencies_KA = normalize_counts(count_symbols(symbols_N, tables_N, num_tables))
    return encode_tables(frequencies_KA), encode_rans(symbols_N, tables_N, frequencies_KA)

def split_codes(codes_RC: np.ndarray, contexts_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Symbols uint8 (N,), escapes int32, and raw low bits: of codes that give up one first, then two."""
    raw_RC = RAW_BITS[contexts_RC]
    upper_RC = codes_RC >> raw_RC
    escaped_RC = np.abs(upper_RC) > 127
    symbols_N = np.where(escaped_RC, ESCAPE, upper_RC).astype(np.int8).view(np.uint8).reshape(-1)
    low = []
    for count in range(1, RAW_BITS.max() + 1):
        # Of each code its lowest bits, least significant first, one code after the other.
        bits = codes_RC[raw_RC == count, None] >> np.arange(count, dtype=codes_RC.dtype) & 1
        low.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return symbols_N, upper_RC[escaped_RC].astype("<i4"), b"".join(low)

def take_low_bits(reader: PayloadReader, contexts_RC: np.ndarray) -> list[np.ndarray]:
    """Values of the raw low bits: of codes that give up one, of those that give up two, and so on."""
    counts = np.bincount(RAW_BITS, _count_contexts([contexts_RC])).astype(int).tolist()
    low = []
    for count, length in enumerate(counts[1:], start=1):
        data = reader.take_array("u1", (count * length + 7) // 8)
        low.append(np.unpackbits(data, count=count * length).reshape(length, count) @ (1 << np.arange(count)))
    return low

def join_codes(
    symbols_N: np.ndarray, contexts_RC: np.ndarray, escapes: np.ndarray, low: list[np.ndarray]
) -> np.ndarray:
    """The inverse of `split_codes`, as the smallest integer type; ArtifactError beyond MOST_CODE."""
    codes_RC = symbols_N.view(np.int8).reshape(contexts_RC.shape)
    if not len(escapes) and not any(map(len, low)):
        return codes_RC
    raw_RC = RAW_BITS[contexts_RC]
    codes_RC = codes_RC.astype(np.int64)
    codes_RC[codes_RC == ESCAPE] = escapes
    codes_RC <<= raw_RC
    if np.abs(codes_RC).max() > MOST_CODE:
        raise ArtifactError(f"an escaped code is beyond {MOST_CODE:,}")
    for count, values in enumerate(low, start=1):
        codes_RC[raw_RC == count] |= values
    return smallest_int(codes_RC)

def share_tables(codes_by_context: np.ndarray) -> np.ndarray:
    """Table by context, uint8: neighboring contexts share one until it has CODES_PER_TABLE codes."""
    tables = np.zeros(NUM_CONTEXTS, dtype=np.uint8)
    table, codes = 0, 0
    remaining = int(codes_by_context.sum())
    for index, count in enumerate(codes_by_context.tolist()):
        tables[index] = table
        codes += count
        remaining -= count
        if codes >= CODES_PER_TABLE and remaining >= CODES_PER_TABLE:
            table, codes = table + 1, 0
    return tables

def count_symbols(symbols_N: np.ndarray, tables_N: np.ndarray, num_tables: int) -> np.ndarray:
    """Count of each symbol under each table, int64 (K, A)."""
    counts = np.zeros(num_tables * ALPHABET, dtype=np.int64)
    for begin in range(0, len(symbols_N), _COUNT_CHUNK):
        piece = slice(begin, begin + _COUNT_CHUNK)
        joint = tables_N[piece].astype(np.uint16) << np.uint16(8) | symbols_N[piece]
        counts += np.bincount(joint, minlength=len(counts))
    return counts.reshape(num_tables, ALPHABET)

def _count_contexts(contexts: list[np.ndarray]) -> np.ndarray:
    return np.sum([np.bincount(each.reshape(-1), minlength=NUM_CONTEXTS) for each in contexts], axis=0)

def _tables_of_codes(table_of_context: np.ndarray, contexts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([table_of_context[contexts_RC.reshape(-1)] for contexts_RC in contexts])

def choose_lanes(num_symbols: int) -> int:
    """A power of two: many lanes are fast, but each costs the 4 bytes of its state."""
    lanes = 1 << max(0, (num_symbols // _SYMBOLS_PER_LANE).bit_length() - 1)
    return min(MAX_LANES, max(MIN_LANES, lanes))

def normalize_counts(counts_KA: np.ndarray) -> np.ndarray:
    """Frequencies near the counts' shares that sum to 4,096 in each table, at least 1 for symbols that occur."""
    total = 1 << PRECISION_BITS
    frequencies_KA = np.zeros(counts_KA.shape, dtype=np.int64)
    for table, counts_A in enumerate(counts_KA):
        used = np.flatnonzero(counts_A)
        used = used if len(used) else np.array([0])
        counts = np.maximum(counts_A[used], 1)
        share = counts * (total / counts.sum())
        frequencies = np.maximum(1, np.rint(share)).astype(np.int64)
        while (excess := int(frequencies.sum()) - total) != 0:
            moved = frequencies - np.sign(excess)
            # n symbols cost n log2(total / f) bits, so going from f to f' costs n log2(f / f').
            cost = np.where(moved > 0, counts * np.log2(frequencies / np.maximum(moved, 0.5)), np.inf)
            cheapest = np.argsort(cost, kind="stable")[: abs(excess)]
            cheapest = cheapest[moved[cheapest] > 0]
            frequencies[cheapest] -= np.sign(excess)
        frequencies_KA[table, used] = frequencies
    return frequencies_KA

def encode_rans(
    symbols_N: np.ndarray, tables_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int | None = None
) -> bytes:
    """States of the lanes, then the words, little-endian."""
    lanes = lanes or choose_lanes(len(symbols_N))
    starts_KA = np.cumsum(frequencies_KA, axis=1) - frequencies_KA
    # One uint32 per table and symbol: first slot << 16 | frequency.
    packed = (starts_KA.astype(np.uint32) << _WORD_BITS | frequencies_KA.astype(np.uint32)).reshape(-1)
    states_L = np.full(lanes, _MIN_STATE, dtype=np.uint32)
    # Filled from its end, because the decoder reads what was written last first. A symbol writes one word at
    # most; pages of the buffer that are never written take no memory.
    words = np.empty(len(symbols_N), dtype="<u2")
    position = len(words)
    last = (len(symbols_N) - 1) // lanes * lanes
    for begin in range(last, -1, -lanes):
        end = begin + lanes
        entry = packed[tables_N[begin:end].astype(np.uint16) << np.uint16(8) | symbols_N[begin:end]]
        frequency = entry & _WORD_MASK
        # The last group may be shorter than the lanes; this is a view, so that states_L changes too.
        states = states_L[: len(entry)]
        # x // f * 2^12 would pass 2^32 where x >= f * 2^20.
        full = states >> np.uint32(32 - PRECISION_BITS) >= frequency
        sent = states[full]
        words[position - len(sent) : position] = sent & _WORD_MASK
        position -= len(sent)
        states[full] = sent >> _WORD_BITS
        # x' = (x // f) * 2^12 + x % f + first slot.
        quotient = states // frequency
        remainder = states - quotient * frequency
        states[:] = (quotient << np.uint32(PRECISION_BITS)) + remainder + (entry >> _WORD_BITS)
    return b"".join([states_L.astype("<u4").data, words[position:].data])

def decode_rans(
    data: bytes | memoryview, tables_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int | None = None
) -> np.ndarray:
    """The symbols, uint8; raises ArtifactError unless the data is what `encode_rans` returned for them."""
    lanes = lanes or choose_lanes(len(tables_N))
    decoder = RansDecoder(data, lanes, frequencies_KA)
    if tables_N.max(initial=0) >= len(frequencies_KA):
        raise ArtifactError(f"codes are under coding table {tables_N.max()} of {len(frequencies_KA)}")
    symbols_N = np.empty(len(tables_N), dtype=np.uint8)
    for begin in range(0, len(tables_N), lanes):
        symbols_N[begin : begin + lanes] = decoder.take(tables_N[begin : begin + lanes])
    decoder.close()
    return symbols_N

class RansDecoder:
    """Reads a stream of `encode_rans`, as many symbols at a time as it has lanes; fewer only at its end."""

    def __init__(self, data: bytes | memoryview, lanes: int, frequencies_KA: np.ndarray):
        if len(data) < 4 * lanes or len(data) % 2:
            raise ArtifactError(f"coded stream of {len(data):,} bytes cannot have {lanes} lanes")
        self._slots = _slot_table(frequencies_KA)
        self._states_L = np.frombuffer(data, dtype="<u4", count=lanes).astype(np.uint32)
        self._words, self._position = np.frombuffer(data, dtype="<u2", offset=4 * lanes), 0

    def take(self, tables_L: np.ndarray) -> np.ndarray:
        """The next symbols, uint8, each under the table given for it; ArtifactError where the stream ends."""
        states = self._states_L[: len(tables_L)]
        # Entry of the slot x' % 2^12: symbol, frequency - 1, and the slot's place within the symbol.
        entry = self._slots[tables_L.astype(np.uint32) << _PRECISION | (states & _SLOT_MASK)]
        # x = f * (x' // 2^12) + slot - first slot.
        states >>= _PRECISION
        states *= ((entry >> _PRECISION) & _SLOT_MASK) + np.uint32(1)
        states += entry & _SLOT_MASK
        low = (states < _MIN_STATE).nonzero()[0]
        read = self._words[self._position : self._position + len(low)]
        if len(read) != len(low):
            raise ArtifactError("coded stream ends before its last symbol")
        states[low] = states[low] << _WORD_BITS | read
        self._position += len(low)
        return (entry >> np.uint32(24)).astype(np.uint8)

    def close(self) -> None:
        """Raises ArtifactError unless the stream ends where its last symbol does."""
        # The encoder started from this state in every lane, and no word may be left over.
        if self._position != len(self._words) or np.any(self._states_L != _MIN_STATE):
            raise ArtifactError("coded stream does not end where its last symbol does")

def _slot_table(frequencies_KA: np.ndarray) -> np.ndarray:
    # By table and slot: symbol << 24 | (frequency - 1) << 12 | place of the slot within its symbol.
    flat = frequencies_KA.reshape(-1)
    first = (np.cumsum(frequencies_KA, axis=1) - frequencies_KA).reshape(-1)
    symbols = np.tile(np.arange(ALPHABET), len(frequencies_KA))
    fixed = symbols << 24 | np.maximum(flat - 1, 0) << PRECISION_BITS
    slots = np.tile(np.arange(1 << PRECISION_BITS), len(frequencies_KA))
    return (np.repeat(fixed - first, flat) + slots).astype(np.uint32)

def encode_tables(frequencies_KA: np.ndarray) -> bytes:
    """K, then by table the first and last used symbol (signed) and the frequencies, 7 bits per byte."""
    parts = [bytes([len(frequencies_KA)])]
    for frequencies_A in frequencies_KA:
        # Symbols are bytes of signed codes: rolled so that index 128 is code 0.
        signed = np.roll(frequencies_A, ALPHABET // 2)
        used = np.flatnonzero(signed)
        parts.append(bytes([used[0], used[-1]]))
        for frequency in signed[used[0] : used[-1] + 1].tolist():
            is_long = frequency > 0x7F
            parts.append(bytes([frequency & 0x7F | 0x80, frequency >> 7] if is_long else [frequency]))
    return b"".join(parts)

def decode_tables(reader: PayloadReader) -> np.ndarray:
    """The frequencies, int64 (K, A); raises ArtifactError unless each table sums to 4,096."""
    frequencies_KA = np.zeros((reader.take(1)[0], ALPHABET), dtype=np.int64)
    for frequencies_A in frequencies_KA:
        first, last = reader.take(2)
        for symbol in range(first, last + 1):
            frequency = reader.take(1)[0]
            if frequency > 0x7F:
                frequency = frequency & 0x7F | reader.take(1)[0] << 7
            frequencies_A[symbol - ALPHABET // 2] = frequency
        if frequencies_A.sum() != 1 << PRECISION_BITS:
            raise ArtifactError(f"a coding table has {frequencies_A.sum()} slots; expected 4,096")
    return frequencies_KA

# golf/pack/layout.py: Names, shapes and kinds of a model's tensors, all implied by its config, and size estimates from them.
class TensorLayout(NamedTuple):
    """How one tensor is packed."""

    shape: tuple[int, ...]
    kind: TensorKind
    """That of its role; a tensor that is no matrix, or has a side below MIN_SIDE, is small."""

Weights = dict[str, torch.Tensor]
Layout = dict[str, TensorLayout]
"""By name, in the model's own order."""
Wrap = Callable[[bytes], bytes]
"""From a quantizer's payload to the bytes of the artifact."""
Fitted = tuple[bytes, dict[str, Any]]
"""An artifact's bytes and its quantizer's report, JSON-able, with `notes`: a list of lines for the user."""

MIN_SIDE = 16
SMALL_BITS = 9.0
"""Bits per element of a small tensor, which nearly always has the finest step."""
LINE_BITS = 8.0
"""Bits per row and per column of a matrix: its step and sigma."""
FIXED_BYTES = 6000
"""Header, coding tables, states of the coder."""

def implied_layout(model: object) -> Layout:
    """The layout of the network that `model` (ModelConfig's fields) describes."""
    try:
        with torch.device("meta"):
            network = GPT(config_from_dict(ModelConfig, model))
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"header's model describes no network: {error}") from error
    layout, roles = {}, roles_of(network)
    for name, parameter in network.named_parameters():
        shape = tuple(parameter.shape)
        is_large = len(shape) == 2 and min(shape) >= MIN_SIDE
        layout[name] = TensorLayout(shape, roles[name].kind if is_large else "small")
    return layout

def count_elements(layout: Layout) -> int:
    """Number of weights."""
    return sum(math.prod(part.shape) for part in layout.values())

def row_view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as it is quantized: a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))

def artifact_bytes_at(layout: Layout, bits: float) -> int:
    """Estimated bytes of an artifact (entropy) whose matrices and tables average `bits` per weight."""
    num_large, side_bits = _size_parts(layout)
    return FIXED_BYTES + round((bits * num_large + side_bits) / 8)

def _size_parts(layout: Layout) -> tuple[int, float]:
    """Number of weights in matrices and tables, and bits of everything else but FIXED_BYTES."""
    large = {name: part for name, part in layout.items() if part.kind != "small"}
    num_lines = sum(sum(row_view(part.shape)) for part in large.values())
    num_large = count_elements(large)
    return num_large, SMALL_BITS * (count_elements(layout) - num_large) + LINE_BITS * num_lines

# golf/pack/fit.py: The byte limit of an entry, and the search for the lambda whose artifact uses it without passing it.
LIMIT_BYTES = 16_000_000
"""Decimal. Limit on code bytes plus artifact bytes of an entry, for every seed."""
BAND_SHARE = 5000 / 16_000_000
MIN_BAND_BYTES = 64
"""The search stops at an artifact this close below its limit: the share, but at least these bytes."""
_MAX_TRIES = 12
_BISECTIONS = 60

class BudgetError(ValueError):
    """The weights do not fit into the bytes available for them."""

def bytes_for_artifact(code_bytes: int, limit_bytes: int = LIMIT_BYTES) -> int:
    """The limit minus the code's bytes; raises BudgetError if that is not positive."""
    if code_bytes >= limit_bytes:
        raise BudgetError(f"the code alone is {code_bytes:,} bytes; the limit is {limit_bytes:,}")
    return limit_bytes - code_bytes

def fit_lambda(
    encode: Callable[[float], bytes],
    forecast: Callable[[float], float],
    finest: float,
    coarsest: float,
    limit_bytes: int,
) -> Fitted:
    """The artifact of the smallest lambda from `finest` to `coarsest` that fits; BudgetError if none does."""
    band_bytes = max(MIN_BAND_BYTES, int(BAND_SHARE * limit_bytes))
    ends = math.log2(finest), math.log2(coarsest)
    best: Fitted = b"", {}
    sizes: dict[float, int] = {}
    for attempt in range(1, _MAX_TRIES + 1):
        log2_lambda = _next_try(forecast, sizes, limit_bytes - band_bytes / 2, *ends)
        artifact = encode(2.0**log2_lambda)
        size = sizes[log2_lambda] = len(artifact)
        fits, is_finest = size <= limit_bytes, log2_lambda == ends[0]
        if fits and (is_finest or size > len(best[0])):
            outcome = "finest" if is_finest else "band" if size >= limit_bytes - band_bytes else "near"
            rate_lambda = finest if is_finest else 2.0**log2_lambda
            best = artifact, {"lambda_nats_per_bit": rate_lambda, "fit": outcome, "fit_tries": attempt}
            if outcome != "near":
                break
        elif not fits and log2_lambda == ends[1]:
            break
    if not best[0]:
        raise BudgetError(f"no lambda brings the artifact below {limit_bytes:,} bytes")
    return best

def _next_try(
    forecast: Callable[[float], float], sizes: dict[float, int], target: float, finest: float, coarsest: float
) -> float:
    """log2 of the lambda whose corrected forecast equals the target, inside the bracket of earlier tries."""

    # The forecast times its ratio to real sizes, linear in log2 lambda through the two nearest tries.
    def corrected(log2_lambda: float) -> float:
        nearest = sorted(sizes, key=lambda tried: abs(tried - log2_lambda))[:2]
        ratios = [sizes[tried] / forecast(2.0**tried) for tried in nearest]
        ratio = ratios[0] if ratios else 1.0
        if len(nearest) == 2:
            ratio += (ratios[1] - ratios[0]) / (nearest[1] - nearest[0]) * (log2_lambda - nearest[0])
        return forecast(2.0**log2_lambda) * ratio

    too_fine = [log2_lambda for log2_lambda, size in sizes.items() if size > target]
    too_coarse = [log2_lambda for log2_lambda, size in sizes.items() if size <= target]
    low, high = max(too_fine, default=finest), min(too_coarse, default=coarsest)
    if not too_fine and corrected(low) <= target:
        return low
    if not too_coarse and corrected(high) > target:
        return high
    first, last = low, high
    for _ in range(_BISECTIONS):
        middle = (first + last) / 2
        first, last = (middle, last) if corrected(middle) > target else (first, middle)
    # Real sizes are not quite monotonic: a solution on the bracket's edge would repeat an earlier try.
    return last if low < last < high else (low + high) / 2

# golf/pack/gptq.py: Rounding with error feedback (GPTQ, arXiv:2210.17323) on non-uniform steps, with a rate term.
DAMPING = 0.003
"""Added to the Hessian's mean diagonal of 1; from 0.001 to 0.01 the divergence changes by 3%."""
MAX_DAMPING = 1e3
RATE_SHARE = 0.25
"""Share of the ridge above that is used: 12% less divergence than with none at 3.2 bits; 0.5 gives 10%."""
_BLOCK_COLUMNS = 128
_MIN_RIDGE_GROUP = -5
_MAX_RIDGE_GROUP = 4

class Factors(NamedTuple):
    """One matrix's Hessian, ready for rounding; an inverse factor per group of rows."""

    group_R: Tensor
    inverse_GCC: Tensor
    """Upper triangular U with U^T U = (H + damping + ridge)^-1; float64."""
    ridge_GC: Tensor
    damping: float
    """DAMPING, or more if the Hessian was singular."""

def inverse_factor(hessian_CC: Tensor) -> Tensor | None:
    """Upper triangular U with U^T U = H^-1; None unless H is positive definite."""
    # H reversed = L L^T, so H = M M^T with M (L reversed) upper triangular, and so is U = M^-1.
    lower, info = torch.linalg.cholesky_ex(hessian_CC.flip(0, 1))
    if int(info) != 0:
        return None
    identity = torch.eye(len(hessian_CC), dtype=hessian_CC.dtype, device=hessian_CC.device)
    factor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return factor if bool(torch.isfinite(factor).all()) else None

def ridge_groups(ridge_R: Tensor) -> tuple[Tensor, Tensor]:
    """Group of each row, by powers of four of its ridge, and each group's ridge; the largest group is first."""
    power_R = (ridge_R.clamp_min(1e-30).log2() / 2).round().clamp(_MIN_RIDGE_GROUP, _MAX_RIDGE_GROUP)
    powers, group_R, counts = power_R.unique(return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    ridge_G = torch.where(powers > _MIN_RIDGE_GROUP, 4.0**powers, 0.0)
    return rank[group_R], ridge_G[order]

def column_steps(hessian_CC: Tensor) -> tuple[Tensor, float]:
    """Relative steps at which every column's error costs the same, (C,), and the damping that was needed."""
    columns = len(hessian_CC)
    no_ridge = torch.zeros(1, device=hessian_CC.device)
    factors = factorize(hessian_CC, no_ridge, torch.ones(columns, device=hessian_CC.device))
    return factors.inverse_GCC[0].diagonal(), factors.damping

def factorize(
    hessian_CC: Tensor, ridge_R: Tensor, relative_sigma_C: Tensor, damping: float = DAMPING
) -> Factors:
    """Factors of a Hessian of mean diagonal 1; while it is singular the damping is multiplied by ten."""
    group_R, ridge_G = ridge_groups(RATE_SHARE * ridge_R)
    ridge_GC = ridge_G[:, None] / relative_sigma_C.double().square()
    hessian_CC = hessian_CC.double()
    while damping <= MAX_DAMPING:
        inverses = [inverse_factor(hessian_CC + torch.diag(damping + ridge_C)) for ridge_C in ridge_GC]
        factored = [inverse for inverse in inverses if inverse is not None]
        if len(factored) == len(inverses):
            return Factors(group_R, torch.stack(factored), ridge_GC, damping)
        damping *= 10
    raise ValueError(f"Hessian of {len(hessian_CC)} columns is singular at damping {MAX_DAMPING:g}")

def shrink(weight_RC: Tensor, factors: Factors) -> Tensor:
    """The real-valued minimum of error plus rate, fp32 (R, C)."""
    # (w - q) H (w - q)^T + q D q^T, with D the ridge, is minimal at q = w - w D (H + D)^-1.
    target_RC = weight_RC.double()
    groups = zip(rows_by_group(factors), factors.inverse_GCC, factors.ridge_GC, strict=True)
    for rows, inverse_CC, ridge_C in groups:
        part_RC = target_RC[rows]
        target_RC[rows] = part_RC - (part_RC * ridge_C) @ inverse_CC.T @ inverse_CC
    return target_RC.float()

def rows_by_group(factors: Factors) -> list[Tensor]:
    """Of each group a mask of its rows, (R,)."""
    return [factors.group_R == group for group in range(len(factors.inverse_GCC))]

def round_with_feedback(
    weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors
) -> tuple[Tensor, Tensor]:
    """Codes, and the values they were rounded from, fp32 (R, C)."""
    target_RC = shrink(weight_RC, factors)
    rows_of_group, inverse_GCC = rows_by_group(factors), factors.inverse_GCC.float()
    codes_RC = torch.empty_like(target_RC)
    for begin in range(0, target_RC.shape[1], _BLOCK_COLUMNS):
        end = begin + _BLOCK_COLUMNS
        block_RB, inverse_GBB = target_RC[:, begin:end], inverse_GCC[:, begin:end, begin:end]
        errors_RB = torch.empty_like(block_RB)
        for column in range(block_RB.shape[1]):
            step_R1 = step_R * step_C[begin + column]
            codes_RC[:, begin + column] = (block_RB[:, column] / step_R1).round()
            error_R = block_RB[:, column] - codes_RC[:, begin + column] * step_R1
            # With column c fixed at error e, the other columns' optimal change is -e U_cj / U_cc for j > c.
            row_GB = inverse_GBB[:, column, column:]
            row_GB = row_GB[factors.group_R] if len(row_GB) > 1 else row_GB
            errors_RB[:, column] = error_R / row_GB[:, 0]
            block_RB[:, column + 1 :] -= errors_RB[:, column, None] * row_GB[:, 1:]
        # The columns after the block get the feedback of all its columns in one matrix product (R,B) @ (B,C).
        for rows, inverse_CC in zip(rows_of_group, inverse_GCC, strict=True):
            target_RC[rows, end:] -= errors_RB[rows] @ inverse_CC[begin:end, end:]
    return codes_RC, target_RC

# golf/pack/quantize.py: Scalar quantization: the step of every weight by the equal-slope rule, then rounding to integer codes.
FIRST_CONTEXT = -22
"""Context j stands for sigma / step near 2 ** ((j + FIRST_CONTEXT) / 8): 0.15 to 9,000."""
FINEST_CONTEXT = 110
"""Largest useful context: sigma / step about 2,000."""
FINEST_SMALL_CONTEXT = 78
"""The same for small tensors: sigma / step 128."""
FISHER_FLOOR = 0.02
"""Share of a tensor's mean fisher added to each row, for tokens that other text has more often than the
calibration's. With 0.03 an embedding of 8,192 rows had 39% less divergence than with 0.002 for 5% more bits,
11% less loss + lambda x bits; one of 1,024 rows had 4% more (n = 1 each)."""
MIN_LOSS_RISE_NATS = 2e-5
"""The smallest lambda is that of this forecast rise of a token's loss."""
POWERS_OF_TWO = (
    1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
    1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424,
)  # fmt: skip
"""2 ** (k / 8), k = 0 to 7, as constants: pow differs between platforms."""
_MAX_NOISE = 1e9
_SIGMA_ROUNDS = 4
_MAX_OFFSET = 127

class TensorGrid(NamedTuple):
    """Steps and sigmas of one tensor: integers, log2 in steps of 1/8; the rows' are relative to the base."""

    row_step_R: np.ndarray
    row_sigma_R: np.ndarray
    column_step_C: np.ndarray
    column_sigma_C: np.ndarray
    mean_R: np.ndarray
    """fp32; zeros for all but small tensors."""

    def contexts(self) -> np.ndarray:
        """Context of each code, log2(sigma / step) in steps of 1/8, uint8 (R, C)."""
        return np.clip(self.exponents() - FIRST_CONTEXT, 0, NUM_CONTEXTS - 1).astype(np.uint8)

    def exponents(self) -> np.ndarray:
        """log2(sigma / step) of each code in steps of 1/8, int16 (R, C)."""
        # int16 is far more than a sound exponent needs, and two of them add up without overflow.
        each = self.row_sigma_R - self.row_step_R, self.column_sigma_C - self.column_step_C
        row_R, column_C = (np.clip(exponents, -16_000, 16_000).astype(np.int16) for exponents in each)
        return row_R[:, None] + column_C[None, :]

    def steps(self, base: float) -> tuple[np.ndarray, np.ndarray]:
        """Row and column factors of the step, fp32."""
        return exact_powers(self.row_step_R, base), exact_powers(self.column_step_C, 1.0)

class QuantizedTensor(NamedTuple):
    """A tensor as integer codes on a grid."""

    codes_RC: np.ndarray
    """Of the smallest signed type that holds them."""
    grid: TensorGrid
    plain_C: np.ndarray | None = None
    """That of its rounding, bool."""

class Sensitivity(NamedTuple):
    """Cost of a tensor's error E in nats per token: sum over rows of fisher_R x E_R H E_R^T / 2."""

    fisher_R: Tensor
    """float64."""
    hessian_CC: Tensor | None
    """H, mean diagonal 1; None stands for the identity."""
    log2_step_C: Tensor
    """float64: the relative column steps that follow from H."""
    damping: float
    """Added to H's diagonal to make it positive definite; 0 without H."""

class Rounded(NamedTuple):
    """Codes of a matrix."""

    codes_RC: Tensor
    """fp32."""
    from_RC: Tensor
    """The values they were rounded from, fp32."""
    plain_C: np.ndarray | None = None
    """Where codes follow a trellis: which columns are off it, bool."""

class Rounding(NamedTuple):
    """How the values of a matrix become codes; small tensors are rounded one by one."""

    round: Callable[[Tensor, Tensor, Tensor, Factors | None], Rounded]
    """round(weight_RC, step_R, step_C, factors). Without factors the weights are shrunk already."""
    step_exponent: int = 0
    """Added to log2 of the rows' steps, in steps of 1/8."""
    symbol_exponent: int = 0
    """log2 of the step that an entropy coder sees over that of scalar codes, in steps of 1/8."""

def round_scalar(weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors | None) -> Rounded:
    """Each weight to the nearest multiple of its step, with the feedback of errors if there are factors."""
    if factors is not None:
        return Rounded(*round_with_feedback(weight_RC, step_R, step_C, factors))
    return Rounded((weight_RC / step_R[:, None] / step_C).round(), weight_RC)

SCALAR_ROUNDING = Rounding(round_scalar)

def exact_powers(exponents: np.ndarray, base: float) -> np.ndarray:
    """base x 2 ** (exponents / 8) as fp32: one product in float64, an exact scaling, one rounding."""
    octaves, rest = np.divmod(exponents, 8)
    return np.ldexp(np.float64(base) * np.array(POWERS_OF_TWO)[rest], octaves).astype(np.float32)

def dequantize(tensor: QuantizedTensor, base: float) -> np.ndarray:
    """The weights, fp32 (R, C)."""
    row_R, column_C = tensor.grid.steps(base)
    values_RC = tensor.codes_RC.astype(np.float32)
    values_RC *= row_R[:, None]
    values_RC *= column_C
    values_RC += tensor.grid.mean_R[:, None]
    return values_RC

def flat_calibration(*_: object) -> Calibration:
    """ValueError: an entry's weights are packed by a measured calibration alone."""
    raise ValueError("packing needs a calibration")

def sensitivities(weights: Weights, calibration: Calibration) -> dict[str, Sensitivity]:
    """Sensitivity of each tensor."""
    found = {}
    for name, weight in weights.items():
        rows, columns = row_view(tuple(weight.shape))
        fisher_R, hessian_CC, damping = calibration.fisher(name).double(), calibration.hessian(name), 0.0
        fisher_R = fisher_R + max(FISHER_FLOOR * float(fisher_R.mean()) if rows else 0.0, 1e-30)
        step_C = fisher_R.new_ones(columns)
        if hessian_CC is not None:
            step_C, damping = column_steps(hessian_CC)
        found[name] = Sensitivity(fisher_R, hessian_CC, step_C.log2(), damping)
    return found

def base_step(rate_lambda: float) -> float:
    """The step of a weight of fisher 1, rounded to fp32."""
    return float(np.float32(math.sqrt(12 * rate_lambda / math.log(2))))

def size_forecast(
    weights: Weights, layout: Layout, found: dict[str, Sensitivity], rounding: Rounding = SCALAR_ROUNDING
) -> Callable[[float], float]:
    """Bytes of all codes as a function of lambda, from the rows' sigmas and steps; within a few percent."""
    parts = []
    for name, weight in weights.items():
        if not weight.numel():
            continue
        rows_RC = weight.reshape(row_view(tuple(weight.shape))).double()
        # log2(sigma / step) of each row at base 1: the step is fisher^(-1/2).
        sigma_R = rows_RC.square().mean(1).clamp_min(1e-300).log2() / 2
        level_R = sigma_R + found[name].fisher_R.cpu().log2() / 2
        level_R -= float(found[name].log2_step_C.mean())
        finest = FINEST_CONTEXT
        if layout[name].kind == "small":
            finest = FINEST_SMALL_CONTEXT
        else:
            level_R -= rounding.symbol_exponent / 8
        parts.append(np.broadcast_arrays(level_R.numpy(), (FIRST_CONTEXT + finest) / 8, rows_RC.shape[1]))
    level_N, cap_N, count_N = map(np.concatenate, zip(*parts, strict=True))
    fixed_bytes = artifact_bytes_at({name: part for name, part in layout.items() if part.kind != "small"}, 0)

    def forecast(rate_lambda: float) -> float:
        level = np.minimum(level_N - math.log2(base_step(rate_lambda)), cap_N)
        return (
            fixed_bytes + float(np.sum(count_N * np.log2(1 + 2 * math.pi * math.e * np.exp2(2 * level)))) / 16
        )

    return forecast

def log2_sigma(values_RC: Tensor) -> tuple[Tensor, Tensor]:
    """log2 of row and column factors of the values' root mean square, float64 (R,) and (C,)."""
    power_RC = values_RC.double().square()
    column_C = torch.ones_like(power_RC[0])
    row_R = torch.zeros_like(power_RC[:, 0])
    for _ in range(_SIGMA_ROUNDS):
        row_R = (power_RC / column_C).mean(1)
        column_C = (power_RC / row_R.clamp_min(1e-300)[:, None]).mean(0)
        column_C = column_C / column_C.mean().clamp_min(1e-300)
        column_C = column_C.clamp_min(1e-12)
    return row_R.clamp_min(1e-300).log2() / 2, column_C.log2() / 2

def quantize_tensor(
    weight: Tensor,
    sensitivity: Sensitivity,
    rate_lambda: float,
    small: bool,
    rounding: Rounding = SCALAR_ROUNDING,
) -> QuantizedTensor:
    """Codes of one tensor at `rate_lambda` nats per bit; small tensors are coded relative to their mean."""
    weight_RC = weight.reshape(row_view(tuple(weight.shape)))
    rows, columns = weight_RC.shape
    mean_R = np.zeros(rows, dtype=np.float32)
    if not weight_RC.numel():
        row_R, column_C = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
        grid = TensorGrid(row_R, row_R, column_C, column_C, mean_R)
        return QuantizedTensor(np.zeros((rows, columns), np.int8), grid)
    if small:
        mean_R = decode_fp16_block(encode_fp16_block(weight_RC.double().mean(1).numpy()))
        weight_RC = weight_RC - torch.from_numpy(mean_R)[:, None]
        rounding = SCALAR_ROUNDING
    hessian_CC, base = sensitivity.hessian_CC, base_step(rate_lambda)
    device = weight_RC.device if hessian_CC is None else hessian_CC.device
    weight_RC, log2_base = weight_RC.to(device), math.log2(base)
    # Equal slopes: step_R = base / sqrt(fisher_R). step^2 / (12 sigma^2) is its noise over its power.
    sigma_R, sigma_C = log2_sigma(weight_RC)
    log2_step_R = -sensitivity.fisher_R.to(device).log2() / 2
    noise_R = torch.exp2(2 * (log2_step_R + log2_base - sigma_R)).clamp(max=_MAX_NOISE) / 12
    row_sigma, column_sigma = _round_log2(sigma_R - log2_base), _round_log2(sigma_C)
    column_step = _near_median(_round_log2(sensitivity.log2_step_C))
    # No step is finer than the one at which the row's mean context is the finest that is useful.
    finest = FIRST_CONTEXT + (FINEST_SMALL_CONTEXT if small else FINEST_CONTEXT)
    smallest_step = row_sigma + round(float(np.mean(column_sigma - column_step))) - finest
    row_step = np.maximum(_round_log2(log2_step_R), smallest_step) + rounding.step_exponent
    row_step = _near_median(row_step)
    step_R = torch.from_numpy(exact_powers(row_step, base)).to(device)
    step_C = torch.from_numpy(exact_powers(column_step, 1.0)).to(device)
    if hessian_CC is None:
        # The minimum of (w - q)^2 + noise (q / sigma_C)^2, column by column.
        weight_RC, factors = weight_RC / (1 + noise_R[:, None] / sigma_C.exp2().square()), None
    else:
        factors = factorize(hessian_CC, noise_R, sigma_C.exp2(), sensitivity.damping)
    codes_RC, target_RC, plain_C = rounding.round(weight_RC, step_R, step_C, factors)
    # The coder's contexts follow the sigma of what was rounded, which is smaller than that of the weights.
    sigma_R, sigma_C = log2_sigma(target_RC)
    row_sigma = np.clip(_round_log2(sigma_R - log2_base), row_step - 64, row_step + 144)
    column_sigma = _near_median(_round_log2(sigma_C))
    grid = TensorGrid(row_step, _near_median(row_sigma), column_step, column_sigma, mean_R)
    codes = codes_RC.cpu().numpy()
    if (largest := float(np.abs(codes).max())) > MOST_CODE:
        raise ValueError(f"weights of one tensor lie too far apart to be packed: one is {largest:.2g} steps")
    return QuantizedTensor(smallest_int(codes), grid, plain_C)

def _round_log2(log2_values: Tensor) -> np.ndarray:
    """In steps of 1/8, int64; infinities become the largest exponents that are ever needed."""
    return (8 * log2_values.cpu()).clamp(-8000, 8000).round().long().numpy()

def _near_median(exponents: np.ndarray) -> np.ndarray:
    """Clipped to +-127 around the median, which is what the format holds."""
    median = round(float(np.median(exponents)))
    return np.clip(exponents, median - _MAX_OFFSET, median + _MAX_OFFSET)

# golf/pack/entropy.py: Quantizer "entropy": steps by the equal-slope rule, GPTQ, codes under a context-modelling entropy coder.
LAMBDA_RANGE = 2.0**40
"""The largest lambda over the smallest."""
NUM_GRID_TABLES = 8
EncodePayload = Callable[[dict[str, QuantizedTensor], Layout, float], bytes]
"""From quantized tensors and the base step to a quantizer's payload."""

def fit_entropy(
    weights: Weights,
    layout: Layout,
    calibration: Calibration | None,
    limit_bytes: int,
    wrap: Wrap,
    rounding: Rounding = SCALAR_ROUNDING,
    encode_payload: EncodePayload | None = None,
) -> Fitted:
    """The artifact of the smallest lambda that fits: the less loss at its bytes, the better the calibration."""
    encode_payload = encode_payload or encode_entropy
    num_weights = count_elements(layout)
    if num_weights > 8 * limit_bytes:
        raise BudgetError(
            f"artifact is {num_weights // 8:,} bytes or more, at 1 bit per weight; {limit_bytes:,} are left "
            f"for it: about {8 * limit_bytes:,} of the {num_weights:,} parameters would fit"
        )
    found = sensitivities(weights, calibration or flat_calibration(weights, layout))

    def encode(rate_lambda: float) -> bytes:
        tensors = {
            name: quantize_tensor(weight, found[name], rate_lambda, layout[name].kind == "small", rounding)
            for name, weight in weights.items()
        }
        return wrap(encode_payload(tensors, layout, base_step(rate_lambda)))

    # lambda = F step^2 ln(2) / 12, and a weight's loss rise is F step^2 / 24.
    finest = MIN_LOSS_RISE_NATS * 2 * math.log(2) / num_weights
    forecast = size_forecast(weights, layout, found, rounding)
    artifact, report = fit_lambda(encode, forecast, finest, finest * LAMBDA_RANGE, limit_bytes)
    notes = [
        f"the Hessian of {name} was singular: damping {sensitivity.damping:g} instead of {DAMPING:g}"
        for name, sensitivity in found.items()
        if sensitivity.damping > DAMPING
    ]
    return artifact, {**report, "notes": notes}

def decode_entropy(payload: memoryview, layout: Layout) -> Weights:
    """fp32 weights; raises ArtifactError unless the payload is one of tensors of this layout."""
    return dequantize_all(*read_quantized(payload, layout), layout)

def dequantize_all(base: float, tensors: dict[str, QuantizedTensor], layout: Layout) -> Weights:
    """fp32 weights, in the order of the layout; takes the tensors out of `tensors` as it goes."""
    weights = {}
    for name, part in layout.items():
        with np.errstate(over="ignore", invalid="ignore"):
            values_RC = dequantize(tensors.pop(name), base)
        if not np.isfinite(values_RC).all():
            raise ArtifactError(f"weight {name} decodes to values that are not finite")
        weights[name] = torch.from_numpy(values_RC.reshape(part.shape))
    return weights

def encode_entropy(
    tensors: dict[str, QuantizedTensor],
    layout: Layout,
    base: float,
    encode: Callable[[list[np.ndarray], list[np.ndarray]], bytes] = encode_codes,
) -> bytes:
    """The payload of quantized tensors, in the order of the layout; `encode` makes its part of the codes."""
    codes, grids = [tensors[name].codes_RC for name in layout], [tensors[name].grid for name in layout]
    means = [tensors[name].grid.mean_R for name, part in layout.items() if part.kind == "small"]
    sections = [
        np.array([base], dtype="<f4").tobytes(),
        encode_fp16_block(np.concatenate([np.zeros(0), *means])),
        _encode_grids(grids),
        encode(codes, [grid.contexts() for grid in grids]),
    ]
    return b"".join(sections)

def read_quantized(
    payload: memoryview,
    layout: Layout,
    decode: Callable[[PayloadReader, list[np.ndarray]], list[np.ndarray]] = decode_codes,
) -> tuple[float, dict[str, QuantizedTensor]]:
    """The base step and the tensors of `encode_entropy`; raises ArtifactError for another payload."""
    reader = PayloadReader(payload)
    base = float(reader.take_array("<f4", 1)[0])
    grids = _decode_grids(reader, layout)
    codes = decode(reader, [grid.contexts() for grid in grids])
    return base, dict(zip(layout, map(QuantizedTensor, codes, grids), strict=True))

def _median_and_bin(vector: np.ndarray) -> tuple[int, int]:
    """A vector's median, and its table: log2 of its standard deviation, from 0."""
    if not vector.size:
        return 0, 0
    table = round(math.log2(max(float(np.std(vector)), 1.0)))
    return round(float(np.median(vector))), min(NUM_GRID_TABLES - 1, table)

def _encode_grids(grids: list[TensorGrid]) -> bytes:
    vectors = [vector for grid in grids for vector in grid[:4]]
    medians, bins = np.array([_median_and_bin(vector) for vector in vectors]).T
    offsets = [vector - median for vector, median in zip(vectors, medians, strict=True)]
    symbols_N = np.concatenate(offsets).astype(np.int8).view(np.uint8)
    tables_N = np.repeat(bins, [len(vector) for vector in vectors]).astype(np.uint8)
    tables, stream = encode_symbols(symbols_N, tables_N, NUM_GRID_TABLES)
    sections = [medians.astype("<i2").tobytes(), bins.astype(np.uint8).tobytes(), tables]
    return b"".join([*sections, encode_count(len(stream)), stream])

def _decode_grids(reader: PayloadReader, layout: Layout) -> list[TensorGrid]:
    """The grids, with the means in front of them."""
    views = [row_view(part.shape) for part in layout.values()]
    is_small = [part.kind == "small" for part in layout.values()]
    means = reader.take_fp16_block(
        sum(rows for (rows, _), small in zip(views, is_small, strict=True) if small)
    )
    lengths = [length for rows, columns in views for length in (rows, rows, columns, columns)]
    medians = reader.take_array("<i2", len(lengths)).astype(np.int64)
    tables_N = np.repeat(reader.take_array("u1", len(lengths)), lengths)
    frequencies_KA = decode_tables(reader)
    symbols_N = decode_rans(reader.take(reader.take_count()), tables_N, frequencies_KA)
    vectors = np.split(symbols_N.view(np.int8) + np.repeat(medians, lengths), np.cumsum(lengths)[:-1])
    grids = []
    for index, ((rows, _), small) in enumerate(zip(views, is_small, strict=True)):
        mean_R, means = (means[:rows], means[rows:]) if small else (np.zeros(rows, np.float32), means)
        grids.append(TensorGrid._make([*vectors[4 * index : 4 * index + 4], mean_R]))
    return grids

# golf/pack/artifact.py: Weights to artifact bytes that fit a limit, and back; the table of quantizers.
class Quantizer(NamedTuple):
    """Weights to a payload that fits, and back. Names, shapes and kinds are in the layout alone."""

    fit: Callable[[Weights, Layout, Calibration | None, int, Wrap], Fitted]
    """fit(weights, layout, calibration, limit_bytes, wrap), weights in fp32 on the CPU: the most precise
    useful artifact of at most `limit_bytes`; raises BudgetError if there is none."""
    decode: Callable[[memoryview, Layout], Weights]
    """decode(payload, layout): fp32 weights; ArtifactError unless `fit` wrote the payload for this layout."""
    needs_calibration: bool = False
    """Whether runs measure a Calibration before packing; without one `calibration` is None."""

QUANTIZERS = {"entropy": Quantizer(fit_entropy, decode_entropy, needs_calibration=True)}
"""By the name that PackConfig.scheme and an artifact's header give."""

@dataclass(frozen=True)
class PackConfig:
    """How weights become bytes."""

    scheme: str = "entropy"
    """Quantizer, a name of QUANTIZERS. entropy: steps by the loss's sensitivity, GPTQ, an entropy coder.
    trellis: the same with trellis-coded codes, 3 to 5% smaller at equal loss, several times slower to pack.
    auto: whichever of the two has less forecast loss at its bytes.
    int5, the reference: one fp16 scale per row, int5 matrices and int8 embeddings, a code per byte, zstd."""
    margin_bytes: int = 0
    """Bytes of the limit to leave unused."""
    calibration_tokens: int = 131_072
    """Training tokens that the loss's sensitivity is measured on, for quantizers that need it."""

class Packed(NamedTuple):
    """An artifact that fits, and the sizes of its parts."""

    artifact: bytes
    scheme: str
    fitted: dict[str, Any]
    """The quantizer's own figures."""
    num_weights: int
    limit_bytes: int

def pack(
    weights: Weights,
    header: dict[str, Any],
    config: PackConfig,
    limit_bytes: int,
    calibration: Calibration | None = None,
) -> Packed:
    """The most precise useful artifact of at most `limit_bytes` (the limit minus the code's bytes)."""
    layout = implied_layout(header.get("model"))
    for name in sorted(weights.keys() ^ layout.keys()):
        raise ValueError(f"weight {name} is {'missing' if name in layout else 'unknown to the model config'}")
    for name, part in layout.items():
        shape = tuple(weights[name].shape)
        if shape != part.shape:
            raise ValueError(f"weight {name} has shape {shape}; the config implies {part.shape}")
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"weight {name} has NaN or infinite values; it cannot be packed")
    weights = {name: weights[name].detach().cpu().float().contiguous() for name in layout}

    def wrap(payload: bytes) -> bytes:
        return write_container({**header, "scheme": config.scheme}, payload)

    room_bytes = limit_bytes - config.margin_bytes
    artifact, fitted = QUANTIZERS[config.scheme].fit(weights, layout, calibration, room_bytes, wrap)
    return Packed(artifact, config.scheme, fitted, count_elements(layout), limit_bytes)

def open_artifact(data: bytes) -> tuple[dict[str, Any], Quantizer, memoryview, Layout]:
    """Header, quantizer, payload and layout; raises ArtifactError for what `pack` did not write."""
    header, payload = read_container(data)
    layout = implied_layout(header.get("model"))
    if count_elements(layout) > plausible_size(len(data)):
        raise ArtifactError(f"artifact of {len(data):,} bytes claims {count_elements(layout):,} weights")
    scheme = header.get("scheme")
    if not isinstance(scheme, str) or scheme not in QUANTIZERS:
        raise ArtifactError(f"artifact's scheme is {scheme!r}; expected one of {', '.join(QUANTIZERS)}")
    return header, QUANTIZERS[scheme], payload, layout

def decode_artifact(data: bytes) -> tuple[dict[str, Any], Weights]:
    """Header and fp32 weights; raises ArtifactError for anything but an undamaged artifact."""
    header, quantizer, payload, layout = open_artifact(data)
    return header, quantizer.decode(payload, layout)

# golf/score/windows.py: Which tokens each forward pass reads, and which of its predictions count.
@dataclass(frozen=True)
class WindowConfig:
    """Sliding windows: how far a prediction sees, and how far the window moves."""

    context: int | None = None
    """Tokens that a window reads; by default the context that the model was trained with."""
    stride: int = 64
    """Tokens that each window after the first grades; all but the first `context` tokens are predicted from
    at least context - stride tokens. Equal to the context, windows are disjoint."""
    batch_tokens: int | None = None
    """Input tokens of one forward pass, which moves a score in its last digits only; by default 131,072 on a
    GPU and 4,096 elsewhere."""

    def resolve(self, trained_context: int, device_type: str) -> "ResolvedWindows":
        """The same windows with every default filled in; ValueError for sizes that contradict each other."""
        context = trained_context if self.context is None else self.context
        usual = max(context, 131_072 if device_type == "cuda" else 4_096)
        batch_tokens = usual if self.batch_tokens is None else self.batch_tokens
        if not 1 <= self.stride <= context:
            raise ValueError(f"stride is {self.stride}; expected 1 to the context, {context}")
        if batch_tokens < context:
            raise ValueError(f"batch_tokens is {batch_tokens}; expected at least the context, {context}")
        return ResolvedWindows(context, self.stride, batch_tokens)

class ResolvedWindows(WindowConfig):
    """Windows whose sizes are all known, made by `WindowConfig.resolve`."""

    context: int
    batch_tokens: int

class Window(NamedTuple):
    """Inputs tokens[start:end] predict tokens[start + 1:end + 1]; the last `num_graded` of these count."""

    start: int
    end: int
    num_graded: int

def plan_windows(num_targets: int, context: int, stride: int) -> list[Window]:
    """Windows that grade each of `num_targets` targets exactly once, in order."""
    if num_targets < context:
        raise ValueError(f"{num_targets:,} tokens to score are fewer than one window of {context:,}")
    windows = [Window(0, context, context)]
    for graded in range(context, num_targets, stride):
        end = min(graded + stride, num_targets)
        windows.append(Window(end - context, end, end - graded))
    return windows

def group_chunks(windows: Sequence[Window], chunk_tokens: int) -> list[list[Window]]:
    """Runs of windows whose graded targets end within the same `chunk_tokens` of the stream."""
    return [list(chunk) for _, chunk in groupby(windows, lambda window: (window.end - 1) // chunk_tokens)]

# golf/train/averaging.py: Averages of the weights over a run: EMA, SWA, and SWA of the EMA.
AVERAGES = ("last", "ema", "swa", "ema+swa")

@dataclass(frozen=True)
class AveragingConfig:
    """Which average of the weights a run keeps, and the windows of the averages."""

    output: Literal["auto", "last", "ema", "swa", "ema+swa"] = "auto"
    """The average to keep; `auto` takes the best on a held-out slice of the training text."""
    ema_window: float = 0.02
    """Share of the run over which the exponential average forgets by a factor e."""
    swa_start: float = 0.6
    """Point of the run at which the stochastic average (arXiv:1803.05407) begins."""
    swa_every: float = 0.01
    """Share of the run between two of its samples."""

class WeightAverage:
    """The running averages of a model's weights, those that `config.output` needs."""

    def __init__(self, model: nn.Module, config: AveragingConfig):
        self.config = config
        self._names = [name for name, _ in model.named_parameters()]
        self._weights = [parameter.detach() for parameter in model.parameters()]
        wanted = AVERAGES
        self._sums = {name: self._copies() for name in ("swa", "ema+swa") if name in wanted}
        self._ema = self._copies() if {"ema", "ema+swa"} & set(wanted) else []
        self._num_samples, self._progress, self._next_sample = 0, 0.0, config.swa_start

    def _copies(self) -> list[Tensor]:
        return [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Adds the weights as they are at `progress` (0 to 1) of the run; call once after each step."""
        if self._ema:
            # ema += (1 - e^(-dt / window)) (weights - ema): steps that take longer weigh more.
            share = -math.expm1((self._progress - progress) / self.config.ema_window)
            torch._foreach_lerp_(self._ema, self._weights, share)  # pyright: ignore[reportPrivateImportUsage]
        self._progress = progress
        if progress >= self._next_sample and self._sums:
            self._num_samples += 1
            self._next_sample = progress + self.config.swa_every
            for name, mean in self._sums.items():
                sampled = self._weights if name == "swa" else self._ema
                # mean_n = mean_(n-1) + (x_n - mean_(n-1)) / n: the first sample replaces the initial copy.
                torch._foreach_lerp_(mean, sampled, 1.0 / self._num_samples)  # pyright: ignore[reportPrivateImportUsage]

    def outputs(self) -> dict[str, dict[str, Tensor]]:
        """The averages by name, and the weights themselves as `last`."""
        found = {"last": self._weights}
        found["ema"] = self._ema
        if self._num_samples:
            found |= self._sums
        elif self.config.output in self._sums:
            found[self.config.output] = self._ema
        return {name: dict(zip(self._names, weights, strict=True)) for name, weights in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`."""
        return {
            "ema": self._ema,
            "sums": self._sums,
            "num_samples": self._num_samples,
            "progress": self._progress,
            "next_sample": self._next_sample,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the averages of a run with the same averaging config."""
        stored = {"ema": state["ema"], **state["sums"]}
        for name, own in {"ema": self._ema, **self._sums}.items():
            if own:
                torch._foreach_copy_(own, stored[name])  # pyright: ignore[reportPrivateImportUsage]
        self._num_samples, self._progress = state["num_samples"], state["progress"]
        self._next_sample = state["next_sample"]

# golf/system/distributed.py: The processes that work on one run, one per GPU, and what they exchange (torch.distributed).
TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others before it fails."""

SAY_EVERY_SECONDS = 60.0
"""How long it waits before it says so, and again each time."""
_exchange: dict[str, float] = {}
"""When the exchange that runs began, under `since`."""

Shared = TypeVar("Shared")

class WorldError(ValueError):
    """The processes of a run disagree, or one of them has died."""

@dataclass(frozen=True)
class World:
    """Ranks and sizes of this process, as torchrun numbers them; the default is a single process."""

    rank: int = 0
    """0 to size - 1; rank 0 alone prints, saves, packs and writes entries."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Rank among the processes of this machine; also the index of this process's GPU."""
    local_size: int = 1
    """Number of processes on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self, device_type: str) -> Iterator[None]:
        """Keeps the process group open during the block; WorldError if the processes cannot connect."""
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
        with _named_failure():
            dist.init_process_group(backend, timeout=TIMEOUT)
        ended = threading.Event()
        threading.Thread(target=_say_waiting, args=(self.rank, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Callable[[], None]:
        """Starts an all-reduce (sum) of `tensor` in place; returns a function that waits for it."""
        if self.size == 1:
            return noop
        with _named_failure():
            return _waiter(dist.all_reduce(tensor, async_op=True))

    def gather_rows(self, own: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Starts an all-gather of `own` (N, ...), equal shapes everywhere."""
        gathered = own.new_empty((self.size * own.size(0), *own.shape[1:]))
        with _named_failure():
            work = dist.all_gather(list(gathered.chunk(self.size)), own.contiguous(), async_op=True)
        return gathered, _waiter(work)

    def all_reduce_any(self, seconds: float, flag: bool) -> tuple[float, bool]:
        """Rank 0's `seconds`, and whether `flag` is true in any process."""
        if self.size == 1:
            return seconds, flag
        values = torch.tensor([seconds if self.is_first else 0.0, float(flag)], dtype=torch.float64)
        self.sum(values)()
        return float(values[0]), bool(values[1])

    def all_reduce_min(self, value: int) -> int:
        """The smallest `value` of all processes."""
        if self.size == 1:
            return value
        found = torch.tensor([value])
        with _named_failure():
            dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def broadcast(self, make: Callable[[], Shared]) -> Shared:
        """Calls `make` in rank 0 and returns its picklable result in every process."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_first else None]
        with _named_failure():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

@contextmanager
def _named_failure() -> Iterator[None]:
    """Turns the RuntimeError of a failed exchange, which names sockets, into a WorldError."""
    _exchange["since"] = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        raise WorldError(
            f"another process of this run is gone, so this one ends, too ({str(error).splitlines()[0]}); "
            "the run can be resumed"
        ) from error
    finally:
        _exchange.clear()

def _say_waiting(rank: int, ended: threading.Event) -> None:
    """Says when an exchange takes long: a process that is stopped, but not dead, is silent."""
    while not ended.wait(SAY_EVERY_SECONDS):
        since = _exchange.get("since")
        if since is not None and (seconds := time.monotonic() - since) > SAY_EVERY_SECONDS:
            limit = TIMEOUT.total_seconds() / 60
            print(
                f"process {rank} has waited {seconds:.0f} s for the others, which are at work, or one is "
                f"stopped; after {limit:.0f} minutes this one ends",
                file=sys.stderr,
                flush=True,
            )

def _waiter(work: Any) -> Callable[[], None]:
    def wait() -> None:
        with _named_failure():
            work.wait()

    return wait

def noop() -> None:
    """Waits for nothing: the function that a single process's exchange returns."""

# golf/train/optim.py: The table of optimizers, which group of parameters each of them trains, and all of them as one.
Coefficients = tuple[tuple[float, float, float], ...]
"""(a, b, c) of each Newton-Schulz step x <- a x + b x^3 + c x^5, applied to the singular values."""
QUINTIC: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5
"""Those of Muon's author: the slope at 0 is as steep as possible, so that small singular values grow fast."""
POLAR_EXPRESS: Coefficients = (
    (8.15655, -22.48329, 15.87877),
    (4.04293, -2.80892, 0.50002),
    (3.89167, -2.77248, 0.50606),
    (3.28575, -2.36813, 0.46449),
    (2.34654, -1.70978, 0.42324),
)
"""Per-step coefficients of Polar Express (arXiv:2505.16932), as used in openai/parameter-golf #1787."""
NEWTON_SCHULZ = {"quintic": QUINTIC, "polar-express": POLAR_EXPRESS}

def orthogonalize(updates_NRC: Tensor, coefficients: Coefficients) -> Tensor:
    """Moves every singular value of each matrix to about 1 and keeps the singular vectors."""
    # X X^T has the size of the shorter side if the matrix is wide: fewer operations, same result.
    is_tall = updates_NRC.size(-2) > updates_NRC.size(-1)
    x_NRC = updates_NRC.mT if is_tall else updates_NRC
    # The iteration converges for singular values in [0, 1]; the Frobenius norm bounds the largest one.
    x_NRC = x_NRC / (torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in coefficients:
        # An odd polynomial of X = U S V^T acts on S alone: X X^T X = U S^3 V^T.
        gram_NRR = x_NRC @ x_NRC.mT
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)  # b G + c G^2
        x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)  # a X + (b G + c G^2) X
    return x_NRC.mT if is_tall else x_NRC

class Muon(torch.optim.Optimizer):
    """Muon for matrices; those of one shape are one stack and one parameter group."""

    def __init__(
        self,
        matrices: list[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        row_normalize: bool = False,
        newton_schulz: str = "quintic",
        compute_dtype: torch.dtype = torch.bfloat16,
        world: World | None = None,
    ):
        self.row_normalize, self.coefficients = row_normalize, NEWTON_SCHULZ[newton_schulz]
        self.compute_dtype, self.world = compute_dtype, world or World()
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a `state_dict`; ValueError for one whose momentum is a running mean, as it once was."""
        if any("momentum_sum_NRC" not in state for state in state_dict["state"].values()):
            raise ValueError("Muon's momentum is a mean (a run of an earlier version cannot be resumed)")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates every matrix; a matrix without a gradient is an error."""
        pending = []
        for group in self.param_groups:
            gradients_NRC = torch.stack([matrix.grad for matrix in group["params"]])
            state = self.state[group["params"][0]]
            if not state:
                state["momentum_sum_NRC"] = torch.zeros_like(gradients_NRC)
            # A sum, not a running mean: while the momentum warms up, a mean would weigh early gradients more.
            momentum_NRC = state["momentum_sum_NRC"].mul_(group["momentum"]).add_(gradients_NRC)
            # Nesterov's variant looks one update ahead.
            direction_NRC = gradients_NRC.add(momentum_NRC, alpha=group["momentum"])
            if self.row_normalize:
                direction_NRC = F.normalize(direction_NRC, dim=-1)
            pending.append((group, *self._orthogonalize_shared(direction_NRC.to(self.compute_dtype))))
        for group, update_NRC, wait in pending:
            wait()
            matrices = group["params"]
            # An orthogonal R x C matrix maps inputs of RMS 1 to outputs of RMS sqrt(C / R) if R > C, else of
            # RMS 1: with this factor an update changes outputs equally in every shape.
            scale = max(1.0, update_NRC.size(-2) / update_NRC.size(-1)) ** 0.5
            updates = (update_NRC.to(matrices[0].dtype) * scale).unbind()
            torch._foreach_mul_(matrices, 1.0 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(matrices, updates[: len(matrices)], alpha=-group["lr"])  # pyright: ignore[reportPrivateImportUsage]

    def _orthogonalize_shared(self, direction_NRC: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """The orthogonalized stack, complete once the returned function has been called."""
        if self.world.size == 1:
            return orthogonalize(direction_NRC, self.coefficients), noop
        # Every process takes equally many matrices: the stack is padded with zeros, which `step` cuts off.
        share = -(-direction_NRC.size(0) // self.world.size)
        own_NRC = direction_NRC[self.world.rank * share : (self.world.rank + 1) * share]
        own_NRC = F.pad(own_NRC, (0, 0, 0, 0, 0, share - own_NRC.size(0)))
        return self.world.gather_rows(orthogonalize(own_NRC, self.coefficients))

def build_adamw(
    parameters: list[nn.Parameter],
    lr: float,
    weight_decay: float,
    adam_beta1: float,
    adam_beta2: float,
    adam_eps: float,
) -> torch.optim.AdamW:
    """torch's AdamW, one fused kernel for all parameters."""
    return torch.optim.AdamW(parameters, lr, (adam_beta1, adam_beta2), adam_eps, weight_decay, fused=True)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "muon": Muon,
    "adamw": build_adamw,
}
"""Optimizers by name. A new one is a file with a `torch.optim.Optimizer`, and a line here.

It is called with a list of parameters and, by keyword, those settings that its signature names, of the ones
that `Optimizers` lists and `OptimConfig.options`. The schedule scales "lr" in its param_groups, and sets
"momentum" where they have it.
"""

@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and decay (decoupled, times the learning rate) of each group of parameters."""

    matrix: str = "muon"
    """Optimizer of the matrices: muon, adamw, or another name of OPTIMIZERS."""
    embedding: str = "adamw"
    """Optimizer of the token embedding, the bigram table and learned positions."""
    scalar: str = "adamw"
    """Optimizer of gains, scales, mixes and gates."""
    options: tuple[str, ...] = ()
    """Settings of optimizers that have no field here, as name=value; each goes to those that take it."""
    matrix_lr: float = 0.04
    """The matrices' learning rate; Muon's update of a square one has singular values of about this size."""
    matrix_weight_decay: float = 0.04
    """Decay of the matrices."""
    momentum: float = 0.95
    """Muon's full momentum (Nesterov)."""
    row_normalize: bool = False
    """Whether each row of Muon's update is scaled to length 1 before it is orthogonalized (MuonEq-R,
    openai/parameter-golf #1260)."""
    newton_schulz: Literal["quintic", "polar-express"] = "quintic"
    """Which polynomials orthogonalize Muon's update."""
    by_shape: bool = False
    """Whether all matrices but the token embedding are in the group `matrix`: the bigram table, the mix with
    the embedding and the skip weights too, as in openai/parameter-golf #334."""
    embedding_lr: float = 0.05
    """Learning rate of the tables."""
    embedding_weight_decay: float = 0.04
    """Decay of the tables."""
    scalar_lr: float = 0.04
    """Learning rate of the scalars."""
    scalar_weight_decay: float = 0.04
    """Decay of the scalars."""
    adam_beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it. 0 for no limit."""

def split_parameters(model: nn.Module, by_shape: bool = False) -> dict[str, list[nn.Parameter]]:
    """Parameters by the optimizer group of their role."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "scalar": []}
    for name, role in roles_of(model).items():
        parameter = model.get_parameter(name)
        is_matrix = by_shape and parameter.ndim == 2 and name != "embedding.weight"
        groups["matrix" if is_matrix else role.group].append(parameter)
    return groups

class Optimizers:
    """The optimizers of a model's groups of parameters as one: a step, a schedule, a state."""

    def __init__(
        self, model: nn.Module, config: OptimConfig, compute_dtype: torch.dtype, world: World | None = None
    ):
        self.world, self.gradient_clip = world or World(), config.gradient_clip or math.inf
        self.by_group: dict[str, torch.optim.Optimizer] = {}
        """The optimizer of each group of parameters that the model has: matrix, embedding, scalar."""
        chosen = {
            "matrix": (config.matrix, config.matrix_lr, config.matrix_weight_decay),
            "embedding": (config.embedding, config.embedding_lr, config.embedding_weight_decay),
            "scalar": (config.scalar, config.scalar_lr, config.scalar_weight_decay),
        }
        settings: dict[str, Any] = {
            "momentum": config.momentum,
            "row_normalize": config.row_normalize,
            "newton_schulz": config.newton_schulz,
            "adam_beta1": config.adam_beta1,
            "adam_beta2": config.adam_beta2,
            "adam_eps": config.adam_eps,
            "compute_dtype": compute_dtype,
            "world": self.world,
        }
        for kind, parameters in split_parameters(model, config.by_shape).items():
            if parameters:
                name, settings["lr"], settings["weight_decay"] = chosen[kind]
                taken = inspect.signature(OPTIMIZERS[name]).parameters.keys() & settings.keys()
                self.by_group[kind] = OPTIMIZERS[name](parameters, **{key: settings[key] for key in taken})
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, as torch's optimizers have them."""
        return [group for optimizer in self.by_group.values() for group in optimizer.param_groups]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, in the order of their groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def set_schedule(self, lr_scale: float, momentum: float) -> None:
        """Sets each learning rate to `lr_scale` times its initial value, and momentum where there is one."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale
            if "momentum" in group:
                group["momentum"] = momentum

    @torch.no_grad()
    def all_reduce_gradients(self) -> None:
        """Sums the gradients over all processes, in one message; a missing gradient counts as zero."""
        if self.world.size == 1:
            return
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.world.sum(flat)()
        sums = flat.split([gradient.numel() for gradient in gradients])
        for parameter, sum_N in zip(self.parameters, sums, strict=True):
            parameter.grad = sum_N.view_as(parameter)

    def step(self) -> Tensor:
        """Clips the norm of the whole gradient, updates every parameter, returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        for optimizer in self.by_group.values():
            optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state of each group's optimizer, for `load_state_dict`."""
        return {kind: optimizer.state_dict() for kind, optimizer in self.by_group.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`; ValueError if it is of other groups, as before groups had names."""
        if set(state) != set(self.by_group):
            found = f"its optimizers are {', '.join(state)}; expected {', '.join(self.by_group)}"
            raise ValueError(f"{found} (a run of an earlier version cannot be resumed)")
        for kind, optimizer in self.by_group.items():
            optimizer.load_state_dict(state[kind])

# golf/train/schedule.py: The budget of a run and what changes over it: learning rate, momentum, context, batch, recurrence.
@dataclass(frozen=True)
class Budget:
    """How long to train: seconds of training time, or optimizer steps; exactly one is given."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        amounts = [amount for amount in (self.seconds, self.steps) if amount is not None]
        if len(amounts) != 1:
            raise ValueError("training needs a budget: either minutes or steps, not both")
        if amounts[0] <= 0:
            raise ValueError(f"the training budget is {amounts[0]:g}; expected more than 0")

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)

@dataclass(frozen=True)
class ScheduleConfig:
    """Windows as fractions of the run."""

    warmdown: float = 0.89
    """Share of the run, at its end, over which the learning rate falls."""
    warmdown_shape: Literal["cosine", "linear"] = "cosine"
    """How it falls."""
    floor: float = 0.0
    """Least learning rate, as a share of the full one: reached before the end of the run, and held."""
    momentum_warmup: float = 0.15
    """Share of the run, at its start, over which Muon's momentum grows to its full value."""
    momentum_start: float = 0.85
    """Muon's momentum at the start."""
    recurrence_start: float = 0.35
    """Progress from which on the recurrent blocks are repeated (openai/parameter-golf #1204)."""
    context_growth: tuple[float, ...] = ()
    """Progress at which the context grows, to model.context by equal parts, one part more than points
    (openai/parameter-golf #2014)."""
    lr_rewarmup: float = 0.0
    """Share of the run over which the learning rate climbs from 0 again after the context has grown."""
    batch_growth: tuple[float, ...] = ()
    """Progress at which the batch grows, to train.batch_tokens, likewise by equal parts."""

def learning_rate_scale(progress: float, config: ScheduleConfig) -> float:
    """Factor on every learning rate: 1 until the warmdown begins, then down towards 0, not below `floor`."""
    start = 1.0 - config.warmdown
    done = min(1.0, (progress - start) / config.warmdown) if progress > start else 0.0
    # From 1 to 0 over the warmdown: half a cosine wave, flat at both ends, or a straight line.
    shape = 1.0 - done
    climb = 1.0
    for point in config.context_growth:
        if point <= progress < point + config.lr_rewarmup:
            climb = min(climb, (progress - point) / config.lr_rewarmup)
    return climb * max(shape, config.floor)

def muon_momentum(progress: float, full_momentum: float, config: ScheduleConfig) -> float:
    """Muon's momentum: linear from `momentum_start` to `full_momentum`, then constant."""
    if progress >= config.momentum_warmup:
        return full_momentum
    share = progress / config.momentum_warmup
    return config.momentum_start + (full_momentum - config.momentum_start) * share

class Phase(NamedTuple):
    """A part of the run whose steps are alike; each (context, looping) is a graph of its own to compile."""

    start: float
    """Progress at which it begins."""
    context: int
    """Tokens of a sequence."""
    batch_tokens: int
    """Tokens of an optimizer step."""
    looping: bool
    """Whether the recurrent blocks are repeated."""

Phases = tuple[Phase, ...]

def grown(full: int, points: tuple[float, ...], progress: float) -> int:
    """A size that grows by equal parts: one of 1 + len(points) parts of `full`, one more at each point."""
    return full * (1 + sum(point <= progress for point in points)) // (1 + len(points))

def plan_phases(context: int, batch_tokens: int, loops: bool, config: ScheduleConfig) -> Phases:
    """The phases of a run in order; `loops` says whether the model has recurrent blocks."""
    points = {0.0, *config.context_growth, *config.batch_growth}
    if loops:
        points.add(config.recurrence_start)
    return tuple(
        Phase(
            start,
            grown(context, config.context_growth, start),
            grown(batch_tokens, config.batch_growth, start),
            loops and start >= config.recurrence_start,
        )
        for start in sorted(points)
        if start < 1.0
    )

def phase_at(progress: float, phases: Phases) -> Phase:
    """The phase that `progress` lies in."""
    return [phase for phase in phases if phase.start <= progress][-1]

# golf/train/config.py: Configuration of a training run: sizes of steps and micro-batches, and the recipe of all of its parts.
@dataclass(frozen=True)
class TrainConfig:
    """Sizes of the training loop, how often it reports, evaluates and saves, and extra terms of the loss."""

    batch_tokens: int = 524_288
    """Tokens of one optimizer step, at its full size."""
    micro_batch_tokens: int = 65_536
    """Tokens of one forward and backward pass; the step's gradient is accumulated over its micro-batches."""
    attention: Literal["auto", "fa3", "cudnn", "flash", "efficient", "math"] = "auto"
    """Attention kernels: by default the fastest that the machine has."""
    warmup_steps: int = 2
    """Steps of each kind on random tokens before the clock, to compile and warm up; they leave no trace."""
    reserve_seconds: float = 0.0
    """Part of a budget of minutes kept for reading text after the last step (choosing the average)."""
    reports: int = 50
    """Number of log lines over the run."""
    num_evals: int = 5
    """Number of evaluations on the held-out slice of the training text over the run."""
    held_out_tokens: int = 65_536
    """Size of that slice, which is never trained on."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    shuffle_documents: bool = False
    """Whether sequences are cut from documents in a new random order each epoch, not in the shards' order."""
    divergence_nats: float = 2.0
    """A loss this far above the first step's ends the run, except in its first 30 steps and first twentieth:
    the tied embedding starts so small that the first steps overshoot in healthy runs, too."""
    future_weight: float = 0.3
    """Weight of the mean loss of the tokens that model.future_tokens adds to the prediction."""
    sigreg_weight: float = 0.0
    """Weight of SIGReg on the last stream, which draws its distribution to an isotropic Gaussian
    (arXiv:2511.08544); 0 leaves it out."""
    sigreg_real_only: bool = False
    """Whether SIGReg compares the real part of the characteristic function alone."""
    sigreg_until: float = 1.0
    """Progress at which SIGReg ends."""
    prefix_weight: float = 0.0
    """Weight of the nats of each target's prefix token, the longest token that its bytes begin with
    (KellerJordan/modded-nanogpt #337: 0.25); 0 leaves them out."""
    prefix_until: float = 2 / 3
    """Progress at which that weight reaches 0, after a linear decay from half of it on."""

    def check(self, phases: Phases) -> None:
        """Raises ValueError unless steps are whole micro-batches, and those whole sequences, everywhere."""
        for phase in phases:
            whole = phase.context > 0 and self.micro_batch_tokens % phase.context == 0
            if not whole or phase.batch_tokens < 1 or phase.batch_tokens % self.micro_batch_tokens:
                raise ValueError(
                    f"train.batch_tokens {phase.batch_tokens} must be a multiple of train.micro_batch_tokens "
                    f"{self.micro_batch_tokens}, and that of the context {phase.context}, "
                    f"from {phase.start:.0%} of the run on"
                )

def fit_micro_batches(config: TrainConfig, phases: Phases, num_processes: int) -> int:
    """Tokens of a micro-batch, halved until every process has equally many; ValueError if that cannot be."""
    tokens = config.micro_batch_tokens
    while any(phase.batch_tokens % (tokens * num_processes) for phase in phases):
        tokens = halve_micro_batches(tokens, phases)
        if not tokens:
            batches = ", ".join(str(size) for size in sorted({phase.batch_tokens for phase in phases}))
            raise ValueError(
                f"steps of {batches} tokens cannot be shared by {num_processes} processes in micro-batches "
                f"of whole sequences; train.micro_batch_tokens is {config.micro_batch_tokens}"
            )
    return tokens

def halve_micro_batches(tokens: int, phases: Phases) -> int:
    """Half the tokens of a micro-batch; 0 if that is no whole number of sequences in some phase."""
    return 0 if tokens % 2 or any(tokens // 2 % phase.context for phase in phases) else tokens // 2

@dataclass(frozen=True)
class Recipe:
    """What the trainer reads of a configuration: how a model is trained, whatever the model and the text."""

    budget: Budget
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)

# golf/score/ledger.py: Who touched which target when: graded once, and trained on only after that.
_SEAL = object()

class LegalityError(ValueError):
    """A score would break the rules: graded twice or never, or trained on before it was graded."""

@dataclass(frozen=True)
class Graded:
    """What may be learned from. Only a ledger hands it out to the scorer: LegalityError for anybody else."""

    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise LegalityError("only the scorer hands out what may be learned from, once it is graded")

@dataclass(frozen=True)
class ScoredChunk(Graded):
    """Consecutive targets that have been graded."""

    tokens_N1: np.ndarray
    """int64: the token before the first target, then the targets."""

@dataclass(frozen=True)
class ScoredDocuments(Graded):
    """The chunk that some documents were just graded on."""

    nats_BL: Tensor
    """The very grades that count, with the graph that leads back to what gave them. In recorded steps some
    rows are documents that have ended, or none: they do not learn."""

class Ledger:
    """Keeps, for each target of a stream, the event that graded it; refuses what the rules refuse."""

    def __init__(self, num_targets: int):
        self._graded_by = np.zeros(num_targets, dtype=np.int32)
        self.events = ["never graded"]

    def grade(self, start: int, end: int, event: str) -> None:
        """Books targets as graded; LegalityError if one of them was before."""
        range_ = self._graded_by[start:end]
        if len(range_) != end - start:
            raise LegalityError(f"{event} grades targets {start} to {end}; there are {len(self._graded_by)}")
        if range_.any():
            first = start + int(range_.argmax())
            raise LegalityError(
                f"targets {start} to {end} were to be graded by {event!r}, but target {first} was already "
                f"graded by {self.events[range_[first - start]]!r}"
            )
        self._note(event)
        range_[:] = len(self.events) - 1

    def train(self, start: int, end: int, event: str) -> None:
        """Books targets as trained on; LegalityError if one of them has not been graded yet."""
        range_ = self._graded_by[start:end]
        if len(range_) != end - start or not range_.all():
            first = start + (int(range_.argmin()) if len(range_) else 0)
            raise LegalityError(
                f"targets {start} to {end} were to be trained on by {event!r}, "
                f"but target {first} had not been graded"
            )
        self._note(event)

    def release_chunk(self, tokens: np.ndarray, targets: tuple[int, int], event: str) -> ScoredChunk:
        """Books targets of the stream as trained on and hands them out."""
        start, end = targets
        self.train(start, end, event)
        return ScoredChunk(_SEAL, tokens[start : end + 1].astype(np.int64))

    def release_documents(
        self, nats_BL: Tensor, targets: Sequence[tuple[int, int]], event: str
    ) -> ScoredDocuments:
        """Books the targets of each document as trained on and hands out their grades."""
        for start, end in targets:
            self.train(start, end, event)
        return ScoredDocuments(_SEAL, nats_BL)

    def close(self, num_targets: int) -> None:
        """Ends the scoring of the first `num_targets` targets; LegalityError if one of them was left out."""
        missing = np.flatnonzero(self._graded_by[:num_targets] == 0)
        if len(missing):
            raise LegalityError(
                f"{len(missing):,} of {num_targets:,} targets were never graded, the first is {missing[0]}"
            )

    def _note(self, event: str) -> None:
        # Documents graded side by side share an event: one entry, not one for each of millions of ranges.
        if self.events[-1] != event:
            self.events.append(event)

# golf/data/caseops.py: CaseOps: ASCII capitals as marks and small letters, so that a word has the same pieces in any case.
TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK = "\ue001", "\ue002", "\ue003", "\ue004"
CASE_MARKS = (TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK)

# golf/system/files.py: Files that appear whole or not at all, and JSON files.
STANDARD_OUTPUT = Path("-")
"""Means standard output where an option takes a file to write."""
MAX_SEALED_BYTES = 1 << 24
CHECKSUM = "checksum"
"""Field of a sealed JSON file: the sha256 of the other fields."""

class DiskFullError(OSError):
    """There is no space left on the disk; nothing that was there before is lost."""

    def __init__(self, text: str):
        super().__init__(text)
        self.errno = errno.ENOSPC

@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a new file beside `path`; at the end of the block renames it, on an error deletes it."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with naming_full_disk(path):
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666))
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turns an error of a full disk in the block into DiskFullError, which names `path` and the room left."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or isinstance(error, DiskFullError):
            raise
        left = shutil.disk_usage(path.parent).free
        raise DiskFullError(
            f"{path}: no space left on the disk, {left:,} bytes are free; make room and repeat the command, "
            "or go on with a run by --resume"
        ) from error

class DamagedFileError(ValueError):
    """A file is not what was written."""

def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # Libraries in other languages say it in words alone.
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)

def write_json(path: Path, value: object) -> None:
    """Writes indented UTF-8 JSON to `path` or STANDARD_OUTPUT; ValueError for NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")

def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

def read_sealed_json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file without their checksum; DamagedFileError, naming the file, if it is damaged."""
    try:
        return without_seal(parse_json(read_bounded(path, MAX_SEALED_BYTES)))
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error})") from error

def without_seal(fields: Any) -> dict[str, Any]:
    """The fields without their checksum; ValueError for another one than theirs, and for no JSON object."""
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")
    stated = fields.pop(CHECKSUM, None)
    if stated is not None and stated != _fields_sha256(fields):
        raise ValueError(f"or was edited: its {CHECKSUM} is another; without one it is read as it is")
    return fields

def _fields_sha256(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, allow_nan=False).encode()).hexdigest()

# golf/data/shards.py: The challenge's shard format: a header of 256 little-endian int32, then the tokens as uint16.
SHARD_START = (20240520, 1)
SHARD_HEADER_BYTES = 256 * 4

class DataError(ValueError):
    """A dataset is missing, incomplete or damaged, or its parts do not belong together."""

def read_shard(path: Path) -> np.ndarray:
    """The tokens (N) of a shard as a read-only uint16 memory map; DataError if header and size disagree."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, dtype="<i4", count=SHARD_HEADER_BYTES // 4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size < SHARD_HEADER_BYTES:
        raise DataError(f"{path}: {size} bytes; a shard's header alone is {SHARD_HEADER_BYTES}")
    *start, count = map(int, header[:3])
    if tuple(start) != SHARD_START:
        raise DataError(f"{path}: starts with {start}; a shard starts with {SHARD_START}, magic and version")
    expected = SHARD_HEADER_BYTES + 2 * count
    if count < 1 or size != expected:
        raise DataError(f"{path}: {size} bytes; its header says {count} tokens, which is {expected} bytes")
    return np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(count,))

def check_token_ids(tokens: np.ndarray, vocab_size: int, name: str, offset: int = 0) -> None:
    """Raises DataError at an id of `vocab_size` or more; `offset` is the position of `tokens[0]`."""
    if len(tokens) and int(tokens.max()) >= vocab_size:
        position = int(np.argmax(tokens >= vocab_size))
        found = f"{name}: token {offset + position} is {tokens[position]}"
        raise DataError(f"{found}; the vocabulary has ids 0 to {vocab_size - 1}")

# golf/data/vocabulary.py: A SentencePiece vocabulary, and the bytes of text of each token.
SPACE_MARK = "\u2581"
MAX_VOCABULARY_BYTES = 1 << 26

class Vocabulary:
    """The pieces of a SentencePiece model, given as the bytes of its file; `name` is for error messages."""

    def __init__(self, model: bytes, name: str):
        pieces = sentencepiece.SentencePieceProcessor()
        try:
            pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model ({len(model)} bytes)") from error
        self._pieces = pieces
        self.size: int = pieces.vocab_size()
        self.bos_id: int = pieces.bos_id()
        self.sha256: str = hashlib.sha256(model).hexdigest()
        if self.bos_id < 0 or self.size > 2**16:
            raise DataError(
                f"{name}: BOS is {self.bos_id} of {self.size} pieces; expected one, of up to 65536"
            )
        marks = [pieces.piece_to_id(mark) for mark in CASE_MARKS]
        self.case_ops: bool = pieces.unk_id() not in marks
        self._escape_id = marks[-1] if self.case_ops else -1
        ids = list(range(self.size))
        texts = pieces.id_to_piece(ids)
        sizes = [len(text.removeprefix(SPACE_MARK).encode()) for text in texts]
        if self.case_ops:
            sizes = [n - 3 * sum(map(text.count, CASE_MARKS)) for n, text in zip(sizes, texts, strict=True)]
            sizes[self._escape_id] = 3
        kinds = [pieces.is_control(ids), pieces.is_unknown(ids), pieces.is_unused(ids)]
        self._is_textless_V = np.any(kinds, axis=0)
        self._has_space_V = np.array([text.startswith(SPACE_MARK) for text in texts]) & ~self._is_textless_V
        self._rest_bytes_V = np.where(self._is_textless_V, 0, np.where(pieces.is_byte(ids), 1, sizes))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a .model file; DataError if it cannot be read or used."""
        try:
            return cls(read_bounded(path, MAX_VOCABULARY_BYTES), str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Bytes of text of each target by the challenge's rule: int64, the shape of `targets` and `previous`."""
        counts = self._rest_bytes_V[targets] + (self._has_space_V[targets] & ~self._is_textless_V[previous])
        if self.case_ops:
            counts -= (previous == self._escape_id) & (self._rest_bytes_V[targets] > 0)
        return counts

# golf/score/tally.py: Sums of nats, tokens and bytes, from which every score is computed; nats become bits here alone.
NATS_PER_BIT = math.log(2.0)

Nats = TypeVar("Nats", float, np.ndarray)

def bits_per_byte(nats: Nats, num_bytes: Nats | float) -> Nats:
    """Sums of nats over sums of bytes, as bits per byte; elementwise for arrays."""
    return nats / NATS_PER_BIT / num_bytes

@dataclass(frozen=True)
class Tally:
    """Sums over graded tokens; tallies of disjoint tokens add with `+`. JSON keeps these three numbers."""

    nats: float
    """Sum of -ln p(token), in float64."""
    num_tokens: int
    num_bytes: int
    """Bytes of text that these tokens stand for."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.nats + other.nats, self.num_tokens + other.num_tokens, self.num_bytes + other.num_bytes
        )

    @property
    def bits_per_byte(self) -> float:
        """The score; ValueError if the tokens stand for no text."""
        if self.num_bytes <= 0:
            raise ValueError(f"{self.num_tokens:,} tokens stand for {self.num_bytes} bytes; nothing to score")
        return bits_per_byte(self.nats, self.num_bytes)

    @property
    def nats_per_token(self) -> float:
        """Mean loss of a token; ValueError if there is none."""
        if self.num_tokens <= 0:
            raise ValueError("no token was graded; a mean needs at least one")
        return self.nats / self.num_tokens

# golf/system/cli.py: Exit codes, signals and one-line errors of every program.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; a scheduler, a cloud or a container that ends the program; a terminal that was closed."""

class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; its text says how far it came."""

    def __init__(self, text: str = "", signum: int = signal.SIGINT):
        super().__init__(text)
        self.signum = signum

    @property
    def code(self) -> int:
        """The exit code that shells expect: 128 and the signal's number."""
        return 128 + self.signum

@contextmanager
def handling_stops(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `handler` for STOP_SIGNALS during the block, except for those that are ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)

def silence(stream: TextIO) -> None:
    """Sends what is still printed to a closed pipe nowhere."""
    with suppress(io.UnsupportedOperation), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), stream.fileno())

# golf/system/log.py: The log of a run: each event is one line on the console, in a text file and in a JSON lines file.
def format_value(value: object) -> str:
    """The text of a value: floats with 8 digits, sequences joined by commas."""
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else str(value)
    return ",".join(map(format_value, value)) if isinstance(value, (list, tuple)) else str(value)

class ProgressBar:
    """Says every 20 seconds how far a score is."""

    def __init__(self, say: Callable[[str], None], total: float):
        self._say, self._total, self._done, self._said = say, total, 0.0, time.monotonic()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Adds `amount` to what is done."""
        self._done += amount
        if time.monotonic() - self._said > 20 and self._done < self._total:
            self._said = time.monotonic()
            self._say(f"score: {100 * self._done / self._total:.0f}% {note or ''}")

    def move_to(self, completed: float, note: str = "") -> None:
        """Says nothing: training logs its steps."""

class RunLog:
    """Prints each event as one line, `kind key:value key:value`, and appends it to the file `path`."""

    def __init__(self, path: Path | None = None, quiet: bool = False):
        self._file = open(path, "a", encoding="utf-8") if path else None
        self._quiet = quiet

    def event(self, kind: str, **fields: object) -> None:
        """Logs an event; if a field has the name `kind`, the line starts with that field."""
        parts = [f"{key}:{format_value(value)}" for key, value in fields.items()]
        self.info(" ".join(parts if kind in fields else [kind, *parts]))

    def record(self, kind: str, **fields: object) -> None:
        """Logs an event, too."""
        self.event(kind, **fields)

    def show(self, text: str) -> None:
        """Prints a line, which the file does not get."""
        if not self._quiet:
            try:
                print(text, flush=True)
            except BrokenPipeError:
                silence(sys.stdout)

    def info(self, text: str) -> None:
        """Logs one line of prose."""
        self.show(text)
        if self._file:
            print(text, file=self._file, flush=True)

    @contextmanager
    def progress(
        self, description: str, total: float, unit: str, lines: bool = True
    ) -> Iterator[ProgressBar]:
        """Lines that say how far a score is."""
        yield ProgressBar(self.show, total)

# golf/score/scorer.py: Grades a stream of tokens, chunk by chunk; what is graded may be handed on to be learned from.
CHUNK_TOKENS = 32_768

Observer = Callable[[np.ndarray, Tensor], None]
"""Takes the numbers of some targets (N,) and their log probabilities (N, V), before the targets are read."""
Grade = Callable[[Tensor, Tensor], Tensor]
"""Nats (B, T) of targets (B, T) by inputs (B, T), for batches of one shape."""
Adapt = Callable[[ScoredChunk, float], None]
"""Learns from a chunk; 0 is the first, 1 the last one of the stream."""

@dataclass(frozen=True)
class ScoreResult:
    """The score of a stream, or of its first tokens."""

    tally: Tally
    nats_N: np.ndarray
    """float32: each graded target's, in the order of the stream."""
    partial: bool
    """Whether targets of the stream were left out."""
    windows: ResolvedWindows
    """The windows that were used."""
    ledger: Ledger
    notes: dict[str, Any] = field(default_factory=dict)
    """What else the record says of it, as plain JSON values."""

@dataclass(frozen=True)
class Scoring:
    """A stream of tokens, the model that grades it, and under which windows."""

    model: GPT
    tokens: np.ndarray
    vocabulary: Vocabulary
    windows: WindowConfig
    max_tokens: int | None = None
    """Limit on the targets to grade, from the start of the stream."""
    observe: Observer | None = None
    log: RunLog = field(default_factory=lambda: RunLog(quiet=True))
    world: World = field(default_factory=World)
    """The processes that share the work."""

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device

    def resolved_windows(self) -> ResolvedWindows:
        """The windows with the model's and the device's defaults; ValueError as `WindowConfig.resolve`."""
        return self.windows.resolve(self.model.config.context, self.device.type)

    def show(self, logits_BLV: Tensor | None, targets_BL: np.ndarray, graded_BL: np.ndarray) -> None:
        """Lets the observer, if there is one, see the distributions of the targets that are graded."""
        if self.observe is not None:
            assert logits_BLV is not None, "logits are kept for an observer"
            log_probs_NV = logits_BLV.detach()[torch.from_numpy(graded_BL).to(self.device)].log_softmax(-1)
            self.observe(targets_BL[graded_BL], log_probs_NV)

def score(
    scoring: Scoring, chunk_tokens: int = CHUNK_TOKENS, adapt: Adapt | None = None, grade: Grade | None = None
) -> ScoreResult:
    """Grades every target of a stream once, under sliding windows, in chunks of about `chunk_tokens`."""
    tokens, vocabulary, world = scoring.tokens, scoring.vocabulary, scoring.world
    if adapt is not None and world.size > 1:
        raise ValueError(f"what is learned chunk by chunk is scored in one process; these are {world.size}")
    num_targets = len(tokens) - 1
    windows = scoring.resolved_windows()
    assert grade is None or windows.stride == windows.context, "grade takes disjoint windows"
    chunks = group_chunks(plan_windows(num_targets, windows.context, windows.stride), chunk_tokens)
    batch_size = windows.batch_tokens // windows.context
    if grade is None:
        batch_size = min(batch_size, max(map(len, chunks)))
    num_chunks = len(chunks)
    if scoring.max_tokens is not None:
        kept = [[window for window in chunk if window.end <= scoring.max_tokens] for chunk in chunks]
        if not kept[0]:
            first_end = chunks[0][0].end
            raise ValueError(
                f"max_tokens is {scoring.max_tokens:,}; the first window alone grades {first_end:,}"
            )
        chunks = [chunk for chunk in kept if chunk]
    num_graded = chunks[-1][-1].end
    nats_N = np.zeros(num_graded, dtype=np.float32)
    ledger = Ledger(num_targets)
    total = Tally(0.0, 0, 0)
    with scoring.log.progress("score", num_graded, "tokens") as bar:
        for index, chunk in enumerate(chunks):
            first, end = chunk[0].end - chunk[0].num_graded, chunk[-1].end
            check_tokens(tokens[chunk[0].start : end + 1], vocabulary.size)
            ledger.grade(first, end, f"chunk {index}")
            if index % world.size != world.rank:
                continue
            nats_N[first:end] = _grade_chunk(scoring, chunk, windows, batch_size, grade)
            total += tally_targets(nats_N[first:end], tokens[first : end + 1], vocabulary)
            if adapt is not None and index + 1 < len(chunks):
                scored = ledger.release_chunk(tokens, (first, end), f"adapting to chunk {index}")
                adapt(scored, index / max(1, num_chunks - 1))
            bar.advance(end - first, f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None)
    ledger.close(num_graded)
    sums = torch.tensor([total.nats, total.num_tokens, total.num_bytes], dtype=torch.float64)
    world.sum(sums)()
    total = Tally(float(sums[0]), int(sums[1]), int(sums[2]))
    world.sum(torch.from_numpy(nats_N))()
    return ScoreResult(total, nats_N, num_graded < num_targets, windows, ledger)

def check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError for a token outside the vocabulary."""
    if tokens.max() >= vocab_size:
        raise ValueError(f"token {tokens.max()} is to be scored; the vocabulary has {vocab_size}")

def tally_targets(nats_N: np.ndarray, tokens_N1: np.ndarray, vocabulary: Vocabulary) -> Tally:
    """The tally of consecutive targets and the token before them; ValueError unless all grades are finite."""
    nats = float(nats_N.sum(dtype=np.float64))
    if not math.isfinite(nats):
        raise ValueError(
            f"a token was graded {nats_N[~np.isfinite(nats_N)][0]} nats; expected a finite number"
        )
    return Tally(nats, len(nats_N), int(vocabulary.count_bytes(tokens_N1[:-1], tokens_N1[1:]).sum()))

@torch.no_grad()
def _grade_chunk(
    scoring: Scoring, chunk: list[Window], windows: ResolvedWindows, batch_size: int, grade: Grade | None
) -> np.ndarray:
    """Nats of the chunk's targets in order, float32; a short batch is filled up with its last window."""
    tokens, device = scoring.tokens, scoring.device
    # A stream's first window grades more than the others and goes alone.
    num_first = int(chunk[0].num_graded > windows.stride)
    batches = [(chunk[:1], 1)] * num_first
    batches += [(chunk[i : i + batch_size], batch_size) for i in range(num_first, len(chunk), batch_size)]
    nats, graded = [], []
    for batch, rows in batches:
        filling = rows - len(batch)
        ends_B1 = np.array([[window.end] for window in batch + batch[-1:] * filling])
        num_graded_B1 = np.array([[window.num_graded] for window in batch] + [[0]] * filling)
        num_last = max(windows.stride, batch[0].num_graded)
        targets_BL = ends_B1 + np.arange(-num_last, 0)
        graded_BL = np.arange(num_last) >= num_last - num_graded_B1
        inputs_BT = token_tensor(tokens[ends_B1 + np.arange(-windows.context, 0)], device)
        graded.append(graded_BL.ravel())
        read_BL = token_tensor(tokens[targets_BL + 1], device)
        if grade is not None:
            nats.append(grade(inputs_BT, read_BL).flatten())
            continue
        logits_BLV = scoring.model(inputs_BT, num_last)
        scoring.show(logits_BLV, targets_BL, graded_BL)
        nats.append(token_nats(logits_BLV, read_BL).flatten())
    return torch.cat(nats).cpu().numpy()[np.concatenate(graded)]

def token_tensor(tokens: np.ndarray, device: torch.device) -> Tensor:
    """Tokens as the int64 that the network reads."""
    return torch.from_numpy(tokens.astype(np.int64)).to(device)

# golf/ttt/deadline.py: A limit on the time of scoring: when to stop adapting, so that the rest is still scored in time.
_MARGIN = 1.1
"""Plain scoring is taken to be this much slower than it was measured."""

class DeadlineError(ValueError):
    """The time limit is shorter than plain scoring."""

class Deadline:
    """Says when the time that is left is what plain scoring of the rest takes."""

    stopped_after: int | None = None
    """Targets graded when adapting stopped."""

    def __init__(
        self,
        max_seconds: float,
        num_targets: int,
        target_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.max_seconds, self._clock, self._started = max_seconds, clock, clock()
        self._target_seconds = _MARGIN * target_seconds
        self.plain_seconds = num_targets * self._target_seconds
        self._num_targets, self._last, self._longest = num_targets, self._started, 0.0
        if self.plain_seconds > max_seconds:
            raise DeadlineError(
                f"max_seconds is {max_seconds:g}; plain scoring of {num_targets:,} tokens alone is forecast "
                f"to take {self.plain_seconds:.0f} seconds"
            )

    def stops(self, num_graded: int) -> bool:
        """Asked before each adaptation: whether there is no time for it; once true it stays so."""
        if self.stopped_after is None:
            now = self._clock()
            self._longest, self._last = max(self._longest, now - self._last), now
            rest = (self._num_targets - num_graded) * self._target_seconds
            if now - self._started + 2 * self._longest + rest > self.max_seconds:
                self.stopped_after = num_graded
        return self.stopped_after is not None

    def leave_out(self) -> None:
        """Counts the time since `stops` was asked as no step: it went by waiting for other processes."""
        self._last = self._clock()

    def notes(self) -> dict[str, float | int | None]:
        """What the record says: the limit, the forecast, and after how many tokens adaptation stopped."""
        return {
            "max_seconds": self.max_seconds,
            "plain_forecast_seconds": self.plain_seconds,
            "adaptation_stopped_after_tokens": self.stopped_after,
        }

@torch.no_grad()
def measure_plain(scoring: Scoring) -> float:
    """Seconds that plain scoring takes for a token, from forward passes over made-up windows."""
    model, windows = scoring.model, scoring.resolved_windows()
    context, rows = windows.context, windows.batch_tokens // windows.context
    inputs_BT = torch.randint(2, model.config.vocab_size, (rows, context), device=scoring.device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        float(model(inputs_BT, windows.stride).sum())
        seconds.append(time.perf_counter() - started)
    return min(seconds) / (rows * windows.stride)

# golf/ttt/lora.py: Low-rank adapters of its own for each document, all documents of a batch learning at once.
HEAD = "head"
"""Name of the tied output matrix among the adapter targets; it has one adapter."""
TARGETS = ("query", "key", "value", "output", "up", "down", HEAD)
"""Adapter targets (`Linear.adapter`) of a block, and the head."""
_ADAPTER_SEED = 6
_ADAPTER_EPS = 1e-10

@dataclass(frozen=True)
class LoraConfig:
    """Adapters per document (openai/parameter-golf #1530; kept inputs #1767, chunks by length #2014)."""

    rank: int = 64
    """Rank of each adapter."""
    alpha: float = 64.0
    """What an adapter adds is scaled by alpha / rank."""
    rate: float = 0.002
    """Learning rate of AdamW."""
    decay: float = 0.5
    """Decoupled weight decay; a step shrinks the adapters by rate x decay."""
    beta_first: float = 0.0
    """Memory of AdamW's mean of gradients, reset per document."""
    beta_second: float = 0.99
    """Memory of AdamW's mean of squared gradients, reset per document."""
    projections: tuple[str, ...] = ("query", "value", "output", "up", "down", "head")
    """Matrices with adapters: query, key, value, output, up, down, of every block and visit, and head."""
    chunk_tokens: tuple[int, ...] = (8, 24, 48)
    """Tokens graded before the adapters learn from them, for short to long documents."""
    chunk_lengths: tuple[int, ...] = (256, 2000)
    """Longest documents, in tokens, that count as short and as middling; one less than `chunk_tokens`."""
    batch_documents: int = 16
    """Documents that learn side by side."""

class AdaptedMatrix(NamedTuple):
    """A matrix at one of its visits in a forward pass, where it has an adapter of its own."""

    name: str
    """Adapter target."""
    weight: Tensor
    """Of shape (outputs, inputs)."""
    visit: int | None
    """Number of the visit in the forward pass; of the head none."""

class AdapterWeights(NamedTuple):
    """The adapters of one matrix at one visit, and where their gradients go: views of buffers."""

    a_BKI: Tensor
    b_BOK: Tensor
    a_gradient_BKI: Tensor
    b_gradient_BOK: Tensor

def find_matrices(model: GPT, targets: tuple[str, ...]) -> list[AdaptedMatrix]:
    """The matrices of the blocks with these adapter targets, block by block, then the head."""
    found = []
    for layer, block in enumerate(model.blocks):
        visits = [index for index, visit in enumerate(model.plan) if visit.layer == layer]
        parts = [block.get_submodule(part) for part in ("attention", "feedforward")]
        children = [child for part in parts for child in part.children() if isinstance(child, Linear)]
        matrices = {child.adapter: child for child in children}
        for name in TARGETS:
            if name in targets and name in matrices:
                found += [AdaptedMatrix(name, matrices[name].weight, visit) for visit in visits]
    if HEAD in targets:
        found.append(AdaptedMatrix(HEAD, model.embedding.weight, None))
    if not found:
        raise ValueError(f"ttt.lora.projections is {targets}; this network has no such matrix")
    return found

class LoraLearner:
    """Adapters B A x for each document, learning on their own; the model itself is frozen and shared."""

    def __init__(
        self, model: GPT, config: LoraConfig, at_once: int | None = None, recorded: bool | None = None
    ):
        model.requires_grad_(False)
        self.config, self.matrices = config, find_matrices(model, config.projections)
        self.fallbacks = 0
        """Documents whose adaptation failed and was given up."""
        self._num_visits = len(model.plan)
        inputs = [(config.rank, matrix.weight.size(1)) for matrix in self.matrices]
        outputs = [(matrix.weight.size(0), config.rank) for matrix in self.matrices]
        self._shapes, self._sizes = inputs + outputs, [rows * columns for rows, columns in inputs + outputs]
        self._num_kept = sum(self._sizes[: len(inputs)])
        device = next(model.parameters()).device
        draw = torch.Generator().manual_seed(_ADAPTER_SEED)
        fresh = [torch.randn(rows * columns, generator=draw) * columns**-0.5 for rows, columns in inputs]
        self._fresh_P = torch.cat([*fresh, torch.zeros(sum(self._sizes) - self._num_kept)]).to(device)
        # Taken once: fresh pages for hundreds of megabytes a step cost more than the arithmetic on them.
        at_once = min(at_once or config.batch_documents, config.batch_documents)
        self.recorded = device.type == "cuda" if recorded is None else recorded
        # Recorded steps have all rows in each group of documents.
        spare = -config.batch_documents % at_once if self.recorded else 0
        self._store_SP = self._fresh_P.repeat(config.batch_documents + spare, 1)
        self.second_BP = torch.zeros(at_once, len(self._fresh_P), device=device)
        self.first_BP = None
        # Recorded steps have gradients in the dtype that the backward pass has them in, half the bytes.
        dtype = model.compute_dtype if self.recorded else torch.float32
        self.gradient_BP = torch.zeros_like(self.second_BP, dtype=dtype)
        self._copy_BP = torch.zeros_like(self.gradient_BP) if dtype != torch.float32 else None
        self.learns_B = torch.zeros(at_once, device=device)
        """Not 0 for the documents that learn in recorded steps."""
        self.steps_1 = torch.zeros(1, device=device)
        self._anchor = torch.zeros((), device=device)
        self._moved: tuple[Tensor, np.ndarray] | None = None
        """Adapters that are not in the order of their places, and their places."""
        self.recorded_steps: dict[Any, Any] = {}
        """DocumentSteps that were made for it, by their options."""

    def restart(self) -> None:
        """Forgets everything learned; recorded steps stay, since all tensors stay where they are."""
        self._store_SP.copy_(self._fresh_P)
        self._moved = None
        self.fallbacks = 0

    def start(self, slot: int, num_documents: int, places: np.ndarray | None = None) -> None:
        """Makes the adapters in places `slot` on ready for new documents: B and all moments zero, A kept."""
        if self._moved is not None:
            rows_BP, moved = self._moved
            rows_BP[moved] = rows_BP.clone()
            self._moved = None
        self.adapters_BP = self._store_SP[slot : slot + num_documents]
        if places is not None:
            rows_BP = self.adapters_BP[: len(places)]
            rows_BP.copy_(rows_BP[places])
            self._moved = rows_BP, places
        self.adapters_BP[:, self._num_kept :] = 0
        self.second_BP[:num_documents] = 0
        if self.first_BP is not None:
            self.first_BP[:num_documents] = 0
        self.steps_1.zero_()
        self.learns_B.fill_(1)
        if self._copy_BP is not None:
            self._copy_BP[:num_documents] = self.adapters_BP
        views, half = [], len(self.matrices)
        for buffer_BP in (self.adapters_BP if self._copy_BP is None else self._copy_BP, self.gradient_BP):
            parts = buffer_BP[:num_documents].split(self._sizes, dim=1)
            parts = [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
            views += [parts[:half], parts[half:]]
        self._weights = [AdapterWeights(*tensors) for tensors in zip(*views, strict=True)]

    def state(
        self, num_documents: int, past: Past | None = None, log_caps_2: Tensor | None = None
    ) -> ForwardState:
        """State with which row b of the model's input is predicted as adapted to document b."""
        # Autograd needs an input with a gradient to call the backward of _AdapterProduct.
        self._anchor = self._anchor.detach().requires_grad_(torch.is_grad_enabled())
        scale = self.config.alpha / self.config.rank
        by_visit: list[dict[str, Adapter]] = [{} for _ in range(self._num_visits)]
        head_adapter = None
        for (name, _, visit), weights in zip(self.matrices, self._weights, strict=True):
            own = AdapterWeights(*(tensor[:num_documents] for tensor in weights))
            adapter = partial(_AdapterProduct.apply, self._anchor, own, scale)
            if visit is None:
                head_adapter = adapter
            else:
                by_visit[visit][name] = adapter
        return ForwardState(past, by_visit, head_adapter, log_caps_2)

    def reset_adapter(self, rows: np.ndarray) -> None:
        """Puts back the untrained adapters of documents that broke, once their group has been graded."""
        self.fallbacks += len(rows)
        self.adapters_BP[rows] = self._fresh_P

    def learn(self, scored: ScoredDocuments, rows: Sequence[int] | None = None) -> None:
        """Trains each document's adapters on the chunk it was just graded: a sum over documents of mean nats."""
        config, count = self.config, len(scored.nats_BL)
        learning = range(count) if rows is None else rows
        self.backward(scored.nats_BL.mean(1).sum())
        if self.recorded:
            self._update_recorded(count)
            return
        # Without a first moment the mean is the gradient itself.
        means_BP = self.gradient_BP if self.first_BP is None else self.first_BP
        buffers = (self.adapters_BP, self.gradient_BP, means_BP, self.second_BP)
        # By document, so that none is rounded otherwise beside others. And in one pass: every further one
        # over these buffers costs as much as the network.
        weights, gradients, means, seconds = ([buffer_BP[row] for row in learning] for buffer_BP in buffers)
        adamw(
            weights,
            gradients,
            means,
            seconds,
            [],
            list(self.steps_1.repeat(count).unbind()),
            fused=True,
            amsgrad=False,
            beta1=config.beta_first,
            beta2=config.beta_second,
            lr=config.rate,
            weight_decay=config.decay,
            eps=_ADAPTER_EPS,
            maximize=False,
        )
        self.steps_1 += 1

    def backward(self, loss: Tensor) -> None:
        """Writes the gradient of `loss` with respect to the attached adapters into `gradient_BP`."""
        torch.autograd.grad(loss, self._anchor, allow_unused=True)

    def _update_recorded(self, count: int) -> None:
        """The same step of AdamW as one operation over tensors of fixed addresses, of a GPU as one kernel."""
        self.steps_1 += 1
        kept = (self.adapters_BP, self.second_BP, self.gradient_BP, self._copy_BP, self.first_BP)
        buffers = [None if buffer is None else buffer[:count] for buffer in (*kept, self.learns_B[:, None])]
        update: Callable[..., None] = step_adamw
        if self.steps_1.device.type == "cuda":
            update = _compiled_step()
            for buffer in buffers:
                if buffer is not None:
                    # One kernel for any number of documents.
                    torch._dynamo.maybe_mark_dynamic(buffer, 0)
        update(*buffers, self.steps_1, self.config)

class _AdapterProduct(torch.autograd.Function):
    """output + scale x B A x, its adapters' gradients written where the step wants them."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, weights: AdapterWeights, scale: float, x_BTI: Tensor, output_BTO: Tensor
    ) -> Tensor:
        low_BTK = torch.bmm(x_BTI, weights.a_BKI.to(x_BTI.dtype).mT)
        ctx.save_for_backward(x_BTI, low_BTK)
        ctx.weights, ctx.scale = weights, scale
        return torch.baddbmm(output_BTO, low_BTK, weights.b_BOK.to(x_BTI.dtype).mT, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BTO,) = grad_outputs
        x_BTI, low_BTK = ctx.saved_tensors
        weights, dtype = ctx.weights, x_BTI.dtype
        low_gradient_BTK = torch.bmm(gradient_BTO, weights.b_BOK.to(dtype))
        _scaled_product(gradient_BTO.mT, low_BTK, ctx.scale, weights.b_gradient_BOK)
        _scaled_product(low_gradient_BTK.mT, x_BTI, ctx.scale, weights.a_gradient_BKI)
        x_gradient_BTI = None
        if ctx.needs_input_grad[3]:
            x_gradient_BTI = _scaled_product(low_gradient_BTK, weights.a_BKI.to(dtype), ctx.scale)
        return None, None, None, x_gradient_BTI, gradient_BTO

def _scaled_product(left: Tensor, right: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale x left x right, written to `out` if there is one."""
    if out is not None and out.dtype != left.dtype:
        return out.copy_(_scaled_product(left, right, scale))
    # In one call; with beta 0 what is added is not read, and `out` may be it.
    added = left.new_empty(1, 1, 1) if out is None else out
    return torch.baddbmm(added, left, right, beta=0, alpha=scale, out=out)

@cache
def _compiled_step() -> Callable[..., None]:
    return torch.compile(step_adamw, fullgraph=True)

def step_adamw(
    weights_BP: Tensor,
    seconds_BP: Tensor,
    gradients_BP: Tensor,
    copies_BP: Tensor | None,
    firsts_BP: Tensor | None,
    learns_B1: Tensor,
    steps_1: Tensor,
    config: LoraConfig,
) -> None:
    """A step of AdamW in place, where `learns_B1` is not 0; `copies_BP` are the weights in another dtype."""
    gradients = gradients_BP.float()
    seconds = config.beta_second * seconds_BP + (1 - config.beta_second) * gradients.square()
    means = gradients
    if firsts_BP is not None:
        means = config.beta_first * firsts_BP + (1 - config.beta_first) * gradients
        firsts_BP.copy_(means)
    rate = config.rate / (1 - config.beta_first**steps_1)
    # Bias corrections depend on the number of steps alone, (1,).
    deviations = seconds.sqrt() / (1 - config.beta_second**steps_1).sqrt() + _ADAPTER_EPS
    moved = weights_BP * (1 - config.rate * config.decay) - rate * means / deviations
    moved = torch.where(learns_B1 > 0, moved, weights_BP)
    seconds_BP.copy_(seconds)
    weights_BP.copy_(moved)
    if copies_BP is not None:
        copies_BP.copy_(moved)

# golf/ttt/tilt.py: Raises the token that most often followed the same long context in what was graded before.
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NO_KEY = np.uint64(0)

@dataclass(frozen=True)
class TiltConfig:
    """The n-gram tilt (openai/parameter-golf #1514, #2135): a bounded boost, the softmax renormalised."""

    boost: float = 0.0
    """What is added to the logit of the expected token; 0 leaves the tilt out. #2135 has 2.625."""
    context_tokens: int = 15
    """Tokens that must be the same; the tilt begins that far into each document."""
    least_share: float = 0.8
    """Share of a context's occurrences that the expected token must have followed."""
    table_bits: int = 20
    """The table holds 2^this contexts, 24 bytes each; of two that meet in a place the later one stays."""

class NgramTable:
    """Contexts of graded text, and the token that followed each most often; a place for each hash."""

    def __init__(self, config: TiltConfig):
        self.config = config
        size = 1 << config.table_bits
        self._keys = np.zeros(size, dtype=np.uint64)
        self._tokens, self._hits, self._seen = np.zeros((3, size), dtype=np.int32)

    def expect(self, keys: np.ndarray) -> np.ndarray:
        """The token expected behind each context, -1 where none is."""
        places = self._places(keys)
        known = (self._keys[places] == keys) & (keys != _NO_KEY)
        known &= self._hits[places] >= self.config.least_share * self._seen[places]
        return np.where(known, self._tokens[places], -1)

    def add(self, keys_N: np.ndarray, tokens_N: np.ndarray) -> None:
        """Counts graded targets: `tokens_N` followed the contexts of `keys_N`; key 0 stands for none."""
        present_N = keys_N != _NO_KEY
        keys, key_N, totals = np.unique(keys_N[present_N], return_inverse=True, return_counts=True)
        if not len(keys):
            return
        pairs, counts = np.unique(key_N << 32 | tokens_N[present_N], return_counts=True)
        key_of_pair, tokens = pairs >> 32, pairs & 0xFFFF_FFFF
        places = self._places(keys)
        pair_places = places[key_of_pair]
        again = (self._keys[pair_places] == keys[key_of_pair]) & (self._tokens[pair_places] == tokens)
        self._hits[pair_places[again]] += counts[again]
        # Of each context the token that followed most often, the first one of several.
        ordered = np.lexsort((-tokens, counts, key_of_pair))
        best = ordered[np.append(key_of_pair[1:] != key_of_pair[:-1], True)]
        # Of contexts that meet in a place, which is the first bits of their keys, the last one stays.
        stays = np.append(places[1:] != places[:-1], True)
        places, keys, totals, best = places[stays], keys[stays], totals[stays], best[stays]
        known = self._keys[places] == keys
        self._keys[places] = keys
        self._seen[places] = np.where(known, self._seen[places], 0) + totals
        replaced = ~known | (counts[best] > self._hits[places])
        self._tokens[places[replaced]] = tokens[best][replaced]
        self._hits[places[replaced]] = counts[best][replaced]

    def _places(self, keys: np.ndarray) -> np.ndarray:
        return (keys >> np.uint64(64 - self.config.table_bits)).astype(np.int64)

def context_keys(
    tokens: np.ndarray, starts_B1: np.ndarray, targets_BL: np.ndarray, length: int
) -> np.ndarray:
    """A hash of the `length` tokens before each target (B, L), 0 where its document has fewer."""
    keys = np.zeros(targets_BL.shape, dtype=np.uint64)
    inside = np.minimum(targets_BL, len(tokens) - 1)
    for back in range(length):
        keys = (keys + tokens[np.maximum(inside - back, 0)].astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR
        keys ^= keys >> np.uint64(29)
    return np.where(targets_BL - starts_B1 + 1 >= length, keys | np.uint64(1), _NO_KEY)

class NgramTilt:
    """Expects tokens from what was graded: of the same document up to this chunk, of others up to this batch."""

    def __init__(self, config: TiltConfig, tokens: np.ndarray):
        self.config, self._tokens = config, tokens
        self._table = NgramTable(config)
        self._finished: list[tuple[np.ndarray, np.ndarray]] = []
        self.num_tilted = 0

    def expect(self, starts_B1: np.ndarray, targets_BL: np.ndarray) -> np.ndarray:
        """The expected tokens (B, L), -1 where there is none; reads nothing of the targets or behind them."""
        self._shared = context_keys(self._tokens, starts_B1, targets_BL, self.config.context_tokens)
        expected_BL = self._table.expect(_own_keys(self._shared, starts_B1))
        expected_BL = np.where(expected_BL >= 0, expected_BL, self._table.expect(self._shared))
        self._tilts = expected_BL >= 0
        return expected_BL

    def learn(
        self, starts_B1: np.ndarray, targets_BL: np.ndarray, graded_BL: np.ndarray, elsewhere: bool = False
    ) -> None:
        """Counts the targets that `expect` was last asked about, now that they are graded."""
        if elsewhere:
            self._shared = context_keys(self._tokens, starts_B1, targets_BL, self.config.context_tokens)
        else:
            self.num_tilted += int(self._tilts[graded_BL].sum())
        tokens_N = self._tokens[targets_BL[graded_BL] + 1].astype(np.int32)
        self._table.add(_own_keys(self._shared, starts_B1)[graded_BL], tokens_N)
        self._finished.append((self._shared[graded_BL], tokens_N))

    def finish_batch(self) -> None:
        """Makes what was graded since the last call known to other documents."""
        if self._finished:
            keys, tokens = zip(*self._finished, strict=True)
            self._table.add(np.concatenate(keys), np.concatenate(tokens))
            self._finished.clear()

def _own_keys(keys_BL: np.ndarray, starts_B1: np.ndarray) -> np.ndarray:
    """The keys of the same contexts that no other document has."""
    own = (keys_BL ^ ((starts_B1.astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR)) * _HASH_FACTOR
    return np.where(keys_BL == _NO_KEY, _NO_KEY, own | np.uint64(1))

# golf/ttt/sgd.py: Test-time training: the model learns from what it has already been graded on.
MAX_TTT_EPOCHS = 100
"""Far beyond what helps; it bounds the work that an artifact can ask for."""
ADAPTING_PASS_TOKENS = 16_384
"""Most tokens of a forward and backward pass: the frontier's network keeps some 0.7 MB of each."""

@dataclass(frozen=True)
class TTTConfig:
    """Learning from what was graded (score first, as openai/parameter-golf #402 rules)."""

    enabled: bool = True
    """Whether test-time training is done at all."""
    method: Literal["sgd", "lora"] = "sgd"
    """The whole model by chunks of the stream, or low-rank adapters by document."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters of the method `lora`."""
    tilt: TiltConfig = field(default_factory=TiltConfig)
    """With `lora`: tokens that followed the same long context before are raised."""
    order: Literal["length", "stream"] = "length"
    """With `lora`: the longest documents first, for whose lengths a decoder must be told, or as they stand
    in the text."""
    phases: tuple[int, ...] = ()
    """With `lora`: after so many graded documents the blocks' matrices learn from them all; () for never."""
    cap_rate: float = 0.0
    """In those phases: learning rate of the logarithms of two softcaps, of logits above and below 0 (#1945);
    0 leaves the softcap as it is."""
    max_seconds: float | None = None
    """Seconds of scoring within which adapting stops in time for the rest to be scored without; None for no
    limit."""
    chunk_tokens: int = CHUNK_TOKENS
    """Tokens graded before the model learns from them."""
    learning_rate: float = 0.002
    """At the first chunk; it falls along a cosine to 0 at the last."""
    momentum: float = 0.9
    """Share of the last update that is kept; it lives on from chunk to chunk."""
    epochs: int = 3
    """Passes over each graded chunk."""
    frozen_blocks: int = 2
    """First blocks whose matrices do not learn; embeddings, gains and gates never do."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    batch_sequences: int = 32
    """Sequences of the trained context that share an update."""

    def __post_init__(self) -> None:
        if not self.epochs <= MAX_TTT_EPOCHS:
            raise ValueError(f"ttt.epochs is {self.epochs}; expected at most {MAX_TTT_EPOCHS}")
        least = {"chunk_tokens": 1, "epochs": 1, "batch_sequences": 1, "learning_rate": 0, "cap_rate": 0}
        least |= {"momentum": 0, "frozen_blocks": 0}
        for name, value in least.items():
            if not vars(self)[name] >= value:
                raise ValueError(f"ttt.{name} is {vars(self)[name]}; expected at least {value}")
        for name in ("max_seconds", "clip_norm"):
            if vars(self)[name] is not None and not vars(self)[name] > 0:
                raise ValueError(f"ttt.{name} is {vars(self)[name]}; expected more than 0")
        if list(self.phases) != sorted(set(self.phases)) or min(self.phases, default=1) < 1:
            raise ValueError(f"ttt.phases is {self.phases}; expected rising numbers of documents")

def adapted_parameters(model: GPT, frozen_blocks: int) -> list[nn.Parameter]:
    """The matrices of all blocks but the first `frozen_blocks`; ValueError if that leaves none."""
    named = [item for block in model.blocks[frozen_blocks:] for item in block.named_parameters()]
    chosen = [parameter for name, parameter in named if name.split(".")[-1] == "weight"]
    if not chosen:
        raise ValueError(f"ttt.frozen_blocks is {frozen_blocks}; that leaves nothing of the model to adapt")
    return chosen

class PhaseTrainer:
    """Trains the model in place after given numbers of graded documents (openai/parameter-golf #1610, #1626)."""

    def __init__(self, model: GPT, config: TTTConfig):
        self.model, self.config, self.phases_done = model, config, 0
        self._adapted = adapted_parameters(model, config.frozen_blocks)
        self.caps = None
        """`ForwardState.log_caps_2` of the model's forward passes; None if the softcap does not learn."""

    def restart(self) -> None:
        """Forgets all phases; whoever calls it puts the model's weights back."""
        self.phases_done = 0
        if self.caps is not None:
            self.caps.zero_()

    def due(self, num_documents: int) -> bool:
        """Whether so many graded documents call for a phase that was not done."""
        return sum(boundary <= num_documents for boundary in self.config.phases) > self.phases_done

    def learn(self, graded: list[ScoredChunk]) -> None:
        """One phase; the model is frozen again afterwards."""
        config = self.config
        groups: list[dict[str, Any]] = [{"params": self._adapted, "lr": config.learning_rate}]
        if self.caps is not None:
            groups.append({"params": [self.caps], "lr": config.cap_rate})
        learning = [parameter for group in groups for parameter in group["params"]]
        rates = [group["lr"] for group in groups]
        optimizer = torch.optim.SGD(groups, momentum=config.momentum)
        for parameter in learning:
            parameter.requires_grad_(True)
        # forward, not the compiled call: these steps are too few to pay for a graph.
        predict = partial(self.model.forward, state=ForwardState(log_caps_2=self.caps))
        batches = cut_sequences(graded, self.model.config.context, config)
        with torch.enable_grad():
            for step, batch in enumerate(batches):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * _cosine(step / len(batches))
                _descend(predict, batch, optimizer, config.clip_norm)
        for parameter in learning:
            parameter.requires_grad_(False)
        self.phases_done = sum(boundary <= len(graded) for boundary in config.phases)

def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))

def _descend(
    predict: Callable[[Tensor], Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> None:
    """A step on one batch, in as many passes as ADAPTING_PASS_TOKENS takes."""
    learning = optimizer.param_groups[0]["params"]
    rows = max(1, ADAPTING_PASS_TOKENS // batch[0].size(1))
    for part in zip(*(tensor_BT.split(rows) for tensor_BT in batch), strict=True):
        inputs_BT, targets_BT, share_BT = (tensor_BT.to(learning[0].device) for tensor_BT in part)
        (token_nats(predict(inputs_BT), targets_BT) * share_BT).sum().backward()
    nn.utils.clip_grad_norm_(learning, clip_norm)
    optimizer.step()
    optimizer.zero_grad()

def cut_sequences(
    chunks: list[ScoredChunk], context: int, config: TTTConfig
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and each target's share in the loss, as batches of one shape (B, T), epoch by epoch."""
    inputs_N = np.concatenate([chunk.tokens_N1[:-1] for chunk in chunks])
    targets_N = np.concatenate([chunk.tokens_N1[1:] for chunk in chunks])
    num_targets = len(targets_N)
    batch_size = min(config.batch_sequences, -(-num_targets // context))
    filling = -num_targets % (context * batch_size)
    share = np.float32(1.0 / min(num_targets, batch_size * context))
    parts = (inputs_N, targets_N, np.full(num_targets, share))
    shape = (-1, batch_size, context)
    inputs_SBT, targets_SBT, shares_SBT = (
        torch.from_numpy(np.pad(part, (0, filling))).view(shape) for part in parts
    )
    return list(zip(inputs_SBT, targets_SBT, shares_SBT, strict=True)) * config.epochs

# golf/config.py: A run's configuration, composed of those of its parts; every field belongs to the part that reads it.
@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes, its data aside."""

    seed: int = 42
    """Seed of the weights and of the order of the text."""
    minutes: float | None = None
    """Training budget in minutes; warm-up, packing and scoring come on top."""
    steps: int | None = None
    """Training budget in optimiser steps, instead of minutes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimisers."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate and momentum over the run."""
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Which weights leave training."""
    pack: PackConfig = field(default_factory=PackConfig)
    """From weights to bytes."""
    score: WindowConfig = field(default_factory=WindowConfig)
    """The sliding windows of the score."""
    ttt: TTTConfig = field(default_factory=TTTConfig)
    """Test-time training."""

    def budget(self) -> Budget:
        """The training budget; ValueError unless exactly one of minutes and steps is given."""
        return Budget(None if self.minutes is None else 60.0 * self.minutes, self.steps)

    def recipe(self) -> Recipe:
        """What the trainer reads of the configuration."""
        return Recipe(self.budget(), self.train, self.optim, self.schedule, self.averaging)

# golf/system/clock.py: The phases of a run and the seconds each takes.
PHASES = ("prepare", "warm-up", "train", "calibrate", "pack", "score")
"""In the order of a run. Training text is read up to `pack`; validation in `prepare` and `score`."""

class PhaseError(RuntimeError):
    """An operation that the running phase does not allow."""

class StageClock:
    """Measures seconds by phase. At most one phase runs at a time; a phase may be entered again."""

    def __init__(
        self, seconds: dict[str, float] | None = None, timer: Callable[[], float] = time.perf_counter
    ):
        self._finished, self._timer = dict(seconds or {}), timer
        self._started = 0.0
        self._is_paused = False
        self.current: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to phase `name`; PhaseError if unknown or inside another phase."""
        if name not in PHASES:
            raise PhaseError(f"no phase is called {name!r}; the phases are {', '.join(PHASES)}")
        if self.current is not None:
            raise PhaseError(f"phase {name!r} cannot start inside phase {self.current!r}")
        self.current, self._started = name, self._timer()
        try:
            yield
        finally:
            self._finished[name] = self.elapsed(name)
            self.current = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the seconds of the block from the running phase (evaluation during training)."""
        name = self.current
        if name is None:
            raise PhaseError("no phase is running that could be paused")
        self._finished[name] = self.elapsed(name)
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused, self._started = False, self._timer()

    def elapsed(self, name: str) -> float:
        """Seconds of phase `name` so far, including those of resumed processes."""
        is_running = self.current == name and not self._is_paused
        running = self._timer() - self._started if is_running else 0.0
        return self._finished.get(name, 0.0) + running

    def restore(self, seconds: dict[str, float]) -> None:
        """Sets the seconds by phase, as an earlier process saved them; PhaseError while a phase runs."""
        self.require()
        self._finished = dict(seconds)

    def require(self, *allowed: str) -> None:
        """Raises PhaseError if a phase runs that is not one of `allowed`."""
        if self.current is not None and self.current not in allowed:
            raise PhaseError(f"not allowed in phase {self.current!r}; only in {', '.join(allowed)}")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that was entered, in the order of PHASES."""
        return {name: self.elapsed(name) for name in PHASES if name in self._finished or name == self.current}

# golf/data/manifest.py: A dataset folder: shards, their tokenizer, and a manifest of their contents and origin.
MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "golf-dataset-1"
CHANGED = "has changed since the dataset was made, make or fetch it again"
FINGERPRINT_TOKENS = 1 << 15
VERIFIED_NAME = ".verified.json"
"""Which training shards were compared with the manifest, and what their files were like then."""

@dataclass(frozen=True)
class ShardFile:
    """One shard of a dataset, of split train or val, in which `num_documents` start."""

    name: str
    split: str
    sha256: str
    num_tokens: int
    num_documents: int
    first_document: int
    last_document: int
    bytes_sha256: str = ""

@dataclass(frozen=True)
class Manifest:
    """The contents of a dataset folder and where its text is from; bytes are those of the decoded text."""

    name: str
    source: str
    licence: str
    revision: str
    """The exact source: a hub commit, package versions, the sha256 of a file."""
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    files: tuple[ShardFile, ...]
    val_text_bytes: int
    train_text_bytes: int
    repeated_documents: int
    notes: tuple[str, ...]
    case_ops: bool = False
    """Whether the text is in CaseOps form; each validation shard then has a byte file."""
    format: str = MANIFEST_FORMAT

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads `folder`/manifest.json; DataError if it is absent, of another format, or damaged."""
        path, command = folder / MANIFEST_NAME, "python -m golf.prepare --source"
        adopt = f"`{command} shards --data {folder}` checks the shards and writes one"
        if not path.is_file():
            if any(folder.glob("fineweb_*.bin")):
                raise DataError(f"{folder}: has shards but no {MANIFEST_NAME}. {adopt}")
            raise DataError(f"{folder}: no dataset there; make one with `{command} docs --data {folder}`")
        try:
            manifest: Manifest = config_from_dict(cls, read_sealed_json(path))
        except DamagedFileError as error:
            raise DataError(f"{error}. {adopt}") from error
        except ValueError as error:
            raise DataError(f"{path}: is not a manifest of a dataset ({error}). {adopt}") from error
        if manifest.format != MANIFEST_FORMAT:
            raise DataError(f"{path}: format is {manifest.format!r}; expected {MANIFEST_FORMAT!r}. {adopt}")
        for name in (manifest.tokenizer, *(file.name for file in manifest.files)):
            if Path(name).name != name or not name.isprintable():
                raise DataError(f"{path}: {name!r} is not a file name inside the folder")
        last: dict[str, ShardFile] = {}
        for file in sorted(manifest.files, key=lambda file: file.first_document):
            if file.split not in ("train", "val"):
                raise DataError(f"{path}: split is {file.split!r}; expected train or val")
            other = last.get("val" if file.split == "train" else "train", file)
            low, high = file.first_document, min(file.last_document, other.last_document)
            if other is not file and low <= high:
                raise DataError(f"{path}: documents {low} to {high} are in both {other.name} and {file.name}")
            last[file.split] = max(last.get(file.split, file), file, key=lambda file: file.last_document)
        return manifest

    def num_tokens(self, split: str) -> int:
        """Number of tokens of a split, BOS included."""
        return sum(file.num_tokens for file in self.files if file.split == split)

@dataclass(frozen=True)
class Dataset:
    """A dataset folder whose manifest, vocabulary and shard sizes agree; see `open_dataset`."""

    folder: Path
    manifest: Manifest
    vocabulary: Vocabulary

    def train_shards(self) -> list[np.ndarray]:
        """The training shards as memory maps (N), checked by sha256; who serves them checks token ids."""
        files = [file for file in self.manifest.files if file.split == "train"]
        shards = [self.open_shard(file) for file in files]
        if not shards:
            raise DataError(f"{self.folder}: has no training shards")
        if (first := shards[0][0]) != (bos_id := self.vocabulary.bos_id):
            raise DataError(f"{self.folder}: training starts with token {first}; expected BOS, {bos_id}")
        self._require_unchanged(files)
        return shards

    @property
    def train_fingerprint(self) -> str:
        """What names the contents of the training shards, or how those begin whose sha256 is not known."""
        files = [file for file in self.manifest.files if file.split == "train"]
        hashes = [
            file.sha256 or hashlib.sha256(self.open_shard(file)[:FINGERPRINT_TOKENS].tobytes()).hexdigest()
            for file in files
        ]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def _require_unchanged(self, files: list[ShardFile]) -> None:
        """Compares each shard with its sha256; what was compared is remembered by size, times and inode."""
        memory = self.folder / VERIFIED_NAME
        try:
            known = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        found = {file.name: _file_state(self.folder / file.name, file.sha256) for file in files}
        unknown = [file for file in files if file.sha256 and found[file.name] != known.get(file.name)]
        with ThreadPoolExecutor(8) as pool:
            hashes = pool.map(sha256_of_file, [self.folder / file.name for file in unknown])
            for file, sha256 in zip(unknown, hashes, strict=True):
                if sha256 != file.sha256:
                    path = self.folder / file.name
                    raise DataError(f"{path}: {CHANGED}: sha256 {sha256}; the manifest says {file.sha256}")
        if unknown:
            # A folder that cannot be written to is compared anew by each run.
            with suppress(OSError):
                write_json(memory, {**known, **found})

    def validation_tokens(self, clock: StageClock) -> np.ndarray:
        """All validation tokens (N), uint16, checked by sha256; PhaseError where they must not be read."""
        clock.require("prepare", "score")
        shards = []
        for file in (file for file in self.manifest.files if file.split == "val"):
            path = self.folder / file.name
            shards.append(self.open_shard(file))
            parts = {path: file.sha256}
            if self.manifest.case_ops:
                parts[find_byte_file(path)] = file.bytes_sha256
            for part, stated in parts.items():
                if stated and (found := sha256_of_file(part)) != stated:
                    raise DataError(f"{part}: {CHANGED}: sha256 {found}; the manifest says {stated}")
            check_token_ids(shards[-1], self.vocabulary.size, file.name)
        if not shards:
            raise DataError(f"{self.folder}: has no validation shards")
        return np.concatenate(shards, dtype=np.uint16)

    def open_shard(self, file: ShardFile) -> np.ndarray:
        """The tokens (N) of a shard; DataError for another number of them than stated."""
        path = self.folder / file.name
        shard = read_shard(path)
        if len(shard) != file.num_tokens:
            raise DataError(f"{path}: {len(shard)} tokens; the manifest says {file.num_tokens}")
        if file.split == "val" and self.manifest.case_ops:
            find_byte_file(path)
        return shard

def _file_state(path: Path, sha256: str) -> list[int | str]:
    """What changes when a file does, as JSON values."""
    now = path.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, sha256]

def open_dataset(folder: Path) -> Dataset:
    """Opens a folder whose tokenizer and shard sizes are the manifest's; training shards may be absent."""
    manifest = Manifest.load(folder)
    vocabulary = Vocabulary.load(folder / manifest.tokenizer)
    found = (vocabulary.sha256, vocabulary.size, vocabulary.case_ops)
    stated = (manifest.tokenizer_sha256, manifest.vocab_size, manifest.case_ops)
    if found != stated:
        parts = f"{folder}: tokenizer and shards do not belong together: sha256, size and use of CaseOps"
        raise DataError(f"{parts} are {found}, and {stated} in the manifest")
    dataset = Dataset(folder, manifest, vocabulary)
    for file in manifest.files:
        if file.split == "val" or (folder / file.name).exists():
            dataset.open_shard(file)
    return dataset

def open_shards(folder: Path, tokenizer: Path) -> Dataset:
    """A folder of shards without a manifest, as published: one is made in memory, which pins no bytes."""
    splits = {split: sorted(folder.glob(f"fineweb_{split}_[0-9]*.bin")) for split in ("train", "val")}
    files = tuple(
        ShardFile(path.name, split, "", len(read_shard(path)), 0, 0, 0)
        for split, paths in splits.items()
        for path in paths
    )
    if not files:
        raise DataError(f"{folder}: has neither {MANIFEST_NAME} nor fineweb_train_*.bin or fineweb_val_*.bin")
    vocabulary = Vocabulary.load(tokenizer)
    stated = (vocabulary.sha256, vocabulary.size, files, 0, 0, 0, (), vocabulary.case_ops)
    return Dataset(folder, Manifest(folder.name, "", "", "", tokenizer.name, *stated), vocabulary)

def find_byte_file(shard: Path) -> Path:
    """Beside a CaseOps validation shard: bytes of original text of each token, in the format of shards."""
    path = shard.with_suffix(".bytes")
    if not path.is_file():
        says = f"it says how many bytes of the original text each CaseOps token of {shard.name} stands for"
        raise DataError(f"{path}: no such file; {says}, and no score in bits per byte can be trusted without")
    return path

# golf/results.py: What a run measures, typed: a stage's result, and all of them together as results.json holds them.
RESULTS_VERSION = 2
"""Of the schema of results.json and of `--score --json`."""
NATS_ARRAYS = {"quantized": "nats", "test_time_trained": "ttt_nats"}
"""The artifact's own stages, with the array of per_document.npz that has their nats."""

# golf/score/documents.py: A score by document: what the statistics compare.
_BLOCK_TOKENS = 1 << 20

def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed .npz, whole or not at all."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)

@dataclass(frozen=True)
class DocumentScores:
    """Sums over the targets of each document; a BOS token is a target of the document that it starts."""

    nats_D: np.ndarray
    """float64."""
    tokens_D: np.ndarray
    """int64."""
    bytes_D: np.ndarray
    """int64."""

def per_document(nats_N: np.ndarray, tokens: np.ndarray, vocabulary: Vocabulary) -> DocumentScores:
    """Splits the grades of the first N targets of `tokens` at BOS."""
    num_targets = len(nats_N)
    num_documents = 1 + int((tokens[1 : num_targets + 1] == vocabulary.bos_id).sum())
    nats_D = np.zeros(num_documents)
    tokens_D, bytes_D = np.zeros((2, num_documents), dtype=np.int64)
    document = 0
    for start in range(0, num_targets, _BLOCK_TOKENS):
        end = min(start + _BLOCK_TOKENS, num_targets)
        targets_N = tokens[start + 1 : end + 1]
        documents_N = document + np.cumsum(targets_N == vocabulary.bos_id)
        counted_N = vocabulary.count_bytes(tokens[start:end], targets_N)
        nats_D += np.bincount(documents_N, weights=nats_N[start:end], minlength=num_documents)
        tokens_D += np.bincount(documents_N, minlength=num_documents)
        # Sums of integers below 2^53, exact in the float64 that bincount adds in.
        bytes_D += np.bincount(documents_N, weights=counted_N, minlength=num_documents).astype(np.int64)
        document = int(documents_N[-1])
    return DocumentScores(nats_D, tokens_D, bytes_D)

# golf/system/device.py: Devices, dtypes and the environment of a process: what the machine has, and which of it a run uses.
TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
"""The environment variables that torchrun sets, and their values without it."""

class DeviceError(ValueError):
    """The machine lacks a device, dtype or library that was asked for."""

@dataclass(frozen=True)
class Runtime:
    """The device and compute dtype of this process; master weights are float32, sums float64."""

    device: torch.device
    compute_dtype: torch.dtype
    compiled: bool
    """Whether torch.compile is used: on CUDA only; on a CPU compilation takes longer than it saves."""
    world: World = field(default_factory=World)
    """This process's place among the processes of the run."""

    def describe(self) -> str:
        """Hardware, dtype, mode and torch version in one line."""
        mode = "torch.compile" if self.compiled else "eager"
        dtype = dtype_name(self.compute_dtype)
        return f"{hardware_name(self.device, self.world)}, {dtype}, {mode}, torch {torch.__version__}"

def dtype_name(dtype: torch.dtype) -> str:
    """The name that configs and artifacts store: "float32", "bfloat16"."""
    return str(dtype).removeprefix("torch.")

def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (avx512_bf16, AMX); if not, float32 is faster."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))

def scoring_dtype(device: torch.device, trained: torch.dtype) -> torch.dtype:
    """The dtype of scoring, audits and test-time training: float32 on a CPU, else that of training."""
    return torch.float32 if device.type == "cpu" else trained

def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 natively (Ampere and later); others cannot compile it."""
    return torch.cuda.get_device_capability(device) >= (8, 0)

def read_world() -> World:
    """This process's place among the processes that torchrun started; a single process without it."""
    values = [int(os.environ.get(name, other)) for name, other in TORCHRUN]
    return World(*values)

def device_kind(device: str) -> str:
    """The device type, cpu, cuda or mps, that the name `device` or "auto" stands for."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device.split(":")[0]

def env_without_torchrun() -> dict[str, str]:
    """The environment for a child process that is not part of this torchrun group."""
    torchrun = {name for name, _ in TORCHRUN}
    strangers = ("TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in torchrun and not name.startswith(strangers)
    }

def keep_compiled_code() -> None:
    """Sets the cache of torch.compile to ~/.cache/parameter-golf, unless the environment names another."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "parameter-golf"))

def tag_compiled_code(attention: tuple[str, ...]) -> None:
    """Adds the attention kernels to the cache key of torch.compile."""
    torch.compiler.config.cache_key_tag = "+".join(attention)

def end_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess that makes Linux end the child when its parent dies; None elsewhere."""
    if sys.platform != "linux":
        return None
    # libc is loaded here because a child must not wait for a lock between fork and exec.
    prctl, pr_set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return partial(prctl, pr_set_pdeathsig, signal.SIGTERM)

def query_gpu(*fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU, a text for each of its --query-gpu fields; empty without one."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().split("\n")[0].split(", ")

def driver_version() -> str | None:
    """The version of the NVIDIA driver, from the kernel or else from nvidia-smi; None without a driver."""
    path = Path("/proc/driver/nvidia/version")
    text = path.read_text(encoding="utf-8") if path.is_file() else " ".join(query_gpu("driver_version"))
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else None

def unusable_gpu() -> str | None:
    """Why torch cannot use this machine's NVIDIA GPU, and what to do; None if it can, or there is none."""
    driver = None if torch.cuda.is_available() else driver_version()
    if driver is None:
        return None
    built, hidden = torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES")
    if built is None:
        reason = "it is a CPU build"
    elif hidden is not None and not hidden.split(",")[0].isdecimal():
        reason = f"CUDA_VISIBLE_DEVICES is {hidden!r}"
    else:
        reason = f"it is built for CUDA {built}"
    return (
        f"this machine has an NVIDIA GPU (driver {driver}), which torch {torch.__version__} cannot use: "
        f"{reason}; install a torch whose CUDA the driver supports (CUDA 12 from driver 525 on, 13 from 580 "
        "on), or compute on the CPU by --device cpu"
    )

def choose_runtime(
    device: str = "auto", compute_dtype: str = "auto", world: World | None = None, eager: bool = False
) -> Runtime:
    """Chooses the device, auto, cpu, cuda or cuda:N, and its dtype; `eager` turns torch.compile off."""
    world = World() if world is None else world
    if device != "cpu" and (reason := unusable_gpu()):
        raise DeviceError(reason)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if device.startswith("cuda") and not on_gpu:
        raise DeviceError(f"device {device!r} was asked for; torch {torch.__version__} sees no GPU")
    chosen = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
    if on_gpu:
        chosen = torch.device("cuda", world.local_rank if chosen.index is None else chosen.index)
        # Triton and the choice of kernels use the current GPU.
        torch.cuda.set_device(chosen)
        keep_compiled_code()
        # cuDNN's attention gives wrong numbers under a mask (pytorch #196678, #193893), and builds a graph
        # for each of the many shapes of scoring; training enables it explicitly.
        torch.backends.cuda.enable_cudnn_sdp(False)
    half = gpu_has_bfloat16(chosen) if on_gpu else cpu_has_bfloat16()
    return Runtime(chosen, torch.bfloat16 if half else torch.float32, on_gpu and not eager, world)

def seed_everything(seed: int) -> None:
    """Seeds random, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

def synchronize(device: torch.device) -> None:
    """Waits for the queued work of the device, as timing needs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in the machine's own memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)

def release_memory(device: torch.device) -> None:
    """Returns unused memory to the device, for other processes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

def hardware_name(device: torch.device, world: World | None = None) -> str:
    """The name of the GPU, or of the processor with torch's threads; "8 x" before it for 8 processes."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{processor_name()} ({threads} thread{'s' * (threads != 1)})"
    return name if world is None or world.size == 1 else f"{world.size} x {name}"

def processor_name() -> str:
    """The model name of the processor."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

def environment(device: torch.device, world: World | None = None) -> dict[str, object]:
    """Hardware and versions as JSON values, for the log and the entry."""
    packages = ("torch", "numpy", "zstandard", "sentencepiece")
    return {
        "hardware": hardware_name(device, world),
        "device": device.type,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

# golf/ttt/documents.py: Documents of a stream: which are graded together, in what order, how far at a time, by which process.
LENGTH_ORDER = "documents by length in tokens, the longest first, equal ones as they stand in the text"
"""The order that grading and all that adapts follow; it takes the documents' lengths as known."""
STREAM_ORDER = "documents as they stand in the text"
"""Likewise; which documents go together, and how far at a time, follows from the text before."""

class DocumentSpan(NamedTuple):
    """Targets `start` to `end` of the stream (half-open); target i is token i + 1, the next BOS included."""

    start: int
    end: int

    @property
    def num_targets(self) -> int:
        """At least 1."""
        return self.end - self.start

class DocumentBatch(NamedTuple):
    """Documents that are graded side by side, some tokens of each at a time."""

    chunk_tokens: tuple[int, ...]
    documents: tuple[DocumentSpan, ...]
    chunk_ends: tuple[int, ...] = ()
    """Up to chunk_ends[0] targets of a document are graded chunk_tokens[0] at a time, and so on."""

    def chunk_at(self, first: int) -> int:
        """Targets of the chunk that begins with target `first` of each document."""
        return self.chunk_tokens[bisect_right(self.chunk_ends, first)]

class DocumentGroup(NamedTuple):
    """Documents of a batch that share their forward passes."""

    process: int
    """Which of several processes grades them."""
    place: int
    """The first one's place among those that this process has in each batch."""
    documents: tuple[DocumentSpan, ...]

def split_documents(tokens: np.ndarray, num_targets: int, bos_id: int) -> list[DocumentSpan]:
    """The documents of the first `num_targets` targets, as they stand; without a BOS all is one document."""
    starts = np.flatnonzero(tokens[:num_targets] == bos_id).tolist()
    edges = sorted({0, *starts, num_targets})
    return [DocumentSpan(*pair) for pair in pairwise(edges)]

def order_bytes(documents: list[DocumentSpan]) -> int:
    """Bytes that tell a decoder the documents' lengths in targets."""
    widths = [document.num_targets.bit_length() for document in documents]
    nats = lgamma(33 + len(widths)) - lgamma(33) - sum(lgamma(1 + n) for n in Counter(widths).values())
    return ceil((nats / log(2) + sum(widths) - len(widths)) / 8)

def plan_documents(
    documents: list[DocumentSpan],
    chunk_tokens: tuple[int, ...],
    chunk_lengths: tuple[int, ...],
    batch_documents: int,
    by_length: bool = True,
) -> list[DocumentBatch]:
    """Batches in the order of grading, LENGTH_ORDER or STREAM_ORDER."""
    if not by_length:
        firsts = range(0, len(documents), batch_documents)
        alike = (tuple(documents[first : first + batch_documents]) for first in firsts)
        return [DocumentBatch(chunk_tokens, group, chunk_lengths) for group in alike]

    def chunk_of(document: DocumentSpan) -> int:
        return chunk_tokens[int(np.searchsorted(chunk_lengths, document.num_targets))]

    ordered = sorted(documents, key=lambda document: (-document.num_targets, document.start))
    batches = []
    for chunk, group in groupby(ordered, chunk_of):
        alike = tuple(group)
        for first in range(0, len(alike), batch_documents):
            batches.append(DocumentBatch((chunk,), alike[first : first + batch_documents]))
    return batches

def deal_batch(batch: DocumentBatch, at_once: int, num_processes: int = 1) -> list[DocumentGroup]:
    """Groups of `at_once` documents in the batch's order, dealt out in turn."""
    groups = []
    for first in range(0, len(batch.documents), at_once):
        turn, process = divmod(first // at_once, num_processes)
        groups.append(DocumentGroup(process, turn * at_once, batch.documents[first : first + at_once]))
    return groups

def count_shares(batches: list[DocumentBatch], at_once: int, num_processes: int) -> list[int]:
    """The targets that each process grades."""
    shares = [0] * num_processes
    for batch in batches:
        for process, _, documents in deal_batch(batch, at_once, num_processes):
            shares[process] += sum(document.num_targets for document in documents)
    return shares

# golf/ttt/document_step.py: Chunks of documents: what is kept of their past, and steps of few fixed shapes, which a GPU records once.
_STEPS_AHEAD = 8
"""Steps that may wait for the GPU; a deadline is asked so much ahead of what is done."""

class PastInputs(Past):
    """The inputs of every visit's attention at the positions before a chunk."""

    def __init__(self, kept: dict[int, Tensor] | None = None) -> None:
        self.kept = kept or {}
        """By visit, (B, T, D)."""

    def window(self, num_documents: int, num_past: int, num_new: int) -> "PastInputs":
        """This past, for the first `num_documents` documents: `num_past` kept and `num_new` new positions."""
        self._num_documents, self._num_past, self.num_new = num_documents, num_past, num_new
        return self

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; both are kept for the next window."""
        if self._num_past:
            kept_BTD = self.kept[visit][: self._num_documents]
            x_BLD = torch.cat((kept_BTD[:, kept_BTD.size(1) - self._num_past :], x_BLD), 1)
        self.kept[visit] = x_BLD.detach()
        return x_BLD

    def put_back(self, rows: np.ndarray, other: "PastInputs") -> None:
        """Takes the past of documents `rows` from `other`, which holds those documents only."""
        for visit, mine_BTD in self.kept.items():
            goes_on = np.flatnonzero(rows < len(mine_BTD))
            mine_BTD[rows[goes_on]] = other.kept[visit][goes_on][:, -mine_BTD.size(1) :]

class FixedPast(Past):
    """The same inputs in tensors of fixed addresses, in windows of few lengths, padded with empty places."""

    def __init__(self, model: GPT, num_documents: int, max_past: int):
        config, weight = model.config, model.embedding.weight
        shape, dtype = (num_documents, max_past, config.width), model.compute_dtype
        # Zeros: masked values must be finite.
        self.rings = [torch.zeros(shape, dtype=dtype, device=weight.device) for _ in model.plan]
        rotary_dims = config.rotary_dims
        length = config.context + max_past
        self._tables = rotary_tables(length, rotary_dims, config.rotary_base, weight.device)

    def window(self, num_documents: int, num_new: int, positions_T: Tensor, places_K: Tensor) -> "FixedPast":
        """This past, for the first documents: the first places and `num_new` new positions."""
        self._num_documents, self._num_past, self.num_new = num_documents, len(positions_T) - num_new, num_new
        self._places_K = places_K
        cos_TR, sin_TR = (table[positions_T.clamp(min=0)] for table in self._tables)
        mask_LT = None
        if self._num_past:
            visible_LT = (positions_T >= 0) & (positions_T <= positions_T[self._num_past :, None])
            mask_LT = torch.zeros(visible_LT.shape, dtype=self.rings[0].dtype, device=visible_LT.device)
            mask_LT = mask_LT.masked_fill(~visible_LT, -math.inf)
        self._positions = Positions(cos_TR, sin_TR, None if mask_LT is None else mask_LT[None, None])
        return self

    def positions(self) -> Positions:
        """Those that `window` was given."""
        return self._positions

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; the last of the new ones are written into their places."""
        ring_BPD = self.rings[visit][: self._num_documents]
        x_BTD = torch.cat((ring_BPD[:, : self._num_past], x_BLD), 1) if self._num_past else x_BLD
        num_kept = len(self._places_K)
        if num_kept:
            ring_BPD.index_copy_(1, self._places_K, x_BLD.detach()[:, -num_kept:])
        return x_BTD

    def unroll(self, end: int, num_past: int, num_places: int, rows: int) -> PastInputs:
        """The past of the first `rows` documents in the order of time: `num_past` positions up to `end`."""
        order = np.arange(max(0, end - num_past), end) % max(1, num_places)
        return PastInputs({visit: ring_BPD[:rows, order] for visit, ring_BPD in enumerate(self.rings)})

def can_be_fixed(model: GPT) -> bool:
    """Whether FixedPast works for the network: nothing may depend on the place that a position has."""
    config = model.config
    return config.positions in ("rotary", "none") and config.num_experts == 1 and not config.attention_sinks

def window_lengths(context: int) -> tuple[int, ...]:
    """The lengths that windows of FixedPast have, by eighths of the context, in eights of tokens."""
    step = 8 * -(-context // 64)
    return (*range(step, context, step), context)

class ChunkGrades(NamedTuple):
    """What a forward pass over a chunk gives."""

    nats_BL: Tensor
    """With the graph that leads back to what gave them."""
    marked_BL: Tensor
    """The same nats, NaN for documents whose logits were not all finite."""
    logits_BLV: Tensor | None
    """For who wants to see them."""

def grade_logits(logits_BLV: Tensor, targets_BL: Tensor, expected_BL: Tensor, boost: float) -> ChunkGrades:
    """Grades targets (B, L) by logits, which the tilt raises by `boost` at the expected tokens, -1 for none."""
    is_broken_B = ~logits_BLV.detach().sum((1, 2)).isfinite()
    if boost:
        boosts_BL1 = (boost * (expected_BL >= 0))[..., None]
        logits_BLV = logits_BLV.scatter_add(2, expected_BL.clamp(min=0)[..., None], boosts_BL1)
    nats_BL = token_nats(logits_BLV, targets_BL)
    marked_BL = nats_BL.detach().masked_fill(is_broken_B[:, None], torch.nan)
    return ChunkGrades(nats_BL, marked_BL, logits_BLV.detach())

class StepInputs(NamedTuple):
    """What a step is told, as integers; their shapes decide which recording it replays."""

    tokens: np.ndarray
    """(B, L) of the chunk's inputs, with the token before them where there is a past (B, L + 1)."""
    targets: np.ndarray
    """(B, L) tokens to predict."""
    expected: np.ndarray
    """(B, L) tokens that the tilt raises, -1 for none."""
    positions: np.ndarray
    """(T,) of each place in the window, -1 for empty ones."""
    places: np.ndarray
    """(K,) that the chunk's last positions take."""

def record(function: Callable[[], Any], pool: Any) -> Callable[[], Any]:
    """A function on tensors of fixed addresses, recorded as a CUDA graph: a call replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = function()

    def replay() -> Any:
        graph.replay()
        return result

    return replay

class DocumentSteps:
    """Grades and trains documents of a group, step by step, without waiting for what comes out."""

    def __init__(
        self,
        model: GPT,
        learner: LoraLearner,
        context: int,
        least_chunk: int,
        one_chunk: bool,
        boost: float,
        keeps_logits: bool,
        log_caps_2: Tensor | None,
    ):
        self.model, self.learner, self.context, self.boost = model, learner, context, boost
        self.keeps_logits, self.log_caps_2 = keeps_logits, log_caps_2
        self.device = next(model.parameters()).device
        self.most_rows = len(learner.learns_B)
        # With chunks of one size in each document, none of the window is masked.
        self._num_places = None if one_chunk else context - least_chunk
        self.past = FixedPast(model, self.most_rows, context - least_chunk)
        self.shapes: dict[tuple[int, ...], _Shape] = {}
        """By place of the first document, documents, targets of the chunk, tokens of the window."""
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._done: deque[torch.cuda.Event] = deque()

    def start(
        self,
        slot: int,
        batch: DocumentBatch,
        longest: int,
        ledger: Ledger,
        places: np.ndarray | None = None,
    ) -> None:
        """Makes ready for documents of up to `longest` targets, the first in place `slot` of its batch."""
        self.slot = slot
        self.learner.start(slot, self.most_rows)
        windows, first = dict[tuple[int, int], int](), 0
        # Beyond the context and the last change of chunks all windows are alike.
        most = self.context + max((0, *batch.chunk_ends))
        while True:
            num_new = min(batch.chunk_at(first), self.context)
            if first >= min(longest - num_new, most + num_new):
                break
            windows[len(self.window(first, num_new)[0]), num_new] = first
            first += num_new
        for (length, num_new), first in sorted(windows.items(), reverse=True):
            if (slot, self.most_rows, num_new, length) not in self.shapes:
                nothing_BL = np.zeros((self.most_rows, num_new), dtype=np.int64)
                tokens_BT = np.zeros((self.most_rows, num_new + (length > num_new)), dtype=np.int64)
                inputs = StepInputs(tokens_BT, nothing_BL, nothing_BL - 1, *self.window(first, num_new))
                for _ in range(2):
                    nats_BL = self.predict(inputs, 0, learns=True).nats_BL
                    self.learn(ledger.release_documents(nats_BL, (), "nothing"))
        self.learner.start(slot, self.most_rows, places)
        for ring_BPD in self.past.rings:
            ring_BPD.zero_()

    def rows_for(self, num_documents: int) -> int:
        """The rows of a step for so many: all, or a half, a quarter and so on of them."""
        rows = self.most_rows
        while rows > 1 and -(-rows // 2) >= num_documents:
            rows = -(-rows // 2)
        return rows

    def window(self, first: int, num_new: int) -> tuple[np.ndarray, np.ndarray]:
        """StepInputs' `positions` and `places` of a chunk that begins at `first`."""
        num_kept, most = min(first, self.context - num_new), self._places(num_new)
        lengths, num_used = (*window_lengths(self.context), most + num_new), min(first, most)
        num_past = next(length for length in lengths if length >= num_used + num_new)
        num_past = min(num_past - num_new, most) if num_kept else 0
        # The last position in each place, counted from the first one that is kept.
        past = num_kept - 1 - (first - 1 - np.arange(num_past)) % max(1, most)
        past = np.where(np.arange(num_past) < num_used, np.maximum(past, -1), -1)
        new = np.arange(num_kept, num_kept + num_new)
        kept = np.arange(first + max(0, num_new - most), first + num_new) % max(1, most)
        return np.concatenate((past, new)), kept if most else kept[:0]

    def _places(self, num_new: int) -> int:
        """Places of the past in use with chunks of `num_new` tokens."""
        return self.context - num_new if self._num_places is None else self._num_places

    def unroll(self, end: int, num_new: int, rows: int) -> PastInputs:
        """The past of the first documents in the order of time, for chunks of at least `num_new` tokens."""
        return self.past.unroll(end, self.context - num_new, self._places(num_new), rows)

    def predict(self, inputs: StepInputs, num_learning: int, learns: bool) -> ChunkGrades:
        """Grades a chunk; what it gives lies where the next step's will."""
        shape = self.slot, *inputs.targets.shape, len(inputs.positions)
        if shape not in self.shapes:
            self.shapes[shape] = _Shape(inputs, self.device)
        self._now = now = self.shapes[shape]
        now.write(inputs)
        self.learner.learns_B.zero_()
        self.learner.learns_B[:num_learning] = 1
        if now.forward is None and now.learned and learns and self._pool is not None:
            now.forward = record(lambda: self._forward(now), self._pool)
        if now.forward is None:
            return self._forward(now)
        grades = now.forward()
        # Waits until the GPU is no more than some steps behind.
        event = torch.cuda.Event()
        event.record()
        self._done.append(event)
        if len(self._done) > _STEPS_AHEAD:
            self._done.popleft().synchronize()
        return grades

    def learn(self, scored: ScoredDocuments) -> None:
        """The step of AdamW on what was just graded."""
        now = self._now
        if now.forward is None:
            self.learner.learn(scored)
            now.learned = True
            return
        if now.backward is None:
            now.backward = record(lambda: self.learner.learn(scored), self._pool)
        now.backward()

    def _forward(self, now: "_Shape") -> ChunkGrades:
        tokens_BT, targets_BL, expected_BL, positions_T, places_K = now.tensors
        rows, num_new = targets_BL.shape
        with torch.enable_grad():
            past = self.past.window(rows, num_new, positions_T, places_K)
            state = self.learner.state(rows, past, self.log_caps_2)
            logits_BLV = self.model.forward(tokens_BT, num_new, state)
            grades = grade_logits(logits_BLV, targets_BL, expected_BL, self.boost)
        return grades if self.keeps_logits else grades._replace(logits_BLV=None)

class _Shape:
    """The inputs of steps of one shape, side by side in one tensor, and what was recorded."""

    def __init__(self, inputs: StepInputs, device: torch.device):
        self.learned = False
        self.forward: Callable[[], ChunkGrades] | None = None
        self.backward: Callable[[], None] | None = None
        self._packed = torch.zeros(sum(part.size for part in inputs), dtype=torch.int64, device=device)
        parts = self._packed.split([part.size for part in inputs])
        self.tensors = tuple(part.view(like.shape) for part, like in zip(parts, inputs, strict=True))

    def write(self, inputs: StepInputs) -> None:
        """Puts the inputs in their place, in one copy that nothing waits for."""
        packed = torch.from_numpy(np.concatenate([part.ravel() for part in inputs]))
        if self._packed.device.type == "cuda":
            packed = packed.pin_memory()
        self._packed.copy_(packed, non_blocking=True)

# golf/ttt/document_scorer.py: Grades documents side by side, chunk by chunk; what a chunk was graded may be learned from at once.
def score_documents(
    scoring: Scoring,
    batches: list[DocumentBatch],
    learner: LoraLearner | None = None,
    tilt: NgramTilt | None = None,
    phases: PhaseTrainer | None = None,
    deadline: Deadline | None = None,
) -> ScoreResult:
    """Grades every target of the planned documents once, from its own document alone."""
    tokens, world = scoring.tokens, scoring.world
    windows = scoring.resolved_windows()
    rows = windows.batch_tokens // windows.context
    grader = _DocumentGrader(scoring, batches, learner, tilt, phases, deadline)
    ledger, nats_N, num_targets = grader.ledger, grader.nats_N, len(grader.nats_N)
    check_tokens(tokens[: num_targets + 1], scoring.vocabulary.size)
    total = Tally(0.0, 0, 0)
    graded: list[DocumentSpan] = []
    with scoring.log.progress("score", num_targets, "tokens") as bar:
        for index, batch in enumerate(batches):
            own: list[DocumentSpan] = []
            for group in deal_batch(batch, rows, world.size):
                if group.process == world.rank:
                    grader.grade(group, batch, f"batch {index}")
                    own += group.documents
                else:
                    grader.pass_over(group.documents, batch, f"batch {index}, elsewhere")
            if tilt is not None and index + 1 < len(batches):
                # While a GPU is still at the last steps.
                tilt.finish_batch()
            grader.collect()
            total = grader.tally(own, total)
            note = f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None
            bar.advance(sum(document.num_targets for document in batch.documents), note)
            graded += batch.documents
            if (tilt is None and phases is None) or index + 1 == len(batches):
                continue
            # Until all have graded what each will learn from.
            _, is_late = world.all_reduce_any(0.0, grader.stops())
            if deadline is not None:
                deadline.leave_out()
            if phases is not None and not is_late and phases.due(len(graded)):
                event = f"phase after {index}"
                phases.learn([ledger.release_chunk(tokens, span, event) for span in graded])
    ledger.close(num_targets)
    if world.size > 1:
        # Each has the others' as 0.
        world.sum(torch.from_numpy(nats_N))()
        # In the order of one process, so that the sum is its sum to the last bit.
        total = grader.tally(graded, Tally(0.0, 0, 0))
    notes = {
        "documents": len(graded),
        "batches": len(batches),
        "documents_at_once": min(rows, max(len(batch.documents) for batch in batches)),
        **grader.sum_events(tilt),
    }
    if phases is not None:
        notes["phases"] = phases.phases_done
    return ScoreResult(total, nats_N, num_targets < len(tokens) - 1, windows, ledger, notes)

class DocumentChunk:
    """Targets `first` to `end` of some documents, side by side: arrays (B, 1) and (B, L)."""

    def __init__(self, tokens: np.ndarray, documents: Sequence[DocumentSpan], first: int, end: int):
        self.first, self.end, self._tokens = first, end, tokens
        spans_B2 = np.array(documents)
        self.starts_B1, self._ends_B1 = spans_B2[:, :1], spans_B2[:, 1:]
        self.targets_BL = self.starts_B1 + np.arange(first, end)
        self.graded_BL = self.targets_BL < self._ends_B1
        """Which are the document's own, and not behind its end."""
        self.expected_BL = np.full_like(self.targets_BL, -1)
        """Tokens that the tilt raises, -1 for none."""

    def read(self, first: int, shift: int = 0) -> np.ndarray:
        """The documents' inputs (`shift` 0) or targets (1) from `first` on, int64, 0 behind their ends."""
        places = self.starts_B1 + np.arange(first, self.end)
        inside = np.minimum(places, self._ends_B1 - 1)
        return np.where(places < self._ends_B1, self._tokens[inside + shift], 0).astype(np.int64)

class _DocumentGrader:
    """Grades documents that start together: the n-th chunk of each is one forward pass."""

    def __init__(
        self,
        scoring: Scoring,
        batches: list[DocumentBatch],
        learner: LoraLearner | None,
        tilt: NgramTilt | None,
        phases: PhaseTrainer | None,
        deadline: Deadline | None,
    ):
        windows, self.scoring, self.device = scoring.resolved_windows(), scoring, scoring.device
        self.tokens, self.context, self.stride = scoring.tokens, windows.context, windows.stride
        num_targets = max(document.end for batch in batches for document in batch.documents)
        self.ledger, self.num_graded = Ledger(len(self.tokens) - 1), 0
        self.nats_N = np.full(num_targets, np.nan, dtype=np.float32)
        self.learner = self._given_learner = learner
        self.tilt, self.deadline = tilt, deadline
        self.caps = None if phases is None else phases.caps
        self.steps: DocumentSteps | None = None
        """How chunks are graded while something learns; None to make each of its own length."""
        self._boost = 0.0 if tilt is None else tilt.config.boost
        self._chunks: list[DocumentChunk] = []
        if learner is not None and learner.recorded and can_be_fixed(scoring.model):
            least_chunk = min(self.context, *(min(batch.chunk_tokens) for batch in batches))
            one_chunk = all(len(batch.chunk_tokens) == 1 for batch in batches)
            options = self.context, least_chunk, one_chunk, self._boost, scoring.observe is not None
            key = *options, self.caps is not None
            if key not in learner.recorded_steps:
                learner.recorded_steps[key] = DocumentSteps(scoring.model, learner, *options, self.caps)
            self.steps = learner.recorded_steps[key]
        # So many documents as have recorded steps may not fit with whole windows.
        self._first_plain_chunk = self.context if self.steps is None else self.stride

    def stops(self) -> bool:
        """Whether there is no time left to adapt; from then on nothing does."""
        if self.deadline is not None and self.deadline.stops(self.num_graded):
            self.learner = self.tilt = self.steps = None
            return True
        return False

    def tally(self, documents: Sequence[DocumentSpan], total: Tally) -> Tally:
        """The total with graded documents added to it one after the other."""
        for start, end in documents:
            tokens_N1 = self.tokens[start : end + 1]
            total += tally_targets(self.nats_N[start:end], tokens_N1, self.scoring.vocabulary)
        return total

    def sum_events(self, tilt: NgramTilt | None) -> dict[str, Any]:
        """What a record says of all processes: documents given up, tokens tilted, when adapting stopped."""
        stopped_after = None if self.deadline is None else self.deadline.stopped_after
        num_adapting = self.num_graded if stopped_after is None else stopped_after
        fallbacks = self._given_learner.fallbacks if self._given_learner else 0
        own = fallbacks, tilt.num_tilted if tilt else 0, stopped_after is not None, num_adapting
        sums = torch.tensor(own, dtype=torch.float64)
        self.scoring.world.sum(sums)()
        fallbacks, num_tilted, num_stopped, num_adapting = map(int, sums.tolist())
        notes: dict[str, Any] = {"unadapted_documents": fallbacks}
        if tilt is not None:
            notes["tilted_tokens"] = num_tilted
        if self.deadline is not None:
            notes |= self.deadline.notes()
            notes["adaptation_stopped_after_tokens"] = num_adapting if num_stopped else None
        return notes

    def grade(self, group: DocumentGroup, batch: DocumentBatch, event: str) -> None:
        """Grades all chunks in turn; the longest documents come first, so that those left are the first."""
        rows = sorted(range(len(group.documents)), key=lambda row: -group.documents[row].num_targets)
        documents = tuple(group.documents[row] for row in rows)
        places = None if rows == sorted(rows) else np.array(rows)
        longest, steps, plain_chunk = documents[0].num_targets, self.steps, 0
        self.collect()
        if steps is not None:
            steps.start(group.place, batch, longest, self.ledger, places)
            if self.deadline is not None:
                self.deadline.leave_out()
        elif self.learner is not None:
            self.learner.start(group.place, len(documents), places)
        self._documents, self.past = documents, PastInputs()
        self._nats_BN = torch.zeros(len(documents), longest + self.context, device=self.device)
        first = least_stride = 0
        while first < longest:
            chunk_tokens = min(batch.chunk_at(first), self.context)
            if self.stops():
                if first and steps is not None:
                    # What was kept is a window less a chunk.
                    least_stride = chunk_tokens
                    self.past = steps.unroll(first, chunk_tokens, len(documents))
                steps = None
                self.collect()
                plain_chunk = max(self.stride, least_stride) if first else self._first_plain_chunk
            end = first + (plain_chunk or chunk_tokens)
            left = [document for document in documents if document.num_targets > first]
            self._grade_chunk(left, first, end, event)
            first = end

    def _grade_chunk(self, documents: Sequence[DocumentSpan], first: int, end: int, event: str) -> None:
        """Grades targets `first` to `end` of each document, and learns from them if the document goes on."""
        learner, steps = self.learner, self.steps
        num_left, going = len(documents), [document for document in documents if document.num_targets > end]
        filling = 0 if steps is None else steps.rows_for(num_left) - num_left
        chunk = DocumentChunk(self.tokens, [*documents, *[DocumentSpan(0, 0)] * filling], first, end)
        if self.tilt is not None:
            chunk.expected_BL = self.tilt.expect(chunk.starts_B1, chunk.targets_BL).astype(np.int64)
        if steps is None:
            with torch.set_grad_enabled(learner is not None and bool(going)):
                grades = self._predict(self.past, chunk, learner)
        else:
            window = steps.window(first, end - first)
            read_BT = chunk.read(first - (len(window[0]) > end - first))
            inputs = StepInputs(read_BT, chunk.read(first, 1), chunk.expected_BL, *window)
            grades = steps.predict(inputs, len(going), bool(going))
        self.scoring.show(grades.logits_BLV, chunk.targets_BL, chunk.graded_BL)
        self._nats_BN[:num_left, first:end] = grades.marked_BL[:num_left]
        self._chunks.append(chunk)
        for document in documents:
            booked = document.start + first, min(document.start + end, document.end)
            self.ledger.grade(*booked, f"{event}, to token {end}")
        self.num_graded += int(chunk.graded_BL.sum())
        if self.tilt is not None:
            self.tilt.learn(chunk.starts_B1, chunk.targets_BL, chunk.graded_BL)
        if learner is not None and going:
            # Recorded steps have all rows, of which some do not learn.
            nats_BL = grades.nats_BL[: len(going)] if steps is None else grades.nats_BL
            trained = [(document.start + first, document.start + end) for document in going]
            scored = self.ledger.release_documents(nats_BL, trained, f"{event}, adapting to token {end}")
            (steps or learner).learn(scored)

    def _predict(self, past: PastInputs, chunk: DocumentChunk, learner: LoraLearner | None) -> ChunkGrades:
        """Grades a chunk by a window of its own length; `past` is then that of the next chunk."""
        inputs_BT = token_tensor(chunk.read(max(0, chunk.end - self.context)), self.device)
        (rows, length), num_new = inputs_BT.shape, chunk.end - chunk.first
        past = past.window(rows, length - num_new, num_new)
        state = ForwardState(past, log_caps_2=self.caps)
        if learner is not None:
            state = learner.state(rows, past, self.caps)
        # Windows grow with the document: a compiled forward would be compiled anew for each length.
        logits_BLV = self.scoring.model.forward(inputs_BT, num_new, state)
        targets_BL = token_tensor(chunk.read(chunk.first, 1), self.device)
        return grade_logits(logits_BLV, targets_BL, token_tensor(chunk.expected_BL, self.device), self._boost)

    def collect(self) -> None:
        """Waits for the grades of all chunks since the last call, and puts them with the others."""
        if not self._chunks:
            return
        nats_BN = self._nats_BN.cpu().numpy()
        rows = np.flatnonzero(np.isnan(nats_BN).any(1))
        first, end = self._chunks[0].first, self._chunks[-1].end
        # A rest that was graded after the deadline is unadapted.
        if len(rows) and first == 0 and self._given_learner is not None:
            self._given_learner.reset_adapter(rows)
            self._mend(nats_BN, rows)
        for document, nats_N in zip(self._documents, nats_BN, strict=True):
            until = max(first, min(end, document.num_targets))
            self.nats_N[document.start + first : document.start + until] = nats_N[first:until]
        self._chunks.clear()

    @torch.no_grad()
    def _mend(self, nats_BN: np.ndarray, rows: np.ndarray) -> None:
        """Puts unadapted predictions in the place of broken ones, NaN, and of what follows them."""
        documents, past = [self._documents[row] for row in rows], PastInputs()
        firsts_B1 = np.isnan(nats_BN[rows]).argmax(1)[:, None]
        for chunk in self._chunks:
            mended = DocumentChunk(self.tokens, documents, chunk.first, chunk.end)
            # Of documents that have ended any row does.
            mended.expected_BL = chunk.expected_BL[rows % len(chunk.expected_BL)]
            grades, is_after_B1 = self._predict(past, mended, None), chunk.first >= firsts_B1
            self.scoring.show(grades.logits_BLV, mended.targets_BL, mended.graded_BL & is_after_B1)
            place = rows, slice(chunk.first, chunk.end)
            nats_BN[place] = np.where(is_after_B1, grades.nats_BL.cpu().numpy(), nats_BN[place])
        self.past.put_back(rows, past)

    def pass_over(self, documents: tuple[DocumentSpan, ...], batch: DocumentBatch, event: str) -> None:
        """Books documents that another process grades; the tilt learns from them in their turn."""
        for start, end in documents:
            self.ledger.grade(start, end, event)
            self.nats_N[start:end] = 0.0
        if self.tilt is None:
            return
        first, longest = 0, max(document.num_targets for document in documents)
        while first < longest:
            left = [document for document in documents if document.num_targets > first]
            end = first + min(batch.chunk_at(first), self.context)
            chunk = DocumentChunk(self.tokens, left, first, end)
            self.tilt.learn(chunk.starts_B1, chunk.targets_BL, chunk.graded_BL, elsewhere=True)
            first = end

# golf/ttt/methods.py: Scoring with test-time training, by the method that the settings name.
_USABLE_SHARE = 0.8
"""Of the free memory."""

def score_adapting(
    scoring: Scoring,
    ttt: TTTConfig,
    max_seconds: float | None = None,
    learners: dict[Any, tuple[LoraLearner, PhaseTrainer | None]] | None = None,
) -> ScoreResult:
    """Grades every target once, learning only from what was graded; `sgd` and phases leave the model changed."""
    model, tokens, world = scoring.model, scoring.tokens, scoring.world
    target_seconds = 0.0
    if max_seconds is not None:
        target_seconds, _ = world.all_reduce_any(measure_plain(scoring), False)
    by_length = ttt.order == "length"
    batches = plan_lora(tokens, scoring.vocabulary.bos_id, ttt.lora, scoring.max_tokens, by_length)
    at_once, places = plan_groups(scoring, ttt.lora, batches)
    # The largest for every process, so that all are refused or none.
    share = max(count_shares(batches, at_once, world.size))
    deadline = None if max_seconds is None else Deadline(max_seconds, share, target_seconds)
    key = ttt, at_once, places
    learners = {} if learners is None else learners
    if key not in learners:
        phases = None
        learners[key] = LoraLearner(model, replace(ttt.lora, batch_documents=places), at_once), phases
    learner, phases = learners[key]
    learner.restart()
    if phases is not None:
        phases.restart()
    tilt = None
    windows = scoring.resolved_windows()
    windows = replace(windows, batch_tokens=at_once * windows.context)
    result = score_documents(replace(scoring, windows=windows), batches, learner, tilt, phases, deadline)
    told = order_bytes([span for batch in batches for span in batch.documents]) if by_length else 0
    order = {"order": LENGTH_ORDER if by_length else STREAM_ORDER, "order_bytes": told}
    return replace(result, notes={**order, **result.notes})

def plan_lora(
    tokens: np.ndarray,
    bos_id: int,
    config: LoraConfig,
    max_tokens: int | None = None,
    by_length: bool = True,
) -> list[DocumentBatch]:
    """The batches of the first `max_tokens` targets; ValueError if there is none."""
    num_targets = min(len(tokens) - 1, len(tokens) if max_tokens is None else max_tokens)
    if num_targets < 1:
        raise ValueError(f"{len(tokens)} tokens, max_tokens {max_tokens}: no target to score")
    documents = split_documents(tokens, num_targets, bos_id)
    plan = config.chunk_tokens, config.chunk_lengths, config.batch_documents
    return plan_documents(documents, *plan, by_length)

class LoraMemoryError(ValueError):
    """Adapters that do not fit into memory even for one document at a time."""

def plan_groups(scoring: Scoring, config: LoraConfig, batches: list[DocumentBatch]) -> tuple[int, int]:
    """How many documents are graded at once, and how many places of a batch a process has."""
    windows, world, device = scoring.resolved_windows(), scoring.world, scoring.device
    widest = max(len(batch.documents) for batch in batches)
    share = -(-widest // world.size)
    # On a GPU memory alone bounds them: a pass computes a chunk, not a window.
    wanted = share if device.type == "cuda" else min(windows.batch_tokens // windows.context, share)
    fitting, memory = wanted, free_bytes(device, world.local_size)
    if memory is not None:
        chunk_tokens = min(windows.context, max(max(batch.chunk_tokens) for batch in batches))
        kept, each = lora_bytes(scoring.model, windows, replace(config, batch_documents=share), chunk_tokens)
        fitting = int(_USABLE_SHARE * memory - kept) // each
        if fitting < 1:
            raise LoraMemoryError(
                f"adapters of rank {config.rank} for {share} documents take {kept:,} bytes, and "
                f"{each:,} more for each that learns; {memory:,} are free"
            )
    most = world.all_reduce_min(min(wanted, fitting))
    at_once = even_groups(share, most)
    num_groups = -(-widest // at_once)
    if most < wanted:
        scoring.log.info(f"{at_once} documents at once, since {wanted} do not fit into memory")
    if world.size > 1:
        sharing = min(num_groups, world.size)
        scoring.log.info(
            f"{sharing} of {world.size} processes learn from documents, {at_once} at once in each"
        )
    return at_once, -(-num_groups // world.size) * at_once

def even_groups(num_places: int, most: int) -> int:
    """How many of `num_places` go together: as few groups as hold at most `most` each, and alike in size."""
    num_groups = -(-num_places // most)
    return -(-num_places // num_groups)

def free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Memory that a process can take on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // num_processes
    except (AttributeError, ValueError):
        return None

def lora_bytes(
    model: GPT, windows: ResolvedWindows, config: LoraConfig, chunk_tokens: int
) -> tuple[int, int]:
    """Bytes that adapters take whatever is done, and further bytes for each document that learns."""
    matrices = find_matrices(model, config.projections)
    adapters_bytes = 4 * sum(config.rank * sum(matrix.weight.shape) for matrix in matrices)
    width = model.config.width
    shared_width = width // model.config.num_heads * model.config.num_kv_heads
    # Of a position of the window two inputs, three tensors as wide as its keys and two with a head for each
    # query; of a position of the chunk 24 numbers for each channel.
    numbers = windows.context * (4 * width + 3 * shared_width) + 24 * chunk_tokens * width
    passes_bytes = len(model.plan) * numbers * model.compute_dtype.itemsize
    logits_bytes = 4 * 4 * chunk_tokens * model.config.vocab_size
    moments_bytes = (2 + bool(config.beta_first)) * adapters_bytes
    return adapters_bytes * config.batch_documents, moments_bytes + passes_bytes + logits_bytes

# golf/evaluate.py: From an artifact's bytes and a dataset folder to the score: nothing else goes in.
def score_once(
    scoring: Scoring, ttt: TTTConfig | None, chunk_tokens: int, max_seconds: float | None
) -> ScoreResult | None:
    """The score, with test-time training for a `ttt`; None in processes that have no part in it."""
    if ttt is None:
        return score(scoring, chunk_tokens)
    return score_adapting(scoring, ttt, ttt.max_seconds if max_seconds is None else max_seconds)

def save_documents(
    path: Path, nats: dict[str, np.ndarray], tokens: np.ndarray, vocabulary: Vocabulary
) -> None:
    """Writes nats (`ttt_nats` with test-time training), tokens and bytes of each document as .npz."""
    arrays = {}
    for name, nats_N in nats.items():
        documents = per_document(nats_N, tokens, vocabulary)
        arrays |= {
            NATS_ARRAYS[name]: documents.nats_D,
            "tokens": documents.tokens_D,
            "bytes": documents.bytes_D,
        }
    save_arrays(path, arrays)

# golf/data/batches.py: Training batches: sequences from all shards in a seeded random order.
class TrainBatches:
    """Serves every target of the training shards once per epoch, except the held-out documents at the end."""

    def __init__(
        self,
        shards: list[np.ndarray],
        seed: int,
        held_out_tokens: int,
        vocab_size: int = 2**16,
        fingerprint: str = "",
    ):
        self._vocab_size, self._fingerprint = vocab_size, fingerprint
        # Read by number: a file that is cut under a memory map kills the process without a word.
        self._files = [open(str(s.filename), "rb", 0) if isinstance(s, np.memmap) else None for s in shards]
        kept, self.held_out = _split_held_out(shards, held_out_tokens)
        # Plain views: slicing an np.memmap takes ten times as long.
        self._shards = [np.asarray(shard) for shard in kept]
        self._streams = [len(shard) for shard in kept]
        self._order, num_tokens = np.zeros(0, dtype=np.int64), sum(self._streams)
        self._state = {"seed": seed, "num_tokens": num_tokens, "context": 0, "pass": -1, "position": 0}
        self._epochs_before = 0.0

    @property
    def epoch(self) -> float:
        """Epochs served so far; 0.5 is half of the training text."""
        return self._epochs_before + self._state["position"] / max(1, len(self._order))

    def next(self, num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next inputs_BT and targets_BT, int64 on the CPU; another `context` starts a new epoch."""
        windows = np.empty((num_sequences, context + 1), dtype=np.uint16)
        for window in windows:
            sequence = self._next_sequence(context)
            stream = int(np.searchsorted(self._first, sequence, side="right")) - 1
            self._read(stream, int(self._phases[stream] + (sequence - self._first[stream]) * context), window)
        inputs, targets = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def skip(self, num_sequences: int, context: int) -> None:
        """Skips the sequences that `next` would return, without reading them."""
        for _ in range(num_sequences):
            self._next_sequence(context)

    def state_dict(self) -> dict[str, Any]:
        """The position in the order; with the same shards, `load_state_dict` continues exactly there."""
        return self._state | {"epochs_before": self._epochs_before, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`; ValueError if its seed or its text differs."""
        for key, own in {**self._state, "fingerprint": self._fingerprint}.items():
            if key in ("seed", "num_tokens", "fingerprint") and state[key] != own:
                raise ValueError(f"the batches' {key} is {own}; the state to continue from has {state[key]}")
        self._state = {key: int(state[key]) for key in self._state}
        self._epochs_before = float(state["epochs_before"])
        if self._state["context"]:
            self._build_order()

    def _next_sequence(self, context: int) -> int:
        """The number of the next sequence in the order; starts a new order if needed."""
        if context != self._state["context"] or self._state["position"] == len(self._order):
            self._epochs_before = self.epoch
            self._state |= {"context": context, "pass": self._state["pass"] + 1, "position": 0}
            self._build_order()
        self._state["position"] += 1
        return int(self._order[self._state["position"] - 1])

    def _build_order(self) -> np.random.Generator:
        """Draws the order of an epoch; returns the generator for what else is to be drawn."""
        seed, num_tokens, context, epoch, _ = self._state.values()
        draw = np.random.default_rng([seed, epoch])
        num_targets = np.array(self._streams) - 1
        counts = np.maximum(num_targets, 0) // context
        if not counts.sum():
            found = f"the training shards hold {num_tokens} tokens"
            raise ValueError(f"{found}; none holds the {context + 1} of a sequence")
        self._phases = draw.integers(0, num_targets - counts * context, endpoint=True)
        self._first = np.cumsum(counts) - counts
        self._order = draw.permutation(int(counts.sum()))
        return draw

    def _read(self, shard: int, start: int, part: np.ndarray) -> None:
        """Fills `part` with the tokens of a shard from `start` on; DataError outside the vocabulary."""
        file = self._files[shard]
        name = f"training shard {shard}" if file is None else file.name
        if file is None:
            part[:] = self._shards[shard][start : start + len(part)]
        elif os.preadv(file.fileno(), [part.data], SHARD_HEADER_BYTES + 2 * start) < part.nbytes:
            raise DataError(f"{name}: was cut while training read it")
        if part.max() >= self._vocab_size:
            check_token_ids(part, self._vocab_size, name, start)

def _split_held_out(shards: list[np.ndarray], held_out_tokens: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The shards up to the BOS of the first held-out document, and the tokens from there on."""
    ends = np.cumsum([len(shard) for shard in shards])
    total, bos_id = int(ends[-1]), shards[0][0]
    limit, num_held, num_seen = total // 10, 0, 0
    for shard in reversed(shards):
        if num_seen >= limit or num_held >= held_out_tokens:
            break
        tail = shard[max(0, len(shard) - (limit - num_seen)) :]
        # Distances from the starts of documents to the end of the text, the shortest first.
        distances = num_seen + len(tail) - np.flatnonzero(tail == bos_id)[::-1]
        if len(distances):
            num_held = int(distances[min(np.searchsorted(distances, held_out_tokens), len(distances) - 1)])
        num_seen += len(shard)
    if held_out_tokens and not num_held:
        found = f"no document starts in the last tenth of the {total} training tokens"
        raise ValueError(f"{found}, so none can be held out")
    cuts = np.clip(total - num_held - np.array([0, *ends[:-1]]), 0, None)
    kept = [shard[:cut] for shard, cut in zip(shards, cuts, strict=True) if cut]
    held = [shard[cut:] for shard, cut in zip(shards, cuts, strict=True)]
    return kept, np.concatenate(held, dtype=np.uint16)

# golf/system/child.py: Child processes that end with the process that started them.
GRACE_SECONDS = 10.0

def run_child(command: Sequence[str], folder: Path | None = None) -> int:
    """The exit code of a command run outside this torchrun group, in `folder`."""
    process = subprocess.Popen(command, cwd=folder, env=env_without_torchrun(), preexec_fn=end_with_parent())
    try:
        return process.wait()
    except BaseException:
        # Asked first: torchrun ends its own processes when it is asked, and cannot when it is killed.
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise

# golf/train/checkpoint.py: Checkpoints (the whole state of a run, to resume it exactly) and weights on disk.
SEAL = b"golfsum1"
"""Stands at a checkpoint's end, after the sha256 of all before it; readers of zip files ignore both."""
SEAL_BYTES = 32 + len(SEAL)
WEIGHTS_FORMAT = "golf"

class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another configuration."""

def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) atomically, with a checksum; keeps the one before it."""
    before = checkpoint_before(path)
    try:
        _write_checkpoint(path, state)
    except DiskFullError:
        if not before.is_file():
            raise
        before.unlink()
        _write_checkpoint(path, state)

def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        with open(partial, "wb") as file:
            torch.save(state, file)
        digest = bytes.fromhex(sha256_of_file(partial))
        with open(partial, "ab") as file:
            file.write(digest + SEAL)
        if path.is_file():
            # Some file systems have no links; there only the newest one is kept.
            with suppress(OSError):
                before = checkpoint_before(path)
                before.unlink(missing_ok=True)
                os.link(path, before)

def checkpoint_before(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    return path.with_stem(path.stem + "_before")

def require_sound_checkpoint(path: Path) -> None:
    """Raises CheckpointError unless the file's bytes are those that were written."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) - SEAL_BYTES
            file.seek(max(0, size))
            digest, seal = file.read(32), file.read()
            file.seek(0)
            found, left = hashlib.sha256(), max(0, size)
            while chunk := file.read(min(left, 1 << 20)):
                found.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    if seal != SEAL or found.digest() != digest:
        raise CheckpointError(f"checkpoint {path} is damaged or of an earlier version: its checksum is wrong")

def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; CheckpointError if it is missing or damaged."""
    require_sound_checkpoint(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error

def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes contiguous CPU weights as safetensors, atomically, with a checksum among its metadata."""
    with atomic_write(path) as partial:
        save_file(weights, partial, describe_weights(weights))

def describe_weights(weights: dict[str, Tensor]) -> dict[str, str]:
    """The metadata of a file of weights: sha256 of names, dtypes, shapes and values."""
    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return {"format": WEIGHTS_FORMAT, "sha256": found.hexdigest()}

# golf/train/objective.py: The training loss: the next token's nats, those of later and prefix tokens, SIGReg; and exported weights.
class Objective:
    """The training loss with the terms that a config adds, each until its end."""

    def __init__(self, config: TrainConfig, prefixes_V: Tensor | None = None):
        self.config = config
        ends: list[float] = []
        self._last_end = max(ends, default=0.0)
        self.starts = sorted({0.0, *(end for end in ends if end < 1)})
        """The progress at which each set of terms, a graph of its own in compiled training, begins."""
        self.advance(0.0)

    def advance(self, progress: float) -> None:
        """Ends the terms that end before this progress of the run, and sets the weight that decays."""
        self.is_plain = progress >= self._last_end
        """Whether all have ended but those of model.future_tokens."""
        self._regularizing = progress < self.config.sigreg_until

    def nats(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target, fp32, (B, T); the gradient of their mean is that of the sum of all terms."""
        x_BTD = model.last_stream(inputs_BT)
        logits_BTV = model.read_out(x_BTD)
        nats_BT = token_nats(logits_BTV, targets_BT)
        return nats_BT

def export_config(config: ModelConfig) -> ModelConfig:
    """The configuration of the model for export: without the maps that predict further ahead."""
    return replace(config, future_tokens=0)

def export_state_dict(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights for export, those of `export_config`'s model."""
    return {name: weight for name, weight in weights.items() if not name.startswith("future.")}

# golf/train/loop.py: The training loop: batches in, weights out, on a budget of seconds or of steps.
Evaluate = Callable[[GPT, Callable[[Tensor, Tensor], Tensor] | None, int], float]
"""evaluate(model, grade, batch_tokens): bits per byte on held-out text. `grade` is `Trainer.grade`, or None
where training compiled no graph that can be used; forward passes of `batch_tokens` fit the device."""

START_OF_RUN = 0.05
"""Share of the run in which the loss may rise above that of the first step."""
FIRST_STEPS = 30
"""Number of steps in which it may, too."""
FORECAST_STEP = 6
"""The step after which the size of the run is forecast, from the time of the steps since the first."""

class DivergenceError(ValueError):
    """The loss is not finite, or far above that of the first step."""

class DeviceMemoryError(ValueError):
    """Not even the smallest micro-batch fits the device's memory."""

def prepare_compiler() -> None:
    """Configures torch.compile for training, in this process."""
    # Every kind of step is a graph of one function, and one more than the limit, by default 8, is an error.
    torch._dynamo.config.recompile_limit = 64
    # Up to how many reads and operations Inductor computes a value where it is used, instead of writing it
    # out. Its own limits, 8 and 30, fall in the middle of a norm's gradient, which is then written in fp32
    # and read by each of its users, as is what is added to it; with these the sum is written once, in bf16.
    torch._inductor.config.realize_acc_reads_threshold = 12  # pyright: ignore[reportAttributeAccessIssue]
    torch._inductor.config.realize_opcount_threshold = 60  # pyright: ignore[reportAttributeAccessIssue]
    # Else cosine and sine are computed anew for each element of every query and key, in each forward pass.
    torch.compiler.assume_constant_result(rotary_tables)

BatchSource = Any
"""TrainBatches: an entry's training batches are of no other kind."""

class LaunchedFigures:
    """Scalars on their way from the device: reading them waits for the step they belong to, and no later one."""

    def __init__(self, *scalars: Tensor):
        self._values = torch.stack([scalar.detach().float() for scalar in scalars])
        self._copied: torch.cuda.Event | None = None
        if self._values.device.type == "cuda":
            self._values = self._values.to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[float]:
        """The scalars in the order they were given."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()

class LaunchedStep(NamedTuple):
    """A step that the device may still be working on."""

    number: int
    tokens: int
    """Trained on so far."""
    epoch: float
    progress: float
    lr_scale: float
    figures: LaunchedFigures
    """Mean nats per token, and the gradient's norm before clipping."""

class StepReports:
    """Reads each step once the next one is launched, so that the device never waits."""

    def __init__(self, recipe: Recipe, phases: Phases, model: GPT, clock: StageClock, log: RunLog):
        self.budget, self.config, self.clock, self.log = recipe.budget, recipe.train, clock, log
        self.phases, self.model = phases, model
        self.first_loss = math.nan
        """The loss of the run's first step."""
        self._pending: LaunchedStep | None = None
        self._num_due, self._num_read = -1, 0
        self._first_read = 0, 0.0

    def launched(self, step: LaunchedStep | None, bar: ProgressBar) -> None:
        """Reads the step before and keeps `step` for the next call; None waits for the last one and logs it."""
        before, self._pending = self._pending, step
        if before is None:
            return
        loss, gradient_norm = before.figures.read()
        number, progress, seconds = before.number, before.progress, self.clock.elapsed("train")
        if math.isnan(self.first_loss):
            self.first_loss = loss
        is_early = progress <= START_OF_RUN or number <= FIRST_STEPS
        # Written so that NaN and infinity fail it, too.
        if not loss < self.first_loss + (math.inf if is_early else self.config.divergence_nats):
            raise DivergenceError(
                f"the run has diverged: the loss is {loss:.4g} nats at step {number}, from "
                f"{self.first_loss:.4g} at the start; the last good checkpoint is kept"
            )
        self._num_read += 1
        if self._num_read == 1:
            self._first_read = before.tokens, seconds
        num_due = math.floor(progress * self.config.reports + 1e-9)
        if num_due > self._num_due or step is None:
            self._num_due = num_due
            total = self.budget.steps or max(number, round(number / max(progress, 1e-9)))
            speed = before.tokens / seconds
            self.log.event(
                "step",
                step=f"{number}/{total}",
                train_loss=round(loss, 5),
                grad_norm=round(gradient_norm, 4),
                lr_scale=round(before.lr_scale, 4),
                tokens=before.tokens,
                tokens_per_second=round(speed),
                train_seconds=round(seconds, 2),
            )
            bar.move_to(100 * progress, f"loss {loss:.3f}  {speed:,.0f} tokens/s")
        if self._num_read == FORECAST_STEP:
            tokens, earlier = self._first_read
            log_forecast(self, before, (seconds - earlier) / (before.tokens - tokens))

def log_forecast(*_: object) -> None:
    """Logs nothing."""

class Trainer:
    """A model in training: `train` is the loop, `step` one optimizer step."""

    def __init__(
        self,
        model: GPT,
        batches: BatchSource,
        recipe: Recipe,
        runtime: Runtime,
        evaluate: Evaluate,
        clock: StageClock,
        log: RunLog,
        prefixes_V: Tensor | None = None,
    ):
        self.config = recipe.train
        self.optim, self.schedule = recipe.optim, recipe.schedule
        self.loops = model.config.recurrence > 1
        self.phases = plan_phases(model.config.context, self.config.batch_tokens, self.loops, self.schedule)
        self.config.check(self.phases)
        self.model, self.batches, self.budget, self.evaluate = model, batches, recipe.budget, evaluate
        self.runtime, self.world, self.clock, self.log = runtime, runtime.world, clock, log
        self.micro_batch_tokens = fit_micro_batches(self.config, self.phases, self.world.size)
        """`warm_up` halves it until it fits the device."""
        self.attention = present_kernels(runtime.device)
        """Attention kernels in the order to try them."""
        if self.config.attention != "auto":
            self.attention = require_kernel(self.config.attention, self.attention)
        self.optimizers = Optimizers(model, self.optim, runtime.compute_dtype, self.world)
        self.average = WeightAverage(model, recipe.averaging)
        self.reports = StepReports(recipe, self.phases, model, clock, log)
        self.steps = self.tokens = 0
        self._seconds, self._step_seconds = clock.elapsed("train"), 0.0
        self._stop_signal, self._stopping = 0, False
        self.objective = Objective(self.config, prefixes_V)
        self._nats = self.objective.nats
        if runtime.compiled:
            prepare_compiler()
            tag_compiled_code(self.attention)
            self._nats = torch.compile(self._nats, dynamic=False, fullgraph=True)

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        return self.budget.progress(self.steps, self._seconds)

    def train(self, checkpoint_path: Path) -> None:
        """Trains until the budget is used, saving to `checkpoint_path` on the way and at the end."""
        with handling_stops(self._request_stop):
            with (
                self.clock.stage("train"),
                self.log.progress("train", 100, "% of the run", lines=False) as bar,
                attention_kernels(self.model, self.attention),
            ):
                self._read_clock()
                last_save = self._seconds
                next_eval = self.progress + 1 / self.config.num_evals
                while not self._budget_is_used():
                    started = self._seconds
                    self.reports.launched(self.step(), bar)
                    self._step_seconds = self._seconds - started

                    if self.progress >= next_eval:
                        next_eval += 1 / self.config.num_evals
                        # The step that the device still works on is training, evaluation is not.
                        synchronize(self.runtime.device)
                        with self.clock.paused():
                            self.log.event(
                                "held_out", step=self.steps, tokens=self.tokens, bpb=self.held_out_bpb()
                            )

                    if self._stopping or self._seconds - last_save > self.config.checkpoint_seconds:
                        # The last step's loss is checked first: a diverged state is never saved.
                        self.reports.launched(None, bar)
                        synchronize(self.runtime.device)
                        with self.clock.paused():
                            self._save(checkpoint_path)
                        last_save = self._seconds
                    if self._stopping:
                        raise Stopped(f"stopped at step {self.steps}", self._stop_signal or signal.SIGTERM)
                self.reports.launched(None, bar)
                synchronize(self.runtime.device)
            self.model.looping = self.loops
            self._save(checkpoint_path)

    def step(self) -> LaunchedStep:
        """One optimizer step; its loss stays on the device, so that the host does not wait for it."""
        progress = self.progress
        phase = phase_at(progress, self.phases)
        lr_scale = learning_rate_scale(progress, self.schedule)
        self.optimizers.set_schedule(lr_scale, muon_momentum(progress, self.optim.momentum, self.schedule))
        self.model.looping = phase.looping
        self.objective.advance(progress)

        # Gradient accumulation: the mean over the step's micro-batches, of which each process has its share.
        num_micro_batches = phase.batch_tokens // self.micro_batch_tokens
        loss_sum = torch.zeros((), device=self.runtime.device)
        for _ in range(num_micro_batches // self.world.size):
            inputs_BT, targets_BT = self.next_micro_batch(phase.context)
            loss = self.loss(self.model, inputs_BT, targets_BT) / num_micro_batches
            loss.backward()
            loss_sum += loss.detach()
        loss_is_summed = self.world.sum(loss_sum)
        self.optimizers.all_reduce_gradients()
        gradient_norm = self.optimizers.step()
        self.optimizers.zero_grad()
        loss_is_summed()

        self.steps += 1
        self.tokens += phase.batch_tokens
        # Averages belong to the progress that this step has reached, not to that where it began.
        self._read_clock()
        self.average.update(self.progress)
        figures = LaunchedFigures(loss_sum, gradient_norm)
        return LaunchedStep(self.steps, self.tokens, self.batches.epoch, self.progress, lr_scale, figures)

    def next_micro_batch(self, context: int) -> tuple[Tensor, Tensor]:
        """This process's next inputs_BT and targets_BT, on the device; those of the others are skipped."""
        num_sequences, rank = self.micro_batch_tokens // context, self.world.rank
        self.batches.skip(rank * num_sequences, context)
        inputs_BT, targets_BT = self.batches.next(num_sequences, context)
        self.batches.skip((self.world.size - 1 - rank) * num_sequences, context)
        device = self.runtime.device
        if device.type == "cuda":
            # From pinned memory the copy is queued; from other memory it would wait for the device.
            inputs_BT, targets_BT = inputs_BT.pin_memory(), targets_BT.pin_memory()
        return inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)

    def loss(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean nats per token of a micro-batch, with all terms' gradient."""
        # The mean is outside the compiled graph, so that `grade` runs the same graph.
        return self._nats(model, inputs_BT, targets_BT).mean()

    def held_out_bpb(self) -> float:
        """Bits per byte of the model as it is on the held-out text."""
        grade = self.grade if self.can_grade(self.model.config.context) else None
        return self.evaluate(self.model, grade, self.micro_batch_tokens)

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """Context and recurrence of each kind of step that the run has, the most expensive first."""
        return sorted({(phase.context, phase.looping) for phase in self.phases}, reverse=True)

    def can_grade(self, context: int) -> bool:
        """Whether training has compiled a graph for windows of this length, the model as it is."""
        is_plain = self.objective.is_plain and not self.model.config.future_tokens
        return self.runtime.compiled and is_plain and (context, self.model.looping) in self.kinds

    def grade(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target (B, T), fp32, by the compiled graph of training: no other graph is compiled."""
        with torch.enable_grad(), attention_kernels(self.model, self.attention):
            return self._nats(self.model, inputs_BT, targets_BT).detach()

    def choose_output(self) -> tuple[str, dict[str, Tensor], dict[str, float]]:
        """Evaluates the averages that the config asks for; the model is left with the last of them."""
        outputs = {
            name: {key: weight.clone() for key, weight in weights.items()}
            for name, weights in self.average.outputs().items()
            if self.average.config.output in ("auto", name)
        }
        held_out = {}
        for name, weights in outputs.items():
            self.model.load_state_dict(weights)
            held_out[name] = self.held_out_bpb()
        best = min(held_out, key=held_out.__getitem__)
        self.log.event("average", output=best, **{f"held_out_bpb_{name}": held_out[name] for name in outputs})
        return best, {key: weight.cpu().contiguous() for key, weight in outputs[best].items()}, held_out

    def warm_up(self) -> None:
        """Runs `warmup_steps` of each kind with optimizers of their own, then restores the weights."""
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        generators = self._generators()
        while not self._warm_up_each_kind():
            tokens = self.micro_batch_tokens
            self.micro_batch_tokens = half = halve_micro_batches(tokens, self.phases)
            if not half:
                raise DeviceMemoryError(f"a micro-batch of {tokens:,} tokens exceeds the device's memory")
            self.log.info(
                f"micro-batches of {tokens:,} tokens exceed the device's memory; halved to {half:,}"
            )
            # Graphs of the larger micro-batches would count against the number that are kept.
            torch.compiler.reset()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), before)  # pyright: ignore[reportPrivateImportUsage]
        self._set_generators(generators)
        synchronize(self.runtime.device)

    def _warm_up_each_kind(self) -> bool:
        """Whether micro-batches of all kinds fit every process's device."""
        optimizers = Optimizers(self.model, self.optim, self.runtime.compute_dtype, self.world)
        for (context, looping), start in product(self.kinds, self.objective.starts):
            self.model.looping = looping
            self.objective.advance(start)
            shape = (self.micro_batch_tokens // context, context)
            # Two tensors, as in training: a graph compiled for one that is both would not serve there.
            inputs_BT, targets_BT = (
                torch.randint(self.model.config.vocab_size, shape).to(self.runtime.device) for _ in range(2)
            )
            for _ in range(self.config.warmup_steps):
                if self.world.all_reduce_any(0.0, not self._fits(inputs_BT, targets_BT))[1]:
                    optimizers.zero_grad()
                    release_memory(self.runtime.device)
                    return False
                optimizers.step()
                optimizers.zero_grad()
        return True

    def _fits(self, inputs_BT: Tensor, targets_BT: Tensor) -> bool:
        """Whether a forward and backward pass fits this process's device."""
        try:
            with attention_kernels(self.model, self.attention):
                self.loss(self.model, inputs_BT, targets_BT).backward()
                synchronize(self.runtime.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _read_clock(self) -> None:
        elapsed = self.clock.elapsed("train")
        self._seconds, self._stopping = self.world.all_reduce_any(elapsed, bool(self._stop_signal))

    def _budget_is_used(self) -> bool:
        if self.budget.steps is not None:
            return self.steps >= self.budget.steps
        assert self.budget.seconds is not None
        # With recurrence, a longer context or a larger batch the next steps cost more than the mean.
        next_step = max(self._seconds / max(1, self.steps), self._step_seconds)
        limit = self.budget.seconds - self.config.reserve_seconds
        return self.steps > 0 and self._seconds + next_step > limit

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        # torchrun passes on a signal that every process of the terminal has received already.
        if self._stop_signal and self.world.size == 1:
            raise Stopped(signum=signum)
        self._stop_signal = signum
        self.log.info("stopping after this step (again to stop at once)")

    def _save(self, path: Path) -> None:
        if self.world.is_first:
            save_checkpoint(path, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "generators": self._generators(),
            "clock": self.clock.seconds,
            "steps": self.steps,
            "tokens": self.tokens,
            "first_loss": self.reports.first_loss,
        }

    def resume(self, checkpoint_path: Path) -> None:
        """Restores a checkpoint; CheckpointError if it is damaged or of another configuration."""
        state = self.world.broadcast(lambda: load_checkpoint(checkpoint_path))
        try:
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path} belongs to another configuration: {error}") from error
        self.batches.load_state_dict(state["batches"])
        self._set_generators(state["generators"])
        self.clock.restore(state["clock"])
        self._seconds = self.clock.elapsed("train")
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.reports.first_loss = state["first_loss"]

    def _generators(self) -> dict[str, Tensor]:
        """States of the random generators that a step may draw from, by kind of device."""
        states = {"cpu": torch.get_rng_state()}
        if self.runtime.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.runtime.device)
        return states

    def _set_generators(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.runtime.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.runtime.device)

# golf/run.py: The five stages of a run: train, average, calibrate, pack, score; each leaves its result in the run folder.
def artifact_header(config: RunConfig, dtype: torch.dtype, tokenizer_sha256: str) -> dict[str, Any]:
    """What an artifact states beside its weights."""
    return {
        "model": asdict(export_config(config.model)),
        "compute_dtype": dtype_name(dtype),
        "tokenizer_sha256": tokenizer_sha256,
        "score": asdict(config.score),
        "ttt": asdict(config.ttt),
    }

def build_batches(config: RunConfig, dataset: Dataset) -> TrainBatches:
    """The training batches, from their start."""
    kind = TrainBatches
    shards, size = dataset.train_shards(), dataset.vocabulary.size
    return kind(shards, config.seed, config.train.held_out_tokens, size, dataset.train_fingerprint)

def build_trainer(
    config: RunConfig, dataset: Dataset, runtime: Runtime, clock: StageClock, log: RunLog
) -> Trainer:
    """A trainer with freshly initialized weights."""
    seed_everything(config.seed)
    model = GPT(config.model)
    model.initialize()
    log.record("initialization", orthogonal_to=distance_from_orthogonal(model))
    model.compute_dtype = runtime.compute_dtype
    model.to(runtime.device)
    batches = build_batches(config, dataset)

    def evaluate(model: GPT, grade: Grade | None, batch_tokens: int) -> float:
        scoring = disjoint_scoring(model, batches.held_out, dataset.vocabulary, batch_tokens, log)
        return score_disjoint(replace(scoring, world=runtime.world), grade).bits_per_byte

    prefixes_V = None
    return Trainer(model, batches, config.recipe(), runtime, evaluate, clock, log, prefixes_V)

def calibration_batches(
    config: RunConfig,
    dataset: Dataset,
    position: dict[str, Any],
    micro_batch_tokens: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """inputs_BT and targets_BT that training would have read next, in passes that fit its device."""
    batches, context = build_batches(config, dataset), config.model.context
    batches.load_state_dict(position)
    # A forward and backward pass of training fits; here none of it is compiled, so it takes more memory.
    num_sequences = max(1, min(micro_batch_tokens, CALIBRATION_PASS_TOKENS) // context)
    for _ in range(-(-config.pack.calibration_tokens // (num_sequences * context))):
        inputs_BT, targets_BT = batches.next(num_sequences, context)
        yield inputs_BT.to(device), targets_BT.to(device)

def exported_model(
    config: RunConfig, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> GPT:
    """The network for export with these weights, computing in `dtype`."""
    model = GPT(export_config(config.model))
    model.load_state_dict(export_state_dict(weights))
    model.compute_dtype = dtype
    return model.to(device)

def disjoint_scoring(
    model: GPT, tokens: np.ndarray, vocabulary: Vocabulary, pass_tokens: int, log: RunLog
) -> Scoring:
    """Disjoint windows, in passes of training's size, of which it is known that they fit the device."""
    context = model.config.context
    windows = WindowConfig(None, context, max(context, pass_tokens))
    return Scoring(model, tokens, vocabulary, windows, log=log)

def score_disjoint(scoring: Scoring, grade: Grade | None) -> Tally:
    """The tally of disjoint windows, in batches of one shape if `grade` is compiled for it."""
    # A chunk ends with at most one batch that is filled up.
    batch_tokens = scoring.windows.batch_tokens or 0
    chunk_tokens = CHUNK_TOKENS if grade is None else 16 * batch_tokens
    return score(scoring, chunk_tokens, grade=grade).tally

def isolated_python(world: World) -> list[str]:
    """The command of an isolated Python, or of as many by torchrun as processes train on this machine."""
    alone = [sys.executable, "-I"]
    if world.local_size == 1:
        return alone
    torchrun = [*alone, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    return [*torchrun, f"--nproc_per_node={world.local_size}", *alone]

# golf/entry_main.py
CONFIG = RunConfig(
    minutes=1.0,
    model=ModelConfig(
        vocab_size=512,
        num_layers=2,
        width=128,
        num_heads=4,
        num_kv_heads=2,
        mlp_hidden=384,
        context=256,
        rotary_dims=8,
        bigram_buckets=32768,
        ngram_buckets=(32768, 32768),
        bigram_width=32,
    ),
    train=TrainConfig(
        batch_tokens=2048,
        micro_batch_tokens=2048,
        warmup_steps=1,
        reports=30,
        held_out_tokens=16384,
        checkpoint_seconds=15.0,
    ),
    optim=OptimConfig(
        matrix_lr=0.03,
        row_normalize=True,
        newton_schulz="polar-express",
        embedding_lr=0.03,
        adam_beta2=0.99,
    ),
    schedule=ScheduleConfig(
        warmdown_shape="linear",
        context_growth=(0.4,),
        lr_rewarmup=0.0064,
    ),
    pack=PackConfig(
        calibration_tokens=16384,
    ),
    ttt=TTTConfig(
        method="lora",
        order="stream",
        chunk_tokens=16384,
    ),
)
"""The configuration of this entry; fields that are not written have their default."""

def given(name: str, default: Any = None) -> Any:
    """An environment variable; an empty one counts as none."""
    return os.environ.get(name) or default

def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line over the challenge's environment variables; SystemExit for one that cannot be read."""
    size, layout = CONFIG.model.vocab_size, argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("train_gpt.py", "%(prog)s [options]", __doc__, formatter_class=layout)
    folder, data_help = f"data/datasets/fineweb10B_sp{size}", "folder of shards, or $DATA_PATH"
    parser.add_argument("--data", type=Path, default=given("DATA_PATH", folder), help=data_help)
    tokenizer_help = "of shards without manifest.json, or $TOKENIZER_PATH; by default from ../../tokenizers"
    parser.add_argument("--tokenizer", type=Path, default=given("TOKENIZER_PATH"), help=tokenizer_help)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--max-tokens", type=int, help="score this many validation tokens only")
    parser.add_argument("--log-file", type=Path, help="file of the log; of a run by default logs/RUN_ID.txt")
    train = parser.add_argument_group("training")
    train.add_argument("--out", type=Path, default=".", help="folder for what a run writes")
    train.add_argument("--run-id", default=given("RUN_ID"), help="name of the run, or $RUN_ID")
    seed_help = "by default $SEED or the entry's"
    train.add_argument("--seed", type=int, default=given("SEED", CONFIG.seed), help=seed_help)
    seconds_help = "training budget, or $MAX_WALLCLOCK_SECONDS; 0 for the entry's"
    seconds = given("MAX_WALLCLOCK_SECONDS", "0")
    train.add_argument("--seconds", type=float, default=seconds, help=seconds_help)
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument("--score", type=Path, metavar="ARTIFACT", help="score this artifact and stop")
    scoring.add_argument("--ttt", action="store_true", help="score with test-time training, too")
    scoring.add_argument("--no-plain", action="store_true", help="not without test-time training")
    scoring.add_argument("--max-seconds", type=float, help="limit on test-time training")
    scoring.add_argument("--json", type=Path, help="file for the figures")
    scoring.add_argument("--per-document", type=Path, help="file for the sums of each document")
    options = parser.parse_args(arguments)
    options.run_id = options.run_id or f"seed{options.seed}"
    model = f"fineweb_{size}_bpe.model"
    options.tokenizer = options.tokenizer or options.data.absolute().parent.parent / "tokenizers" / model
    return options

def open_text(options: argparse.Namespace) -> Dataset:
    """The dataset; ValueError for another tokenizer than the entry's."""
    pinned = (options.data / MANIFEST_NAME).is_file()
    dataset = open_dataset(options.data) if pinned else open_shards(options.data, options.tokenizer)
    vocabulary = dataset.vocabulary
    if (vocabulary.size, vocabulary.bos_id) != (CONFIG.model.vocab_size, CONFIG.model.bos_id):
        raise ValueError(f"the tokenizer of {options.data} is not the one that this entry was made for")
    return dataset

def run_config(options: argparse.Namespace) -> RunConfig:
    """The configuration of a run; ValueError for options or variables that this entry cannot follow."""
    size, seconds = str(CONFIG.model.vocab_size), options.seconds
    if (asked := given("VOCAB_SIZE", size)) != size:
        raise ValueError(f"VOCAB_SIZE is {asked}; the vocabulary of this entry has {size} pieces")
    if Path(options.run_id).name != options.run_id or not options.run_id.isprintable():
        raise ValueError(f"RUN_ID is {options.run_id!r}; expected the name of a file")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"SEED is {options.seed}; expected 0 to 2**63 - 1")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"MAX_WALLCLOCK_SECONDS is {seconds}; expected a number of seconds")
    config = replace(CONFIG, seed=options.seed)
    return replace(config, minutes=seconds / 60, steps=None) if seconds else config

def train_and_pack(options: argparse.Namespace, world: World) -> None:
    """The run of this entry, from text to scores; what it has written already is not made again."""
    config, stem = run_config(options), options.out / "logs" / options.run_id
    artifact = options.out / f"final_model_{options.run_id}.bin"
    checkpoint, weights_path, figures = (
        Path(f"{stem}.{kind}") for kind in ("checkpoint.pt", "safetensors", "json")
    )
    options.log_file = options.log_file or Path(f"{stem}.txt")
    runtime = choose_runtime(options.device, world=world, eager=options.eager)
    dataset, clock = open_text(options), StageClock()
    stem.parent.mkdir(parents=True, exist_ok=True)
    log = RunLog(options.log_file if world.is_first else None, quiet=not world.is_first)
    log.info(f"on {runtime.describe()}, seed {config.seed}")
    if world.broadcast(artifact.is_file):
        log.info(f"{artifact} is there: scored, not trained again")
    else:
        trainer = build_trainer(config, dataset, runtime, clock, log)
        if world.broadcast(checkpoint.is_file):
            trainer.resume(checkpoint)
            log.info(f"resumed at step {trainer.steps}")
        with clock.stage("warm-up"):
            trainer.warm_up()
        trainer.train(checkpoint)
        with clock.stage("calibrate"):
            _, weights, _ = trainer.choose_output()
        if world.is_first:
            exported = export_state_dict(weights)
            save_weights(weights_path, exported)
            calibration = None
            if QUANTIZERS[config.pack.scheme].needs_calibration:
                position, tokens = trainer.batches.state_dict(), trainer.micro_batch_tokens
                del trainer
                with clock.stage("calibrate"):
                    model = exported_model(config, exported, runtime.compute_dtype, runtime.device)
                    batches = calibration_batches(config, dataset, position, tokens, runtime.device)
                    calibration = calibrate(model, batches)
            with clock.stage("pack"):
                code = Path(__file__).read_bytes()
                header = artifact_header(config, runtime.compute_dtype, dataset.vocabulary.sha256)
                room_bytes = bytes_for_artifact(len(code), LIMIT_BYTES)
                packed = pack(exported, header, config.pack, room_bytes, calibration)
            write_bytes(artifact, packed.artifact)
            log.event("size", code_bytes=len(code), artifact_bytes=len(packed.artifact))
            log.info(f"Total submission size: {len(code) + len(packed.artifact)} bytes")
            log.event("seconds", **clock.seconds)
    if world.is_first:
        # What training holds of the device's memory would be missing to the fresh process.
        trainer = None
        release_memory(runtime.device)
        score_alone(options, artifact, figures, world)

def score_alone(options: argparse.Namespace, artifact: Path, figures: Path, world: World) -> None:
    """Scores the artifact in fresh processes, as many as train, from the bytes of script and artifact."""
    command = [*isolated_python(world), __file__, "--score", str(artifact), "--data", str(options.data)]
    command += ["--tokenizer", str(options.tokenizer), "--log-file", str(options.log_file)]
    command += ["--json", str(figures), "--device", options.device]
    command += ["--ttt"] * CONFIG.ttt.enabled + ["--eager"] * options.eager
    command += [] if options.max_tokens is None else ["--max-tokens", str(options.max_tokens)]
    if run_child(command):
        raise ValueError(f"scoring {artifact} failed, as said above")

def score_artifact(options: argparse.Namespace, world: World) -> None:
    """Scores the artifact by sliding windows, with test-time training, or both, and writes the figures."""
    log = RunLog(options.log_file if world.is_first else None, quiet=not world.is_first)
    clock = StageClock()
    with clock.stage("score"):
        artifact = read_artifact(options.score)
        runtime = choose_runtime(options.device, world=world, eager=options.eager)
        header = read_container(artifact)[0]
        trained = torch.bfloat16 if header.get("compute_dtype") == "bfloat16" else torch.float32
        dataset = open_text(options)
        own = artifact_header(CONFIG, trained, dataset.vocabulary.sha256)
        for name, value in json.loads(json.dumps(own)).items():
            if header.get(name) != value:
                raise ArtifactError(f"the artifact is of another entry: its {name} is not this script's")
        weights = decode_artifact(artifact)[1]
        model = exported_model(CONFIG, weights, scoring_dtype(runtime.device, trained), runtime.device)
        if runtime.compiled:
            model.compile(dynamic=False)
        tokens = dataset.validation_tokens(clock)
        limit = options.max_tokens
        scoring = Scoring(model, tokens, dataset.vocabulary, CONFIG.score, limit, log=log, world=world)
        load_seconds, stages, nats = clock.elapsed("score"), [], {}
        for name in ["quantized"] * (not options.no_plain) + ["test_time_trained"] * options.ttt:
            started = clock.elapsed("score")
            adapting = CONFIG.ttt if name == "test_time_trained" else None
            result = score_once(scoring, adapting, CONFIG.ttt.chunk_tokens, options.max_seconds)
            if result is not None:
                stages.append(describe_score(name, result, clock.elapsed("score") - started, log))
                nats[name] = result.nats_N
    if world.is_first and options.per_document:
        save_documents(options.per_document, nats, tokens, dataset.vocabulary)
    if world.is_first and options.json:
        figures = {
            "version": RESULTS_VERSION,
            "stages": stages,
            "artifact_bytes": len(artifact),
            "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
            "validation_sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
            "compute_dtype": dtype_name(model.compute_dtype),
            "environment": environment(runtime.device, world),
            "load_seconds": load_seconds,
            "max_tokens": options.max_tokens,
            "ttt": asdict(CONFIG.ttt) if options.ttt else None,
        }
        write_json(options.json, figures)

def describe_score(name: str, result: ScoreResult, seconds: float, log: RunLog) -> dict[str, Any]:
    """One score as JSON values, logged too."""
    tally, by_document = result.tally, name == "test_time_trained" and CONFIG.ttt.method == "lora"
    log.event(
        "score" if name == "quantized" else "ttt_score",
        val_loss=tally.nats_per_token,
        val_bpb=tally.bits_per_byte,
        tokens=tally.num_tokens,
        bytes=tally.num_bytes,
        seconds=round(seconds, 3),
    )
    return {
        "name": name,
        "tally": asdict(tally),
        "windows": "by document" if by_document else "sliding",
        "context": result.windows.context,
        "stride": None if by_document else result.windows.stride,
        "batch_tokens": result.windows.batch_tokens,
        "seconds": seconds,
        "partial": result.partial,
        "notes": result.notes,
    }

def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 Ctrl-C, 143 SIGTERM."""
    options, world = parse_arguments(arguments), read_world()
    try:
        with world.joined(device_kind(options.device)):
            (train_and_pack if options.score is None else score_artifact)(options, world)
    except KeyboardInterrupt as stop:
        print(f"train_gpt.py: {str(stop) or 'stopped'}; the same command goes on", file=sys.stderr)
        return stop.code if isinstance(stop, Stopped) else 130
    except (ValueError, OSError) as error:
        print(f"train_gpt.py: {error}", file=sys.stderr)
        return 1 if isinstance(error, BudgetError) else 2
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
