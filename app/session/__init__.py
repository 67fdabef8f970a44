"""What one session holds: the fields, what it asks for, the examples."""
