"""The command line: verbs, exit codes, and errors in one form.

In come words, out go tables or JSON on stdout and everything else on stderr. A verb imports what it
needs when it is called.

Read `app` (the verbs and the exit codes; `__main__` calls it), then the verbs in the order of a person's
work: `start` (`init`, `list`; the campaign that `init` writes is made in `starter/`), `campaigns`
(`check`, `run`), `refine`, `study`, `status`, `looks` (`show`, `optuna`, `repair`, and `verify`, which is
made in `verify/`), `front`, `compare`, `pictures` (`history`, `plot`), `report`, `models` (`import`,
`merge`, `export`, `score`), `moe`, `weights` (`kinship`, `align`, `barrier`), `push`, `splits`, `track`
(`sync`), `cluster` (`bundle`, `launch`), `reference` (`schema`, `explain`). The others are what verbs
print: `output`, `again`, `candidate`, `failures`, `results`, `live` and `follow`, `seen`, `status_rows`,
`worker_lines`, `lock_holder`.
"""

from evomerge.cli.app import main

__all__ = [
    "main",
]
