"""Forward passes: reading, changing and packing them."""
