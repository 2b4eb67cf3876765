"""Search over fields of a study's base by successive halving, with the loss on held-out training text.

The validation text is never read. Any number of processes, on any machines, share a search by its storage:
they read each other's runs, and all together make as many as were asked for.
"""

import secrets
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
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
from golf.system.lock import lock_owner, owned_folder
from golf.system.log import RunLog

REDUCTION = 3
"""One of so many runs continues after each evaluation."""
HEARTBEAT_SECONDS = 60
"""How often a run in a database says that it lives; one that is silent for twice as long has failed."""
LOCKED_SECONDS = 60
"""How long a process waits for an SQLite file that another one has locked."""
JOURNALS = (".log", ".journal")
"""Suffixes of journal files."""


class Surplus(Exception):
    """Processes that began runs at the same moment began more than were asked for; this one is not run."""


def require_optuna() -> None:
    """StudyError with what to install if Optuna is missing."""
    if find_spec("optuna") is None:
        raise StudyError('--search needs Optuna: pip install "parameter-golf-toolkit[lab]"')


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


def open_storage(storage: str) -> Any:
    """Optuna's storage of a URL (sqlite:///, postgresql://, ...) or of a journal file, by its suffix."""
    import optuna  # pyright: ignore[reportMissingImports]
    from optuna.storages.journal import JournalFileBackend  # pyright: ignore[reportMissingImports]
    from sqlalchemy.exc import DatabaseError  # pyright: ignore[reportMissingImports]

    if "://" in storage:
        options = {"connect_args": {"timeout": LOCKED_SECONDS}} if storage.startswith("sqlite") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for is_last in (False, False, True):
                try:
                    return optuna.storages.RDBStorage(
                        storage, engine_kwargs=options, heartbeat_interval=HEARTBEAT_SECONDS
                    )
                except ImportError as error:
                    raise StudyError(f"--storage {storage.partition('://')[0]}://: {error}") from error
                except DatabaseError as error:
                    # Another process makes the tables of a new database at this moment.
                    if is_last or not any(word in str(error) for word in ("exists", "UNIQUE", "unique")):
                        raise
    if Path(storage).suffix not in JOURNALS:
        raise StudyError(
            f"--storage is {storage!r}; expected a URL, such as sqlite:///search.db or postgresql://HOST/NAME,"
            f" or a journal file, {' or '.join(f'*{suffix}' for suffix in JOURNALS)}"
        )
    path = Path(storage).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock of a process that was killed is taken over after half a minute.
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


@contextmanager
def named_storage(storage: str) -> Iterator[None]:
    """StudyError in one line, without the URL's password, where a storage cannot be read or written."""
    from optuna.exceptions import OptunaError  # pyright: ignore[reportMissingImports]
    from sqlalchemy import make_url  # pyright: ignore[reportMissingImports]
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError  # pyright: ignore[reportMissingImports]

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        with suppress(ArgumentError):
            storage = make_url(storage).render_as_string(hide_password=True)
        says = " ".join(str(cause).split())
        advice = (
            "another process has had it locked for long: wait, or end the process that has it open"
            if "locked" in says
            else "check that the URL is right, that its server runs and that its driver is installed"
        )
        raise StudyError(f"the storage {storage} cannot be used ({says}); {advice}") from error


@dataclass(frozen=True)
class Searching:
    """A search that this process takes part in."""

    study: Study
    base: RunConfig
    dataset: Dataset
    device: str
    found: Any
    """Optuna's study."""
    folder: Path
    """Where the runs of this process go."""
    num_trials: int
    """Runs of all processes together."""
    log: RunLog

    def counted(self, before: float = float("inf")) -> int:
        """How many runs there are that have not failed with their process, of numbers below `before`."""
        trials = self.found.get_trials(deepcopy=False)
        return sum(trial.state.name != "FAIL" and trial.number < before for trial in trials)

    def fail_dead(self) -> None:
        """Marks the runs of processes that have died as failed, so that others are made in their place.

        A database knows them by their heartbeat. Those of this machine are known by their folder's lock.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.found)
        for trial in self.found.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            place = trial.user_attrs.get("folder")
            if trial.user_attrs.get("host") == socket.gethostname() and lock_owner(Path(place)) is None:
                self.log.info(f"run {trial.number}: its process has died; another is made in its place")
                # ValueError: another process has done so.
                with suppress(ValueError):
                    self.found.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def make_one(self) -> None:
        """Makes one more run, or none if other processes have begun the last ones at this moment."""
        with ExitStack() as held:
            try:
                self.found.optimize(partial(self.objective, held=held), n_trials=1, catch=(Surplus,))
            except (ValueError, AssertionError) as error:
                # A process that was suspended: others have marked its run as failed. Optuna asserts otherwise
                # while it raises that.
                if "Cannot tell a FAIL trial" not in str(error.__context__ or error):
                    raise
                self.log.info("another process has taken this run for dead; its result is dropped")

    def objective(self, trial: Any, held: ExitStack) -> float:
        """Held-out bits per byte of a run with the fields that Optuna draws; Surplus for one too many.

        `held` keeps the lock of the run's folder until the storage has the result.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        if self.counted(before=trial.number) >= self.num_trials:
            raise Surplus
        # By the number: processes with one seed would draw the same values.
        self.found.sampler = optuna.samplers.TPESampler(seed=FIRST_SEED + trial.number)
        chosen = suggest(trial, self.study.search)
        place = (self.folder / f"trial{trial.number}_{secrets.token_hex(4)}").resolve()
        held.enter_context(owned_folder(place))
        trial.set_user_attr("folder", str(place))
        trial.set_user_attr("host", socket.gethostname())
        return self.run(trial, chosen, place)

    def run(self, trial: Any, chosen: dict[str, object], place: Path) -> float:
        """Held-out bits per byte of a run in `place`; TrialPruned if it stops early or fails."""
        import optuna  # pyright: ignore[reportMissingImports]

        num_evals = 0

        def watch(step: int, bpb: float) -> None:
            nonlocal num_evals
            num_evals += 1
            trial.report(bpb, num_evals)
            if num_evals < self.base.train.num_evals and trial.should_prune():
                raise optuna.TrialPruned

        try:
            config = replace(with_choices(self.base, chosen), seed=FIRST_SEED)
            check_config(config, "cpu")
            _, _, averaging = train_trial(place, config, self.dataset, self.device, watch)
        except FAILURES as error:
            self.log.info(f"run {trial.number}: {chosen} failed: {error}")
            raise optuna.TrialPruned from error
        bpb = averaging.held_out_bpb[averaging.output]
        self.log.info(f"run {trial.number}: {chosen}: {bpb:.4f} held-out bpb")
        return bpb


def search(
    study: Study,
    dataset: Dataset,
    device: str,
    num_trials: int,
    out: Path,
    log: RunLog,
    storage: str | None = None,
) -> None:
    """Runs until there are `num_trials` in the storage, by whichever process; writes search.md, search.json.

    By default the storage is a file of `out`, for the runs of one process after another. StudyError for a
    storage that is locked or cannot be reached.
    """
    require_optuna()
    import optuna  # pyright: ignore[reportMissingImports]

    base = fitted(study.arms[0].config, dataset)
    check_space(base, study.search)
    folder = out / study.name / "search"
    folder.mkdir(parents=True, exist_ok=True)
    storage = storage or f"sqlite:///{(folder / 'search.db').resolve()}"
    # Its warnings tell of runs that failed, which the log does, too.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with named_storage(storage):
        found = optuna.create_study(
            study_name=study.name,
            storage=open_storage(storage),
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
        )
        searching = Searching(study, base, dataset, device, found, folder, num_trials, log)
        with log.progress("search", num_trials, "runs") as bar:
            while True:
                searching.fail_dead()
                begun = searching.counted()
                bar.move_to(min(num_trials, begun))
                if begun >= num_trials:
                    break
                searching.make_one()
        _write(study, found, log)


def _write(study: Study, found: Any, log: RunLog) -> None:
    """Writes search.md and search.json into the study's folder: the complete runs, best first."""
    trials = [trial for trial in found.trials if trial.state.name in ("COMPLETE", "PRUNED", "RUNNING")]
    done = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.value)
    rows = [
        (str(t.number), f"{t.value:.4f}", *(f"{t.params[name]:.4g}" if isinstance(t.params[name], float)
         else str(t.params[name]) for name in study.search))
        for t in done
    ]  # fmt: skip
    at_work = sum(trial.state.name == "RUNNING" for trial in trials)
    stopped = len(trials) - len(done) - at_work
    others = f" Other processes are at work on {at_work} more." if at_work else ""
    if at_work:
        log.info(f"other processes are at work on {at_work} runs; the last one to end writes all of them")
    text = [
        f"# {study.title}: search",
        f"{len(trials) - at_work} runs by successive halving, {stopped} of them stopped early or failed."
        f"{others} The figure is bits per byte on held-out training text; the validation text was not "
        "opened.",
        markdown_table(("run", "held-out bits per byte", *study.search), rows),
    ]
    study.folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(study.folder / "search.md") as partial:
        partial.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    write_json(
        study.folder / "search.json",
        [{"run": t.number, "held_out_bpb": t.value, "chosen": t.params} for t in done],
    )
