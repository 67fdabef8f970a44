"""Views of a model with an edit applied."""
