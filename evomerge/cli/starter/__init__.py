"""Starter: a campaign folder that runs as it stands, for `evomerge init`.

Everything in it is made by code, so that an installed wheel needs no data files. Read `write`, then
`texts`, `tasks` and `toy_models`.
"""
