"""What an installation gets: few core dependencies, an extra for each other one, all files that are read."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {
    "torch", "numpy", "zstandard", "sentencepiece", "safetensors", "tyro", "msgspec", "rich", "matplotlib",
    "scipy", "huggingface-hub", "protobuf", "python-minifier", "jinja2",
}  # fmt: skip


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def pinned(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    return {name_of(line) for line in lines if "==" in line and not line.startswith("#")}


def test_the_core_has_no_more_dependencies_than_it_needs():
    core = {name_of(each) for each in PROJECT["dependencies"]}
    assert core == CORE == pinned("requirements.txt")


def test_every_other_package_is_pinned_for_the_tests_and_no_part_of_the_core():
    extras = PROJECT["optional-dependencies"]
    named = {name_of(each) for requirements in extras.values() for each in requirements} - {PROJECT["name"]}
    assert not named & CORE
    # accelerate and peft are what lm-eval[hf] brings.
    assert named == pinned("requirements-dev.txt") - {"accelerate", "peft"}
    own = next(each for each in extras["dev"] if name_of(each) == PROJECT["name"])
    assert set(own.partition("[")[2].rstrip("]").split(",")) == extras.keys() - {"dev"}


def test_the_lock_file_is_of_these_requirements():
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    own = next(each for each in packages if each["name"] == PROJECT["name"])
    locked = {(name_of(each["name"]), each.get("specifier", "")) for each in own["metadata"]["requires-dist"]}
    wanted = [
        *PROJECT["dependencies"],
        *(r for group in PROJECT["optional-dependencies"].values() for r in group),
    ]
    parts = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?(.*)", each) for each in wanted]
    assert locked == {(name_of(part[1]), part[2]) for part in parts if part}, "uv lock"


def test_all_files_that_are_read_at_run_time_are_in_the_package():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    covered = {
        path for package, patterns in data.items() for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }  # fmt: skip
    others = {
        path for path in (ROOT / "golf").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }  # fmt: skip
    assert others == covered
