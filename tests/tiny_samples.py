"""A real dataset folder and a real artifact, both tiny."""

import io
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from golf.data.manifest import Manifest, ShardFile, sha256_of_file
from golf.data.shards import write_shard
from golf.data.vocabulary import Vocabulary
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig, pack

WORDS = (
    "the of and to a in is that it was for on are with as be at one have from naïve Zürich 你好 🙂".split()
)
TINY = [
    *("--preset", "cpu", "--model.num-layers", "2", "--model.width", "32", "--model.num-heads", "2"),
    *("--model.num-kv-heads", "1", "--model.mlp-hidden", "48", "--model.context", "32"),
    *("--model.bigram-buckets", "64", "--model.ngram-buckets", "48", "32"),
    *("--train.batch-tokens", "256", "--train.micro-batch-tokens", "128", "--train.held-out-tokens", "512"),
    *("--ttt.chunk-tokens", "4096", "--ttt.frozen-blocks", "1", "--max-tokens", "6000"),
    *("--score.stride", "16"),
]
"""Options of a run of seconds."""


def tiny_tokenizer(seed: int = 0, kind: str = "bpe") -> bytes:
    """A SentencePiece BPE of 320 pieces with byte fallback; or of the letters alone, of `kind` char."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_text(1000 + seed + i) for i in range(100)),
        model_writer=model,
        model_type=kind,
        vocab_size=320,
        byte_fallback=kind == "bpe",
        add_dummy_prefix=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def tiny_text(seed: int) -> str:
    """Some words in a seeded order."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 60))).capitalize() + "."


def write_tiny_dataset(folder: Path, tokenizer: bytes, num_documents: int = 12) -> list[str]:
    """A dataset folder with a training and a validation shard; returns the validation documents."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.model").write_bytes(tokenizer)
    vocabulary = Vocabulary.load(folder / "tiny.model")
    splits = {
        split: [tiny_text(seed + 100 * is_train) for seed in range(num_documents)]
        for is_train, split in enumerate(("val", "train"))
    }
    files = []
    for split, documents in splits.items():
        tokens = [token for text in documents for token in (vocabulary.bos_id, *vocabulary.encode_text(text))]
        path = folder / f"fineweb_{split}_000000.bin"
        write_shard(path, np.array(tokens, dtype=np.uint16))
        first = 0 if split == "val" else num_documents
        files.append(
            ShardFile(
                path.name,
                split,
                sha256_of_file(path),
                len(tokens),
                num_documents,
                first,
                first + num_documents - 1,
            )
        )
    Manifest(
        name="tiny",
        source="made up",
        licence="CC0",
        revision="1",
        tokenizer="tiny.model",
        tokenizer_sha256=vocabulary.sha256,
        vocab_size=vocabulary.size,
        files=tuple(files),
        val_text_bytes=sum(len(text.encode()) for text in splits["val"]),
        train_text_bytes=sum(len(text.encode()) for text in splits["train"]),
        repeated_documents=0,
        notes=(),
    ).save(folder)
    return splits["val"]


def write_tiny_artifact(path: Path, vocabulary: Vocabulary, seed: int = 0, **header: object) -> GPT:
    """Packs an untrained network of width 16 with blocks enough to adapt; returns what was packed."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=vocabulary.size,
        num_layers=3,
        width=16,
        num_heads=2,
        num_kv_heads=1,
        mlp_hidden=32,
        context=32,
        rotary_dims=4,
        bigram_buckets=32,
        bigram_width=4,
        embedding_std=0.2,
    )
    model = GPT(config)
    model.initialize()
    stored = {
        "model": asdict(config),
        "compute_dtype": "float32",
        "tokenizer_sha256": vocabulary.sha256,
        "score": {"stride": 8},
        "ttt": {"chunk_tokens": 96, "batch_sequences": 2, "learning_rate": 0.05},
        **header,
    }
    path.write_bytes(pack(model.state_dict(), stored, PackConfig(), 1_000_000).artifact)
    return model


def write_evals(folder: Path) -> None:
    """Tiny files of all four downstream tasks."""
    for task in ("hellaswag", "wikitext2", "sst2", "gsm8k"):
        (folder / task).mkdir(parents=True)
    hellaswag = [
        {
            "activity_label": "Words",
            "ctx_a": f"the {WORDS[number]} [title] is",
            "ctx_b": "for  it",
            "ctx": "",
            "label": number % 4,
            "endings": [
                f"{word} [step] and {' '.join(WORDS[:count])}." for count, word in enumerate(WORDS[:4])
            ],
        }
        for number in range(6)
    ]
    (folder / "hellaswag" / "hellaswag_val_6.jsonl").write_text(
        "".join(json.dumps(item) + "\n" for item in hellaswag)
    )
    articles = [
        f' = Article {number} = \n \n {tiny_text(number)} \'s ( the 1 @,@ 2 ) " of " , N . \n = = Part = = \n'
        for number in range(3)
    ]
    (folder / "wikitext2" / "wiki.test.tokens").write_text(" \n" + "".join(articles) + "the end \n")
    for name, count in (("train", 120), ("dev", 5)):
        lines = [f"{WORDS[n % 20]} as {WORDS[n % 7]}\t{n % 2}" for n in range(count)]
        (folder / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    for name, count in (("train", 8), ("test", 3)):
        lines = [
            {"question": f"the {n}?", "answer": f"it <<1+1=2>>is\n#### {n % 3},000"} for n in range(count)
        ]
        (folder / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def hellaswag_task(name: str, file: Path) -> dict[str, object]:
    """lm-eval's HellaSwag as a task of its own, on the items of a local file."""
    from lm_eval.tasks.hellaswag import utils

    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(file)}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "process_docs": utils.process_docs,
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
