"""Mixture: models of one architecture as the experts of a mixture that transformers knows.

In come opened folders and a file that names them; out go the tensors of a mixture, one by one, and its
config.

Read `declaration` (the file), `architectures` (which mixture a dense model becomes, and its names),
`experts` (what each brings), `gates` (the router's rows without training) and `tensors`.
"""
