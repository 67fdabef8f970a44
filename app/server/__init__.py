"""What all sessions share: jobs, loaded models, uploads, the list of models."""
