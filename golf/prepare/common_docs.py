"""The common text of the source `docs`: what makes scores of different machines comparable.

The documents that are installed depend on the versions of Python and of every package. So the validation text
and the tokenizer of 512 pieces are shipped, and of the installed documents only those are trained on that the
common text has; another version of a document may be nearly a document of validation. They are known by their
hashes. `python -m golf.prepare.common_docs` makes the files anew from the documents installed here.
"""

import hashlib
import json
import lzma
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from golf.data.manifest import Manifest
from golf.data.shards import read_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.build import build_dataset
from golf.prepare.docs import DocsText, read_docs
from golf.prepare.encode import text_digest
from golf.prepare.shards import TextOrigin, iterate_documents
from golf.prepare.split import SplitConfig
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.system.files import write_bytes
from golf.system.log import RunLog

COMMON_FOLDER = Path(__file__).parent / "common"
COMMON_NAME = "docs.json.xz"
DOCS_VOCAB_SIZE = 512
DOCS_SPLIT = SplitConfig(val_max_bytes=120_000)
"""66,000 tokens of validation at 512 pieces: test-time training on two slow cores takes a minute."""

_DIGEST_BYTES = 6


@dataclass(frozen=True)
class CommonDocs:
    """The common text: validation whole, training as hashes."""

    source: str
    licence: str
    revision: str
    """The versions of Python and the packages that the text is from."""
    fingerprint: str
    """`fingerprint` of the dataset of DOCS_VOCAB_SIZE pieces."""
    validation: list[str]
    training: list[str]
    """`exact_digest` of each document."""

    def select(self, documents: list[str]) -> list[str]:
        """The documents that are in the common training text, in the order of their `text_digest`."""
        known = set(self.training)
        return sorted((text for text in documents if exact_digest(text) in known), key=text_digest)

    def describe(self, num_found: int, revision: str) -> str:
        """A line on how much of the common text is in a dataset made from installed versions `revision`."""
        counted = f"{num_found:,} of its {len(self.training):,} training documents are installed here"
        if num_found == len(self.training):
            return f"this is the common text: {counted}"
        common = set(self.revision.split(", "))
        changed = ", ".join(part for part in revision.split(", ") if part not in common)
        return (
            f"training DIFFERS from the common text: {counted}; validation and tokenizer are those of all. "
            f"Other versions: {changed or 'none, some packages are missing'}"
        )


def load_common(folder: Path = COMMON_FOLDER) -> CommonDocs:
    """The common text that is shipped with the package."""
    return CommonDocs(**json.loads(lzma.decompress((folder / COMMON_NAME).read_bytes())))


def common_tokenizer(folder: Path = COMMON_FOLDER) -> Path:
    """The tokenizer of DOCS_VOCAB_SIZE pieces."""
    return folder / f"docs_{DOCS_VOCAB_SIZE}_bpe.model"


def exact_digest(text: str) -> str:
    """A hash of a document in hexadecimal; two of a million documents share one with probability 0.002."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()


def fingerprint(manifest: Manifest) -> str:
    """A sha256 of the tokenizer and the shards of a dataset."""
    parts = [manifest.tokenizer_sha256, *(file.sha256 for file in manifest.files)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def pin_common(docs: DocsText, folder: Path, log: RunLog, vocab_size: int = DOCS_VOCAB_SIZE) -> CommonDocs:
    """Makes these documents the common text: divides them, trains the tokenizer, writes both to `folder`."""
    in_order = sorted(docs.documents, key=text_digest)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        stream = TextStream(
            ((text, place) for place, text in enumerate(in_order, 1)), len(in_order), "documents"
        )
        origin = TextOrigin(f"docs_{vocab_size}", docs.source, docs.licence, docs.revision)
        manifest = build_dataset(
            data, origin, stream, TokenizerChoice(vocab_size=vocab_size), DOCS_SPLIT, log
        )
        model = (data / manifest.tokenizer).read_bytes()
        vocabulary = Vocabulary(model, manifest.tokenizer)
        tokens = np.concatenate(
            [read_shard(data / file.name) for file in manifest.files if file.split == "val"]
        )
        decoded = [vocabulary.decode_tokens(d[1:]) for d in iterate_documents(tokens, vocabulary.bos_id)]
    first_of = {text_digest(text): text for text in reversed(in_order)}
    validation = [first_of[text_digest(text)] for text in decoded]
    training = [exact_digest(text) for digest, text in first_of.items() if not DOCS_SPLIT.is_val(digest)]
    common = CommonDocs(
        docs.source, docs.licence, docs.revision, fingerprint(manifest), validation, sorted(training)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"docs_{vocab_size}_bpe.model", model)
    packed = lzma.compress(json.dumps(asdict(common)).encode(), preset=9 | lzma.PRESET_EXTREME)
    write_bytes(folder / COMMON_NAME, packed)
    return common


if __name__ == "__main__":
    print(pin_common(read_docs(), COMMON_FOLDER, RunLog()).fingerprint, file=sys.stderr)
