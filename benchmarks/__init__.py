"""Measurements: commands, never tests. Each verifies what it times, against peers in the same run."""
