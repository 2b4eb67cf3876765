"""An entry's README.md, every figure of it taken from the runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.entry.leaderboard import Text, ladder_rows, what_compares
from golf.entry.runs import SeedRun
from golf.entry.selfextract import readable_source
from golf.entry.submission import mean_and_deviation, versions
from golf.presets import PRESETS
from golf.results import DataFacts, Results, Stage
from golf.system.distributed import flat_fields
from golf.system.stored import config_to_dict

VALIDATION_BYTES: dict[Text, tuple[int, int]] = {
    "challenge": (150_900_000, 151_200_000),
    "launch-day": (155_700_000, 155_840_000),
}
"""Bytes of the whole validation texts that public scores are on: 151.08 million, which exports count a little
apart, and 155.77 million on launch day."""

_GIVEN_ELSEWHERE = ("seed", "model.vocab_size", "model.bos_id")


@dataclass(frozen=True)
class Page:
    """What the README is made of."""

    runs: Sequence[SeedRun]
    submission: dict[str, Any]
    pictures: Sequence[str]
    """PNG files of the entry."""
    ignored_artifacts: Sequence[str]
    """Artifacts too large to commit."""
    left_out: Sequence[Path]
    """Finished runs of the same configuration that are not in the entry."""

    @property
    def results(self) -> list[Results]:
        """The results of each seed."""
        return [run.results for run in self.runs]


def render_readme(page: Page) -> str:
    """The whole page, as Markdown."""
    first = page.results[0]
    sections = {
        "Scores": _scores(page.results),
        "Beside public scores": _ladder(page),
        "Seeds": _seeds(page) if len(page.runs) > 1 or page.left_out else "",
        "Bytes": _bytes(page.results, page.runs[0].script),
        "Time": _time(page.results),
        "Training": "\n".join(f"![{Path(name).stem}]({name})" for name in page.pictures),
        "Text": _text(first.data),
        "Machine": _machine(first),
        "Configuration": "```\n"
        + "\n".join(f"{k} = {v}" for k, v in flat_fields(first.config).items())
        + "\n```",
        "Reproduce": _commands(page),
        "What to know before comparing": "\n".join(f"- {caveat}" for caveat in caveats(page)),
    }
    return "\n\n".join([_headline(page), *(f"## {k}\n\n{v}" for k, v in sections.items() if v)]) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def reproduce_options(results: Results) -> str:
    """The options under which train_gpt.py repeats the run, as they differ from its preset's."""
    preset = PRESETS.get(results.preset)
    default = flat_fields(config_to_dict(preset.config)) if preset else {}
    options = [f"--preset {results.preset}", f"--seed {results.seed}"]
    for name, value in flat_fields(results.config).items():
        value = tuple(value) if isinstance(value, list) else value
        if name in _GIVEN_ELSEWHERE or value is None or value == default.get(name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            part, _, last = flag.rpartition(".")
            options.append(f"--{flag}" if value else f"--{part}.no-{last}" if part else f"--no-{last}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            options.append(" ".join((f"--{flag}", *map(str, values))))
    return " ".join(options)


def text_scored(results: Results) -> Text | None:
    """Which of the texts that public scores are on was scored, by its bytes; None for any other."""
    scored = results.final.tally.num_bytes
    return next((text for text, (low, high) in VALIDATION_BYTES.items() if low <= scored <= high), None)


def caveats(page: Page) -> Iterator[str]:
    """What a reader must know before the score is set beside another."""
    first = page.results[0]
    if first.partial:
        yield f"Partial: {first.final.tally.num_tokens:,} tokens of the validation text were scored."
    if text_scored(first) is None:
        yield (
            f"Scored on {first.final.tally.num_bytes:,} bytes of {first.data.name}, not on the "
            "challenge's validation text of 151.08 million: it ranks systems on this text and is not a "
            "leaderboard score."
        )
    yield from first.data.notes
    if len(page.runs) == 1:
        yield "One seed: no spread is known, and differences below about 0.001 bits per byte mean nothing."
    if any(run.audit is None for run in page.runs):
        yield "Not audited: the legality probes were not run on this scorer."
    elif all(run.audit and run.audit.get("passed") is True for run in page.runs):
        yield "Audited: the legality probes passed on this scorer (`audit.json`)."
    else:
        yield "The audit did not pass: see `audit.json`."
    if first.stage("averaged"):
        yield "Which average of the weights was kept was decided on held-out training text."
    if first.stage("test_time_trained"):
        yield "Test-time training grades each chunk before it learns from it; that first grading counts."
    machines = dict.fromkeys(str(r.environment.get("hardware", "an unknown machine")) for r in page.results)
    yield f"Trained on {', '.join(machines)}; the ten-minute track means 600 seconds on 8xH100."
    if first.toolkit_commit.endswith("-dirty"):
        yield "Made from a checkout with changes that are not committed: `train_gpt.py` here is what ran."
    if page.ignored_artifacts:
        yield f"Too large to commit, kept beside this page: {', '.join(page.ignored_artifacts)}."


def _headline(page: Page) -> str:
    s = page.submission
    spread = "" if s["val_bpb_std"] is None else f" ± {s['val_bpb_std']:.6f} over {len(page.runs)} seeds"
    left = page.results[0].packing.limit_bytes - s["bytes_total"]
    return (
        f"# {s['name']}\n\n{s['blurb']}\n\n"
        f"**{s['val_bpb']:.6f} bits per byte**{spread} ({s['val_loss']:.6f} nats per token), "
        f"{s['bytes_total']:,} bytes of code and weights, {left:,} below the limit. "
        f"By {s['author']} ({s['github_id']}), {s['date']}, track `{s['track']}`."
    )


def _scores(runs: Sequence[Results]) -> str:
    stages = [{stage.title: stage for stage in results.stages} for results in runs]
    rows = []
    for title, one in stages[0].items():
        bpb = _with_deviation([stage[title].tally.bits_per_byte for stage in stages])
        loss = _with_deviation([stage[title].tally.nats_per_token for stage in stages])
        counts = (f"{one.tally.num_tokens:,}", f"{one.tally.num_bytes:,}")
        outputs = ", ".join(dict.fromkeys(stage[title].output or "" for stage in stages))
        rows.append([f"{title} ({outputs})" if outputs else title, bpb, loss, _windows(one), *counts])
    columns = ["stage", "bits per byte", "nats per token", "windows", "tokens scored", "bytes scored"]
    text = (
        f"{table(columns, rows)}\n\nThe last row counts. The weights before quantisation are scored by "
        "disjoint windows, which read less context than sliding ones: compare them with each other, not with "
        "the rows below."
    )
    others = {"zstd -22": runs[0].data.zstd22_bits_per_byte, "xz -9": runs[0].data.xz_bits_per_byte}
    scale = ", ".join(f"{name} {bits:.4f}" for name, bits in others.items() if bits is not None)
    return text + (f"\n\nOn the same text, in bits per byte: {scale}." if scale else "")


def _with_deviation(values: Sequence[float]) -> str:
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.6f}" + ("" if deviation is None else f" ± {deviation:.6f}")


def _windows(stage: Stage) -> str:
    if stage.windows == "sliding" and stage.context and stage.stride:
        return f"sliding, {stage.context:,} tokens by {stage.stride}"
    if stage.windows == "by document" and stage.context:
        return f"by document, up to {stage.context}, the longest first"
    return stage.windows


def _ladder(page: Page) -> str:
    """The score among public ones on the same text; nothing for a score on any other text."""
    first = page.results[0]
    text = text_scored(first)
    if text is None:
        return ""
    minutes = round(page.submission["train_seconds"] / 60, 1)
    tokenizer = f"{first.config['model']['vocab_size']:,} pieces"
    own = (
        page.submission["val_bpb"],
        page.submission["name"],
        page.submission["hardware"],
        minutes,
        tokenizer,
    )
    columns = ["bits per byte", "what", "hardware", "training minutes", "tokenizer", "source"]
    num_gpus = int(first.environment.get("device") == "cuda")
    return f"{table(columns, ladder_rows(*own, text))}\n\n{what_compares(text, num_gpus, minutes)}"


def _seeds(page: Page) -> str:
    columns = ["seed", "bits per byte", "artifact bytes", "total bytes", "training s", "scoring s", "steps"]
    rows = []
    for r in page.results:
        sizes = (f"{r.packing.artifact_bytes:,}", f"{r.packing.total_bytes:,}")
        times = (f"{r.train_seconds:.1f}", f"{r.eval_seconds:.1f}", f"{r.training.steps:,}")
        rows.append([str(r.seed), f"{r.final.tally.bits_per_byte:.6f}", *sizes, *times])
    names = ", ".join(f"`{path.name}`" for path in page.left_out)
    left_out = f"Finished runs of this configuration that are left out: {names}." if names else ""
    nothing = "No other finished run of this configuration stands beside these."
    return f"{table(columns, rows)}\n\n{left_out or nothing}"


def _bytes(runs: Sequence[Results], script: str) -> str:
    largest = max(runs, key=lambda results: results.packing.total_bytes)
    size = largest.packing
    rows = [[f"artifact: {name}", *_share(count, size.total_bytes)] for name, count in size.parts.items()]
    if rows:
        rows.append(
            ["artifact: framing", *_share(size.artifact_bytes - sum(size.parts.values()), size.total_bytes)]
        )
    rows += [
        ["artifact", *_share(size.artifact_bytes, size.total_bytes)],
        ["code, `train_gpt.py`", *_share(size.code_bytes, size.total_bytes)],
        ["**total**", *_share(size.total_bytes, size.total_bytes)],
        ["limit", f"{size.limit_bytes:,}", ""],
        ["left", f"{size.limit_bytes - size.total_bytes:,}", ""],
    ]
    of_seed = f" (seed {largest.seed}, the largest)" if len(runs) > 1 else ""
    source = readable_source(script)
    packed = (
        "" if source == script else f" (packed; {len(source.encode()):,} bytes unpacked, which do not count)"
    )
    files = [f"- `train_gpt.py`: {size.code_bytes:,} bytes{packed}, sha256 `{size.code_sha256}`"]
    for r in runs:
        packing = r.packing
        name, size_text = f"artifact_seed{r.seed}.bin", f"{packing.artifact_bytes:,} bytes"
        files.append(f"- `{name}`: {size_text}, sha256 `{packing.artifact_sha256}`")
    return f"{table([f'part{of_seed}', 'bytes', 'share'], rows)}\n\n" + "\n".join(files)


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{100 * count / total:.1f}%"


def _time(runs: Sequence[Results]) -> str:
    phases = dict.fromkeys(phase for results in runs for phase in results.seconds)
    rows = [[phase, *(f"{r.seconds.get(phase, 0.0):.1f}" for r in runs)] for phase in phases]
    rows += [
        ["**all**", *(f"{sum(r.seconds.values()):.1f}" for r in runs)],
        ["steps", *(f"{r.training.steps:,}" for r in runs)],
        ["tokens trained on", *(f"{r.training.train_tokens:,}" for r in runs)],
        ["tokens per second of training", *(f"{r.training.tokens_per_second:,.0f}" for r in runs)],
    ]
    if any(r.dollars is not None for r in runs):
        rows.append(["dollars", *("" if r.dollars is None else f"{r.dollars:.2f}" for r in runs)])
    return table(["seconds by phase", *(f"seed {r.seed}" for r in runs)], rows)


def _text(data: DataFacts) -> str:
    rows = [
        ["text", f"{data.name}: {data.source}"],
        ["licence", data.licence],
        ["validation", f"{data.validation_tokens:,} tokens, {data.validation_bytes:,} bytes of text"],
        ["validation tokens, sha256", f"`{data.validation_sha256}`"],
        ["tokenizer, sha256", f"`{data.tokenizer_sha256}`"],
    ]
    if data.manifest_sha256:
        rows.append(["manifest.json, sha256", f"`{data.manifest_sha256}`"])
    return table(["", "what"], rows).replace("---:", "---")


def _machine(results: Results) -> str:
    known = versions(results)
    rows = [[name, str(value)] for name, value in results.environment.items() if name not in known]
    rows += [[name, version] for name, version in known.items()]
    if results.scores.compute_dtype is not None:
        rows.append(["artifact scored in", results.scores.compute_dtype])
    rows.append(["toolkit commit", f"`{results.toolkit_commit}`"])
    return table(["", "what"], rows).replace("---:", "---")


def _commands(page: Page) -> str:
    first = page.results[0]
    ttt = " --ttt" if first.stage("test_time_trained") else ""
    return (
        "In an empty folder with this `train_gpt.py` and `requirements.txt`; DIR holds the shards, the "
        "tokenizer and `manifest.json` named above.\n\n"
        "```\npip install -r requirements.txt\n"
        f"python -I train_gpt.py --score artifact_seed{first.seed}.bin --data DIR{ttt}\n"
        + "".join(f"python -I train_gpt.py {reproduce_options(r)} --data DIR\n" for r in page.results)
        + "```\n\nThe first command scores the artifact to the digits above; the others train"
        + (f" again. The run itself was `{first.command}`." if first.command else " again.")
    )
