"""Writes fixture/: one tiny GPT-2 in every layout of files, and what transformers computes with it.

    pip install torch transformers safetensors && python make_fixture.py
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    GPT2Config, GPT2LMHeadModel, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
)  # fmt: skip

torch.manual_seed(0)
root = pathlib.Path(__file__).with_name("fixture")
shutil.rmtree(root, ignore_errors=True)
config = GPT2Config(
    vocab_size=48, n_positions=32, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
    attn_implementation="eager",
)  # fmt: skip
model = GPT2LMHeadModel(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
        # Exact in bfloat16 and float16: every layout then holds the same values.
        parameter.copy_(parameter.bfloat16().float())
        parameter[parameter.abs() < 1e-4] = 0.0


def weights(prefix, dtype):
    state = model.state_dict()
    state = {name.removeprefix("transformer."): t.to(dtype) for name, t in state.items()}
    head = state.pop("lm_head.weight")
    state = {prefix + name: t.clone() for name, t in state.items()}
    return state | {"lm_head.weight": head.clone()} if prefix else state


def save(name, dtype, base=False, **options):
    saved = GPT2LMHeadModel(config)
    saved.load_state_dict(model.state_dict())
    saved = (saved.transformer if base else saved).to(dtype)
    saved.save_pretrained(root / name, **options)


# As transformers writes them: with head and without, whole and in shards.
save("safetensors", torch.float32)
save("base", torch.bfloat16, base=True)
save("sharded", torch.float16, max_shard_size="3KB")

# As older versions wrote them: pickled, with the head beside its table and the causal masks.
bins = weights("transformer.", torch.bfloat16)
for i in range(config.n_layer):
    ones = torch.ones(config.n_positions, config.n_positions, dtype=torch.uint8)
    bins[f"transformer.h.{i}.attn.bias"] = ones.tril()[None, None]
    bins[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
(root / "bin").mkdir()
torch.save(bins, root / "bin" / "pytorch_model.bin")
config.save_pretrained(root / "bin")
half = weights("", torch.float16)
names = list(half)
shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
(root / "bin_sharded").mkdir()
for file, part in shards.items():
    torch.save({name: half[name] for name in part}, root / "bin_sharded" / file)
weight_map = {name: file for file, part in shards.items() for name in part}
index = {"metadata": {"total_size": 2 * model.num_parameters()}, "weight_map": weight_map}
index_path = root / "bin_sharded" / "pytorch_model.bin.index.json"
index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
config.save_pretrained(root / "bin_sharded")

# What transformers computes, in float64 where it matters.
model = model.double()
expected = {}
ids = torch.randint(0, config.vocab_size, (3, 32))
with torch.no_grad():
    expected["ids"], expected["logits"] = ids.int(), model(ids).logits.float()

gap = float("inf")
for i, length in enumerate([1, 5, 12]):
    prompt = ids[i : i + 1, :length]
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_length=32, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    expected[f"prompt.{i}"], expected[f"greedy.{i}"] = prompt[0].int(), out[0, length:].int()
    with torch.no_grad():
        best = model(out).logits[0, length - 1 : -1].topk(2).values
    gap = min(gap, (best[:, 0] - best[:, 1]).min().item())
assert gap > 1e-3, "a tie between the two best tokens: take another seed"

# The perplexity recipe of the transformers documentation.
text = torch.randint(0, config.vocab_size, (1, 101))
expected["text"] = text[0].int()
for window, stride in [(32, 16), (32, 31), (20, 1), (7, 5), (32, 8)]:
    nll_sum, n_tokens, prev_end = 0.0, 0, 0
    for begin in range(0, text.size(1), stride):
        end = min(begin + window, text.size(1))
        target = text[:, begin:end].clone()
        target[:, : -(end - prev_end)] = -100
        with torch.no_grad():
            loss = model(text[:, begin:end], labels=target).loss
        n = (target != -100).sum().item() - (target[:, 0] != -100).sum().item()
        nll_sum, n_tokens, prev_end = nll_sum + loss.item() * n, n_tokens + n, end
        if end == text.size(1):
            break
    assert n_tokens == text.size(1) - 1
    expected[f"nll.{window}.{stride}"] = torch.tensor(nll_sum / n_tokens, dtype=torch.float64)

# Filters: (temperature, top_k or 0, top_p or 1), in the order in which `generate` applies them.
scores = torch.randn(4, config.vocab_size, dtype=torch.float64) * 2
scores[3, 10:20] = scores[3].topk(3).values[-1]  # equals at the third place
settings = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.8), (0.9, 12, 0.3), (2.0, 3, 1.0), (1.0, 1, 0.3)]
expected["sampling.logits"] = scores
expected["sampling.settings"] = torch.tensor(settings, dtype=torch.float64)
probabilities = []
for temperature, top_k, top_p in settings:
    s = TemperatureLogitsWarper(temperature)(None, scores)
    s = TopKLogitsWarper(top_k)(None, s) if top_k else s
    s = TopPLogitsWarper(top_p)(None, s) if top_p < 1 else s
    kept = s.isfinite()
    least = torch.where(kept, scores, torch.inf).min(-1, keepdim=True).values
    assert (scores[~kept] < least.expand_as(scores)[~kept]).all(), "top-p cuts between equals"
    probabilities.append(s.softmax(-1))
expected["sampling.probabilities"] = torch.stack(probabilities)

versions = {"torch": torch.__version__, "transformers": transformers.__version__}
save_file({n: t.contiguous() for n, t in expected.items()}, root / "expected.safetensors", metadata=versions)
for path in root.rglob("*"):
    if path.name == "generation_config.json":
        path.unlink()
    elif path.is_file():
        path.chmod(0o644)
        print(f"{path.relative_to(root)}: {path.stat().st_size} bytes")
