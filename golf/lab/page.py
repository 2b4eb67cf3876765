"""The study as one HTML page: no file beside it, tables that sort by a click."""

import base64
import re
from html import escape
from pathlib import Path

from golf.lab.study import Study
from golf.system.files import atomic_write

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8884; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
.text td { white-space: normal; min-width: 7rem; }
th { cursor: pointer; user-select: none; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
img { max-width: 100%; background: white; }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const text = row.cells[column].textContent.replaceAll(",", "").trim();
      const value = parseFloat(text);
      return text === "" ? null : isNaN(value) ? text : value;
    };
    const order = (a, b) => {
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return a < b ? -1 : a > b ? 1 : 0;
    };
    [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return up ? order(x, y) : order(y, x);
    }).forEach(row => body.append(row));
  }));
}
"""


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a text with empty lines between them, what stands between `backticks` as code."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return [f"<p>{paragraph}</p>" for paragraph in marked.split("\n\n") if paragraph]


def html_table(table: Table, kind: str = "") -> str:
    """A table whose heads sort it."""
    columns, rows = table
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell.strip('`'))}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def write_page(
    study: Study, results: Table, claims: Table, conditions: str, command: str, picture: Path | None
) -> None:
    """Writes index.html into the study's folder, the picture inside it."""
    parts = [f"<h1>{escape(study.title)}</h1>"]
    parts += paragraphs(study.intro)
    parts += [f"<pre>{escape(command)}</pre>", *paragraphs(conditions), html_table(results)]
    if picture is not None:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(
            f'<p><img alt="held-out bits per byte along training" src="data:image/png;base64,{data}"></p>'
        )
    if claims[1]:
        parts += ["<h2>Against what was claimed</h2>", html_table(claims, "text")]
    if study.reading:
        parts += ["<h2>Reading</h2>", *paragraphs(study.reading)]
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )
    with atomic_write(study.folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
