"""The child's side of `code_execution`: limit this process, then run one program in it.

Run as a script by a bare interpreter (`python -I -S -B`), so it imports the standard library only and
nothing of evomerge. Arguments: temporary folder, seconds, bytes. Standard input: a word that is printed
if the program runs to its end (the program cannot know it), then a line end, then the program. An
exception is printed as `!` and its class. Exit code 99: this kernel cannot confine.

What holds the program, in the order in which it is put on:

- `setrlimit`: memory, processor seconds, size of files, open files, no core dump, no new processes;
- Landlock (Linux 5.13): files are written below the temporary folder only and read there and where
  Python lives; TCP and signals to others are refused where the kernel's version knows how;
- seccomp: no new process or thread, no socket.

All three are kept by the kernel, cannot be taken off again and need no privileges.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 1 | 4 | 8  # execute, read a file, list a folder
FILE_RIGHTS = (13, 14, 15, 15, 16)
"""Number of file rights that Landlock's versions 1 to 5 know."""

FILE_ONLY = 1 | 2 | 4 | 1 << 14 | 1 << 15  # what may be granted on something that is no folder
PROCESS_CALLS = {
    "x86_64": (41, 53, 56, 57, 58, 101, 425, 435),
    "aarch64": (198, 199, 220, 117, 425, 435),
}
"""Numbers of socket, socketpair, clone, fork, vfork, ptrace, io_uring_setup and clone3."""

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PRIVILEGES, SECCOMP = 38, 22  # prctl: no new privileges, seccomp
REFUSE, ALLOW = 0x00050001, 0x7FFF0000  # fail with EPERM, let pass


def limit(seconds: int, memory: int) -> None:
    """Set the limits that the kernel counts for this process."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 1 << 24,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


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
    readable |= {"/lib64", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"}
    for path, rights in [(folder, every), *((path, READ) for path in sorted(readable))]:
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


def refuse_processes(library: ctypes.CDLL) -> None:
    """Seccomp: a filter over the number of each system call (struct sock_filter, 8 bytes each)."""
    machine = platform.machine()
    if machine not in PROCESS_CALLS:
        return
    calls = PROCESS_CALLS[machine]
    load, equal, give = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 4), (equal, 0, len(calls) + 2, ARCHITECTURE[machine]), (load, 0, 0, 0)]
    steps += [(equal, len(calls) - index, 0, call) for index, call in enumerate(calls)]
    steps += [(give, 0, 0, ALLOW), (give, 0, 0, REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    library.prctl(SECCOMP, 2, program, 0, 0)


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
    library.prctl(PRIVILEGES, 1, 0, 0, 0)
    if not confine_files(library, folder):
        os._exit(99)
    refuse_processes(library)
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        word = "!" + type(error).__name__
    os.write(answer, word.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
