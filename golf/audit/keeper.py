"""The process inside an isolation: sets it up where bubblewrap has not, runs a command in it, and reports.

`golf.audit.isolate` starts it as `python -I -c SOURCE JSON`: it has the standard library alone. What the
command does to it does not matter beyond its report, which the parent reads as a stranger's.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
from typing import Any

WORK = "/isolated"
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 2, -100, 0x8000, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 24, 38, 0x20080522
PIVOT_ROOT, KEYCTL = {"x86_64": 155, "aarch64": 41}, {"x86_64": 250, "aarch64": 219}
MOUNT_SETATTR, KEYCTL_JOIN_SESSION_KEYRING = 442, 1


def system_call(name: str, result: int) -> None:
    """OSError, naming the call, for a negative result."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def build_root(told: dict[str, Any]) -> None:
    """Makes the new root of `told` and enters it, the first process of new namespaces; drops all rights."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
        words = [None if word is None else word.encode() for word in (source, target, kind, options)]
        done = libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
        system_call(f"mount {target}", done)

    root = told["root"]
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID, "size=1m")
    for folder, size in told["folders"]:
        os.makedirs(root + folder, exist_ok=True)
        mount("tmpfs", root + folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size}")
    for source, target in told["binds"]:
        place = root + target
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.isdir(source):
            os.makedirs(place, exist_ok=True)
        else:
            open(place, "a").close()
        mount(source, place, None, MS_BIND | MS_REC)
        if not source.startswith("/dev/"):
            attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
            done = libc.syscall(
                *(MOUNT_SETATTR, AT_FDCWD, place.encode(), AT_RECURSIVE), attributes, len(attributes)
            )
            system_call(f"mount_setattr {place}", done)
    for target, link in told["links"]:
        os.symlink(target, root + link)
    os.makedirs(f"{root}/proc")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)
    # Files of /proc/sys belong to root, who needs no further rights to change the kernel's settings.
    mount("none", f"{root}/proc", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.makedirs(f"{root}/.old")
    os.chdir(root)
    system_call("pivot_root", libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b".old"))
    os.chdir("/")
    system_call("umount", libc.umount2(b"/.old", MNT_DETACH))
    os.rmdir("/.old")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    for capability in range(64):
        # Beyond the kernel's last one it refuses.
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    nothing = struct.pack("IIIIII", *[0] * 6)
    system_call("capset", libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), nothing))
    system_call("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def report(fd: int, returncode: int, outputs: dict[str, int]) -> None:
    """Writes a line of JSON, exit code and files, and their bytes: regular files within their limits."""
    found = []
    for name, most in outputs.items():
        try:
            file = os.open(f"{WORK}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        state = os.fstat(file)
        if stat.S_ISREG(state.st_mode) and state.st_size <= most:
            found.append((name, file, state.st_size))
    line = {"returncode": returncode, "files": [[name, size] for name, _, size in found]}
    with open(fd, "wb") as pipe:
        pipe.write(json.dumps(line).encode() + b"\n")
        for _, file, size in found:
            with open(file, "rb") as source:
                pipe.write(source.read(size).ljust(size, b"\0"))


def end_with_asker() -> None:
    """Ends this process, and with it the isolation, when nobody holds the other end of standard input."""
    os.read(0, 1)
    os._exit(1)


def keep(told: dict[str, Any]) -> None:
    """Copies the inputs into the working folder, runs the command there, and reports on `told["fd"]`."""
    threading.Thread(target=end_with_asker, daemon=True).start()
    if (number := KEYCTL.get(os.uname().machine)) is not None:
        # A session's keys are inherited; a new session has none. Kernels without keys refuse.
        ctypes.CDLL(None).syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)
    for folder in ("home", "tmp"):
        os.makedirs(f"{WORK}/{folder}", exist_ok=True)
    for name in told["inputs"]:
        shutil.copyfile(f"/inputs/{name}", f"{WORK}/{name}")
    os.chdir(WORK)
    for kind, most in told["limits"].items():
        soft = resource.getrlimit(getattr(resource, kind))[1]
        most = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.setrlimit(getattr(resource, kind), (most, most))
    done = subprocess.Popen(told["command"], stdin=subprocess.DEVNULL, env=told["environment"])
    code = done.wait()
    # What the command has left running may not change the files that are read now.
    for _ in range(3):
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            break
    report(told["fd"], code, told["outputs"])


def main(told: dict[str, Any]) -> None:
    """Sets up what is asked for, and runs the command."""
    if "root" in told:
        build_root(told)
    keep(told)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
