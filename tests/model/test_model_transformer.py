"""The decoder: its sizes, its function against a plain restatement of Llama, its flat vector."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import PRESETS, ModelConfig
from model.transformer import (
    build,
    flatten,
    parameter_count,
    parameter_layout,
    unflatten_,
)

TINY = ModelConfig(61, 24, 3, 6, 2, 40, 8)
UNTIED = replace(TINY, tied_embeddings=False)
TOKENS = torch.randint(0, 61, (3, 17), generator=torch.Generator().manual_seed(1))


def test_72b_counts_what_the_paper_counts() -> None:
    assert parameter_count(PRESETS["72b"]) == 72_747_327_488


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("nano", 918_656), ("1b", 1_235_814_400), ("8b", 8_030_261_248)],  # Llama 3.2 1B and Llama 3 8B
)
def test_presets_have_the_published_sizes(preset: str, parameters: int) -> None:
    assert parameter_count(PRESETS[preset]) == parameters


@pytest.mark.parametrize("config", [TINY, UNTIED])
def test_layout_is_that_of_the_built_model(config: ModelConfig) -> None:
    model = build(config, 0)
    assert parameter_layout(config) == tuple((n, tuple(p.shape)) for n, p in model.named_parameters())
    assert ("lm_head.weight" in dict(parameter_layout(config))) is not config.tied_embeddings


def test_names_are_hugging_faces() -> None:
    names = [name for name, _ in parameter_layout(replace(UNTIED, layers=1))]
    assert names == [
        "embed_tokens.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.k_proj.weight",
        "layers.0.self_attn.v_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.0.mlp.gate_proj.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.0.mlp.down_proj.weight",
        "layers.0.input_layernorm.weight",
        "layers.0.post_attention_layernorm.weight",
        "norm.weight",
        "lm_head.weight",
    ]


def test_same_seed_same_parameters() -> None:
    assert torch.equal(flatten(build(TINY, 5)), flatten(build(TINY, 5)))
    assert not torch.equal(flatten(build(TINY, 5)), flatten(build(TINY, 6)))


def test_initial_spread_and_loss() -> None:
    model = build(PRESETS["nano"], 0)
    spread = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    assert spread["layers.0.mlp.up_proj.weight"] == pytest.approx(0.02, rel=0.05)
    assert spread["layers.0.mlp.down_proj.weight"] == pytest.approx(0.02 / 8**0.5, rel=0.05)
    assert spread["layers.3.self_attn.o_proj.weight"] == pytest.approx(0.02 / 8**0.5, rel=0.05)
    tokens = torch.randint(0, 1024, (2, 65), generator=torch.Generator().manual_seed(0))
    assert float(model.loss(tokens)) == pytest.approx(6.93, abs=0.1)  # ln 1024: it knows nothing yet


def llama(config: ModelConfig, p: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """modeling_llama.py of Hugging Face's transformers, restated position by position and head by head."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.norm_epsilon))

    def turn(x: Tensor, position: int) -> Tensor:
        half = config.head_width // 2
        out = x.clone()
        for i in range(half):
            angle = torch.tensor(position / config.rope_base ** (2 * i / config.head_width))
            a, b = x[i], x[i + half]
            out[i] = a * angle.cos() - b * angle.sin()
            out[i + half] = b * angle.cos() + a * angle.sin()
        return out

    def attend(x: Tensor, prefix: str) -> Tensor:
        q, k, v = (x @ p[f"{prefix}.{n}_proj.weight"].T for n in "qkv")
        width, out = config.head_width, torch.zeros(len(x), config.heads * config.head_width)
        for head in range(config.heads):
            mine = slice(head * width, (head + 1) * width)
            group = head // (config.heads // config.kv_heads)
            shared = slice(group * width, (group + 1) * width)
            keys = torch.stack([turn(k[t, shared], t) for t in range(len(x))])
            for t in range(len(x)):
                scores = keys[: t + 1] @ turn(q[t, mine], t) / width**0.5
                out[t, mine] = scores.softmax(0) @ v[: t + 1, shared]
        return out @ p[f"{prefix}.o_proj.weight"].T

    x = p["embed_tokens.weight"][tokens]
    for i in range(config.layers):
        name = f"layers.{i}"
        x = x + attend(norm(x, p[f"{name}.input_layernorm.weight"]), f"{name}.self_attn")
        y = norm(x, p[f"{name}.post_attention_layernorm.weight"])
        gate, up = (y @ p[f"{name}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ p[f"{name}.mlp.down_proj.weight"].T
    head = p["embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"]
    return norm(x, p["norm.weight"]) @ head.T


@pytest.mark.parametrize("config", [TINY, UNTIED, replace(TINY, kv_heads=6)])
def test_logits_are_llamas(config: ModelConfig) -> None:
    model = build(config, 3)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at birth, norms away from 1: every term must show
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
        ours = model(TOKENS)
        reference = torch.stack([llama(config, dict(model.named_parameters()), row) for row in TOKENS])
    assert ours.shape == (3, 17, 61)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_loss_is_the_mean_of_next_tokens() -> None:
    model = build(TINY, 3)
    log_p = model(TOKENS[:, :-1]).log_softmax(-1)
    by_hand = [log_p[b, t, TOKENS[b, t + 1]] for b in range(3) for t in range(16)]
    assert float(model.loss(TOKENS)) == pytest.approx(-float(sum(by_hand)) / 48, rel=1e-5)


def test_no_token_sees_the_future() -> None:
    model = build(TINY, 3)
    changed = TOKENS.clone()
    changed[:, 9:] = 60 - changed[:, 9:]
    torch.testing.assert_close(model(TOKENS)[:, :9], model(changed)[:, :9])
    assert not torch.allclose(model(TOKENS)[:, 9:], model(changed)[:, 9:])


def test_flat_vector_goes_round_in_layout_order() -> None:
    source, target = build(UNTIED, 1), build(UNTIED, 2)
    theta = flatten(source)
    assert theta.dtype == torch.float32
    start = dict(parameter_layout(UNTIED))["embed_tokens.weight"]
    assert torch.equal(theta[: start[0] * start[1]].view(start), source.embed_tokens.weight)
    unflatten_(target, theta)
    assert torch.equal(flatten(target), theta)
    theta.zero_()
    assert flatten(source).any()  # a copy, not a view


@pytest.mark.parametrize("theta", [torch.zeros(7), torch.zeros(918_656, dtype=torch.float64)])
def test_a_vector_that_does_not_fit_changes_nothing(theta: Tensor) -> None:
    model = build(PRESETS["nano"], 0)
    before = flatten(model)
    with pytest.raises(ValueError, match="want fp32"):
        unflatten_(model, theta)
    assert torch.equal(flatten(model), before)


@pytest.mark.parametrize(
    "change",
    [
        {"kv_heads": 4},
        {"head_width": 7},
        {"layers": 0},
        {"layers": 10**9},
        {"width": -1},
        {"vocabulary_size": 1 << 40},
        {"kv_heads": 0},
        {"rope_base": float("nan")},
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        parameter_layout(replace(TINY, **change))
