"""The command line: verbs, exit codes, and errors in one form.

In come words, out go tables or JSON on stdout and everything else on stderr. A verb imports what it
needs when it is called.

Read `app` (the verbs and the exit codes), then the verbs: `start` (`init`, `list`; the campaign that
`init` writes is made in `starter/`), `campaigns` (`check`, `run`), `looks` (`status`, `front`, `show`,
`verify`, `repair`), `models` (`export`, `merge`, `score`, `import`), `splits`, `cluster`. The others
are what verbs print: `output`, `tables`, `results`, `candidate`, `standing`, `live`, `lock_holder`,
`references`.
"""

from evomerge.cli.app import main

__all__ = [
    "main",
]
