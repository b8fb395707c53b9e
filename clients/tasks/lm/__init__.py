"""Language models from Hugging Face folders as tasks: tokens in, scores out.

Which models there are is in ``models``, how little of one is trained in ``tune``,
texts become rows of token numbers in ``rows``, and ``tasks`` puts them together.
Nothing is fetched while a task is made or trained.
"""
