"""What a state already says when it is read as if the rest of the model were not there."""
