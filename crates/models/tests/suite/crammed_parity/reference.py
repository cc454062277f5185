"""Crammed BERT from its formulas, operation by operation in plain PyTorch, with the parameter names of
JonasGeiping/cramming at commit 196c991. `make_fixture.py` and `scripts/check_exports.py` compute with it.
"""

import math

import torch


def norm(x, p, name):
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return centred / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def sinusoid(n, width):
    table = torch.empty(n, width)
    for position in range(n):
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            table[position, 2 * i] = math.sin(angle)
            table[position, 2 * i + 1] = math.cos(angle)
    return table


def attention(x, p, layer, heads, mask):
    batch, n, width = x.shape
    packed = x @ p[f"{layer}.attn.self_attention.query_key_value.weight"].T
    # The rows of the projection lie head by head: its queries, its keys, its values.
    q, k, v = packed.reshape(batch, n, heads, 3, width // heads).permute(3, 0, 2, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    output = scores.softmax(-1) @ v
    return output.transpose(1, 2).reshape(batch, n, width) @ p[f"{layer}.attn.dense.weight"].T


def encoder(p, ids, mask, heads):
    """Hidden states (B, N, C) of parameters by name, ids (B, N) and a mask (B, N), true where real."""
    table = p["encoder.embedding.word_embedding.weight"]
    scale = p["encoder.embedding.pos_embedding.scale_factor"]
    x = table[ids] + scale * sinusoid(ids.shape[1], table.shape[1])
    x = norm(x, p, "encoder.embedding.norm")
    depth = sum(name.endswith("norm1.weight") for name in p)
    for i in range(depth):
        layer = f"encoder.layers.{i}"
        x = x + attention(norm(x, p, f"{layer}.norm1"), p, layer, heads, mask)
        y = norm(x, p, f"{layer}.norm2") @ p[f"{layer}.ffn.dense_in.weight"].T
        value, gate = y.chunk(2, dim=-1)
        x = x + (value * gelu(gate)) @ p[f"{layer}.ffn.dense_out.weight"].T
    return norm(x, p, "encoder.final_norm")


def classify(p, hidden):
    """Logits (B, K) of the first token."""
    pooled = torch.tanh(hidden[:, 0] @ p["pooler.dense.weight"].T + p["pooler.dense.bias"])
    return pooled, pooled @ p["head.weight"].T + p["head.bias"]
