"""Writes a trained model as an upstream checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from ..checkpoint import NORM_EPSILON
from ..errors import ModelError
from ..files import write_file
from ..text import end_token
from .model import LanguageModel


def upstream_config(model: LanguageModel, end: int) -> dict[str, object]:
    """``config.json`` as upstream's class reads it; `end` is the token between texts."""
    config = model.config
    return {
        "architectures": ["HGRNBitForCausalLM"],
        "attn_mode": "fused_recurrent",
        "bos_token_id": end,
        "conv_size": 4,
        "eos_token_id": end,
        "expand_ratio": 1,
        "fuse_cross_entropy": True,
        "hidden_act": "swish",
        "hidden_ratio": 4,
        "hidden_size": config.hidden,
        "initializer_range": config.initial_deviation,
        "intermediate_size": config.intermediate,
        "max_position_embeddings": 2048,
        "model_type": "hgrn_bit",
        "num_heads": 1,
        "num_hidden_layers": config.layers,
        "rms_norm_eps": NORM_EPSILON,
        "share_conv_kernel": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_lower_bound": True,
        "use_short_conv": False,
        "vocab_size": config.vocabulary,
    }


def export(model: LanguageModel, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes config.json, model.safetensors and tokenizer.json, latents in float32.

    Raises
    ------
    ModelError
        When the model is none that upstream's class can be.
    """
    if model.config.architecture != "matmul-free" or not model.config.ternary:
        raise ModelError(f"{directory}: only ternary MatMul-free models have this format")
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_file(directory / "model.safetensors", save(tensors, {"format": "pt"}))
    config = json.dumps(upstream_config(model, end_token(tokenizer)), indent=2) + "\n"
    write_file(directory / "config.json", config.encode())
    write_file(directory / "tokenizer.json", tokenizer.to_str().encode())
