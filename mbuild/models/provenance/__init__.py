"""Statements about models, read again: shown, signed, and held against a model made anew."""
