"""What can go wrong, and which exit code each fault has.

The tree (exit code in brackets)::

    EvomergeError [1]
    ├── UsageError [2]             an id, pick or option that does not fit the campaign
    ├── ConfigError [3]            a fault in a YAML or JSON file a person wrote
    ├── CheckpointError [4]        a model folder that cannot be merged
    ├── EnvironmentFault [5]       memory, disk, devices, Ray, missing packages
    ├── CampaignInUse [6]          another driver holds the campaign folder
    ├── LedgerDamaged [7]          the ledger fails its checksums or its replay
    ├── TooManyFailures [8]        the breaker stopped a campaign
    ├── ExportCheckFailed [9]      a written checkpoint is not what was scored
    ├── Stopped [75]               asked to stop (SIGTERM); resumable
    └── Interrupted [130]          Ctrl-C; resumable

    CandidateError                 one merge failed; never leaves the worker (no exit code)

Every error a person can cause carries `Problem` records; all of one run are shown together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GO_ON = "go on with `evomerge run`"
"""What helps where a campaign has not come far enough."""


@dataclass(frozen=True)
class Problem:
    """One fault: what is wrong, what was found, what to do, and where.

    `code` is stable and stands in `CODES`. `line` and `column` are 1-based and 0 where unknown; `field` is a
    dotted path into the file, or a tensor name.
    """

    code: str
    wrong: str
    found: str = ""
    todo: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}:{self.column}"
        head = " ".join(part for part in (f"error[{self.code}]", place, self.field) if part)
        return f"{head}: {self.words}"

    @property
    def words(self) -> str:
        """What is wrong, what was found and what to do, without code and place."""
        return "; ".join(part for part in (self.wrong, self.found, self.todo) if part)

    @property
    def as_warning(self) -> str:
        """The same line, of what stops nothing."""
        return str(self).replace("error[", "warning[", 1)


class EvomergeError(Exception):
    """Root of all errors evomerge raises on purpose; carries one or more problems."""

    exit_code = 1

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            self.problems: tuple[Problem, ...] = ()
            super().__init__(problems)
            return
        listed = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems = listed
        super().__init__("\n".join(str(problem) for problem in listed))


class UsageError(EvomergeError):
    """An id, a pick or an option that does not fit."""

    exit_code = 2


class ConfigError(EvomergeError):
    """A file a person wrote has faults."""

    exit_code = 3


class CheckpointError(EvomergeError):
    """A model folder or adapter cannot be used."""

    exit_code = 4


class EnvironmentFault(EvomergeError):
    """The machine or cluster cannot do what was asked."""

    exit_code = 5


class CampaignInUse(EvomergeError):
    """Another driver holds the campaign folder."""

    exit_code = 6


class LedgerDamaged(EvomergeError):
    """The ledger fails a checksum before its tail, or its replay disagrees."""

    exit_code = 7


class TooManyFailures(EvomergeError):
    """Candidates fail so often, or so alike, that going on is pointless."""

    exit_code = 8


class ExportCheckFailed(EvomergeError):
    """A written checkpoint did not pass its check; nothing was published."""

    exit_code = 9


class Stopped(EvomergeError):
    """A clean stop was asked for (SIGTERM); the campaign can be resumed."""

    exit_code = 75


class Interrupted(EvomergeError):
    """Ctrl-C; the campaign can be resumed."""

    exit_code = 130


class CandidateError(Exception):
    """A candidate cannot be scored (non-finite weights or logits, say); the search goes on.

    `kind` is a short stable word such as `nonfinite_weights`; it is what the ledger keeps. `tensor` is where
    it shows.
    """

    def __init__(self, kind: str, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.tensor = tensor


@dataclass(frozen=True)
class Explained:
    """What a code stands for in general, and what helps."""

    meaning: str
    helps: str


RANGES: Mapping[str, str] = {
    "E1": "files a person writes",
    "E2": "checkpoints and adapters",
    "E4": "machine, cluster and libraries",
    "E5": "campaigns and the command line",
    "E6": "exports",
    "E9": "bugs",
}
"""First characters of a code to what its faults are about."""

_TABLE = """
E101 a file is missing or cannot be read | check the path; it is relative to the file that names it
E102 a file is not of the form it must have (YAML, JSON, JSON lines) | mend the line that is shown
E103 a field is missing | add it as the message says
E104 a field is unknown | correct its spelling; docs/reference lists the fields
E105 a key stands twice in a mapping | leave one out: which one counts would be chance
E106 a YAML tag | leave tags out; values are plain data
E107 a file is too large, too deep, or has too many aliases | make it plainer
E108 a value is of the wrong kind | write what the message asks for
E109 a number is not finite | give a finite one
E110 bounds hold nothing | put `low` below `high`, with room for a step
E111 a coefficient or option does not fit the method | see `evomerge list methods`
E112 the budget is smaller than a population | raise `budget.evaluations` or lower `optimizer.population`
E113 there is no budget | give `evaluations`, `items` or `hours`, above 0
E114 there is no such merge method | see `evomerge list methods`; register your own before
E115 the method needs a base, or takes none | add or leave out the base
E116 there is no expert | add one
E117 two experts are the same files | leave one out
E118 the method takes another number of models | add or leave out models
E119 fields of a search space do not go together | see docs/reference/search_space.md
E121 there is nothing to search, or too much | free a coefficient, or make fields coarser
E122 something is listed twice, or not at all | give each once
E123 there is no such task, evaluator or library for it | correct the name, or install what is named
E124 no evaluator or task gives this metric | take one of those that are listed
E125 the direction is against the metric's own | turn it around
E126 a task runs code | read that code, then allow it with --allow-task-code
E127 objectives are measured on items of a public benchmark's test set | search on training items
E128 splits share items, or one has none | let `evomerge split` deal items out
E129 the batch size is `auto` | give a number: scores depend on it
E130 objectives, bounds or coefficients are missing or stand twice | give each once
E131 objectives cannot be told apart by the baselines | choose another metric, or more items
E132 this dtype does not fit | bfloat16 where models are, float32 on a CPU
E133 a name is that of no model | give `base`, an expert, or `union`
E135 the place to write is in use or of the wrong kind | give a new or empty folder
E136 a name is not allowed | letters, digits, `_` and `-`; some names are reserved
E137 a mergekit file asks for what is not supported | see docs/mergekit.md
E138 a recipe does not say where something comes from | name a checkpoint source for it
E139 a baseline takes longer than the deadline | raise `workers.deadline`
E140 a file seems to hold an access token | keep it in the environment
E141 the packed scorer does not fit the task or model | write `scorer: auto`
E142 parts of a campaign do not go together | leave one out as the message says
E143 a metric is measured by the clock, so that no two runs agree | use it knowingly (a warning)
E144 a data set is not on this machine | fetch it once, before the campaign
E147 this merge has no gradient by its coefficients | take a linear method, or an optimizer without gradients
E148 an evaluator has no loss to learn from | take another optimizer, or `auto`
E149 the optimizer learns only from gradients, which are not to be had here | take `auto`
E150 row weights beside a recipe are missing or others | copy the file it came with
E151 the optimizer has no such focus | take one that has, or `evomerge refine` afterwards
E152 a bundle cannot hold this | name files relative to the one that names them
E153 `start_from` names nothing that a search can begin with | name a campaign folder, recipe or mergekit file
E154 an evaluator does not fit the kind of model | take a kind that scores such models
E155 rows of some matrices cannot be told apart (a warning) | `field: tensor`, if it is most of them
E201 a model is not on this machine | fetch it: `hf download ORG/NAME --revision COMMIT`; check the path
E202 there is no usable config.json | download the folder again
E203 transformers cannot build this architecture | name one of its classes in `config.json`
E204 an adapter stands where a full model must | list it under `experts`, with its base as `base`
E205 an adapter names another base, or lies beside a model (a warning) | make sure that it is what you mean
E206 weights are pickles, which can run code | save them as safetensors
E208 a pickle or zip file has the name of safetensors | convert it
E209 a Git LFS pointer lies in place of the file | `git lfs pull`
E210 an HTML page was saved as weights | download it again
E211 a weight file is empty | download it again
E212 a weight file is truncated | download it again
E213 a weight file is too long | download it again
E214 a weight file has a damaged header, or an adapter a damaged config | download it again
E215 there are no weights | download the folder again
E216 there are shards without an index | add model.safetensors.index.json
E217 the index cannot be used | download it again
E218 the index names a file outside the folder | do not trust this folder
E219 index and shards disagree | download both again
E220 tensors are missing | see that base and expert are of one architecture
E221 there are tensors that the base does not have | see that base and expert are of one architecture
E222 config and weights have different numbers of layers | download the folder again
E223 a tensor has the wrong shape | see that base and expert are of one architecture
E224 sizes of the architectures differ | give experts of this base
E225 architectures differ | give experts of this base
E226 vocabularies differ in size | `tokenizer: {source: union}` aligns them
E227 the same ids mean different tokens | `tokenizer: {source: union}` aligns them
E228 special tokens, settings or chat templates differ (a warning) | choose by --tokenizer-from at export
E229 embedding and head are tied in one model only | `heads: untie`, or give models that agree
E230 weights are quantised | give the original weights
E231 dtypes are mixed (a warning) | nothing; the merge is computed in float32
E232 weights are NaN or infinite | give sound weights
E233 an expert equals the base | leave it out
E234 an adapter is of a kind that cannot be merged | see docs/adapters.md
E235 the model needs code of its own, which is never run | give a model that transformers knows
E237 a hub model has no commit | `hf models info ORG/NAME` prints it as `sha`
E238 a downloaded model is not complete | download it again
E239 weights are not those that were recorded | restore them, or begin another campaign
E240 a file cannot be read | see permissions and disk
E241 what merging an adapter by PEFT will take (a warning) | have so much disk free
E245 rotary positions differ from the base's | `allow: [rope]` at its entry; `rope:` names whose are taken
E246 a folder has a single weight file and shards (a warning) | remove what is not meant
E247 the classes of an expert differ from the base's | `heads: keep:EXPERT`, or `heads: each`
E401 there is no such device, or too few | see `nvidia-smi`; set `evaluation.device` and `workers.gpus`
E402 experts do not fit where they are to lie | `workers.experts: auto`
E403 there is no room to write | free some space and run again
E404 Ray cannot be reached or has gone | see `ray status`; the same command goes on
E405 a job that every campaign needs failed | mend the cause that is shown, then run again
E408 something cannot be written, or a hub refused it | see permissions, HF_TOKEN and the address
E409 programs cannot be confined here | Linux 5.13 or newer with Landlock
E410 this adapter needs PEFT | pip install 'evomerge[peft]'
E411 pictures need matplotlib | pip install 'evomerge[plot]'
E412 the tracker's library is not installed | pip install 'evomerge[NAME]'
E413 a tracker did not take the campaign | see that it can be reached, then `evomerge sync` again
E414 the metrics port cannot be opened | give another --metrics-port
E500 a word on the command line does not fit | see `evomerge VERB --help`
E501 another driver holds the campaign | wait for it, or stop it
E502 the ledger is damaged | `evomerge repair DIR OUT` copies what is sound
E503 the ledger is of a newer evomerge | use that version
E504 an evaluator or its items changed since the campaign began | restore them
E505 a replay comes to something else than was recorded | use the versions that wrote it
E506 there is no such candidate or pick | `evomerge front DIR` lists them
E507 what was asked for is not there yet, or failed | go on with `evomerge run`, or pick another
E508 too many candidates or gradients failed | see `evomerge status --failed`, mend the cause, run again
E509 there is no campaign in this folder | give the folder that `run` was given as --dir
E510 a campaign folder contradicts itself | `evomerge repair DIR OUT` copies what is sound
E511 the start of a run imports itself again | put it under `if __name__ == "__main__":`
E512 an optimizer cannot be registered so | choose another name, give a dataclass of settings
E513 a function of your own cannot be sent to workers | put it into a module that workers can import
E514 a registered method is not the one that was recorded | register it as it was
E601 the target of an export is in use | another folder, or --overwrite
E602 an export is not what was scored; nothing was published | see what differs; check versions and files
E999 a bug in evomerge | report it with EVOMERGE_TRACEBACK=1
"""


def _explained(table: str) -> dict[str, Explained]:
    lines = (line.split(" ", 1) for line in table.strip().splitlines())
    return {code: Explained(*rest.split(" | ")) for code, rest in lines}


CODES: Mapping[str, Explained] = _explained(_TABLE)
"""Every code there is; `evomerge explain CODE` and docs/reference/errors.md say the same."""
