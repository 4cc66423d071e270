"""Limits that the kernel enforces on the fork server and its children: rlimits, seccomp, death with the parent.

The guest is already held by WebAssembly's own sandbox. These are the second wall, for the day when a bug of the
compiler lets a guest run what it likes: no network, no new programs, no new processes, no signals to others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

# BPF: load word, jump if equal / greater or equal / any bit set, return.
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Never needed once the fork server is up, neither by it nor by its children: (x86_64, aarch64); 0: not there.
_NEVER = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432),
    "unshare": (272, 97), "setns": (308, 268),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "open_by_handle_at": (304, 265), "mknod": (133, 0), "mknodat": (259, 33),
    "iopl": (172, 0), "ioperm": (173, 0), "settimeofday": (164, 170), "clock_settime": (227, 112),
}  # fmt: skip

# Needed by the fork server, not by its children. A child may start threads (wasmtime does), not processes.
_NOT_IN_CHILDREN = {
    "fork": (57, 0), "vfork": (58, 0), "kill": (62, 129), "tkill": (200, 130),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), (435, 435)

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A compiled seccomp filter, built once and installed in as many children as needed."""

    def __init__(self, instructions: bytes) -> None:
        self._code = ctypes.create_string_buffer(instructions, len(instructions))
        self._program = _Program(len(instructions) // 8, ctypes.addressof(self._code))
        self._address = ctypes.addressof(self._program)

    def install(self) -> None:
        """Put it in force for this process and what it forks. Raises `OSError` where the kernel refuses."""
        _call(_PR_SET_NO_NEW_PRIVS, 1)
        _call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._address)


def server_filter() -> Filter | None:
    """Return the filter of the fork server (and so of its children); None on a machine that we have no table for."""
    if (column := _column()) is None:
        return None
    return Filter(_program([numbers[column] for numbers in _NEVER.values()], []))


def child_filter() -> Filter | None:
    """Return what children get on top of the server's."""
    if (column := _column()) is None:
        return None
    threads_only = [
        (_JEQ, 0, 1, _CLONE3[column]), (_RET, 0, 0, _ERRNO | errno.ENOSYS),  # libc then uses clone
        (_JEQ, 0, 4, _CLONE[column]), (_LD, 0, 0, _FIRST_ARGUMENT),
        (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _ERRNO | errno.EPERM),
    ]  # fmt: skip
    return Filter(_program([numbers[column] for numbers in _NOT_IN_CHILDREN.values()], threads_only))


def _column() -> int | None:
    machine = os.uname().machine
    return list(_AUDIT_ARCH).index(machine) if machine in _AUDIT_ARCH else None


def _program(denied: list[int], extra: list[tuple[int, int, int, int]]) -> bytes:
    numbers = [number for number in denied if number]
    code = [
        (_LD, 0, 0, _ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[os.uname().machine]), (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NUMBER),
    ]  # fmt: skip
    code += extra
    tests = [(_JGE, _X32_BIT)] + [(_JEQ, number) for number in numbers]
    # A test that holds jumps over the tests that remain and over "allow".
    code += [(test, len(tests) - place, 0, value) for place, (test, value) in enumerate(tests)]
    code += [(_RET, 0, 0, _ALLOW), (_RET, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; ends it now if the parent has already gone."""
    _call(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def lower_oom_score() -> None:
    """Make this process and its children the first choice of the kernel when memory runs out, before the daemon."""
    try:
        Path("/proc/self/oom_score_adj").write_text("800")
    except OSError:
        pass  # a restricted /proc; the memory limit still holds


def server_limits(open_files: int) -> None:
    """Set what the fork server and all its children share: no core dumps, a bounded number of open files, signals."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; a child that writes too much is to end
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def child_limits(*, data_bytes: int, file_bytes: int, cpu_seconds: int = 0) -> None:
    """Set a child's own limits; 0 means none. Writable private memory is counted, reserved address space is not."""
    for kind, value, grace in (
        (resource.RLIMIT_DATA, data_bytes, 0),
        (resource.RLIMIT_FSIZE, file_bytes, 0),
        (resource.RLIMIT_CPU, cpu_seconds, 1),  # SIGXCPU at the soft limit tells it from other kills
    ):
        if value:
            resource.setrlimit(kind, (value, value + grace))


def writable_bytes() -> int:
    """Return how much private writable memory this process has: the base that a child's limit is added to."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _call(option: int, second: int, third: int = 0) -> None:
    if _prctl(option, second, third, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
