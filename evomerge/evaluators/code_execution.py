"""Programs that a model wrote, run outside of the worker: one confined process each.

`confined` says what holds a program. The process gets an empty environment, a temporary folder of its
own that is removed afterwards, and is killed at the end. A program passes if it runs to its end without an
exception; leaving early (`os._exit(0)`) is no pass, and neither is anything that it prints.

Task files use it through `pass_rate`; tasks written for the `code_eval` metric of Hugging Face's
`evaluate` (HumanEval, MBPP) get `CodeEval` in its place, see `install_code_eval`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evomerge.errors import EnvironmentFault, Problem
from evomerge.evaluators import confined
from evomerge.files.scratch import scratch_folder

SECONDS = 5
"""Processor seconds of one program; it is killed after `PATIENCE` times as many on the clock."""

PATIENCE = 4
MEMORY = 512 << 20
"""Bytes of address space of one program, the interpreter's own (about 30 MB) counted in."""

FOLDER_BYTES = 64 << 20
FOLDER_FILES = 1000
"""What a program may write in all, looked at every `LOOK` seconds."""

LOOK = 0.1
ANSWER = 200
"""Most bytes that are read of what a program's process answers, which a program can find and write to."""

Ending = Literal["passed", "raised", "time", "memory", "files", "died"]


@dataclass(frozen=True)
class Execution:
    """How a program ended: `raised` names the exception's class in `detail`, `died` the exit code."""

    ending: Ending
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.ending == "passed"


def run_program(program: str, *, seconds: int = SECONDS, memory: int = MEMORY) -> Execution:
    """Run Python source in a confined process.

    Args:
        program: the whole source, its tests included.
        seconds: processor seconds it may use.
        memory: bytes of address space it may use.

    Raises:
        EnvironmentFault: E409, if this machine cannot confine it (Linux 5.13 with Landlock can).
    """
    if sys.platform != "linux":
        raise _cannot_confine()
    word = secrets.token_hex(16)
    with (
        scratch_folder() as folder,
        tempfile.TemporaryFile() as source,
    ):
        source.write(f"{word}\n{program}".encode("utf-8", "replace"))
        source.seek(0)
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-B",
                confined.__file__,
                str(folder),
                str(seconds),
                str(memory),
            ],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            said = _listen(process, folder, time.monotonic() + PATIENCE * seconds)
        finally:
            process.kill()
            process.communicate()
    return said if isinstance(said, Execution) else _ending(process.returncode, said, word)


def _listen(process: subprocess.Popen[bytes], folder: Path, deadline: float) -> str | Execution:
    """What the process answers until it ends; or how it was ended, if it wanted too much."""
    assert process.stdout is not None
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([process.stdout], [], [], min(LOOK, left))
        if _too_much(folder):
            return Execution("files")
        if not ready:
            continue
        part = os.read(process.stdout.fileno(), ANSWER)
        said += part
        if len(said) > ANSWER:
            return Execution("died", "answered too much")
        if not part:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
            return said.decode("utf-8", "replace")
    return Execution("time")


def _too_much(folder: Path) -> bool:
    """Whether a program has written more than it may; it can make plain files only, and no folders."""
    total = 0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries, 1):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
            if count > FOLDER_FILES or total > FOLDER_BYTES:
                return True
    return False


def _ending(code: int, said: str, word: str) -> Execution:
    if not said.startswith("."):
        # Said before the program ran, so that no exit code of a program can claim it.
        raise _cannot_confine()
    said = said[1:]
    if code == 0 and said == word:
        return Execution("passed")
    if said.startswith("!MemoryError"):
        return Execution("memory")
    if said.startswith("!"):
        return Execution("raised", said[1:])
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return Execution("time")
    return Execution("died", str(code))


def _cannot_confine() -> EnvironmentFault:
    wrong = "generated code cannot be confined here"
    todo = "use Linux 5.13 or newer with Landlock, or leave the tasks out that run code"
    return EnvironmentFault(Problem("E409", wrong, f"found {sys.platform}", todo))


def pass_rate(programs: Sequence[str], *, seconds: int = SECONDS, memory: int = MEMORY) -> float:
    """Share of the programs that pass; of one program it is pass@1 with one sample."""
    passed = [run_program(each, seconds=seconds, memory=memory).passed for each in programs]
    return sum(passed) / len(passed)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate that one of `k` samples passes (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


class CodeEval:
    """What `evaluate.load("code_eval")` gives: pass@k of candidate programs against their tests."""

    def compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[str],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int = 1,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Mean pass@k over the tasks, and each program's ending.

        Args:
            predictions: for each task its candidate programs.
            references: for each task its tests, run after a program.
            k: numbers of samples; those larger than a task's samples are left out.
            num_workers: taken and not used: programs run one after the other.
            timeout: processor seconds of a program, rounded up.
        """
        endings: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, (candidates, test) in enumerate(zip(predictions, references, strict=True)):
            runs = [run_program(f"{c}\n{test}", seconds=-int(-timeout // 1)) for c in candidates]
            endings[task] = [
                (sample, {"task_id": task, "passed": run.passed, "result": run.ending})
                for sample, run in enumerate(runs)
            ]
        totals = [len(runs) for runs in endings.values()]
        right = [sum(run["passed"] for _, run in runs) for runs in endings.values()]
        rates = {
            f"pass@{each}": float(
                np.mean([pass_at_k(n, c, each) for n, c in zip(totals, right, strict=True)])
            )
            for each in k
            if min(totals) >= each
        }
        return rates, endings


def install_code_eval() -> None:
    """Give tasks that ask `evaluate` for its `code_eval` metric ours, which confines programs.

    Theirs is downloaded code that runs programs in forks of the caller, with its memory, environment
    and files.
    """
    import evaluate

    if getattr(evaluate.load, "gives_ours", False):
        return
    original = evaluate.load

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        if Path(path).name == "code_eval":
            return CodeEval()
        return original(path, *arguments, **options)

    load.gives_ours = True  # type: ignore[attr-defined]
    evaluate.load = load
