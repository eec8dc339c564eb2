"""The daemon: coordinator, chain client, scores and control."""

__version__ = "0.1.0"
