"""Ask a model: prompts, greedy continuations, probabilities of answers."""
