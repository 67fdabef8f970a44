"""The Workbench's tabs that look again at the same prompt: with an edit, through a lens, beside another prompt."""
