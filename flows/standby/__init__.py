"""A process that waits with everything loaded, so that a command which runs a flow needn't load it.

Prefect, MLflow, DVC and torch take a new process and its workers 10 to 20 seconds to import: as long as a small retraining. While a
workspace is served, one process lies ready. `lethe submit` and `lethe learn` hand it their arguments and their output streams (`client`),
it carries the command out as its own (`process`), ends, and `lethe serve` readies the next (`keeper`). One process a command: nothing of
one request is left in memory when the next comes. Where none is ready, or its code is no longer the installed one, the command does the
work itself; what it does and prints is the same.
"""
