"""`python -m model.hf --theta FILE --model JSON --tokenizer FILE --context N --out DIR`: θ as Hugging Face reads it.

Writes model.safetensors (fp32), config.json of a LlamaForCausalLM, tokenizer.json and tokenizer_config.json. A
safetensors file is the length of its header (u64, little-endian), the header (JSON: type, shape and place of each
tensor), and the tensors' bytes. θ's own file, little-endian and in layout order, is those bytes as it stands.
"""

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import tokenizer, transformer
from model.atomicfile import replacing
from model.config import ModelConfig
from model.dataset import EXIT_CONFIG, EXIT_TRY_AGAIN
from model.regularfile import Unreadable, opened

_VALUE_BYTES = 4
_ALIGNMENT = 8  # of the first tensor, as the format's own writer has it
_CHUNK_BYTES = 1 << 20


class ExportError(Exception):
    """The state or the tokenizer is not this model's; the message says which and why."""


def header(config: ModelConfig) -> bytes:
    """With its length before it. Raises ValueError on impossible sizes."""
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in transformer.parameter_layout(config):
        end = start + _VALUE_BYTES * _product(shape)
        known = name if name.startswith("lm_head.") else f"model.{name}"
        tensors[known] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def config_json(config: ModelConfig, context_tokens: int) -> dict[str, Any]:
    """`context_tokens`: how long the sequences were that it was trained on."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.feedforward_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied_embeddings,
        "max_position_embeddings": context_tokens,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": transformer.INITIAL_STD,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def write_model(theta: Path, config: ModelConfig, target: Path) -> None:
    """Whole or not at all. Raises ExportError, OSError."""
    wanted = _VALUE_BYTES * transformer.parameter_count(config)
    try:
        with opened(str(theta)) as (file, size):
            if size != wanted:
                raise ExportError(f"{theta} has {size} bytes, a state of this model {wanted}")
            with replacing(target) as out:
                out.write(header(config))
                while chunk := file.read(_CHUNK_BYTES):
                    out.write(chunk)
    except Unreadable as error:
        raise ExportError(f"{theta}: {error}") from error


def export(theta: Path, config: ModelConfig, tokenizer_file: Path, context_tokens: int, out: Path) -> None:
    """All files, the model last. Raises ExportError, OSError."""
    try:
        words = tokenizer_file.read_bytes()
        tokenizer.load(words)
        settings = config_json(config, context_tokens)
        out.mkdir(parents=True, exist_ok=True)
    except tokenizer.TokenizerError as error:
        raise ExportError(f"{tokenizer_file}: {error}") from error
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_tokens}
    for name, content in (
        ("tokenizer.json", words),
        ("tokenizer_config.json", json.dumps(kind, indent=2).encode() + b"\n"),
        ("config.json", json.dumps(settings, indent=2).encode() + b"\n"),
    ):
        with replacing(out / name) as file:
            file.write(content)
    write_model(theta, config, out / "model.safetensors")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.hf", description="Write a state as Hugging Face reads it.")
    parser.add_argument("--theta", type=Path, required=True, help="raw little-endian fp32 in layout order")
    parser.add_argument("--model", type=json.loads, required=True, help="ModelConfig as a JSON object")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--context", type=int, required=True, help="tokens of a sequence in training")
    parser.add_argument("--out", type=Path, required=True, help="directory for the files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 78 for a state or tokenizer that cannot do, 75 where files cannot be written."""
    arguments = _arguments(argv)
    try:
        config = ModelConfig(**arguments.model)
        export(arguments.theta, config, arguments.tokenizer, arguments.context, arguments.out)
    except (ExportError, ValueError, TypeError) as error:
        print(f"export: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except OSError as error:
        print(f"export: {error.filename or arguments.out}: {error.strerror}", file=sys.stderr)
        return EXIT_TRY_AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main())
