"""Moves bytes between peers; knows nothing of models."""
