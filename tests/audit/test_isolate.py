"""A stranger's program gets nothing, leaves nothing, and ends."""

import ast
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from golf.audit import isolate
from golf.audit.isolate import (
    BUBBLEWRAP,
    NAMESPACES,
    Limits,
    Outcome,
    run_isolated,
    works,
)

MECHANISMS = [
    pytest.param(name, marks=pytest.mark.skipif(not works(name), reason=f"{name} does not work here"))
    for name in (BUBBLEWRAP, NAMESPACES)
]
FEW = Limits(seconds=20, memory_bytes=1 << 28, processes=20, scratch_bytes=1 << 24, output_bytes=1 << 16)


@pytest.fixture(params=MECHANISMS, autouse=True)
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(isolate, "find_mechanism", lambda: request.param)
    return request.param


def run(source: str, into: Path, limits: Limits = FEW, **more: Any) -> Outcome:
    command = [sys.executable, "-I", "-c", textwrap.dedent(source)]
    return run_isolated(command, **{"inputs": {}, "outputs": {}, "into": into, "limits": limits, **more})


def test_it_reads_its_inputs_and_its_outputs_come_back(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"seven")
    done = run(
        """
        import os, sys
        data = open("here.bin", "rb").read()
        open("here.bin", "wb").write(b"changed")
        open("left.bin", "wb").write(data[::-1])
        open("long.bin", "wb").write(bytes(100))
        os.symlink("/etc/localtime", "link.bin"); os.mkfifo("pipe.bin"); os.mkdir("folder.bin")
        print("out"); print("error", file=sys.stderr); sys.exit(3)
        """,
        tmp_path,
        inputs={"here.bin": given},
        outputs=dict.fromkeys(("left.bin", "long.bin", "link.bin", "pipe.bin", "folder.bin"), 99),
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"error\n")
    assert done.failure == "ended with 3: error" and set(done.files) == {"left.bin"}
    assert done.files["left.bin"].read_bytes() == b"neves" and given.read_bytes() == b"seven"


def test_files_of_any_name_are_given(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"seven")
    names = ["home", "tmp", "-x", "two\nlines", "\x1b[31m", os.fsdecode(b"\xff"), "x" * 255]
    done = run("import os; print(os.listdir('.'))", tmp_path, inputs=dict.fromkeys(names, given))
    assert done.failure is None and sorted(ast.literal_eval(done.stdout.decode())) == sorted(names)


def test_it_sees_no_environment_no_home_no_secret_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLF_TOKEN", "a-secret")
    (tmp_path / "secret").write_text("a-secret")
    done = run(
        f"""
        import os
        print("GOLF_TOKEN" in os.environ, os.listdir(os.environ["HOME"]))
        secrets = {[str(tmp_path / "secret"), str(Path.home() / ".ssh")]!r}
        for path in ("/etc/shadow", "/etc/passwd", *secrets):
            print(os.path.exists(path))
        print(len([name for name in os.listdir("/proc") if name.isdigit()]) <= 4)
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and b"a-secret" in open("/proc/" + name + "/environ", "rb").read():
                    print("an environment with a secret")
            except PermissionError:
                pass
        """,
        tmp_path,
    )
    assert done.stdout.decode().split("\n")[:-1] == ["False []", *["False"] * 4, "True"], done.stderr


def test_it_reaches_no_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        done = run(
            f"""
            import socket
            for address in (("127.0.0.1", {port}), ("1.1.1.1", 53)):
                try:
                    socket.create_connection(address, timeout=2)
                    print("reached")
                except OSError as error:
                    print("refused")
            """,
            tmp_path,
        )
        assert done.stdout == b"refused\nrefused\n"
        with pytest.raises(TimeoutError):
            server.accept()


def test_it_writes_nowhere_but_in_its_folder(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    (seen / "file").write_text("as it was")
    places = [
        seen / "file",
        seen / "new",
        Path(sys.prefix) / "new",
        Path("/usr/new"),
        Path("/new"),
        Path("/dev/new"),
    ]
    done = run(
        f"""
        for path in {[str(path) for path in places]!r}:
            try:
                open(path, "w").write("changed")
                print("wrote", path)
            except OSError:
                pass
        print(open({str(seen / "file")!r}).read())
        """,
        tmp_path,
        visible=[seen],
    )
    assert done.stdout == b"as it was\n", done.stderr
    assert (seen / "file").read_text() == "as it was" and len(list(seen.iterdir())) == 1


def test_it_keeps_no_rights(tmp_path: Path) -> None:
    done = run(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        os.makedirs("place")
        print(libc.mount(b"tmpfs", b"place", b"tmpfs", 0, None))
        print(libc.mount(b"none", b"/usr", None, 32 | 4096, None))
        print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
        """,
        tmp_path,
    )
    assert done.stdout == b"-1\n-1\n['0000000000000000']\n", done.stderr


def test_it_sets_nothing_of_the_kernel_though_its_user_be_root(tmp_path: Path) -> None:
    done = run(
        """
        import os
        for name in ("sys/kernel/core_pattern", "sys/vm/drop_caches", "self/oom_score_adj", "sysrq-trigger"):
            try:
                os.close(os.open(f"/proc/{name}", os.O_WRONLY))
                print("could write", name)
            except OSError:
                pass
        """,
        tmp_path,
    )
    assert (done.stdout, done.returncode) == (b"", 0), done.stderr


def test_it_holds_no_memory_of_no_process_no_key_and_makes_no_namespace(tmp_path: Path) -> None:
    done = run(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        new_user, keyctl = 0x10000000, {"x86_64": 250, "aarch64": 219}[os.uname().machine]
        child, pid = 17, {"x86_64": 56, "aarch64": 220}[os.uname().machine]
        asked = {
            "memfd": lambda: libc.memfd_create(b"x", 0),
            "shared memory": lambda: libc.shmget(0, ctypes.c_size_t(1 << 20), 0o1600),
            "unshare": lambda: libc.unshare(new_user),
            "clone": lambda: libc.syscall(pid, new_user | child, 0, 0, 0, 0) or os._exit(0),
            "session keyring": lambda: libc.syscall(keyctl, 0, -3, 0),
        }
        for name, call in asked.items():
            ctypes.set_errno(0)
            print(name, call(), os.strerror(ctypes.get_errno()), flush=True)
        """,
        tmp_path,
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 5 and all(line.endswith("-1 Function not implemented") for line in lines), lines


def test_its_keeper_cannot_be_read_or_traced(tmp_path: Path) -> None:
    done = run(
        """
        import ctypes, glob, os
        keeper, seize, libc = os.getppid(), 0x4206, ctypes.CDLL(None, use_errno=True)
        print(libc.ptrace(seize, keeper, 0, 0), os.strerror(ctypes.get_errno()))
        for name in ("fd/0", "environ", "mem"):
            try:
                print(os.open(f"/proc/{keeper}/{name}", os.O_RDONLY))
            except PermissionError:
                print("no")
        """,
        tmp_path,
    )
    assert done.stdout == b"-1 Operation not permitted\nno\nno\nno\n", done.stderr


def test_a_daemon_ends_with_it(tmp_path: Path) -> None:
    mark = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    done = run(
        f"""
        import os, subprocess, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", {mark!r}])
            os._exit(0)
        os.wait()
        """,
        tmp_path,
    )
    assert done.returncode == 0 and done.stopped_by is None
    for _ in range(50):
        if not running(mark):
            break
        time.sleep(0.1)
    assert not running(mark)


def running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


LIMITS = {
    "never ends": ("import time; time.sleep(600)", Limits(seconds=1.0), "longer than 1 s"),
    "spins and ignores signals": (
        "import signal\nfor each in range(1, 32):\n  try: signal.signal(each, signal.SIG_IGN)\n"
        "  except OSError: pass\nwhile True: pass",
        Limits(seconds=1.0),
        "longer than 1 s",
    ),
    "prints without end": ("while True: print('x' * 9999)", FEW, "printed more than"),
    "one long line of errors": ("import sys\nwhile True: sys.stderr.write('x' * 9999)", FEW, "printed more"),
    "takes memory": ("import time; x = b'1' * (1 << 29); time.sleep(20)", FEW, "bytes of memory"),
    "forks without end": (
        "import os, time\nwhile True:\n  try:\n    os.fork() or time.sleep(600)\n  except OSError: pass",
        FEW,
        "more than 20 processes",
    ),
    "threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(600,)).start()",
        FEW,
        "processes and threads",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_ends_it_and_is_said(name: str, tmp_path: Path) -> None:
    source, limits, words = LIMITS[name]
    done = run(source, tmp_path, limits)
    assert done.stopped_by is not None and words in done.stopped_by and done.failure == done.stopped_by
    assert len(done.stdout) + len(done.stderr) <= limits.output_bytes + (1 << 17)


@pytest.mark.parametrize("place", [".", "/tmp", "/dev/shm"])
def test_it_cannot_fill_the_disk(place: str, tmp_path: Path) -> None:
    done = run(
        f"""
        import os
        written = 0
        try:
            for number in range(200):
                open({place!r} + f"/file{{number}}", "wb").write(bytes(1 << 20))
                written += 1
        except OSError as error:
            print(written, error.errno)
        """,
        tmp_path,
    )
    written, number = map(int, done.stdout.split())
    assert number in (27, 28) and written <= 64
    assert list(tmp_path.iterdir()) == []


def test_what_ends_its_keeper_ends_it_and_is_no_success(tmp_path: Path) -> None:
    done = run(
        """
        import os, signal, time
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGTERM)
        """,
        tmp_path,
        Limits(seconds=5),
        outputs={"x": 9},
    )
    assert done.files == {} and (done.failure or done.returncode == 0)


def test_it_ends_with_the_process_that_asked(tmp_path: Path, mechanism: str) -> None:
    mark = f"orphan-{os.getpid()}-{time.monotonic_ns()}"
    asking = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from golf.audit import isolate
        isolate.find_mechanism = lambda: {mechanism!r}
        isolate.run_isolated([sys.executable, "-c", "import time; time.sleep(600)", {mark!r}],
                             inputs={{}}, outputs={{}}, into=Path({str(tmp_path)!r}))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", asking], cwd=Path(isolate.__file__).parents[2])
    deadline = time.monotonic() + 60
    while len(running(mark)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(mark)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(mark) == []
