"""What `model.hf` writes, read by the words of the formats alone, computes what our own model does, to the bit."""

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import corpus, hf, tokenizer
from model.config import PRESETS, ModelConfig
from model.transformer import Transformer, build, flatten

TIED = PRESETS["nano"]
UNTIED = ModelConfig(256, 32, 2, 4, 1, 48, 8, rope_base=10_000.0, norm_epsilon=1e-6, tied_embeddings=False)


def words(directory: Path, theta: bytes, config: ModelConfig, words: bytes | None = None) -> list[str]:
    (directory / "theta.bin").write_bytes(theta)
    (directory / "words").write_bytes(tokenizer.train(corpus.text()[:20_000], 256) if words is None else words)
    places = ["--theta", str(directory / "theta.bin"), "--tokenizer", str(directory / "words")]
    return [*places, "--model", json.dumps(asdict(config)), "--context", "128", "--out", str(directory / "out")]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file as its specification has it (github.com/huggingface/safetensors, "Format")."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    body, header = data[8 + length :], json.loads(data[8 : 8 + length])
    assert data[8:9] == b"{" and header.pop("__metadata__") == {"format": "pt"} and length % 8 == 0
    places = sorted(one["data_offsets"] for one in header.values())
    assert places[0][0] == 0 and places[-1][1] == len(body), "no byte is outside of all tensors"
    assert all(before[1] == after[0] for before, after in zip(places, places[1:], strict=False))
    found = {}
    for name, one in header.items():
        assert one["dtype"] == "F32"
        values = np.frombuffer(body[slice(*one["data_offsets"])], "<f4")
        found[name] = torch.from_numpy(values.copy()).view(one["shape"])
    return found


def config_of(found: dict[str, Any]) -> ModelConfig:
    """By the meaning that transformers' LlamaConfig gives the keys."""
    assert (found["architectures"], found["hidden_act"]) == (["LlamaForCausalLM"], "silu")
    assert not found["attention_bias"] and not found["mlp_bias"]
    return ModelConfig(
        vocabulary_size=found["vocab_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        kv_heads=found["num_key_value_heads"],
        feedforward_width=found["intermediate_size"],
        head_width=found["head_dim"],
        rope_base=found["rope_theta"],
        norm_epsilon=found["rms_norm_eps"],
        tied_embeddings=found["tie_word_embeddings"],
    )


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_the_model_that_is_read_back_is_the_same_function(config: ModelConfig, tmp_path: Path) -> None:
    model = build(config, 3)
    assert hf.main(words(tmp_path, flatten(model).numpy().tobytes(), config)) == 0
    out = tmp_path / "out"
    again = Transformer(config_of(json.loads((out / "config.json").read_text())))
    found = tensors(out / "model.safetensors")
    assert ("lm_head.weight" in found) == (not config.tied_embeddings)
    again.load_state_dict({name.removeprefix("model."): tensor for name, tensor in found.items()})
    tokens = torch.randint(config.vocabulary_size, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))


def test_the_tokenizer_comes_along_as_it_is(tmp_path: Path) -> None:
    given = words(tmp_path, flatten(build(TIED, 3)).numpy().tobytes(), TIED)
    assert hf.main(given) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "words").read_bytes()
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 128


def test_what_is_not_this_models_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theta = flatten(build(UNTIED, 3)).numpy().tobytes()
    good = tokenizer.train(corpus.text()[:20_000], 256)
    for state, config, vocabulary, says in (
        (theta[:-4], UNTIED, good, f"has {len(theta) - 4} bytes, a state of this model {len(theta)}"),
        (theta, UNTIED, b"{}", "not a tokenizer.json"),
        (theta, replace(UNTIED, heads=3, kv_heads=2), good, "heads do not divide"),
    ):
        assert hf.main(words(tmp_path, state, config, vocabulary)) == 78
        captured = capsys.readouterr()
        assert says in captured.err and len(captured.err.splitlines()) == 1
        assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_place_that_cannot_be_written_is_75(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, flatten(build(UNTIED, 3)).numpy().tobytes(), UNTIED)
    (tmp_path / "out").write_text("a file, not a directory")
    assert hf.main(given) == 75
    assert "out" in capsys.readouterr().err
