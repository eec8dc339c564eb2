"""A Llama-3 style decoder, the same function as Hugging Face's LlamaForCausalLM for the same weights.

Source: Touvron et al., arXiv 2302.13971; grouped queries, arXiv 2305.13245; RoPE, arXiv 2104.09864, in the
rotate-half form of Hugging Face's checkpoints. Parameters bear their names there, without the prefix `model.`.
"""

from functools import lru_cache
from math import sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig

INITIAL_STD = 0.02
_MAX_LAYERS = 1024
_MAX_SIZE = 1 << 24

Rotation = tuple[Tensor, Tensor]


class Linear(nn.Linear):
    """No bias; its weight is whatever the memory held until `build` or `unflatten_` fills it.

    nn.Linear's own initialisation is work for nothing, and on the meta device it imports 1.6 s worth of Python.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Leave the weight as it is."""


class Embedding(nn.Embedding):
    """As Linear: not initialised."""

    def reset_parameters(self) -> None:
        """Leave the weight as it is."""


class Attention(nn.Module):
    """Causal self-attention with grouped key-value heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = Linear(config.width, queries)
        self.k_proj = Linear(config.width, keys)
        self.v_proj = Linear(config.width, keys)
        self.o_proj = Linear(queries, config.width)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:-1], -1, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        query = rotate(self._heads(self.q_proj(x)), rotation)
        key = rotate(self._heads(self.k_proj(x)), rotation)
        value = self._heads(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.feedforward_width)
        self.up_proj = Linear(config.width, config.feedforward_width)
        self.down_proj = Linear(config.feedforward_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each on a normed residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=config.norm_epsilon)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Transformer(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, config: ModelConfig) -> None:
        """Matrices stay uninitialised; `build` fills them."""
        super().__init__()
        check(config)
        self.config = config
        self.embed_tokens = Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        if not config.tied_embeddings:
            self.lm_head = Linear(config.width, config.vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, T] below the vocabulary size -> logits [B, T, vocabulary_size]."""
        x = self.embed_tokens(tokens)
        rotation = rotation_table(self.config, tokens.shape[1], x.device, x.dtype)
        for layer in self.layers:
            x = layer(x, rotation)
        output = self.embed_tokens if self.config.tied_embeddings else self.lm_head
        return functional.linear(self.norm(x), output.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """int64 [B, T+1] -> the mean cross entropy of each next token, in nats; fp32 scalar."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def rotation_table(config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype) -> Rotation:
    """Cosines and sines [length, head_width] of RoPE's angles; computed in fp32, whatever `dtype` is."""
    even = torch.arange(0, config.head_width, 2, dtype=torch.float32, device=device)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, 1.0 / config.rope_base ** (even / config.head_width)).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Apply RoPE to [B, heads, T, head_width]; dimension i turns with dimension i + head_width / 2."""
    cosine, sine = rotation
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-high, low), dim=-1) * sine


def check(config: ModelConfig) -> None:
    """Raises ValueError if no decoder has these sizes; a run spec can hold anything."""
    sizes = (config.vocabulary_size, config.width, config.feedforward_width, config.heads, config.kv_heads)
    if not all(0 < size <= _MAX_SIZE for size in sizes) or not 0 < config.layers <= _MAX_LAYERS:
        raise ValueError(f"model sizes out of range: {config}")
    if config.heads % config.kv_heads or not 0 < config.head_width <= _MAX_SIZE or config.head_width % 2:
        raise ValueError(f"heads do not divide: {config}")
    if not (config.rope_base > 0 and config.norm_epsilon > 0):
        raise ValueError(f"rope_base and norm_epsilon must be positive: {config}")


def build(config: ModelConfig, seed: int) -> Transformer:
    """A model in fp32 on the CPU; the same parameters for the same seed, torch and kind of CPU.

    Normal with std 0.02; projections into the residual stream are scaled by 1/sqrt(2 x layers), as in GPT-2.
    Peers don't rebuild θ_0: it reaches them as a blob. Raises ValueError on impossible sizes.
    """
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    residual_std = INITIAL_STD / sqrt(2 * config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            parameter.normal_(0.0, residual_std if into_residual else INITIAL_STD, generator=generator)
    return model


@lru_cache(maxsize=16)
def parameter_layout(config: ModelConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes in the order of named_parameters, without memory for them. Raises ValueError."""
    with torch.device("meta"):
        model = Transformer(config)
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def parameter_count(config: ModelConfig) -> int:
    """Raises ValueError."""
    return sum(torch.Size(shape).numel() for _, shape in parameter_layout(config))


@torch.no_grad()
def flatten(model: nn.Module) -> Tensor:
    """A copy of all parameters as one fp32 CPU vector [P], in layout order."""
    flat = torch.empty(sum(p.numel() for p in model.parameters()), dtype=torch.float32)
    start = 0
    for parameter in model.parameters():
        flat[start : start + parameter.numel()].copy_(parameter.reshape(-1))
        start += parameter.numel()
    return flat


@torch.no_grad()
def unflatten_(model: nn.Module, theta: Tensor) -> None:
    """Copy a flat fp32 CPU vector [P] into the parameters. Raises ValueError, before any write, if it doesn't fit."""
    wanted = sum(p.numel() for p in model.parameters())
    if theta.dtype != torch.float32 or theta.shape != (wanted,):
        raise ValueError(f"want fp32 [{wanted}], got {theta.dtype} {list(theta.shape)}")
    start = 0
    for parameter in model.parameters():
        parameter.copy_(theta[start : start + parameter.numel()].view(parameter.shape))
        start += parameter.numel()
