"""Many facts x sites x layers x methods x seeds: plan, run here or on a cluster, store, resume, summarise.

    plan        cells, each named by a hash of everything its result depends on           (`plan.py`, `kinds.py`)
    ledger      one SQLite file: every cell, who computes it, and every result            (`ledger/`)
    runner      leases cells, hands them to an executor, writes results down              (`runner.py`)
    executors   this process, several processes, or a Ray cluster; the same bits from each (`workers/`)
    cells       the kinds of cells that ship                                              (`cells/`)
    studies     plans that ship, each with the figure and the table it makes              (`studies/`)

Torch and transformers take seconds to import, so nothing here imports them before a cell has to run.
"""
