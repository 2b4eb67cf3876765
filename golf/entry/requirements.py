"""What a script needs installed."""

import ast
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version

from golf.entry.source import PACKAGE, BundleError


def requirements_for(source: str, recorded: Mapping[str, str] | None = None) -> str:
    """The text of a requirements.txt: exact versions of the packages that `source` imports anywhere.

    Versions come from `recorded` (distribution to version, what a run wrote down) and otherwise from what
    is installed here, without local tags such as +cpu. A package that neither knows is an error when
    imported at the top level, and a comment line when a function imports it on demand.
    """
    owners = _package_owners()
    tree = ast.parse(source)
    lines = set()
    for package in _imported_packages(ast.walk(tree)):
        names = [*owners.get(package, []), package]
        noted = [f"{name}=={recorded[name]}" for name in names if recorded and name in recorded]
        if noted or package in owners:
            lines.add((noted or [f"{names[0]}=={version(names[0])}"])[0].split("+")[0])
        elif package in _imported_packages(tree.body):
            raise BundleError(f"the script imports {package}, which is not installed")
        else:
            lines.add(f"# {package}: imported on demand; not installed where this was made")
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


@cache
def _package_owners() -> Mapping[str, list[str]]:
    return packages_distributions()


def _imported_packages(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of the packages imported by these nodes, less the standard library and the project."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {PACKAGE}
