"""Turns text, or published shards, into a dataset folder: shards, tokenizer and manifest."""

import sys

from golf.data.manifest import Manifest
from golf.prepare.sources import PrepareOptions, prepare
from golf.system.cli import run_program
from golf.system.log import RunLog
from golf.system.options import read_options


def describe(manifest: Manifest, log: RunLog) -> None:
    """Prints what a dataset holds."""
    rows = []
    for split, text_bytes in (("train", manifest.train_text_bytes), ("val", manifest.val_text_bytes)):
        files = [file for file in manifest.files if file.split == split]
        documents = max((file.last_document for file in files), default=-1) - min(
            (file.first_document for file in files), default=0
        )
        rows.append([split, len(files), documents + 1, manifest.num_tokens(split), text_bytes])
    columns = ["split", "shards", "documents", "tokens", "text bytes"]
    log.table(f"{manifest.name}: {manifest.source} ({manifest.licence})", columns, rows)
    log.info(f"tokenizer: {manifest.tokenizer}, {manifest.vocab_size} pieces")
    for note in (f"{manifest.repeated_documents} exact repeats", *manifest.notes):
        log.info(note)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 unusable input, 130 stopped by Ctrl-C."""
    log = RunLog()

    def work() -> None:
        options = read_options(PrepareOptions, arguments, "golf prepare", __doc__)
        describe(prepare(options, log), log)

    return run_program("golf prepare", work, when_stopped="stopped; the same command starts or goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
