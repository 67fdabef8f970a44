"""The bundled reference model: its corpus, its training, its evaluation."""
