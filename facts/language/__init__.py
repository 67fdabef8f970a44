"""English sentences in the language of their reader: the translations, and what a command line says."""
