"""What evomerge promises on a GPU, measured in some minutes of one card; a tiny version of it all on a CPU.

Read `__main__.py` (the steps), `report.py` (minutes, lines, figures), `bed.py` (models made on the card),
then `merging.py` (steps 1 to 3), `evaluating.py` (4 to 7), `slope.py` (9) and `campaigns.py` (8 and 10).
docs/gpu.md tells how to run it.
"""
