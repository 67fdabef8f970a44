"""Many sessions at once against a running server, each answer compared with the same question asked alone."""
