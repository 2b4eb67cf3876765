"""Holds the house's rules by reading the sources: layers, the bundle's names, configs, sizes, docstrings."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from golf.entry.source import read_source

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "golf"

FLOORS = {
    "system": 0, "run_folder": 0,
    "data": 1, "track": 1,
    "model": 2, "prepare": 2, "plotting": 2,
    "train": 3, "pack": 3, "score": 3,
    "ttt": 4, "results": 4, "stats": 4,
    "config": 5, "presets": 5, "time_plan": 5, "evaluate": 5,
    "audit": 6, "run": 6,
    "check": 7,
    "entry": 8,
    "site": 9, "hub": 9,
}  # fmt: skip
"""A room imports from its own and lower floors; rooms not named here use all others and nothing uses them."""
TOP_FLOOR = 10

BUNDLED = (
    "system",
    "config",
    "presets",
    "run",
    "run_folder",
    "results",
    "time_plan",
    "model",
    "kernels",
    "train",
    "pack",
    "score",
    "ttt",
    "evaluate",
)
BUNDLED_DATA = ("reference", "caseops", "shards", "vocabulary", "manifest", "batches")

PLATFORM_MODULES = ("os", "signal", "socket")
"""Whose attributes differ between systems, so that a default is the way to ask."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
QUIET = (ast.Import, ast.ImportFrom, *FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("*.py"))


PROGRAMS = sorted(ROOT.glob("*.py"))
MODULES = python_files(PACKAGE)
SHIPPED = [*MODULES, *PROGRAMS, *python_files(ROOT / "benchmarks")]
TESTS = python_files(ROOT / "tests")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    return FLOORS.get(room(module), TOP_FLOOR) if room(module) else 0


def project_imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The project's modules that a file imports at any depth."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "golf":
            yield node.module or "", node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name.split(".")[0] == "golf")


def is_bundled(path: Path) -> bool:
    parts = dotted(path).split(".")
    if len(parts) < 2:
        return False
    return parts[1] in BUNDLED or (parts[1] == "data" and parts[-1] in BUNDLED_DATA)


def public_definitions(node: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    for child in node.body:
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def config_classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            yield node


def fields(config: ast.ClassDef) -> list[str]:
    return [
        n.target.id for n in config.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]


def assert_none(violations: list[str]) -> None:
    assert not violations, "\n" + "\n".join(violations)


def test_imports_go_down_the_house_only():
    wrong = [
        f"{place(path, node)} imports {module}"
        for path in MODULES
        for module, node in project_imports(path)
        if floor(module) > floor(dotted(path))
    ]
    assert_none(wrong)


def test_rooms_import_each_other_in_one_direction():
    uses = {(room(dotted(path)), room(module)) for path in MODULES for module, _ in project_imports(path)}
    assert_none([f"{a} and {b}" for a, b in sorted(uses) if a < b and (b, a) in uses])


def test_modules_do_not_import_in_circles():
    uses = {dotted(path): {module for module, _ in project_imports(path)} for path in MODULES}
    while free := {name for name, wanted in uses.items() if not wanted & set(uses)}:
        uses = {name: wanted - free for name, wanted in uses.items() if name not in free}
    assert_none([f"{name} <-> {', '.join(sorted(wanted))}" for name, wanted in uses.items()])


def test_the_whole_configuration_is_read_by_runs_and_records_alone():
    rooms = set(FLOORS) - {"entry", "run", "presets"}
    wrong = [
        place(path, node)
        for path in MODULES
        for module, node in project_imports(path)
        if module in ("golf.config", "golf.presets") and room(dotted(path)) in rooms
    ]
    assert_none(wrong)


@pytest.mark.parametrize("path", [p for p in MODULES if is_bundled(p)], ids=dotted)
def test_a_bundled_module_can_be_flattened(path):
    read_source(path, dotted(path), ROOT)


def test_names_are_unique_across_the_bundled_modules():
    owners: dict[str, str] = {}
    clashes = []
    for path in filter(is_bundled, MODULES):
        for name in read_source(path, dotted(path), ROOT).names:
            if owners.setdefault(name, dotted(path)) != dotted(path):
                clashes.append(f"{name}: {owners[name]} and {dotted(path)}")
    assert_none(clashes)


def test_importing_a_module_does_nothing():
    wrong = [
        place(path, node)
        for path in MODULES
        for node in tree_of(path).body
        if not isinstance(node, QUIET)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'")
    ]
    assert_none(wrong)


def test_every_field_of_every_config_is_read_outside_its_class():
    unread = []
    for path in SHIPPED:
        for config in config_classes(path):
            own = {id(node) for node in ast.walk(config)}
            read = {
                node.attr
                for other in SHIPPED
                for node in ast.walk(tree_of(other))
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in own
            }
            unread += [
                f"{place(path, config)} {config.name}.{name}" for name in fields(config) if name not in read
            ]
    assert_none(unread)


def test_every_field_of_every_config_says_what_it_means():
    silent = []
    for path in SHIPPED:
        for config in config_classes(path):
            for node, following in zip(config.body, [*config.body[1:], None], strict=True):
                told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if isinstance(node, ast.AnnAssign) and not told:
                    silent.append(f"{place(path, node)} {config.name}.{ast.unparse(node.target)}")
    assert_none(silent)


def test_the_environment_is_read_by_the_runtime_and_the_entrys_own_program_alone():
    """An entry follows the variables of the challenge's script."""
    wrong = [
        place(path, node)
        for path in SHIPPED
        if path not in (PACKAGE / "system" / "device.py", PACKAGE / "entry_main.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.putenv")
    ]
    assert_none(wrong)


def says_what_failed(handler: ast.ExceptHandler) -> bool:
    """Whether it reports the exception that it caught."""
    read = (node for part in handler.body for node in ast.walk(part) if isinstance(node, ast.Name))
    return any(node.id == handler.name for node in read)


def test_no_exception_is_swallowed_unnamed():
    wrong = [
        place(path, node)
        for path in SHIPPED
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
        and not says_what_failed(node)
    ]
    assert_none(wrong)


def test_no_attribute_is_read_with_a_default():
    wrong = [
        place(path, node)
        for path in SHIPPED
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "getattr"
        and len(node.args) > 2
        and ast.unparse(node.args[0]) not in PLATFORM_MODULES
    ]
    assert_none(wrong)


def test_every_public_name_has_a_docstring():
    files = [path for path in SHIPPED if tree_of(path).body]
    silent = [dotted(path) for path in files if not ast.get_docstring(tree_of(path))]
    silent += [
        f"{place(path, node)} {node.name}"
        for path in SHIPPED
        for node in public_definitions(tree_of(path))
        if not ast.get_docstring(node)
    ]
    assert_none(silent)


def test_names_of_tests_are_sentences():
    short = [
        f"{place(path, node)} {node.name}"
        for path in TESTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS) and node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert_none(short)


def test_files_of_tests_have_names_of_their_own():
    names = [path.name for path in TESTS if path.name.startswith("test_")]
    assert_none(sorted({name for name in names if names.count(name) > 1}))
