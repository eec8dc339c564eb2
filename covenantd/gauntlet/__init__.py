"""Scores contributions: pure functions over observations."""
