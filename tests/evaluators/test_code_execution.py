"""Generated programs in their confined process: what they can and cannot do."""

import importlib.util
import resource
import sys
import tempfile
import textwrap
from pathlib import Path

import evaluate
import pytest

from evomerge.errors import EnvironmentFault
from evomerge.evaluators import code_execution
from evomerge.evaluators.code_execution import (
    CodeEval,
    Execution,
    install_code_eval,
    pass_at_k,
    pass_rate,
    run_program,
)
from evomerge.evaluators.task_files import installed_tasks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are confined on Linux only")


def run(program: str, **limits: int) -> Execution:
    return run_program(textwrap.dedent(program), **limits)


def test_a_right_and_a_wrong_function() -> None:
    right = "def add(a, b):\n    return a + b\n"
    tests = "assert add(2, 3) == 5\nassert add(-1, 1) == 0\n"
    assert run_program(right + tests) == Execution("passed")
    assert run_program(right.replace("+", "-") + tests) == Execution("raised", "AssertionError")
    assert run_program("def add(:") == Execution("raised", "SyntaxError")


def test_the_standard_library_is_there_and_nothing_else() -> None:
    assert run("import collections, heapq, json, math, random, re, decimal, dataclasses").passed
    assert run("import numpy") == Execution("raised", "ModuleNotFoundError")
    assert run("import evomerge") == Execution("raised", "ModuleNotFoundError")


@pytest.mark.parametrize("early", ["import os; os._exit(0)", "raise SystemExit(0)", "exit()"])
def test_leaving_early_is_no_pass(early: str) -> None:
    assert not run_program(f"{early}\nassert False").passed


def test_an_infinite_loop_is_ended() -> None:
    assert run_program("while True: pass", seconds=1) == Execution("time")


def test_a_sleeping_program_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_execution, "PATIENCE", 2)
    assert run_program("import time; time.sleep(600)", seconds=1) == Execution("time")


def test_a_memory_bomb_hits_its_limit() -> None:
    assert run_program("x = bytearray(2 << 30)") == Execution("memory")
    assert run_program("x = 'a'\nwhile True: x += x", memory=200 << 20) == Execution("memory")


def test_the_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    program = """
        import os
        assert "SECRET_TOKEN" not in os.environ, "a secret"
        assert not any("hush" in value for value in os.environ.values())
        open(f"/proc/{os.getppid()}/environ").read()
    """
    assert run(program) == Execution("raised", "PermissionError")


def test_files_are_written_in_its_own_folder_only(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    inside = "open('note', 'w').write('x')\nassert open('note').read() == 'x'"
    assert run(inside).passed
    attempts = [
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(treasure)!r}, 'a')",
        f"open({str(treasure)!r}).read()",
        f"import os; os.remove({str(treasure)!r})",
        f"import os; os.rename({str(treasure)!r}, 'mine')",
        f"import os; os.symlink({str(treasure)!r}, 'way'); open('way').read()",
        f"import os; os.truncate({str(treasure)!r}, 0)",
        f"import os; os.mkdir({str(tmp_path / 'folder')!r})",
        "import os; os.listdir(os.path.expanduser('/root'))",
        "import ctypes; l = ctypes.CDLL(None)\n"
        f"if l.open({str(treasure)!r}.encode(), 1) < 0: raise PermissionError",
    ]
    for attempt in attempts:
        found = run_program(attempt)
        assert found == Execution("raised", "PermissionError"), (attempt, found)
    assert treasure.read_text() == "gold"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["treasure"]


@pytest.mark.parametrize(
    "attempt",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import os; os.execv('/bin/cat', ['cat', '/etc/passwd'])",
    ],
)
def test_no_processes_and_no_network(attempt: str) -> None:
    found = run_program(attempt)
    assert found.ending == "raised", found
    assert found.detail in {"PermissionError", "BlockingIOError"}


def test_other_processes_are_out_of_reach() -> None:
    parent = "import os, resource, signal\nparent = os.getppid()\n"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    attempts = [
        "os.kill(parent, 0)",
        "os.kill(-1, 0)",
        "signal.pidfd_send_signal(os.pidfd_open(parent), 0)",
        "resource.prlimit(parent, resource.RLIMIT_NOFILE, (64, 64))",
        "os.setpriority(os.PRIO_PROCESS, parent, 5)",
        "os.sched_setaffinity(parent, {0})",
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)",
    ]
    for attempt in attempts:
        found = run_program(parent + attempt)
        assert found.ending == "raised", (attempt, found)
        assert found.detail in {"PermissionError", "OSError"}, (attempt, found)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def test_mode_owner_and_times_of_files_are_out_of_reach(tmp_path: Path) -> None:
    """Landlock does not watch these calls."""
    treasure = tmp_path / "treasure"
    treasure.touch(0o600)
    before = treasure.stat()
    attempts = [
        f"os.chmod({str(treasure)!r}, 0o777)",
        f"os.chmod({str(tmp_path)!r}, 0)",
        f"os.utime({str(treasure)!r}, (5, 5))",
        f"os.chown({str(treasure)!r}, os.getuid(), os.getgid())",
        f"os.setxattr({str(treasure)!r}, 'user.a', b'x')",
    ]
    for attempt in attempts:
        found = run_program("import os\n" + attempt)
        assert found == Execution("raised", "PermissionError"), (attempt, found)
    after = treasure.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_no_memory_outlives_a_program() -> None:
    library = "import ctypes, os\nlibrary = ctypes.CDLL(None, use_errno=True)\n"
    for call in ("shmget(0, 1 << 20, 0o1600)", "msgget(0, 0o1600)", "semget(0, 1, 0o1600)"):
        program = f"{library}assert library.{call} == -1 and ctypes.get_errno() == 1"
        assert run_program(program).passed, call
    assert run("import os; os.memfd_create('a')") == Execution("raised", "PermissionError")


def test_no_namespace_gives_a_program_new_rights() -> None:
    for flag in (0x10000000, 0x40000000, 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS
        program = f"import ctypes\nassert ctypes.CDLL(None).unshare({flag}) == -1"
        assert run_program(program).passed


def test_root_is_nobody_here() -> None:
    program = """
        import ctypes, struct
        version = ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0))
        held = ctypes.create_string_buffer(24)
        assert ctypes.CDLL(None).capget(version, held) == 0
        effective, permitted, inheritable, *high = struct.unpack("6I", held.raw)
        assert (effective | permitted) & ~0b110 == 0  # reading files, which Landlock holds
        assert not any([inheritable, *high])
    """
    assert run(program).passed


@pytest.mark.parametrize("code", [0, 1, 99])
def test_no_exit_code_of_a_program_says_more_than_that_it_died(code: int) -> None:
    assert run_program(f"import os; os._exit({code})") == Execution("died", str(code))


def test_a_program_that_floods_its_judge_is_ended() -> None:
    program = """
        import os
        for number in range(3, 64):
            try:
                while os.write(number, bytes(1 << 16)):
                    pass
            except OSError:
                pass
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run(program) == Execution("died", "answered too much")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_what_is_printed_is_no_pass() -> None:
    for word in (".", "passed", "0" * 32):
        program = f"import os, sys; print({word!r}); sys.stdout.flush()\nos.write(1, b'.'); os._exit(0)"
        assert run_program(program) == Execution("died", "0")


def test_a_program_cannot_fill_the_disk() -> None:
    many = "for number in range(100_000): open(f'note{number}', 'w').close()"
    assert run_program(many) == Execution("files")
    large = """
        for number in range(1000):
            with open(f"part{number}", "wb") as file:
                file.write(bytes(4 << 20))
    """
    assert run(large) == Execution("files")


def test_a_program_makes_no_folders_that_cannot_be_removed() -> None:
    before = set(Path(tempfile.gettempdir()).glob("evomerge-code-*"))
    found = run("import os\nfor _ in range(3000): os.mkdir('a'); os.chdir('a')")
    assert found == Execution("raised", "PermissionError")
    assert set(Path(tempfile.gettempdir()).glob("evomerge-code-*")) <= before


def test_output_may_be_thrown_away() -> None:
    assert run("import os\nopen(os.devnull, 'w').write('x')").passed


def test_a_large_file_is_refused() -> None:
    found = run_program("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()")
    assert found == Execution("raised", "OSError")


def test_much_output_does_no_harm() -> None:
    assert run_program("for _ in range(100_000): print('x' * 100)").passed


def test_where_nothing_confines_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_execution.sys, "platform", "darwin")
    with pytest.raises(EnvironmentFault, match=r"E409.*cannot be confined here"):
        run_program("pass")


def test_a_kernel_without_landlock_runs_nothing() -> None:
    with pytest.raises(EnvironmentFault, match=r"E409.*cannot be confined"):
        code_execution._ending(99, "", "word")
    assert code_execution._ending(99, ".", "word") == Execution("died", "99")


def test_rates() -> None:
    assert pass_rate(["pass", "assert False", "pass", "1 / 0"]) == 0.5
    # One of 4 samples is right: a draw of 2 has it with chance 1/2.
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(4, 3, 2) == 1.0


def test_code_eval_has_the_answers_of_the_metric_it_stands_for() -> None:
    rates, endings = CodeEval().compute(
        predictions=[["def add(a,b): return a*b", "def add(a, b): return a+b"]],
        references=["assert add(2, 3)==5"],
        k=[1, 2, 10],
    )
    assert rates == {"pass@1": 0.5, "pass@2": 1.0}
    assert [run["passed"] for _, run in endings[0]] == [False, True]


def test_tasks_written_for_code_eval_get_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grading of lm-eval's own HumanEval, which asks for `code_eval` when it is imported."""
    monkeypatch.setattr(evaluate, "load", evaluate.load)
    install_code_eval()
    install_code_eval()
    path = installed_tasks() / "humaneval" / "utils.py"
    spec = importlib.util.spec_from_file_location("humaneval_grading", path)
    assert spec is not None
    assert spec.loader is not None
    grading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grading)
    tests = "def check(f):\n    assert f(2) == 4\ncheck(double)"
    programs = [["def double(x): return 2 * x", "def double(x): return x"]]
    assert grading.pass_at_k([tests], programs, k=[1, 2]) == {"pass@1": 0.5, "pass@2": 1.0}
