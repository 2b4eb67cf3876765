"""Hooks of mkdocs.yml: the pages are written for GitHub, and the site differs from it in four things.

A link to a file outside docs/ leads to `repo_url`, and is text where none is set; one to a file that does
not exist is a warning, which `--strict` makes an error. An escaped bar within code in a table loses its
backslash.
The marks around a measured figure are left out, as one at the start of a line would end the paragraph.
A list that GitHub shows and the site would not, for lack of an empty line before it, is a warning.
"""

import logging
import re
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.site")
CODE_OR_LINK = re.compile(
    r"<!-- (?:fig: [^>\n]*|/fig) -->"
    r"|(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)\s*?$|`[^`\n]+`)"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page's Markdown as the site needs it."""
    here, docs = Path(page.file.abs_src_path).parent, Path(config["docs_dir"])
    root = docs.parent

    def replace(found: re.Match[str]) -> str:
        code, target = found["code"], found["target"]
        if code is not None:
            return code
        if target is None:
            return ""
        path, hash_mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        file = (here / path).resolve()
        if file.is_relative_to(docs) or not file.is_relative_to(root):
            return found[0]
        if not file.exists():
            LOG.warning(f"{page.file.src_uri} links to {target}, which is not in the repository")
        if not config["repo_url"]:
            return found["text"]
        kind = "raw" if found["image"] else "tree" if file.is_dir() else "blob"
        address = f"{config['repo_url'].rstrip('/')}/{kind}/main/{file.relative_to(root).as_posix()}"
        return f"{found['image']}[{found['text']}]({address}{hash_mark}{anchor})"

    lines = CODE_OR_LINK.sub(replace, markdown).split("\n")
    return "\n".join(plain_bars(line) if line.startswith("|") else line for line in lines)


def plain_bars(row: str) -> str:
    """A row of a table whose code has bars without backslash."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), row)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Warns of a list that has become text."""
    without_code = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
    for paragraph in re.findall(r"<p>(.*?)</p>", without_code, re.DOTALL):
        if line := re.search(r"^(?:- |\d+\. ).*", paragraph, re.MULTILINE):
            LOG.warning(f"{page.file.src_uri}: no empty line before the list that begins {line[0][:60]!r}")
    return html
