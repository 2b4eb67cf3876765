"""The release of this toolkit that is installed, if one is."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "parameter-golf-toolkit"
"""Its name as a package."""
ROOT = Path(__file__).resolve().parents[2]
"""The clone, or the folder of packages that it is installed in."""


def installed_release(root: Path = ROOT) -> str | None:
    """The version that is installed in `root`; None in a clone."""
    if (root / "pyproject.toml").is_file():
        return None
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None
