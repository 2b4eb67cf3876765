"""The files in launch/: each is read by its own tool or format, and its commands by their programs."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import modal
import nbformat
import pytest
import yaml
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf.command import parse_run
from golf.lab.__main__ import LEAST, LabOptions
from golf.system.options import read_options

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SLURM = ("slurm_one_node.sbatch", "slurm_nodes.sbatch")
COMMAND = re.compile(r"(?:golf train|(?<![\w/])train_gpt\.py|golf lab|sbatch .*launch/\w+\.sbatch)(?= |$).*")
"""A command of this project in a line, from its name on."""
VALUES = {"$PRESET": "h100-10min", "$@": "--seed 7", "&": "", "|": ""}


def commands_in(path: Path) -> list[str]:
    """The commands of a file, their lines joined, comments and tables among them."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    if path.suffix == ".md":
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
        text = "\n".join(blocks)
    if path.suffix == ".py":
        lists = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List)]
        # "cpu" stands for what the program fills in.
        words = [[e.value if isinstance(e, ast.Constant) else "cpu" for e in node.elts] for node in lists]
        text = "\n".join(shlex.join(map(str, line)) for line in words)
    return [found.group() for line in text.splitlines() if (found := COMMAND.search(line))]


def options_of(command: str) -> list[str]:
    """The words behind a program's name, with values for the shell's variables."""
    words = [part for word in shlex.split(command) for part in shlex.split(VALUES.get(word, word))]
    words = [re.sub(r"\$\{?\w+\}?", "x", word) for word in words]
    start = next(
        i for i, word in enumerate(words) if word in ("train", "lab") or word.endswith((".py", ".sbatch"))
    )
    return words[start + 1 :]


FILES = sorted(path for path in [*LAUNCH.iterdir(), ROOT / "docs" / "clusters.md"] if path.is_file())
COMMANDS = [(path.name, command) for path in FILES for command in commands_in(path)]


def test_every_file_has_a_command_of_this_project():
    without = {"Dockerfile.dockerignore"}
    assert {path.name for path in FILES} - without == {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_is_read_by_the_parser_of_its_program(name, command):
    options = options_of(command)
    if command.startswith("golf lab"):
        assert read_options(LabOptions, options, "golf lab", "", least=LEAST).study
    elif options != ["--doctor"]:
        run = parse_run(options)
        assert run.options.requeue == ("--requeue" in options) and (run.config.minutes or run.config.steps)


def test_each_file_begins_with_what_it_is_and_a_command():
    for path in FILES:
        if path.suffix not in (".ipynb", ".dockerignore", ".md"):
            head = path.read_text().removeprefix("#!/bin/bash\n").splitlines()[:4]
            assert head[0][0] in '#"' and any(
                re.match(r"(#  )? +\w+ ", line) or line.startswith("#   ") for line in head
            )


def test_the_dockerfile_has_nothing_that_hadolint_finds():
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", LAUNCH / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert "USER 10001" in lines and 'ENTRYPOINT ["golf"]' in lines


def test_the_task_of_skypilot_has_the_keys_that_its_documentation_has():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task) == {"name", "resources", "envs", "workdir", "file_mounts", "setup", "run"}
    assert task["resources"] == {"accelerators": "H100:1", "use_spot": True, "disk_size": 256}
    ((place, bucket),) = task["file_mounts"].items()
    # The only mode in which a file can grow.
    assert bucket == {"name": "${BUCKET}", "mode": "MOUNT_CACHED"}
    assert f'--out "{place}/' in task["run"] and set(task["envs"]) == {"BUCKET", "PRESET"}
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_modals_app_has_its_function_and_the_program_gets_the_signal_of_a_preemption(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(LAUNCH)
    import modal_app

    assert isinstance(modal_app.app, modal.App) and isinstance(modal_app.train, modal.Function)
    golf, stopped = tmp_path / "golf", tmp_path / "stopped"
    golf.write_text(
        f'#!/bin/bash\ntrap "echo $* > {stopped}; exit 143" TERM\nsleep 1\nkill -INT $PPID\nsleep 60& wait\n'
    )
    golf.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    committed = []
    monkeypatch.setattr(modal_app, "WORK", str(tmp_path))
    monkeypatch.setattr(
        modal_app, "volume", type("Volume", (), {"commit": lambda self: committed.append(1)})()
    )
    expected = "train --preset h100-10min --out runs/mine --requeue --train.checkpoint-seconds 60\n"
    with pytest.raises(KeyboardInterrupt):
        modal_app.train.local("h100-10min", "mine")
    assert stopped.read_text() == expected and committed == [1]


def test_modal_tries_a_run_again_that_was_ended_and_no_run_that_fails_by_its_options(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(LAUNCH)
    import modal_app

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(modal_app, "WORK", str(tmp_path))
    monkeypatch.setattr(modal_app, "volume", type("Volume", (), {"commit": lambda self: None})())
    golf = tmp_path / "golf"
    golf.write_text('#!/bin/bash\nexit "$(cat code)"\n')
    golf.chmod(0o755)
    for code in (0, 1, 2, 143):
        (tmp_path / "code").write_text(str(code))
        if code < 128:
            assert modal_app.train.local("cpu", "mine") == code
        else:
            with pytest.raises(RuntimeError, match="143"):
                modal_app.train.local("cpu", "mine")


def test_images_leave_out_what_this_clone_builds():
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {".try-wheel", "build", "dist"} <= set(ignored) & made


def test_the_notebook_is_valid_says_that_a_t4_computes_in_float32_and_its_code_compiles():
    notebook = nbformat.read(LAUNCH / "notebook.ipynb", 4)
    nbformat.validate(notebook)
    assert "float32" in notebook.cells[0].source
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    for source in code:
        compile("\n".join(line for line in source.splitlines() if line[:1] not in "!%"), "cell", "exec")


STUBS = {
    "torchrun": """
echo "$@" >> torchrun.txt
trap 'touch saved; exit 1' TERM
touch started
[ -e finishes ] && exit "$(cat finishes)"
while :; do read -r -t 0.05 <> <(:); done
""",
    "srun": 'echo $$ > srun.pid\nwhile [ "$1" != torchrun ]; do shift; done\nexec "$@"\n',
    "scancel": 'echo "$@" >> scancel.txt\nkill -TERM "$(cat srun.pid)"\n',
    "scontrol": 'echo "$@" >> scontrol.txt\n[ "$1" = show ] && echo 127.0.0.1\nexit 0\n',
}
"""Stand-ins for the programs of a cluster; this torchrun works until it is asked to stop."""


def put_stubs(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/bash\n{STUBS[name]}")
        (folder / name).chmod(0o755)


def submit(script: str, folder: Path, *options: str, **more: str) -> subprocess.Popen[str]:
    """Starts a batch script in `folder` as SLURM would, with the stand-ins first in the search path."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    return subprocess.Popen(
        ["bash", str(LAUNCH / script), *options],
        cwd=folder,
        env={**os.environ, **job, "SLURM_SUBMIT_DIR": str(folder), "PATH": path, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(job: subprocess.Popen[str], condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("script", SLURM)
def test_a_slurm_job_saves_on_both_signals_and_queues_itself_again_before_its_time_limit(script, tmp_path):
    put_stubs(tmp_path / "bin", tuple(STUBS))
    queued = tmp_path / "scontrol.txt"
    for signum, code in ((signal.SIGUSR1, 0), (signal.SIGTERM, 1)):
        for name in ("started", "saved", "scontrol.txt"):
            (tmp_path / name).unlink(missing_ok=True)
        job = submit(script, tmp_path, "--preset", "cpu")
        wait_until(job, (tmp_path / "started").exists)
        job.send_signal(signum)
        said, _ = job.communicate(timeout=60)
        assert job.returncode == code, said
        assert (tmp_path / "saved").exists()
        again = "requeue 7\n" in (queued.read_text() if queued.exists() else "")
        assert again == (signum == signal.SIGUSR1)
    first, second = (tmp_path / "torchrun.txt").read_text().splitlines()
    assert first == second and first.endswith("train_gpt.py --out runs/slurm-7 --requeue --preset cpu")


@pytest.mark.parametrize("script", SLURM)
@pytest.mark.parametrize("code", [0, 2])
def test_a_slurm_job_that_ends_by_itself_ends_with_the_programs_code_and_is_not_queued(
    script, code, tmp_path
):
    put_stubs(tmp_path / "bin", tuple(STUBS))
    (tmp_path / "finishes").write_text(str(code))
    job = submit(script, tmp_path)
    job.communicate(timeout=60)
    assert job.returncode == code
    queued = tmp_path / "scontrol.txt"
    assert not queued.exists() or "requeue" not in queued.read_text()


TINY = (
    "--preset cpu --steps 60 --model.num-layers 2 --model.width 32 --model.num-heads 2 "
    "--model.num-kv-heads 1 --model.mlp-hidden 48 --model.context 32 --model.bigram-buckets 64 "
    "--model.ngram-buckets 48 32 --train.batch-tokens 256 --train.micro-batch-tokens 128 "
    "--train.held-out-tokens 512 --ttt.chunk-tokens 4096 --ttt.frozen-blocks 1 --max-tokens 2000 "
    "--score.stride 16 --device cpu --data data"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("script", SLURM)
def test_a_slurm_job_of_two_real_processes_that_reached_its_limit_ends_when_it_is_started_again(
    script, tmp_path
):
    put_stubs(tmp_path / "bin", ("srun", "scancel", "scontrol"))
    torchrun = tmp_path / "bin" / "torchrun"
    torchrun.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    torchrun.chmod(0o755)
    write_tiny_dataset(tmp_path / "data", tiny_tokenizer(), num_documents=200)
    (tmp_path / "golf").symlink_to(ROOT / "golf")
    (tmp_path / "train_gpt.py").symlink_to(ROOT / "train_gpt.py")
    events = tmp_path / "runs" / "slurm-7" / "run.jsonl"
    job = submit(script, tmp_path, *TINY, OMP_NUM_THREADS="1")
    wait_until(job, lambda: events.exists() and '"step"' in events.read_text())
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and "requeue 7" in (tmp_path / "scontrol.txt").read_text(), said
    assert "--resume runs/slurm-7" in said and not (events.parent / "training.json").exists()
    again = submit(script, tmp_path, *TINY, OMP_NUM_THREADS="1", SLURM_RESTART_COUNT="1")
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0 and "resumed at step" in said, said
    assert (events.parent / "results.json").is_file()
