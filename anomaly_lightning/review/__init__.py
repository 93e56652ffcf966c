"""Decisions that were made, the marks that people set on them, and what follows for the next model; free of torch."""
