"""The release of this toolkit that is installed, if one is."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTION = "parameter-golf-toolkit"
"""Its name as a package."""
ROOT = Path(__file__).resolve().parents[2]
"""The clone, or the folder of packages that it is installed in."""


def installed_release(root: Path = ROOT) -> str | None:
    """The version of the package in the folder `root`; None for a clone, installed in place or not."""
    if (root / "pyproject.toml").is_file():
        return None
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None
    return found.version if Path(str(found.locate_file(""))).resolve() == root.resolve() else None
