"""From words to tokens and back."""
