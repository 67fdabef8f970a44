"""Training the learned editors (KE, MEND, SERAC) for one model: episodes, gradient factors, networks, artefacts."""
