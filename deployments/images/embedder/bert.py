"""A BERT encoder for sentences in numpy: from safetensors weights and a tokenizer to vectors of unit length.

Reads what sentence-transformers writes: config.json, tokenizer.json, model.safetensors; mean pooling, then normalisation.
"""

import json
import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array: TypeAlias = npt.NDArray[np.float32]
_erf = np.frompyfunc(math.erf, 1, 1)


class Encoder:
    """The model of a directory."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
            raise ValueError(f"{directory} holds a {config['model_type']} with {config['hidden_act']}; this computes bert with gelu")
        self._heads: int = config["num_attention_heads"]
        self._layers: int = config["num_hidden_layers"]
        self._epsilon: float = config["layer_norm_eps"]
        self._weights: dict[str, Array] = load_file(directory / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()  # one text at a time, so that nothing has to be masked

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        width: int = self._weights["embeddings.word_embeddings.weight"].shape[1]
        return width

    def embed(self, text: str) -> Array:
        """The text's vector, of unit length; what the tokenizer cuts off (here after 128 tokens) does not count."""
        encoding = self._tokenizer.encode(text)
        words = self._weights["embeddings.word_embeddings.weight"][encoding.ids]
        types = self._weights["embeddings.token_type_embeddings.weight"][encoding.type_ids]
        positions = self._weights["embeddings.position_embeddings.weight"][: len(encoding.ids)]
        states = self._normalised("embeddings", words + types + positions)
        for layer in range(self._layers):
            prefix = f"encoder.layer.{layer}"
            attended = self._dense(f"{prefix}.attention.output.dense", self._attention(f"{prefix}.attention.self", states))
            states = self._normalised(f"{prefix}.attention.output", states + attended)
            inner = _gelu(self._dense(f"{prefix}.intermediate.dense", states))
            states = self._normalised(f"{prefix}.output", states + self._dense(f"{prefix}.output.dense", inner))
        mean: Array = states.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _dense(self, name: str, states: Array) -> Array:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalised(self, name: str, states: Array) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        normalised: Array = scaled * self._weights[f"{name}.LayerNorm.weight"] + self._weights[f"{name}.LayerNorm.bias"]
        return normalised

    def _attention(self, name: str, states: Array) -> Array:
        query, key, value = (self._by_head(self._dense(f"{name}.{part}", states)) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        joined: Array = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        return joined.transpose(1, 0, 2).reshape(states.shape)

    def _by_head(self, states: Array) -> Array:
        return states.reshape(len(states), self._heads, -1).transpose(1, 0, 2)


def _gelu(states: Array) -> Array:
    return states * (1 + _erf(states / math.sqrt(2)).astype(np.float32)) / 2
