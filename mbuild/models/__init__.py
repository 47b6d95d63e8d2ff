"""Stored models: listing, copying, comparing, keeping the disk in order, and moving them."""
