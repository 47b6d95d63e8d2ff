"""Requests to a registry: which hosts may be asked, how, and what their answers say."""
