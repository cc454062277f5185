"""Writes bert.safetensors: a tiny BERT of transformers in float64, as a classifier and with its
masked-language head, with hidden states, pooled output, logits, losses and every gradient.

    pip install torch transformers safetensors && python make_fixture.py

The sequences are padded and have two types.
"""

import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
config = BertConfig(
    vocab_size=19, max_position_embeddings=12, hidden_size=12, num_hidden_layers=2,
    num_attention_heads=3, intermediate_size=20, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, num_labels=3, attn_implementation="eager",
)  # fmt: skip
LENGTHS = [9, 4, 1]
ids = torch.randint(1, config.vocab_size, (3, 9))
mask = torch.arange(9)[None, :] < torch.tensor(LENGTHS)[:, None]
types = ((torch.arange(9)[None, :] >= torch.tensor([5, 2, 9])[:, None]) & mask).long()
ids = ids * mask
labels = torch.tensor([2, 0, 1])
# One masked word in every sequence, two in the first.
positions = torch.tensor([[0, 3], [1, 2], [0, 0]])
targets = torch.tensor([[4, 7], [11, 1], [5, 5]])
tensors = {
    "ids": ids.to(torch.uint32), "types": types.to(torch.uint32), "mask": mask.to(torch.uint8),
    "labels": labels.to(torch.uint32), "positions": positions.to(torch.uint32),
    "targets": targets.to(torch.uint32),
}  # fmt: skip


def moved(model):
    """The model with every parameter off its initial value."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def record(kind, model, loss):
    loss.backward()
    tensors[f"{kind}/loss"] = loss.detach()
    for name, parameter in model.named_parameters():
        tensors[f"{kind}/parameter/{name}"] = parameter.detach().clone()
        tensors[f"{kind}/gradient/{name}"] = parameter.grad
    print(f"{kind}: loss {loss.item():.6f}")


inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.long()}
classifier = moved(BertForSequenceClassification(config))
output = classifier(**inputs, labels=labels, output_hidden_states=True)
tensors["classifier/hidden"] = output.hidden_states[-1].detach()
tensors["classifier/pooled"] = classifier.bert(**inputs).pooler_output.detach()
tensors["classifier/logits"] = output.logits.detach()
record("classifier", classifier, output.loss)

masked = moved(BertForMaskedLM(config))
logits = masked(**inputs).logits
at = torch.gather(logits, 1, positions[:, :, None].expand(-1, -1, config.vocab_size))
tensors["masked/logits"] = at.detach()
record("masked", masked, torch.nn.functional.cross_entropy(at.flatten(0, 1), targets.flatten()))

path = pathlib.Path(__file__).with_name("bert.safetensors")
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=versions)
path.chmod(0o644)
print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors")
