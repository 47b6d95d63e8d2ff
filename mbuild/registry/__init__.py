"""Other machines' models: the registries of OCI, Docker and Ollama, in and out of the store.

Nothing here is loaded by a build whose models are all in the store.
"""
