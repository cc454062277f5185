"""Writes nystromformer.safetensors: a tiny Nystromformer in float64 as a classifier of sequences of different
lengths and of pairs, with hidden states, logits, losses and every gradient.

    pip install torch transformers safetensors && python make_fixture.py

Attention is `NystromformerSelfAttention` of transformers; the pre-norm layers around it are written here. It knows
sequences of one length alone, so that of the classifier each goes through it by itself, without padding; the shortest
has as many tokens as landmarks, which it gives exact attention. Pairs are of one length and have the published start
of the pseudo-inverse, over the batch.
"""

import pathlib

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import NystromformerConfig
from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
VOCABULARY, CONTEXT, WIDTH, DEPTH, HEADS, HIDDEN, LANDMARKS, TAPS = 17, 24, 12, 2, 2, 20, 3, 5
LENGTHS = [12, 6, 3]


def attention():
    config = NystromformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_landmarks=LANDMARKS,
        conv_kernel_size=TAPS, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return NystromformerSelfAttention(config)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.ModuleDict(
            {"self": attention(), "output": nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, HIDDEN)})
        self.output = nn.ModuleDict({"dense": nn.Linear(HIDDEN, WIDTH)})

    def forward(self, x):
        self.attention["self"].seq_len = x.shape[1]
        y = self.attention["self"](self.norm1(x))[0]
        x = x + self.attention["output"]["dense"](y)
        y = functional.gelu(self.intermediate["dense"](self.norm2(x)))
        return x + self.output["dense"](y)


class Encoder(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(VOCABULARY, WIDTH),
            "position_embeddings": nn.Embedding(CONTEXT, WIDTH),
        })  # fmt: skip
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(DEPTH))})
        self.norm = nn.LayerNorm(WIDTH)
        for layer in self.encoder["layer"]:
            layer.attention["self"].init_option = start

    def forward(self, ids):
        places = self.embeddings["position_embeddings"].weight[: ids.shape[1]]
        x = self.embeddings["word_embeddings"](ids) + places
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.norm(x)


class Classifier(nn.Module):
    def __init__(self, start, pairs, classes):
        super().__init__()
        self.nystromformer = Encoder(start)
        features = 4 * WIDTH if pairs else WIDTH
        self.classifier = nn.ModuleDict({
            "dense": nn.Linear(features, 2 * WIDTH), "out_proj": nn.Linear(2 * WIDTH, classes),
        })  # fmt: skip

    def forward(self, features):
        return self.classifier["out_proj"](functional.relu(self.classifier["dense"](features)))


tensors = {}
for kind, start, pairs, classes in [
    ("classifier", "exact", False, 3), ("pairs", "original", True, 2),
]:  # fmt: skip
    model = Classifier(start, pairs, classes)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            # Weights of deviation 0.4, norms around one, so that nothing is near its initial value.
            around = float("norm" in name and "weight" in name)
            parameter.copy_(0.4 * torch.randn(parameter.shape) + around)
    longest = max(LENGTHS)
    if pairs:
        ids = torch.randint(1, VOCABULARY, (4, longest))
        labels = torch.tensor([1, 0])
        hidden = model.nystromformer(ids)
        a, b = hidden.mean(1).chunk(2)
        features = torch.cat([a, b, a * b, a - b], 1)
        mask = torch.ones(4, longest)
    else:
        ids = torch.randint(1, VOCABULARY, (3, longest))
        labels = torch.tensor([2, 0, 1])
        mask = torch.arange(longest)[None, :] < torch.tensor(LENGTHS)[:, None]
        ids = ids * mask
        alone = [model.nystromformer(ids[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]
        hidden = torch.cat([functional.pad(x, (0, 0, 0, longest - x.shape[1])) for x in alone])
        features = torch.cat([x.mean(1) for x in alone])
    logits = model(features)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    found = {
        "ids": ids.to(torch.uint32), "mask": mask.to(torch.uint8),
        "labels": labels.to(torch.uint32), "hidden": hidden, "logits": logits, "loss": loss,
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        found[f"parameter/{name}"] = parameter
        found[f"gradient/{name}"] = parameter.grad
    tensors |= {f"{kind}/{name}": tensor for name, tensor in found.items()}
    print(f"{kind}: loss {loss.item():.6f}")

path = pathlib.Path(__file__).with_name("nystromformer.safetensors")
tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
save_file(tensors, path, metadata=versions)
path.chmod(0o644)
print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors")
