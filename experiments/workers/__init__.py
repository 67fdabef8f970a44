"""Who computes the cells: this process, several processes, a Ray cluster."""
