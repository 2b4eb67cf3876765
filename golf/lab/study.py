"""A study file (TOML): a base preset, the arms to compare and the budget of each run."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from golf.checks import check_config
from golf.config import RunConfig
from golf.presets import PRESETS
from golf.score.windows import WindowConfig

STUDIES = Path("docs") / "studies"
"""Reports of a clone, a folder for each study, which may hold a study file, too."""
STUDY_NAME = "study.toml"
SHIPPED = Path(__file__).parent / "studies"
"""The studies that come with this package, NAME.toml."""
RUNS = Path("runs") / "lab"
"""Where the runs of studies go by default."""


class StudyError(ValueError):
    """A study file is missing, or a value in it is invalid."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a study."""

    name: str
    config: RunConfig
    claim: str = ""
    """What the source claims."""
    expects: Literal["lower", "higher", ""] = ""
    """Direction in which the loss differs from the base, according to the source."""


@dataclass(frozen=True)
class Study:
    """A study as read from its file; the first arm is the base."""

    name: str
    folder: Path
    """Folder of its report."""
    title: str
    intro: str
    reading: str
    """Interpretation of the results, written by a person."""
    arms: tuple[Arm, ...]
    seeds: int
    validation_tokens: int
    """Number of tokens of the validation text to score, from its start."""
    search: dict[str, dict[str, Any]]
    """Fields to search over, by dotted name, each with `low` and `high`, or `choices`."""


def find_study(study: str, out: Path = RUNS) -> tuple[Path, str, Path]:
    """The study's file, its name and the folder of its report.

    STUDY is a file, or a name: of docs/studies/NAME/study.toml in the current folder, else of a study that
    ships. Reports go beside a study.toml, else to docs/studies/NAME where the current folder has
    docs/studies, as a clone has, else to `out`/NAME/report. StudyError with the known names for another name.
    """
    path = Path(study)
    if path.suffix == ".toml" and not path.is_file():
        raise StudyError(f"{path}: no such study file")
    if path.suffix != ".toml":
        own = {found.parent.name: found for found in STUDIES.glob(f"*/{STUDY_NAME}")}
        known = {found.stem: found for found in SHIPPED.glob("*.toml")} | own
        if study not in known:
            raise StudyError(
                f"there is no study {study!r}; the studies are {', '.join(sorted(known))}; "
                "or give a study file (.toml)"
            )
        path = known[study]
    if path.name == STUDY_NAME:
        return path, path.resolve().parent.name, path.parent
    return path, path.stem, STUDIES / path.stem if STUDIES.is_dir() else out / path.stem / "report"


def load_study(
    study: str, minutes: float | None = None, tokens: int | None = None, out: Path = RUNS
) -> Study:
    """Reads and checks a study, found as by `find_study`; `minutes` or `tokens` replaces its file's budget.

    StudyError for a field that is missing, unknown or of a wrong type, and for two equal arms.
    """
    path, name, folder = find_study(study, out)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not TOML ({error})") from error
    try:
        return _study_from(values, name, folder, minutes, tokens)
    except ValueError as error:
        raise StudyError(f"{path}: {error}") from error


def _study_from(
    values: dict[str, Any], name: str, folder: Path, minutes: float | None, tokens: int | None
) -> Study:
    kinds = {
        "title": str, "preset": str, "arms": list, "intro": str, "reading": str, "seeds": int,
        "minutes": float, "tokens": int, "validation_tokens": int, "set": dict, "search": dict,
    }  # fmt: skip
    _check_keys(values, kinds, required=("title", "preset", "arms"))
    if values["preset"] not in PRESETS:
        raise StudyError(f"preset is {values['preset']!r}; expected one of {', '.join(PRESETS)}")
    if minutes is None and tokens is None:
        minutes, tokens = values.get("minutes"), values.get("tokens")
    if (minutes is None) == (tokens is None):
        raise StudyError("a run needs one budget: minutes or tokens")
    base = override(PRESETS[values["preset"]].config, values.get("set", {}))
    arms = tuple(_arm_from(arm, base, minutes, tokens) for arm in values["arms"])
    _require_different(arms)
    study = Study(
        name=name,
        folder=folder,
        title=values["title"],
        intro=values.get("intro", "").strip(),
        reading=values.get("reading", "").strip(),
        arms=arms,
        seeds=values.get("seeds", 3),
        validation_tokens=values.get("validation_tokens", 131_072),
        search=_flat(values.get("search", {})),
    )
    for key, count in (("seeds", study.seeds), ("validation_tokens", study.validation_tokens)):
        if count < 1:
            raise StudyError(f"{key} is {count}; expected at least 1")
    return study


def _arm_from(values: Any, base: RunConfig, minutes: float | None, tokens: int | None) -> Arm:
    if not isinstance(values, dict) or not values.get("name"):
        raise StudyError("every arm needs a name")
    name = values["name"]
    try:
        _check_keys(values, {"name": str, "claim": str, "expects": str, "set": dict}, ("name",))
        if values.get("expects", "") not in ("", "lower", "higher"):
            raise StudyError(f"expects is {values['expects']!r}; expected lower or higher")
        config = override(base, values.get("set", {}))
        steps = None if tokens is None else max(1, round(tokens / config.train.batch_tokens))
        windows = WindowConfig(stride=config.model.context)
        config = replace(config, minutes=minutes, steps=steps, score=windows)
        check_config(config, "cpu")
    except ValueError as error:
        raise StudyError(f"arm {name!r}: {error}") from error
    return Arm(name, config, values.get("claim", "").strip(), values.get("expects", ""))


def _require_different(arms: tuple[Arm, ...]) -> None:
    if not arms:
        raise StudyError("there are no arms")
    for index, arm in enumerate(arms):
        for earlier in arms[:index]:
            if earlier.name == arm.name:
                raise StudyError(f"two arms are named {arm.name!r}")
            if earlier.config == arm.config:
                raise StudyError(f"arms {earlier.name!r} and {arm.name!r} are equal")


def _check_keys(values: dict[str, Any], kinds: dict[str, type], required: tuple[str, ...]) -> None:
    for name in required:
        if name not in values:
            raise StudyError(f"{name} is missing")
    for name, value in values.items():
        if name not in kinds:
            raise StudyError(f"{name} is not a key of a study; expected one of {', '.join(kinds)}")
        if not _fits(value, kinds[name]):
            raise StudyError(f"{name} is {value!r}; expected a {kinds[name].__name__}")


def override(config: Any, values: dict[str, Any], where: str = "") -> Any:
    """The config with some fields replaced; nested dicts replace fields of its parts.

    StudyError for an unknown field or a value of a wrong type; a part may raise its own ValueError.
    """
    kinds = {item.name: item.type for item in dataclasses.fields(config)}
    changes = {}
    for name, value in values.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"; did you mean {where}{near[0]}?" if near else f"; there are {', '.join(kinds)}"
            raise StudyError(f"there is no field {where}{name}{hint}")
        if dataclasses.is_dataclass(kinds[name]) and isinstance(value, dict):
            changes[name] = override(vars(config)[name], value, f"{where}{name}.")
        elif _fits(value, kinds[name]):
            changes[name] = tuple(value) if isinstance(value, list) else value
        else:
            raise StudyError(f"{where}{name} is {value!r}; expected {_describe(kinds[name])}")
    return replace(config, **changes)


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _flat(values: dict[str, Any], where: str = "") -> dict[str, dict[str, Any]]:
    """Nested tables as dotted names, down to the tables with bounds or choices."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            raise StudyError(f"search.{where}{name} is {value!r}; expected low and high, or choices")
        is_range = set(value) & {"low", "high", "choices"}
        found |= {where + name: value} if is_range else _flat(value, f"{where}{name}.")
    return found
