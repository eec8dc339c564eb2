"""Tensors; knows nothing of peers. Imports nothing, so that its torch-free modules stay cheap."""
