"""GGUF files: a bounded lazy reader, a streaming writer, merging of shards, facts for a config.

Nothing is re-exported here: a module that needs only the tables or the value
types must not pay for the reader.
"""
