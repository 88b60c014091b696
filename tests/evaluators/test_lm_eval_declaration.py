import json
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluators.items import fixed_order, item_id, json_lines
from evomerge.evaluators.kinds import load_declaration
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from tests.evaluators.conftest import DECLARATION, TASK, Bench

REPOSITORY = Path(__file__).parents[2]


def problems(path: Path, *, allow_code: bool = False) -> str:
    return "\n".join(str(each) for each in load_evaluator(path).problems(allow_code=allow_code))


def test_a_sound_declaration_has_no_problems(bench: Bench) -> None:
    path = bench()
    declaration = load_evaluator(path)
    assert declaration.problems() == []
    assert declaration.metric_names == ("pets.acc", "pets.acc_norm")
    assert declaration.folder == path.parent / "tasks"
    assert declaration.directions() == {"pets.acc": True, "pets.acc_norm": True}
    assert declaration.scorer == "auto"


def test_importing_evaluators_and_checking_loads_nothing_heavy(bench: Bench) -> None:
    code = (
        "import sys; from pathlib import Path; import evomerge.evaluators as e;"
        "from evomerge.evaluators.lm_eval_declaration import *;"
        f"d = load_evaluator(Path({str(bench())!r})); assert d.problems() == []; d.digest();"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_fault_of_the_file_is_reported_together(bench: Bench) -> None:
    text = DECLARATION.replace("block_size: 7", "blocksize: 7").replace("name: pets", "name: my pets")
    path = bench(declaration=text.replace(", test: pets_test", ""))
    with pytest.raises(ConfigError, match=r"E104.*blocksize.*did you mean `block_size`") as caught:
        load_evaluator(path)
    assert [problem.code for problem in caught.value.problems] == ["E136", "E103", "E104"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pets_test", "pet_test"), r"E123\] \S+pets.yaml:5:\d+ tasks.test: no such task.*`pets_test`"),
        (("[acc, acc_norm]", "[acc, accuracy]"), r"E124\].*has no metric `accuracy`.*acc, acc_norm"),
        (("[acc, acc_norm]", '["acc,strict"]'), r"E124\].*has no filter `strict`; it has: none"),
        (("include_path: tasks", "include_path: task"), r"E101\].*no such folder"),
        (
            ("selection: pets_selection", "selection: pets_search"),
            r"E128\].*and selection are one",
        ),
        (("[acc, acc_norm]", "[acc, acc]"), r"E122\].*listed twice"),
    ],
)
def test_faults_against_the_tasks(bench: Bench, change: tuple[str, str], message: str) -> None:
    path = bench(declaration=DECLARATION.replace(*change))
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(load_evaluator(path).problems())


def test_missing_data_is_named(bench: Bench) -> None:
    path = bench()
    (path.parent / "tasks/data/pets_test.jsonl").unlink()
    assert "E101" in problems(path)
    assert "tasks.test: data file of task pets_test is missing; no file" in problems(path)


def test_a_missing_file_is_shown_without_detours(bench: Bench) -> None:
    path = bench()
    task = path.parent / "tasks/pets_test.yaml"
    task.write_text(task.read_text().replace("data/pets_test", "../tasks/data/none"))
    assert f"no file {path.parent / 'tasks/data/none.jsonl'};" in problems(path)


def test_an_item_in_two_splits_is_found_whatever_its_id(bench: Bench) -> None:
    path = bench()
    data = path.parent / "tasks/data"
    first = json.loads((data / "pets_search.jsonl").read_text().splitlines()[0])
    with (data / "pets_test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "another name", **first}) + "\n")
    assert "E128" in problems(path)
    assert "search and test share items; 1 of 6 items of pets_test are in both" in problems(path)


def test_a_data_line_that_is_no_json_is_named(bench: Bench) -> None:
    path = bench()
    (path.parent / "tasks/data/pets_test.jsonl").write_text("{}\n{'q': 1}\n")
    assert "pets_test.jsonl:2: not a JSON line" in problems(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "E128] .*tasks.test: task pets_test has no items; give more items"),
        (b"\xef\xbb\xbf{}\n", "pets_test.jsonl:1: a byte order mark before the first item; save it as"),
        (
            b'{}\n{"question": "\xe4"}\n',
            "pets_test.jsonl:2: no UTF-8 text (byte 0xe4); save it as UTF-8",
        ),
    ],
)
def test_data_that_gives_no_items_says_why(bench: Bench, content: bytes, words: str) -> None:
    path = bench()
    (path.parent / "tasks/data/pets_test.jsonl").write_bytes(content)
    assert all(part in problems(path) for part in words.split(".*"))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("process_results: !function steal.secrets", "process_results: !function steal.secrets"),
        ("unsafe_code: true", "unsafe_code: true"),
        ("class: !function steal.Task", "class: !function steal.task"),
    ],
)
def test_tasks_that_run_code_are_refused_without_the_flag(bench: Bench, line: str, shown: str) -> None:
    path = bench(TASK + line + "\n")
    (path.parent / "tasks/steal.py").write_text("raise SystemExit('this ran')\n")
    assert "E126" in problems(path)
    assert shown in problems(path).replace("steal.Task", "steal.task")
    assert problems(path, allow_code=True) == ""


def test_included_files_count(bench: Bench) -> None:
    own = "dataset_kwargs: {data_files: {test: data/NAME.jsonl}}\n"
    path = bench(f"include: common.yaml\ntask: NAME\n{own}")
    common = "\n".join(
        line for line in TASK.splitlines() if not line.startswith(("task:", "dataset_kwargs"))
    )
    (path.parent / "tasks/common.yaml").write_text(common)
    assert problems(path) == ""
    before = load_evaluator(path).digest()
    (path.parent / "tasks/common.yaml").write_text(common.replace("question", '"Q {{question}}"'))
    assert load_evaluator(path).digest() != before


def test_a_broken_task_file_is_named_where_a_task_is_missing(bench: Bench) -> None:
    path = bench()
    (path.parent / "tasks/pets_test.yaml").write_text("task: [pets_test\n")
    assert "pets_test.yaml cannot be read: while parsing" in problems(path)


def test_a_scorer_that_cannot_do_the_task(bench: Bench) -> None:
    task = TASK.replace("multiple_choice", "loglikelihood_rolling")
    assert "E141" in problems(bench(task, DECLARATION + "scorer: packed\n"))


def test_several_filters_need_a_choice(bench: Bench) -> None:
    filters = "filter_list:\n  - {name: strict, filter: []}\n  - {name: loose, filter: []}\n"
    path = bench(TASK + filters, DECLARATION.replace("acc, acc_norm", '"acc,loose", acc_norm'))
    assert "write one of `acc_norm,strict`, `acc_norm,loose`" in problems(path)
    assert "`acc,loose`" not in problems(path)


def test_the_digest_follows_content_and_not_place(bench: Bench, tmp_path: Path) -> None:
    path = bench()
    before = load_evaluator(path).digest()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (path.parent / "tasks").rename(moved / "tasks")
    path = path.rename(moved / "pets.yaml")
    assert load_evaluator(path).digest() == before
    path.write_text(DECLARATION.replace("block_size: 7", "block_size: 8"))
    assert load_evaluator(path).digest() != before
    path.write_text(DECLARATION)
    data = moved / "tasks/data/pets_selection.jsonl"
    data.write_text(data.read_text().replace('"answer": 0', '"answer": 1', 1))
    assert load_evaluator(path).digest() != before


def test_item_ids_ignore_names_and_order_is_by_content() -> None:
    assert item_id({"id": 1, "q": "a"}) == item_id({"q": "a"}) != item_id({"q": "b"})
    assert fixed_order(["c", "a", "b", "a"]) == [1, 3, 2, 0]


SHIPPED = [
    path
    for path in sorted((REPOSITORY / "evaluators").glob("**/*.yaml"))
    if "tasks" not in path.relative_to(REPOSITORY).parts
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_shipped_declaration_is_sound(path: Path) -> None:
    declaration = load_declaration(path)
    # The data of some beds are built by their scripts and are not in the repository.
    checked = declaration.problems(allow_code=True)
    found = [each for each in checked if "is missing" not in each.wrong]
    assert found == []


def test_a_json_string_may_hold_any_line_separator(tmp_path: Path) -> None:
    """As `json.dumps(..., ensure_ascii=False)` writes it; only a line feed ends an item."""
    items = [{"prompt": f"one{mark}two"} for mark in "\u2028\u2029\x85"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in items), encoding="utf-8")
    assert json_lines(file, ["prompt"]) == items
    with pytest.raises(ValueError, match=r"prompts.jsonl:1: an item lacks answer"):
        json_lines(file, ["answer"])


def test_items_in_one_json_array_are_left_to_lm_eval(bench: Bench) -> None:
    path = bench()
    for file in list((path.parent / "tasks/data").glob("*.jsonl")):
        lines = file.read_text().splitlines()
        file.with_suffix(".json").write_text(json.dumps([json.loads(line) for line in lines], indent=1))
        file.unlink()
    for task in (path.parent / "tasks").glob("*.yaml"):
        task.write_text(task.read_text().replace(".jsonl", ".json"))
    assert problems(path) == ""
    assert load_evaluator(path).local_ids() == {}
