"""What every figure of this package shares."""
