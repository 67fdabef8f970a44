"""Asking a model: answers, probabilities, prompts."""
