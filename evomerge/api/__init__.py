"""The public face: what `import evomerge as em` offers in a script or a notebook.

In come files, folders and keyword arguments; out come campaigns, runs, fronts and checkpoints that
print short and show as tables. Nothing is decided here: each name calls what the command line's verbs call.
`evomerge/__init__.py` loads these modules when a name is first used.

Read `campaign`, `run`, `front`, `checkpoints` and `display`.
"""
