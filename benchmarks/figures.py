"""Measured figures of README.md and docs/*.md, rendered from docs/figures/*.json.

    python -m benchmarks.figures [--check]

docs/figures/README.md describes the files and the markers.
"""

import datetime
import difflib
import json
import re
import shlex
import string
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import run_benchmark
from golf.score.tally import Tally
from golf.system.files import atomic_write, write_json

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = Path("docs/figures")
STARTED = time.perf_counter()
CAPTION_WIDTH = 110
MAX_LINES = 40
"""Of the difference of a page that `--check` shows."""
BLOCK = re.compile(r"<!-- figures: (\S+) -->\n(?:(?!<!-- figures: ).)*?<!-- end figures -->", re.DOTALL)
INLINE = re.compile(r"<!-- fig: ([^.\s]+)\.(\S+) -->(?:(?!<!-- fig: ).)*?<!-- /fig -->", re.DOTALL)
"""A marker without its end does not reach to that of the next one."""
MARKER = re.compile(r"<!-- (?:figures: \S+|end figures|fig: \S+|/fig) -->")
PROVENANCE = {"command", "n", "hardware", "date", "commit", "minutes", "needs", "note"}
REQUIRED = {"command", "n", "hardware", "date"}
OF_THE_PAGE = ("columns", "caption", "values")
"""Keys that say how figures are shown; a new measurement keeps them."""


@dataclass(frozen=True)
class FiguresConfig:
    """What to do with the pages."""

    check: bool = False
    """Write nothing; exit code 1 if a page differs from its figures."""
    root: Path = PROJECT
    """Folder of README.md and docs/."""


class MissingFieldError(ValueError):
    """A template names a value that is missing or null."""


class Formatter(string.Formatter):
    """str.format whose fields must be present; `{a.b}` is the key b of an object."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        """The value that a dotted name stands for."""
        value: Any = kwargs
        for part in field_name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
            if value is None:
                raise MissingFieldError(f"{{{field_name}}} is missing or null")
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        """As str.format; a specification that ends with M is of millions, `{tokens:.1fM}`."""
        if format_spec.endswith("M"):
            return f"{value / 1e6:{format_spec[:-1]}}"
        return super().format_field(value, format_spec)


def fill(template: str, scope: Mapping[str, Any]) -> str:
    """The template with its fields; MissingFieldError if one is absent, ValueError for a wrong format."""
    return Formatter().vformat(template, (), scope)


@dataclass(frozen=True)
class Figures:
    """A file of docs/figures: what is shown, and where it is from."""

    name: str
    columns: list[dict[str, Any]]
    rows: list[Any]
    """Objects, which the texts of the columns read, or lists of cells."""
    scope: dict[str, Any]
    """Names that templates know: `values`, and every key of the file."""
    caption: str
    provenance: dict[str, Any]

    def table(self) -> str:
        """Markdown: table, caption, provenance."""
        if not self.columns or not self.rows:
            raise ValueError(f"{self.name}: a table needs columns and rows")
        self._require_fields()
        lines = [[column["name"] for column in self.columns], [_rule(column) for column in self.columns]]
        lines += [self._cells(row, number) for number, row in enumerate(self.rows, 1)]
        table = "\n".join(_line(cells) for cells in lines)
        return f"{table}\n\n{self.source_line()}"

    def inline(self, field: str) -> str:
        """One value: `quantized.bits_per_byte:.4f`."""
        return self._fill("{" + field + "}", self.scope, "inline")

    def source_line(self) -> str:
        """Caption and provenance, wrapped."""
        source = self.provenance
        command, n = source["command"], source["n"]
        parts = [
            f"`{command}`" if command.startswith(("python ", "make ")) else command,
            f"n = {n}" if isinstance(n, int) else n,
            source["hardware"],
            _long_date(source["date"]),
        ]
        if "commit" in source:
            commit, _, dirty = source["commit"].partition("-")
            parts.append(f"commit {commit[:7]}{' with changes' if dirty else ''}")
        if "minutes" in source:
            minutes = source["minutes"]
            parts.append(f"regenerate in about {minutes:g} minute{'s' * (minutes != 1)} on two cores")
        if "needs" in source:
            parts.append(f"needs {source['needs']}")
        if "note" in source:
            parts.append(source["note"])
        caption = self._fill(self.caption, self.scope, "caption")
        text = f"{caption} Measured by {'; '.join(parts)}.".strip()
        return textwrap.fill(text, CAPTION_WIDTH, break_long_words=False, break_on_hyphens=False)

    def _cells(self, row: Any, number: int) -> list[str]:
        if isinstance(row, list):
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: row {number} has {len(row)} cells, not {len(self.columns)}")
            return [self._cell(cell, column, number) for cell, column in zip(row, self.columns, strict=True)]
        return [self._text(row, column) for column in self.columns]

    def _cell(self, cell: Any, column: dict[str, Any], number: int) -> str:
        if cell is None:
            return ""
        if isinstance(cell, str):
            return self._fill(cell, self.scope, f"row {number}")
        return self._fill("{cell:" + column.get("format", "") + "}", {"cell": cell}, f"row {number}")

    def _text(self, row: dict[str, Any], column: dict[str, Any]) -> str:
        """The first template of the column whose fields the row has, else nothing."""
        for template in _templates(column):
            try:
                text = fill(template, self.scope | row)
            except MissingFieldError:
                continue
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.name}: column {column['name']!r}: {error}") from error
            return column.get("labels", {}).get(text, text)
        return ""

    def _fill(self, template: str, scope: Mapping[str, Any], place: str) -> str:
        try:
            return fill(template, scope)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"{self.name}: {place}: {template!r}: {error}") from error

    def _require_fields(self) -> None:
        """ValueError for a name in a column that no row has: it would be an empty column."""
        known = {name for row in self.rows if isinstance(row, dict) for name in row} | set(self.scope)
        for column in self.columns if any(isinstance(row, dict) for row in self.rows) else ():
            for template in _templates(column):
                for _, field, _, _ in Formatter().parse(template):
                    if field and field.split(".")[0] not in known:
                        raise ValueError(f"{self.name}: no row has {field!r} of column {column['name']!r}")


def load_figures(name: str, root: Path = PROJECT) -> Figures:
    """docs/figures/NAME.json; ValueError if it is absent or not of that form."""
    path = root / FOLDER / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in (root / FOLDER).glob("*.json")))
        raise ValueError(f"there is no {FOLDER}/{name}.json; there are {there or 'none'}")
    raw = _read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("provenance"), dict):
        raise ValueError(f"{path}: expected an object with `provenance`")
    source = raw["provenance"]
    missing, unknown = sorted(REQUIRED - set(source)), sorted(set(source) - PROVENANCE)
    if missing or unknown:
        raise ValueError(f"{path}: provenance lacks {missing} and has unknown {unknown}")
    columns = [{"name": each} if isinstance(each, str) else each for each in raw.get("columns", [])]
    for column in columns:
        unknown = sorted(set(column) - {"name", "text", "format", "align", "labels"})
        if unknown or "name" not in column:
            raise ValueError(f"{path}: column {column} needs a name and has unknown {unknown}")
    values = {key: _resolve(value, root) for key, value in raw.get("values", {}).items()}
    rows = _resolve(raw.get("rows", []), root)
    return Figures(name, columns, rows, raw | values, raw.get("caption", ""), source)


def write_figures(path: Path, figures: dict[str, Any], options: Any, environment: dict[str, Any]) -> None:
    """Writes a benchmark's figures with its options, a dataclass, its machine and its provenance.

    A file that is there already keeps what it says about the look of its table (OF_THE_PAGE), so that
    `--json docs/figures/NAME.json` renews the numbers of a page. Rows of cells, whose numbers are keys of
    the file, are kept if the benchmark writes no rows.
    """
    from golf.entry.finalize import toolkit_commit

    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = {key: old[key] for key in (*OF_THE_PAGE, "rows") if key in old}
    settings = json.loads(json.dumps(asdict(options), default=str))
    provenance: dict[str, Any] = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "n": settings.get("seeds") or 1,
        "hardware": environment["hardware"],
        "date": datetime.date.today().isoformat(),
        "commit": toolkit_commit(PROJECT),
    }
    if environment["device"] == "cpu":
        provenance["minutes"] = max(1, round((time.perf_counter() - STARTED) / 60))
    else:
        provenance["needs"] = environment["hardware"]
    written = {**figures, "settings": settings, "environment": environment, "provenance": provenance}
    write_json(path, kept | written)


def render_page(text: str, root: Path = PROJECT) -> str:
    """A page with its blocks and inline figures rendered; ValueError for a marker without its other half."""
    text = BLOCK.sub(
        lambda found: (
            f"<!-- figures: {found[1]} -->\n\n{load_figures(found[1], root).table()}\n\n<!-- end figures -->"
        ),
        text,
    )
    text = INLINE.sub(
        lambda found: (
            f"<!-- fig: {found[1]}.{found[2]} -->{load_figures(found[1], root).inline(found[2])}<!-- /fig -->"
        ),
        text,
    )
    left = MARKER.search(INLINE.sub("", BLOCK.sub("", text)))
    if left:
        raise ValueError(f"{left[0]} has no other half")
    return text


def pages(root: Path) -> list[Path]:
    """The pages that show figures."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def figures_used(text: str) -> set[str]:
    """Names of the files that a page shows."""
    return {found[1] for pattern in (BLOCK, INLINE) for found in pattern.finditer(text)}


def run_command(options: FiguresConfig) -> int:
    """Renders every page, or compares it; 1 if a compared page differs."""
    stale = 0
    for path in pages(options.root):
        old = path.read_text(encoding="utf-8")
        try:
            new = render_page(old, options.root)
        except ValueError as error:
            raise ValueError(f"{path.relative_to(options.root)}: {error}") from error
        if new == old:
            continue
        stale += 1
        if options.check:
            name = str(path.relative_to(options.root))
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, "its figures", lineterm="")
            print("\n".join(list(lines)[:MAX_LINES]))
        else:
            with atomic_write(path) as partial:
                partial.write_text(new, encoding="utf-8")
            print(f"rendered {path.relative_to(options.root)}")
    if options.check and stale:
        print(f"{stale} pages differ from their figures; `make figures` renders them")
    return int(options.check and stale > 0)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_with_scores)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _with_scores(fields: dict[str, Any]) -> dict[str, Any]:
    """A tally with its scores; any other object is itself."""
    if set(fields) != {"nats", "num_tokens", "num_bytes"}:
        return fields
    tally = Tally(**fields)
    return {**fields, "bits_per_byte": tally.bits_per_byte, "nats_per_token": tally.nats_per_token}


def _resolve(value: Any, root: Path) -> Any:
    """What {"file": PATH, "key": "a/b/arm=x"} points to; any other value is itself."""
    if not isinstance(value, dict) or set(value) != {"file", "key"}:
        return value
    found = _read_json(root / value["file"])
    for part in filter(None, value["key"].split("/")):
        name, is_match, wanted = part.partition("=")
        if isinstance(found, list):
            matches = [each for each in found if is_match and str(each.get(name)) == wanted]
            found = matches[0] if matches else None
        else:
            found = found.get(part) if isinstance(found, dict) else None
        if found is None:
            raise ValueError(f"{value['file']} has no {value['key']} (at {part!r})")
    return found


def _templates(column: dict[str, Any]) -> list[str]:
    text = column.get("text", "{" + column["name"] + "}")
    return [text] if isinstance(text, str) else text


def _rule(column: dict[str, Any]) -> str:
    return "---:" if column.get("align") == "right" else "---"


def _line(cells: list[str]) -> str:
    escaped = [re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in cells]
    return "".join(f"| {cell} " if cell else "| " for cell in escaped) + "|"


def _long_date(date: str) -> str:
    day = datetime.date.fromisoformat(date)
    return f"{day.day} {day:%B} {day.year}"


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 `--check` found a difference, 2 bad input, 130 stopped."""
    return run_benchmark("figures", FiguresConfig, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
