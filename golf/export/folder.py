"""Writes the folder of an export: weights, configuration, tokenizer, and for transformers the code."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.torch import save_file
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.entry.bundle import ROOT, bundle
from golf.finetune.examples import stored_template
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.system.files import write_bytes, write_json

WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE = "model.safetensors", "config.json", "tokenizer.model"
WRAPPERS = ("configuration_golf", "modeling_golf", "tokenization_golf")
"""Modules of this package that a transformers folder has as they are; they import the next two."""
NETWORK, VOCABULARY = "network_golf", "vocabulary_golf"
"""Modules that it has with what they reach of the project."""
PREFIX = "model."
"""Before each name of a weight in a transformers folder, where the network is a part of the class."""


@dataclass(frozen=True)
class DecodedModel:
    """What an export is made of."""

    network: GPT
    """With the fp32 weights that the artifact's bytes give."""
    header: dict[str, Any]
    artifact_sha256: str
    tokenizer: Path
    vocabulary: Vocabulary

    @property
    def config(self) -> ModelConfig:
        """The network's."""
        return self.network.config


def write_safetensors(model: DecodedModel, out: Path) -> None:
    """Weights by their names in the network, its configuration, and the tokenizer."""
    _save_weights(model, out / WEIGHTS_FILE)
    write_json(out / CONFIG_FILE, {"network": asdict(model.config), **_facts(model)})
    write_bytes(out / TOKENIZER_FILE, model.tokenizer.read_bytes())


def write_transformers(model: DecodedModel, out: Path) -> None:
    """The same as a folder that transformers loads with trust_remote_code, without the toolkit."""
    _save_weights(model, out / WEIGHTS_FILE, PREFIX)
    write_bytes(out / TOKENIZER_FILE, model.tokenizer.read_bytes())
    package = Path(__file__).parent
    sources = {name: relative_source((package / f"{name}.py").read_text("utf-8")) for name in WRAPPERS}
    sources[NETWORK] = bundle(package / f"{NETWORK}.py", ROOT, model.config)
    sources[VOCABULARY] = bundle(package / f"{VOCABULARY}.py", ROOT)
    for name, text in sources.items():
        write_bytes(out / f"{name}.py", text.encode("utf-8"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model.tokenizer))
    pad_id = pieces.pad_id() if pieces.pad_id() >= 0 else model.config.bos_id
    template = stored_template(model.header)
    # The text of a document ends where the next one begins: no other token says so.
    ends = [model.config.bos_id] if template is None else [model.config.bos_id, template.end]
    special = {
        "bos_token_id": model.config.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": pad_id,
    }
    write_json(out / CONFIG_FILE, {**_transformers_config(model), **special})
    write_json(out / "generation_config.json", special)
    piece = model.vocabulary.piece
    tokenizer = {
        "tokenizer_class": "GolfTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_golf.GolfTokenizer", None]},
        "bos_token": piece(model.config.bos_id),
        "eos_token": piece(model.config.bos_id),
        "unk_token": piece(pieces.unk_id()),
        "pad_token": piece(pad_id),
        "padding_side": "left",
        "model_max_length": model.config.context,
    }
    write_json(out / "tokenizer_config.json", tokenizer)


def _transformers_config(model: DecodedModel) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["GolfForCausalLM"],
        "model_type": "golf",
        "auto_map": {
            "AutoConfig": "configuration_golf.GolfConfig",
            "AutoModelForCausalLM": "modeling_golf.GolfForCausalLM",
        },
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.context,
        # The head has no weight of its own that transformers could tie.
        "tie_word_embeddings": False,
        "use_cache": True,
        "network": asdict(config),
        **_facts(model),
    }


def _facts(model: DecodedModel) -> dict[str, Any]:
    facts = {
        "compute_dtype": model.header["compute_dtype"],
        "tokenizer_sha256": model.vocabulary.sha256,
        "artifact_sha256": model.artifact_sha256,
    }
    return facts | ({"chat": model.header["chat"]} if model.header.get("chat") else {})


def _save_weights(model: DecodedModel, path: Path, prefix: str = "") -> None:
    weights: dict[str, Tensor] = {
        prefix + name: weight.contiguous() for name, weight in model.network.state_dict().items()
    }
    save_file(weights, path, {"format": "pt"})


def relative_source(text: str) -> str:
    """The text of a module of this package with relative imports of its neighbours."""
    return re.sub(r"^from golf\.export\.(\w+) import", r"from .\1 import", text, flags=re.MULTILINE)
