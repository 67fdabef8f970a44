"""Methods: what each number on the Workbench is, how it is computed, and what it does not mean."""

from app.methods import explain

explain.draw()
