"""Cards of the hub: README.md with a block of metadata, of an entry and of a prepared dataset."""

import re
import statistics
from collections.abc import Mapping
from typing import Any

from golf.data.manifest import Manifest
from golf.results import NATS_ARRAYS, DataFacts, Results, Stage

LIBRARY = "parameter-golf-toolkit"
TAG = "parameter-golf"
METRIC = "bits_per_byte"
HUB_LICENCES = {
    "odc-by 1.0": "odc-by",
    "odc-by-1.0": "odc-by",
    **{
        name: name
        for name in (
            *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0"),
            *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0", "unlicense"),
        )
    },
}
"""The hub's names of licences, by the text of a manifest in lower case."""
NOT_STATED = "not stated"
_SOURCE = re.compile(r"dataset (\S+/\S+) on the Hugging Face hub|dataset (HuggingFaceFW/fineweb)\b")


def render_card(metadata: Mapping[str, Any], body: str) -> str:
    """README.md with the metadata on top."""
    from huggingface_hub import CardData

    return f"---\n{CardData(**metadata).to_yaml()}\n---\n\n{body}"


def entry_card(
    readme: str, results: Mapping[int, Results], licence: str | None, how_to_use: str
) -> tuple[dict[str, Any], str]:
    """Metadata and text of an entry's card: its README, then `how_to_use`.

    What a block of metadata on top of `readme` says stays, except for the fields that results decide.
    `licence` is in the hub's words.
    """
    from huggingface_hub import ModelCardData

    own, body = split_readme(readme)
    first = next(iter(results.values()))
    tags = own.pop("tags", None) or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list):
        raise ValueError(f"README.md: tags in the block of metadata are {tags!r}; expected a list")
    source = hub_dataset(first.data)
    stated = {
        "license": licence,
        "library_name": LIBRARY,
        "pipeline_tag": "text-generation",
        "datasets": [source] if source else None,
    }
    own |= {name: value for name, value in stated.items() if value is not None}
    for name in ("model-index", "model_name", "eval_results"):
        own.pop(name, None)
    own["tags"] = tags if TAG in tags else [*tags, TAG]
    data = ModelCardData(**own, model_name=first.name, eval_results=eval_results(results))
    return data.to_dict(), f"{body.rstrip()}\n\n{how_to_use}"


def split_readme(readme: str) -> tuple[dict[str, Any], str]:
    """The block of metadata on top of a README, empty where there is none, and the rest."""
    from huggingface_hub import RepoCard

    if not readme.lstrip().startswith("---"):
        return {}, readme
    try:
        card = RepoCard(readme)
    except Exception as error:
        # The package that parses it raises errors of its own.
        reason = " ".join(str(error).split())
        raise ValueError(f"README.md: the block of metadata on top is not readable ({reason})") from error
    return card.data.to_dict(), card.text.lstrip()


def usage(repository: str, artifacts: list[str], brings_text: bool) -> str:
    """How to chat with the entry and to score it; one with its text and one artifact needs no --data."""
    address = f"hf://{repository}" + (f"/{artifacts[0]}" if len(artifacts) > 1 else "")
    needs_data = len(artifacts) > 1 or not brings_text
    lines = [
        "## From the hub",
        "",
        f"With {LIBRARY}, which reads weights and text from here and runs no program of this repository:",
        "",
        "```",
        f"golf chat {address}",
        f"golf score {address}{' --data DIR' if needs_data else ''}",
        "```",
    ]
    if needs_data:
        lines += ["", "DIR is a folder with the validation text and the tokenizer that are named above."]
    return "\n".join(lines) + "\n"


def eval_results(results: Mapping[int, Results]) -> list[Any]:
    """The scores of each stage as the hub's EvalResult: means over the seeds, and on which text."""
    from huggingface_hub import EvalResult

    first = next(iter(results.values()))
    data = first.data
    text = f"{data.name}, {data.validation_bytes:,} bytes of validation text"
    facts = {
        "source": data.source,
        "bytes": data.validation_bytes,
        "tokens": data.validation_tokens,
        "tokens_sha256": data.validation_sha256,
    }
    found = []
    for stage in first.stages:
        stages = [same for run in results.values() if (same := run.stage(stage.name))]
        values = [each.tally.bits_per_byte for each in stages]
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Language modeling",
                dataset_type=hub_dataset(data) or data.name,
                dataset_name=text,
                dataset_split="validation",
                dataset_args=facts,
                metric_type=METRIC,
                metric_name=f"bits per byte, {stage.title}{_whose(stage)}",
                metric_value=statistics.fmean(values),
                metric_args=_how_scored(stage)
                | {
                    "seeds": list(results),
                    "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
                },
            )
        )
    return found


def _whose(stage: Stage) -> str:
    return "" if stage.name in NATS_ARRAYS else " (before packing, not in this repository)"


def _how_scored(stage: Stage) -> dict[str, Any]:
    figures = {
        "stage": stage.name,
        "bytes_scored": stage.tally.num_bytes,
        "tokens_scored": stage.tally.num_tokens,
        "whole_text": not stage.partial,
        "windows": stage.windows,
        "context": stage.context,
        "stride": stage.stride,
    }
    return {name: value for name, value in figures.items() if value is not None}


def hub_dataset(data: DataFacts | Manifest) -> str | None:
    """The dataset on the hub that a text is from, if its source names one."""
    found = _SOURCE.match(data.source) or _SOURCE.search(data.source)
    return (found[1] or found[2]) if found else None


def licence_fields(licence: str) -> dict[str, str]:
    """The hub's fields for the licence of a manifest: its own name if it has one, else `other` by name.

    Empty where the manifest states none: nothing is guessed.
    """
    known = HUB_LICENCES.get(licence.strip().lower())
    if known:
        return {"license": known}
    if licence.strip().lower() in ("", NOT_STATED):
        return {}
    return {"license": "other", "license_name": "stated-in-the-manifest", "license_link": "README.md"}


def dataset_card(manifest: Manifest, repository: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a prepared dataset's card, all of it from the manifest."""
    source = hub_dataset(manifest)
    metadata = {
        "pretty_name": manifest.name,
        **licence_fields(manifest.licence),
        "tags": [TAG],
        "task_categories": ["text-generation"],
        # Shards are tokens, which the hub's viewer cannot show.
        "viewer": False,
        **({"source_datasets": [source]} if source else {}),
    }
    rows = [
        ("source", manifest.source),
        ("revision", manifest.revision),
        ("licence", manifest.licence or NOT_STATED),
        ("tokenizer", f"{manifest.tokenizer}, {manifest.vocab_size:,} pieces"),
        ("tokenizer, sha256", manifest.tokenizer_sha256),
        ("training", f"{manifest.num_tokens('train'):,} tokens, {manifest.train_text_bytes:,} bytes of text"),
        ("validation", f"{manifest.num_tokens('val'):,} tokens, {manifest.val_text_bytes:,} bytes of text"),
    ]
    lines = [
        f"# {manifest.name}",
        "",
        "Text as tokens: shards of uint16 after a header of 256 int32, their tokenizer, and manifest.json, "
        "which states the sha256 of each file.",
        "",
        "|  | value |",
        "| --- | --- |",
        *(f"| {name} | {_cell(value)} |" for name, value in rows),
        "",
        *(f"- {' '.join(note.split())}" for note in manifest.notes),
        *([""] if manifest.notes else []),
        "## Use",
        "",
        "```",
        f"hf download {repository} --repo-type dataset --local-dir data/{repository.split('/')[1]}",
        f"golf train --data data/{repository.split('/')[1]}",
        f"golf score MODEL --data hf://datasets/{repository}",
        "```",
    ]
    return metadata, "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
