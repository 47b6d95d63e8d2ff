"""The language that a first line ``# syntax=mbuild/1`` opens: arguments, stages, and what
becomes of weights."""
