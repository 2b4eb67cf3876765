"""A run on one H100 of Modal: its volume keeps data, runs and records, and a retry goes on with the run.

    modal run --detach launch/modal_app.py --preset h100-10min --name mine
    modal volume get golf records .

Run it in the clone; the second line fetches the entry.
"""

import subprocess
from pathlib import Path

import modal

HOURS = 3600
WORK = "/work"
CLONE = Path(__file__).parents[1]
LEFT_OUT = [".git", ".venv*", ".try-wheel", "build", "dist", "data", "runs", "records", "**/__pycache__"]

app = modal.App("golf")
volume = modal.Volume.from_name("golf", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.12")
    # torch.compile needs a C compiler.
    .apt_install("gcc", "libc6-dev")
    .pip_install_from_requirements(str(CLONE / "requirements.txt"))
    .add_local_dir(str(CLONE), "/src", copy=True, ignore=LEFT_OUT)
    .run_commands("pip install --no-deps /src")
)


@app.function(
    gpu="H100",
    image=image,
    volumes={WORK: volume},
    timeout=6 * HOURS,
    retries=modal.Retries(max_retries=8, initial_delay=0.0),
)
def train(preset: str, name: str) -> int:
    """The exit code of one run in the volume, 0 to 2; the same call goes on with one that was ended."""
    # fmt: off
    command = [
        "golf", "train", "--preset", preset, "--out", f"runs/{name}", "--requeue",
        "--train.checkpoint-seconds", "60",
    ]
    # fmt: on
    process = subprocess.Popen(command, cwd=WORK)
    try:
        code = process.wait()
    except BaseException:
        # A preemption interrupts the function, and Modal then starts the call again.
        process.terminate()
        process.wait()
        raise
    finally:
        volume.commit()
    if code not in (0, 1, 2):
        raise RuntimeError(f"golf train was ended, code {code}")
    # Not an exception: wrong options would be tried again, on a GPU each time.
    return code


@app.local_entrypoint()
def main(preset: str = "h100-10min", name: str = "mine") -> None:
    """Starts the run and waits for it; with `modal run --detach` it goes on without this machine."""
    if code := train.remote(preset, name):
        raise SystemExit(f"golf train ended with {code}; its output says why")
