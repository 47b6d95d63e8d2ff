"""Logins: where they are kept, and what a registry gives for them."""
