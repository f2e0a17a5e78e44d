"""What keeps pages: `state` is the present in memory, `store` the log and the checkpoints."""
