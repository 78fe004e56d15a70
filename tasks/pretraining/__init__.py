"""The recipes of the shipped weights, and their measuring."""
