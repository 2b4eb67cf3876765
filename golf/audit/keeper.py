"""The process inside an isolation: sets it up where bubblewrap has not, runs a command in it, and reports.

`golf.audit.isolate` starts it as `python -I -c SOURCE JSON`: it has the standard library alone. What the
command does to it does not matter beyond its report, which the parent reads as a stranger's.
"""

import ctypes
import errno
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

WORK, HERE = "/isolated", "/isolated/here"
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 2, -100, 0x8000, 1
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
CAPABILITY_VERSION_3, SECCOMP_MODE_FILTER, CLONE_NEWUSER = 0x20080522, 2, 0x10000000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
REFUSED = {
    "x86_64": (29, 68, 248, 249, 250, 272, 298, 308, 319, 321, 323, 425, 435, 447),
    "aarch64": (194, 186, 217, 218, 219, 97, 241, 268, 279, 280, 282, 425, 435, 447),
}
"""System calls that a program does without: those that hold memory of no process (shmget, msgget,
memfd_create, memfd_secret), the keys of whoever started it (add_key, request_key, keyctl), other namespaces
(unshare, setns, clone3, for which libc takes clone), and what opens much of the kernel (perf_event_open, bpf,
userfaultfd, io_uring_setup)."""


def system_call(name: str, result: int) -> None:
    """OSError, naming the call, for a negative result."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def build_root(told: dict[str, Any]) -> None:
    """Makes the new root of `told` and enters it, the first process of new namespaces; drops all rights."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
        words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
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
                *(MOUNT_SETATTR, AT_FDCWD, os.fsencode(place), AT_RECURSIVE), attributes, len(attributes)
            )
            system_call(f"mount_setattr {place}", done)
    for target, link in told["links"]:
        os.symlink(target, root + link)
    os.makedirs(f"{root}/proc")
    # The kernel lets user 0 change its settings there, without any capability: it is never writable.
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_RDONLY)
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


def refuse_system_calls() -> None:
    """Makes the kernel answer REFUSED, and clone into a new user namespace, as if it had none of them.

    A filter of seccomp, which all that this process starts inherits. Other programs of the same user can
    neither trace this process nor open its files from here on.
    """
    machine, libc = os.uname().machine, ctypes.CDLL(None, use_errno=True)
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS
    # Each a code, how many to skip if true and if false, and a value. Of the call 0 is its number, 4 the
    # machine's kind, 16 the lower half of its first argument; numbers from 1 << 30 are another way to call.
    steps = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (end, 0, 0, kill)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 1 << 30), (end, 0, 0, refuse)]
    for number in REFUSED[machine]:
        steps += [(equal, 0, 1, number), (end, 0, 0, refuse)]
    steps += [(equal, 0, 3, CLONE[machine]), (load, 0, 0, 16), (any_bit, 0, 1, CLONE_NEWUSER)]
    steps += [(end, 0, 0, refuse), (end, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    system_call("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    system_call("dumpable", libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    system_call("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def report(fd: int, returncode: int, outputs: dict[str, int]) -> None:
    """Writes a line of JSON, exit code and files, and their bytes: regular files within their limits."""
    found = []
    for name, most in outputs.items():
        try:
            file = os.open(f"{HERE}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
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
    for folder in ("home", "tmp", "here"):
        os.mkdir(f"{WORK}/{folder}")
    for name in told["inputs"]:
        shutil.copyfile(f"/inputs/{name}", f"{HERE}/{name}")
    os.chdir(HERE)
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
    refuse_system_calls()
    keep(told)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
