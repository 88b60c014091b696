import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evomerge.errors import EnvironmentFault, UsageError
from evomerge.files import staging
from evomerge.files.staging import check_space, check_target, recover, staged_folder
from tests.tiny_runs import killed_at

STEPS = ("staged", "synced", "renamed", "published", "cleaned")
EXCHANGE_STEPS = ("staged", "synced", "exchanged", "published", "cleaned")
TWO_RENAME_STEPS = ("staged", "synced", "set_aside", "renamed", "discarded", "published", "cleaned")


def fill(folder: Path, word: str) -> None:
    """A folder that can be told to be whole: every file holds the same word."""
    (folder / "inner").mkdir(exist_ok=True)
    for name in ("config.json", "a.bin", "inner/b.bin"):
        (folder / name).write_text(word)


def whole(folder: Path) -> str:
    """The word all files of a folder hold; fails if it is a mixture or not complete."""
    words = {(folder / name).read_text() for name in ("config.json", "a.bin", "inner/b.bin")}
    assert len(words) == 1, words
    assert sorted(p.name for p in folder.iterdir()) == ["a.bin", "config.json", "inner"]
    return words.pop()


def publish(
    target: Path,
    word: str,
    *,
    overwrite: bool = False,
    then: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Publish a folder; `then` is called with the staged folder before it gets its name."""
    with staged_folder(target, overwrite=overwrite) as folder:
        fill(folder, word)
        then(folder)


def give_up(folder: Path) -> None:
    raise KeyboardInterrupt("gives up")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def two_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(staging, "_renameat2", lambda *_: False)


def test_a_folder_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "down" / "out"
    with staged_folder(target) as folder:
        fill(folder, "new")
        assert not target.exists()
        assert folder.parent == target.parent
        assert folder.name.startswith(".out.evomerge-tmp-")
    assert whole(target) == "new"
    assert names(target.parent) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="gives up"):
        publish(tmp_path / "out", "new", then=give_up)
    assert names(tmp_path) == []


def test_an_existing_target_is_refused_without_overwrite(tmp_path: Path) -> None:
    publish(tmp_path / "out", "old")
    with pytest.raises(UsageError, match=r"E601.*out: the target exists; give `--overwrite`"):
        publish(tmp_path / "out", "new")
    assert whole(tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("made", ["file", "link", "documents"])
def test_only_model_folders_are_overwritten(tmp_path: Path, made: str) -> None:
    target = tmp_path / "out"
    fill(tmp_path, "mine")
    if made == "file":
        target.write_text("a file")
    elif made == "link":
        target.symlink_to(tmp_path / "inner")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    before = names(tmp_path)
    with pytest.raises(UsageError, match=r"E601.*is no model folder; only model folders"):
        publish(target, "new", overwrite=True)
    assert names(tmp_path) == before


@pytest.mark.parametrize("mode", ["exchange", "two_renames"])
def test_overwriting_replaces_the_whole_folder(
    tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    if mode == "two_renames":
        request.getfixturevalue(mode)
    publish(tmp_path / "out", "old")
    (tmp_path / "out" / "model-00002-of-00002.safetensors").write_text("of the old one")
    publish(tmp_path / "out", "new", overwrite=True)
    assert whole(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_a_target_that_came_to_exist_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(UsageError, match=r"E601.*the target exists"):
        publish(target, "late", then=lambda _: publish(target, "first"))
    assert whole(target) == "first"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_that_came_to_exist_is_not_replaced(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "staging") as folder:
        fill(folder, "late")
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match="E601"):
            staging._appear(folder, tmp_path / "out")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_publishing_a_new_folder(tmp_path: Path, step: str) -> None:
    target = tmp_path / "out"
    killed_at(lambda: publish(target, "first"), f"export.{step}")
    if target.exists():
        assert whole(target) == "first"
    publish(target, "second", overwrite=True)
    assert whole(target) == "second"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("step", EXCHANGE_STEPS)
def test_killed_while_overwriting_by_exchange(tmp_path: Path, step: str) -> None:
    target = tmp_path / "out"
    publish(target, "old")
    killed_at(lambda: publish(target, "new", overwrite=True), f"export.{step}")
    # At once, before anything is recovered.
    assert whole(target) == ("old" if step in ("staged", "synced") else "new")
    with pytest.raises(UsageError, match="E601"):
        publish(target, "newer")
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("two_renames")
@pytest.mark.parametrize("step", TWO_RENAME_STEPS)
def test_killed_while_overwriting_by_two_renames(tmp_path: Path, step: str) -> None:
    target = tmp_path / "out"
    publish(target, "old")
    killed_at(lambda: publish(target, "new", overwrite=True), f"export.{step}")
    assert target.exists() == (step != "set_aside")
    recover(target)
    assert whole(target) == ("old" if step in ("staged", "synced", "set_aside") else "new")
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("two_renames")
def test_killed_during_recovery(tmp_path: Path) -> None:
    target = tmp_path / "out"
    publish(target, "old")
    killed_at(lambda: publish(target, "new", overwrite=True), "export.renamed")
    killed_at(lambda: recover(target), "export.discarded")
    recover(target)
    assert whole(target) == "new"
    assert names(tmp_path) == ["out"]


def test_work_under_way_is_not_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as mine:
        fill(mine, "slow")
        with pytest.raises(KeyboardInterrupt, match="gives up"):
            publish(target, "other", then=give_up)
        recover(target)
        assert whole(mine) == "slow"
    assert whole(target) == "slow"


def test_names_that_look_like_patterns_are_plain_names(tmp_path: Path) -> None:
    publish(tmp_path / "out", "kept")
    bystander = tmp_path / ".outer.evomerge-tmp-0"
    bystander.mkdir()
    publish(tmp_path / "o*[t]", "new")
    recover(tmp_path / "o*")
    assert names(tmp_path) == [".outer.evomerge-tmp-0", "o*[t]", "out"]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("size", [0, 2, 100])
def test_a_full_disk_leaves_the_target_untouched(tmp_path: Path, size: int, over: bool) -> None:
    target = tmp_path / "out"
    if over:
        publish(target, "old")
    full = pytest.raises(EnvironmentFault, match=r"E403.*out: no room to write")
    with largest_file(size), full:
        publish(target, "x" * 200, overwrite=over)
    assert names(tmp_path) == (["out"] if over else [])
    if over:
        assert whole(target) == "old"


def test_a_fault_that_is_not_about_the_target_is_passed_on(tmp_path: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    with pytest.raises(FileNotFoundError, match="gone"):
        publish(tmp_path / "out", "new", then=lambda _: gone.read_bytes())
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"E408.*cannot write"):
        publish(tmp_path / "file" / "out", "new")


def test_too_little_room_is_seen_before_any_work(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(EnvironmentFault, match=r"E403.*needs \d+\.\d\d GB, .* GB are free"):
        check_space(tmp_path / "not" / "yet", 10**18)


def test_check_target_takes_an_empty_folder_with_overwrite_only(tmp_path: Path) -> None:
    check_target(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="E601"):
        check_target(tmp_path, overwrite=False)


def test_a_kernel_without_flags_is_told_from_a_failed_rename(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="No such file") as raised:
        staging._renameat2(tmp_path / "a", tmp_path / "b", staging._RENAME_EXCHANGE)
    assert raised.value.errno == errno.ENOENT
    assert not staging._renameat2(tmp_path / "a", tmp_path / "b", 1 << 20)
