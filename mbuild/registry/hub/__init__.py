"""The Hub's repositories of checkpoints: what is in them, and the files, by its file API."""
