"""Writes fixture/: tiny ViTs as transformers and timm save them, and what they compute in float64.

    pip install torch transformers timm safetensors && python make_fixture.py

`vit` (layer norms with an epsilon that no other would do for), `deit` with two heads and `timm` are compared in
logits, loss and every gradient, as EXPECTED.safetensors beside the folders:

    images, targets         the batch, soft targets
    logits, loss            of one pass
    gradient/NAME           of every parameter, under timm's names
    logits/SIDE             of `vit` and `deit` for images/SIDE, with `interpolate_pos_encoding`
    positions/SIDE          the position table for images of that side; positions32/SIDE in float32

`sharded` is `vit` in shards with the names of transformers 5, `base` its encoder with a pooler as a pickle, and
`code` a pickle that calls os.system.
"""

import json
import os
import pathlib
import shutil

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch.nn.functional import cross_entropy
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, ViTConfig, ViTForImageClassification, ViTModel

here = pathlib.Path(__file__).with_name("fixture")
CLASSES = ["ant", "bee", "cat", "dog", "eel"]
SIDES = [8, 16, 40, 48, 72]
IMAGES = [16, 40]
IN_TIMM = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip
ROOT = {
    "embeddings.cls_token": "cls_token", "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm", "classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist",
}  # fmt: skip


def moved(model):
    """Every tensor off its initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * (2 * torch.rand_like(parameter) - 1))
    return model.eval()


def gradients(model):
    """By timm's names: queries, keys and values are rows of one tensor."""
    if isinstance(model, timm.models.VisionTransformer):
        return {name: p.grad for name, p in model.named_parameters()}
    found, qkv = {}, {}
    for name, parameter in model.named_parameters():
        name = name.removeprefix("vit.").removeprefix("deit.")
        if not name.startswith("layers."):
            start = next(start for start in sorted(ROOT, key=len, reverse=True) if name.startswith(start))
            found[ROOT[start] + name.removeprefix(start)] = parameter.grad
            continue
        _, block, part = name.split(".", 2)
        module, end = part.rsplit(".", 1)
        if module in IN_TIMM:
            found[f"blocks.{block}.{IN_TIMM[module]}.{end}"] = parameter.grad
        else:
            qkv[block, end, "qkv".index(module.removeprefix("attention.")[0])] = parameter.grad
    for block, end, part in qkv:
        if part == 0:
            found[f"blocks.{block}.attn.qkv.{end}"] = torch.cat([qkv[block, end, i] for i in range(3)])
    return found


def expect(name, model, images, targets):
    """What a model computes, in float64."""
    model = model.double()
    logits = model(images.double())
    logits = logits if isinstance(logits, torch.Tensor) else logits.logits
    loss = cross_entropy(logits, targets.double())
    loss.backward()
    tensors = {"images": images, "targets": targets, "logits": logits.detach(), "loss": loss.detach()}
    # `float()` below rounds gradients too.
    tensors |= {f"gradient/{key}": gradient.clone() for key, gradient in gradients(model).items()}
    if name != "timm":
        body = model.vit if name == "vit" else model.deit
        with torch.no_grad():
            for side in IMAGES:
                tensors[f"images/{side}"] = torch.randn(1, 3, side, side)
                images = tensors[f"images/{side}"].double()
                tensors[f"logits/{side}"] = model(images, interpolate_pos_encoding=True).logits
            for side in SIDES:
                # Of as many tokens as the table shall have; nothing of them but their number is read.
                tokens = torch.zeros(1, (side // 8) ** 2 + (1 if name == "vit" else 2), 16)
                table = lambda: body.embeddings.interpolate_pos_encoding(tokens, side, side).clone()
                tensors[f"positions/{side}"] = table()
                model.float()
                tensors[f"positions32/{side}"] = table()
                model.double()
    save_file({key: t.contiguous() for key, t in tensors.items()}, here / f"{name}.safetensors")
    model.float()


class Code:
    def __reduce__(self):
        return os.system, ("touch executed",)


torch.manual_seed(0)
if here.exists():
    shutil.rmtree(here)
here.mkdir()
images, targets = torch.randn(2, 3, 32, 32), torch.softmax(torch.randn(2, 5), dim=1)
sizes = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
    id2label=dict(enumerate(CLASSES)), label2id={label: i for i, label in enumerate(CLASSES)},
)  # fmt: skip

vit = moved(ViTForImageClassification(ViTConfig(**sizes, layer_norm_eps=1e-3)))
vit.save_pretrained(here / "vit")
vit.save_pretrained(here / "sharded", max_shard_size="12KB", save_original_format=False)
expect("vit", vit, images, targets)

deit = moved(DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes)))
deit.save_pretrained(here / "deit")
expect("deit", deit, images, targets)

model = moved(timm.create_model(
    "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=5,
))  # fmt: skip
save_for_hf(model, here / "timm", model_config={"label_names": CLASSES}, safe_serialization=True)
expect("timm", model, images, targets)

# As timm writes what was trained with --channels-last, the convolution a view into a larger storage.
(here / "channels_last").mkdir()
shutil.copy(here / "timm/config.json", here / "channels_last/config.json")
state = load_file(here / "timm/model.safetensors")
patches = state["patch_embed.proj.weight"].permute(0, 2, 3, 1)
storage = torch.cat([torch.ones(5), patches.flatten(), torch.ones(9)])
state["patch_embed.proj.weight"] = storage[5:-9].view(patches.shape).permute(0, 3, 1, 2)
torch.save(state, here / "channels_last/pytorch_model.bin")

base = ViTModel(vit.config)
base.load_state_dict(vit.vit.state_dict(), strict=False)
base.save_pretrained(here / "base")
torch.save(load_file(here / "base/model.safetensors"), here / "base/pytorch_model.bin")
(here / "base/model.safetensors").unlink()

(here / "code").mkdir()
shutil.copy(here / "vit/config.json", here / "code/config.json")
state = load_file(here / "vit/model.safetensors")
torch.save(state | {"x": Code()}, here / "code/pytorch_model.bin")

for path in sorted(here.rglob("*")):
    path.chmod(0o755 if path.is_dir() else 0o644)
    if path.is_file():
        print(path.relative_to(here), path.stat().st_size)
        if path.name == "config.json":
            json.loads(path.read_text())
