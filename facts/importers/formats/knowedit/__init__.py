"""The formats of the KnowEdit collection."""
