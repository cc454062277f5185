"""Writes fixture/: a tiny BERT as transformers saves it, and what it computes in float64.

    pip install torch transformers safetensors && python make_fixture.py

`classifier` has a head and names with `bert.`; `base` is the encoder alone with the names of old
files (`gamma`, `beta`) in a pickle; `masked` has a masked-language head.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

here = pathlib.Path(__file__).with_name("fixture")
torch.manual_seed(0)
config = BertConfig(
    vocab_size=19, max_position_embeddings=12, hidden_size=8, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=12, num_labels=3, attn_implementation="eager",
)  # fmt: skip
ids = torch.tensor([[2, 5, 7, 3, 9, 11, 3], [2, 18, 4, 3, 0, 0, 0]])
types = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
mask = (ids != 0).long()
expected = {"ids": ids.int(), "types": types.int(), "mask": mask.to(torch.uint8)}
inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def save(name, model):
    model.save_pretrained(here / name)
    (here / name / "generation_config.json").unlink(missing_ok=True)


if here.exists():
    shutil.rmtree(here)
with torch.no_grad():
    classifier = moved(BertForSequenceClassification(config))
    save("classifier", classifier)
    masked = moved(BertForMaskedLM(config))
    save("masked", masked)
    expected["logits"] = classifier.double()(**inputs).logits.float()
    expected["pooled"] = classifier.bert(**inputs).pooler_output.float()
    expected["masked"] = masked.double()(**inputs).logits[:, :4].float().contiguous()

base = here / "base"
base.mkdir()
config.save_pretrained(base)
settings = json.loads((base / "config.json").read_text())
(base / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}, indent=2) + "\n")
old = {}
for name, tensor in classifier.float().bert.state_dict().items():
    old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
torch.save(old, base / "pytorch_model.bin")
save_file({n: t.contiguous() for n, t in expected.items()}, here / "expected.safetensors")
for path in here.rglob("*"):
    path.chmod(0o755 if path.is_dir() else 0o644)
    if path.is_file():
        print(path.relative_to(here), path.stat().st_size)
