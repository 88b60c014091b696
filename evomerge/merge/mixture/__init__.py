"""Mixture: models of one architecture as the experts of a mixture that transformers knows.

In come opened folders and what a file or a recipe says of them; out go the tensors of a mixture, one by one,
and its config, or the model that transformers loads of them.

Read `declaration` (the file), `architectures` (which mixture a dense model becomes, and its names),
`experts` (what each brings), `gates` and `routers` (the routers' rows without training), `tensors` and
`planned` (all of it, written or live).
"""
