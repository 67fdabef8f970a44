"""The page Workbench: locate, edit, evaluate."""
