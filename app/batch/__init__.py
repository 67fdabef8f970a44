"""The page Batch: a dataset, a grid of methods, layers and protocols, and its results."""
