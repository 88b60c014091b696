"""The child's side of `code_execution`: limit this process, then run one program in it.

Run as a script by a bare interpreter (`python -I -S -B`), so it imports the standard library only and
nothing of evomerge. Arguments: temporary folder, seconds, bytes. Standard input: a word, a line end, the
program. Standard output: `.` once the program is confined and before it runs, then the word if it ran to
its end, or `!` and the class of the exception that ended it. Exit code 99: this kernel cannot confine.

What holds the program, in the order in which it is put on:

- `setrlimit`: memory, processor seconds, size of a file, open files, no core dump, no new processes;
- capabilities are given up, where the worker runs as root;
- Landlock (Linux 5.13): files are written in the temporary folder only and read there and where Python
  lives, none is executed, folders and links cannot be made; TCP and signals are refused where the kernel's
  version knows how;
- seccomp: no call that makes a process, thread or socket, reaches another process, changes a file's mode,
  owner or times (Landlock does not watch these), or leaves memory behind that outlives the process.

All of them are kept by the kernel, cannot be taken off again and need no privileges. They do not keep a
program from deceiving the tests that run beside it in one interpreter, nor from finding the word there:
passing means something of programs that were written to be right, not of those written to look right.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 4 | 8  # read a file, list a folder; nothing may be executed (1), whoever the interpreter is
FILE_RIGHTS = (13, 14, 15, 15, 16)
"""Number of file rights that Landlock's versions 1 to 5 know."""

FILE_ONLY = 2 | 4 | 1 << 14 | 1 << 15  # what may be granted on something that is no folder
OWN = FILE_ONLY | 8 | 1 << 5 | 1 << 8  # in its own folder also: list it, remove files, make plain files
FILE_BYTES = 4 << 20
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # processes, threads, sockets
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "socket": (41, 198),
    "socketpair": (53, 199),
    # other processes
    "ptrace": (101, 117), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # what is known of a file beside its content
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # memory that no limit of the process counts, or that outlives it
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190),
    "semctl": (66, 191), "msgget": (68, 186), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "memfd_create": (319, 279), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219),
    # namespaces and other ways deep into the kernel
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}  # fmt: skip
"""System call to its number on x86_64 and aarch64, where there is one."""

SINCE_5_1 = 424
"""From this number on are io_uring, clone3, pidfd, mounts and all that is to come, numbered alike on every
machine, and the calls of x86_64's second numbering (x32). They fail as in an older kernel."""

FCNTL = (72, 25)
SET_OWNER = (8, 15)  # F_SETOWN, F_SETOWN_EX: which process gets a signal when a file is ready

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PRIVILEGES, SECCOMP = 38, 22  # prctl: no new privileges, seccomp
REFUSE, UNKNOWN, ALLOW = 0x00050001, 0x00050026, 0x7FFF0000  # fail with EPERM or ENOSYS, let pass
READ_FILES = 1 << 1 | 1 << 2  # capabilities that are kept: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def limit(seconds: int, memory: int) -> None:
    """Set the limits that the kernel counts for this process."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def drop_capabilities(library: ctypes.CDLL) -> bool:
    """Give up what root may do, but for reading files, which Landlock holds (Python may lie anywhere)."""
    version = ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0))
    held = ctypes.create_string_buffer(24)
    if library.capget(version, held) != 0:
        return False
    effective, permitted, _, *_ = struct.unpack("6I", held.raw)
    left = struct.pack("6I", effective & READ_FILES, permitted & READ_FILES, 0, 0, 0, 0)
    return bool(library.capset(version, left) == 0)


def confine_files(library: ctypes.CDLL, folder: str) -> bool:
    """Landlock; False where the kernel has none."""
    version = library.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    every = (1 << FILE_RIGHTS[min(version, len(FILE_RIGHTS)) - 1]) - 1
    handled = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = library.syscall(CREATE_RULESET, handled, size, 0)
    if ruleset < 0:
        return False
    readable = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, "/usr/lib", "/lib"}
    readable |= {"/lib64", "/usr/lib64", "/etc/ld.so.cache", "/dev/urandom"}
    granted = [(folder, OWN), ("/dev/null", READ | 2), *((path, READ) for path in sorted(readable))]
    for path, rights in granted:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= FILE_ONLY
        library.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights & every, place), 0)
        os.close(place)
    confined = bool(library.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    os.close(ruleset)
    return confined


def refuse_calls(library: ctypes.CDLL) -> bool:
    """Seccomp: a filter over the number of each system call (struct sock_filter, 8 bytes each)."""
    machine = platform.machine()
    if machine not in ARCHITECTURE:
        return False
    column = list(ARCHITECTURE).index(machine)
    calls = [number for each in REFUSED.values() if (number := each[column]) is not None]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    number, architecture, second = (
        0,
        4,
        24,
    )  # offsets in struct seccomp_data; of an argument its low half
    # An aim is a place from the end: the last three steps are the three answers.
    refuse, unknown, allow = 3, 2, 1
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, architecture),
        (equal, 0, refuse, ARCHITECTURE[machine]),
        (load, 0, 0, number),
        (at_least, unknown, 0, SINCE_5_1),
        *((equal, refuse, 0, call) for call in calls),
        (equal, 0, allow, FCNTL[column]),
        (load, 0, 0, second),
        *((equal, refuse, 0, command) for command in SET_OWNER),
        (give, 0, 0, ALLOW),
    ]
    whole = len(steps) + 3
    code = b"".join(
        struct.pack("HBBI", kind, *(whole - aim - place - 1 if aim else 0 for aim in aims), value)
        for place, (kind, *aims, value) in enumerate(steps)
    )
    code += b"".join(struct.pack("HBBI", give, 0, 0, answer) for answer in (REFUSE, UNKNOWN, ALLOW))
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", whole, ctypes.addressof(kept))
    return bool(library.prctl(SECCOMP, 2, program, 0, 0) == 0)


def main() -> None:
    """Put on the limits, run the program, say that it ended."""
    folder, seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    word, _, program = sys.stdin.read().partition("\n")
    library = ctypes.CDLL(None, use_errno=True)
    answer = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    sys.argv = ["program"]
    limit(seconds, memory)
    confined = (
        library.prctl(PRIVILEGES, 1, 0, 0, 0) == 0
        and drop_capabilities(library)
        and confine_files(library, folder)
        and refuse_calls(library)
    )
    if not confined:
        os._exit(99)
    os.write(answer, b".")
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        word = "!" + type(error).__name__[:100]
    os.write(answer, word.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
