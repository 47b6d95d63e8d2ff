"""Blobs on their way in and out: in parallel, and taken up again where they were cut."""
