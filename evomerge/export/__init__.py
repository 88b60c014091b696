"""Export: one merge as a checkpoint to publish, whole and verified, or not at all.

In comes a pick of a campaign, or a recipe; out goes an ordinary checkpoint folder with its card and
recipe, reloaded, compared and scored before it gets its name. This room loads torch.

Read `export` (the steps in order), `choice` (which candidate is meant), `merge` (sources opened and
planned), `taken` (another model's tokenizer or chat template), `files`, `habits`, `model_card`, `verify`,
`scores`, `log` and `outcome`. Import from these modules; nothing is
re-exported here.
"""
