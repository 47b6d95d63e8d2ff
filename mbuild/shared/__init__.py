"""What several machines have in common: storages, records that can be trusted, single flight."""
