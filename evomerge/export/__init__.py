"""Export: one merge as a checkpoint to publish, whole and verified, or not at all.

In comes a pick of a campaign, or a recipe; out goes an ordinary checkpoint folder with its card and
recipe, reloaded, compared and scored before it gets its name. This room loads torch.

Read `export` (the steps in order), `stated` and `choice` (which merge is meant), `merge` (sources opened
and planned), what lies beside the weights: `files`, `habits`, `taken` (another model's tokenizer or chat
template), `model_card` with `card_recipe`, `card_text` and `picture`; then `verify`, `scores`, `log`,
`outcome`, `push` (to a hub), and what is written without a recipe: `mixture` (dense models as experts)
and `aligned` (a model in another's order of units). Import from these modules; nothing is re-exported
here.
"""
