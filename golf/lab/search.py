"""Search over fields of a study's base by successive halving, with the loss on held-out training text.

The validation text is never read.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from golf.checks import check_config
from golf.config import RunConfig
from golf.data.manifest import Dataset
from golf.lab.report import markdown_table
from golf.lab.study import Study, StudyError, override
from golf.lab.trial import FAILURES, FIRST_SEED, fitted, train_trial
from golf.system.files import atomic_write, write_json
from golf.system.log import RunLog

REDUCTION = 3
"""One of so many runs continues after each evaluation."""


def require_optuna() -> None:
    """StudyError with what to install if Optuna is missing."""
    if find_spec("optuna") is None:
        raise StudyError('--search needs Optuna: pip install "optuna>=4" (the extra `lab`)')


def nested(name: str, value: object) -> dict[str, Any]:
    """{"a": {"b": value}} for the name a.b."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def with_choices(config: RunConfig, choices: dict[str, object]) -> RunConfig:
    """The config with fields set by dotted name; StudyError for an unknown field or a wrong value."""
    for name, value in choices.items():
        config = override(config, nested(name, value))
    return config


def check_space(config: RunConfig, space: dict[str, dict[str, Any]]) -> None:
    """StudyError unless the study names fields to search over, each with valid bounds or choices."""
    if not space:
        raise StudyError("the study has no [search] table: name fields, each with low and high, or choices")
    for name, span in space.items():
        if unknown := sorted(set(span) - {"low", "high", "log", "choices"}):
            raise StudyError(f"search.{name} has {unknown[0]!r}; expected low, high, log, or choices")
        if "choices" not in span and not {"low", "high"} <= set(span):
            raise StudyError(f"search.{name} needs low and high, or choices")
        for value in span["choices"] if "choices" in span else (span["low"], span["high"]):
            with_choices(config, {name: value})


def suggest(trial: Any, space: dict[str, dict[str, Any]]) -> dict[str, object]:
    """One value for each field, drawn by Optuna; an integer if both bounds are integers."""
    chosen: dict[str, object] = {}
    for name, span in space.items():
        if "choices" in span:
            chosen[name] = trial.suggest_categorical(name, span["choices"])
        else:
            whole = isinstance(span["low"], int) and isinstance(span["high"], int)
            draw = trial.suggest_int if whole else trial.suggest_float
            chosen[name] = draw(name, span["low"], span["high"], log=span.get("log", False))
    return chosen


def search(study: Study, dataset: Dataset, device: str, num_trials: int, out: Path, log: RunLog) -> None:
    """Runs until there are `num_trials`, counting those of earlier calls; writes search.md, search.json."""
    require_optuna()
    import optuna  # pyright: ignore[reportMissingImports]

    base = fitted(study.arms[0].config, dataset)
    check_space(base, study.search)
    folder = out / study.name / "search"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(
        study_name=study.name,
        storage=f"sqlite:///{(folder / 'search.db').resolve()}",
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=FIRST_SEED),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
    )
    objective = _objective(study, base, dataset, device, folder, log)
    with log.progress("search", num_trials, "runs") as bar:
        while len(found.trials) < num_trials:
            found.optimize(objective, n_trials=1)
            bar.move_to(len(found.trials))
    _write(study, found, folder)


def _objective(
    study: Study, base: RunConfig, dataset: Dataset, device: str, folder: Path, log: RunLog
) -> Callable[[Any], float]:
    import optuna  # pyright: ignore[reportMissingImports]

    def objective(trial: Any) -> float:
        chosen = suggest(trial, study.search)
        place = folder / f"trial{trial.number}"
        place.mkdir(parents=True, exist_ok=True)
        num_evals = 0

        def watch(step: int, bpb: float) -> None:
            nonlocal num_evals
            num_evals += 1
            trial.report(bpb, num_evals)
            if num_evals < base.train.num_evals and trial.should_prune():
                raise optuna.TrialPruned

        try:
            config = replace(with_choices(base, chosen), seed=FIRST_SEED)
            check_config(config, "cpu")
            _, _, averaging = train_trial(place, config, dataset, device, watch)
        except FAILURES as error:
            log.info(f"run {trial.number}: {chosen} failed: {error}")
            raise optuna.TrialPruned from error
        bpb = averaging.held_out_bpb[averaging.output]
        log.info(f"run {trial.number}: {chosen}: {bpb:.4f} held-out bpb")
        return bpb

    return objective


def _write(study: Study, found: Any, folder: Path) -> None:
    """Writes search.md and search.json into the study's folder: the complete runs, best first."""
    done = sorted((t for t in found.trials if t.state.name == "COMPLETE"), key=lambda t: t.value)
    rows = [
        (str(t.number), f"{t.value:.4f}", *(f"{t.params[name]:.4g}" if isinstance(t.params[name], float)
         else str(t.params[name]) for name in study.search))
        for t in done
    ]  # fmt: skip
    stopped = len(found.trials) - len(done)
    text = [
        f"# {study.title}: search",
        f"{len(found.trials)} runs by successive halving, {stopped} of them stopped early or failed. The "
        "figure is bits per byte on held-out training text; the validation text was not opened.",
        markdown_table(("run", "held-out bits per byte", *study.search), rows),
    ]
    study.folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(study.folder / "search.md") as partial:
        partial.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    write_json(
        study.folder / "search.json",
        [{"run": t.number, "held_out_bpb": t.value, "chosen": t.params} for t in done],
    )
