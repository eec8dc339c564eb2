"""How large a model is, and what training it asks of memory and disk. Estimates for people. Pure."""

from model.config import ModelConfig

_FLOAT_BYTES = 4
_TRAINING_FLOATS = 6  # θ, the global θ kept beside it, gradient, two Adam moments, error feedback
_KEPT_STATES = 4  # on disk: those of the last rounds and one in the making
_ENGINE_STATE_FLOATS = 3  # on disk: error feedback and two moments
_FIXED_MEMORY_BYTES = 1 << 30  # interpreter, torch, activations of small models


def parameters(model: ModelConfig) -> int:
    """Of the decoder in `model.model`: embeddings, attention, SwiGLU, norms."""
    embeddings = model.vocabulary_size * model.width * (1 if model.tied_embeddings else 2)
    attention = model.width * model.head_width * (2 * model.heads + 2 * model.kv_heads)
    layer = attention + 3 * model.width * model.feedforward_width + 2 * model.width
    return embeddings + model.layers * layer + model.width


def training_bytes(model: ModelConfig) -> int:
    """Memory of the engine while it trains."""
    return parameters(model) * _FLOAT_BYTES * _TRAINING_FLOATS + _FIXED_MEMORY_BYTES


def disk_bytes(model: ModelConfig) -> int:
    """States and the engine's own files, without the data set."""
    return parameters(model) * _FLOAT_BYTES * (_KEPT_STATES + _ENGINE_STATE_FLOATS)
