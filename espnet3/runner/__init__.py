"""The names under which ESPnet3 of early 2025 has what is in `espnet3.parallel`."""
