"""Writes gpt2.safetensors: a tiny GPT-2 of transformers in float64 with its logits, loss and every
gradient.

    pip install torch transformers safetensors && python make_fixture.py
"""

import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
config = GPT2Config(
    vocab_size=19, n_positions=12, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
)  # fmt: skip
model = GPT2LMHeadModel(config).double()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
tokens = torch.randint(0, config.vocab_size, (3, 10))
logits = model(tokens[:, :-1]).logits
loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
loss.backward()
tensors = {"tokens": tokens.to(torch.uint32), "logits": logits.detach(), "loss": loss.detach()}
for name, parameter in model.named_parameters():
    name = name.removeprefix("transformer.")
    tensors[f"parameter/{name}"] = parameter.detach().clone()
    tensors[f"gradient/{name}"] = parameter.grad
path = pathlib.Path(__file__).with_name("gpt2.safetensors")
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=versions)
path.chmod(0o644)
print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors, loss {loss.item():.6f}")
