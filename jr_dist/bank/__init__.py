"""The per-source codes: a shard as a plain object and its client."""
