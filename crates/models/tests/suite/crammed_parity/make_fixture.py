"""Writes crammed.safetensors: a tiny Crammed BERT in float64, as a classifier and with its
masked-language head, with hidden states, pooled output, logits, losses and every gradient.

    pip install torch safetensors && python make_fixture.py

The model is written from its formulas, in reference.py. The sequences are padded.
"""

import pathlib

import torch
from reference import classify, encoder
from safetensors.torch import save_file
from torch.nn import functional

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
VOCABULARY, CONTEXT, WIDTH, DEPTH, HEADS, HIDDEN, CLASSES = 17, 12, 12, 2, 3, 20, 3
LENGTHS = [9, 4, 1]
ids = torch.randint(1, VOCABULARY, (3, 9))
mask = torch.arange(9)[None, :] < torch.tensor(LENGTHS)[:, None]
ids = ids * mask
labels = torch.tensor([2, 0, 1])
# One masked word in every sequence, two in the first.
positions = torch.tensor([[0, 3], [1, 2], [0, 0]])
targets = torch.tensor([[4, 7], [11, 1], [5, 5]])


def shapes(head):
    """The shape of every parameter."""
    found = {
        "encoder.embedding.word_embedding.weight": (VOCABULARY, WIDTH),
        "encoder.embedding.pos_embedding.scale_factor": (1,),
    }
    norms = ["encoder.embedding.norm", "encoder.final_norm"]
    for i in range(DEPTH):
        layer = f"encoder.layers.{i}"
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        found[f"{layer}.attn.self_attention.query_key_value.weight"] = (3 * WIDTH, WIDTH)
        found[f"{layer}.attn.dense.weight"] = (WIDTH, WIDTH)
        found[f"{layer}.ffn.dense_in.weight"] = (HIDDEN, WIDTH)
        found[f"{layer}.ffn.dense_out.weight"] = (WIDTH, HIDDEN // 2)
    for norm in norms:
        found[f"{norm}.weight"] = found[f"{norm}.bias"] = (WIDTH,)
    if head == "classifier":
        pooled = 4 * WIDTH // 3
        found |= {"pooler.dense.weight": (pooled, WIDTH), "pooler.dense.bias": (pooled,)}
        found |= {"head.weight": (CLASSES, pooled), "head.bias": (CLASSES,)}
    return found


tensors = {
    "ids": ids.to(torch.uint32), "mask": mask.to(torch.uint8), "labels": labels.to(torch.uint32),
    "positions": positions.to(torch.uint32), "targets": targets.to(torch.uint32),
}  # fmt: skip
for kind in ["classifier", "masked"]:
    # Weights of deviation 0.4, norms around one, so that nothing is near its initial value.
    p = {
        name: (0.4 * torch.randn(shape) + float("norm" in name and "weight" in name))
        .requires_grad_()
        for name, shape in shapes(kind).items()
    }
    hidden = encoder(p, ids, mask, HEADS)
    if kind == "classifier":
        tensors["classifier/hidden"] = hidden
        pooled, logits = classify(p, hidden)
        tensors["classifier/pooled"] = pooled
        loss = functional.cross_entropy(logits, labels)
    else:
        read = torch.gather(hidden, 1, positions[:, :, None].expand(-1, -1, WIDTH))
        logits = read @ p["encoder.embedding.word_embedding.weight"].T
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    tensors |= {f"{kind}/logits": logits, f"{kind}/loss": loss}
    for name, parameter in p.items():
        tensors[f"{kind}/parameter/{name}"] = parameter
        tensors[f"{kind}/gradient/{name}"] = parameter.grad
    print(f"{kind}: loss {loss.item():.6f}")

path = pathlib.Path(__file__).with_name("crammed.safetensors")
tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
save_file(tensors, path, metadata={"torch": torch.__version__})
path.chmod(0o644)
print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors")
