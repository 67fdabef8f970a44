"""Forwards on a machine that serves the model through nnsight: the driver, its jobs, and a record of them."""
