"""The parallel config: its model, its YAML, and the one of this process."""
