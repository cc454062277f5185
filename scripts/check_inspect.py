"""Holds `inspect` to transformers, timm and NumPy: the condition numbers of the tokens that enter each layer.

    python scripts/check_inspect.py [--inspect BINARY] [MINILM_FOLDER]

Makes folders with random weights by transformers (BERT, GPT-2, ViT) and timm (ViT, Swin, XCiT, DaViT), lets `inspect`
look at texts and images, and compares the median over inputs of kappa with NumPy's, of the hidden states of the other
program in f64. A folder of all-MiniLM-L6-v2 is looked at too, where one is given. Needs torch, transformers, timm,
tokenizers, safetensors and Pillow.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from timm.models import save_for_hf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# Hidden states in f32 carry 1e-7 sigma_1 into sigma_min, that is kappa 1e-7 of kappa, and more behind some layers.
ROUNDING = 1e-6
# Of a kappa that f32 does not resolve nothing more is asked.
RESOLVED = 1e7

SAMPLE = Path(__file__).parent.parent / "experiments" / "inspect" / "sample.txt"
TEXTS = [text.strip() for text in SAMPLE.read_text().split("\n\n") if text.strip()]


def kappa(x):
    sigma = np.linalg.svd(x.detach().double().numpy().reshape(-1, x.shape[-1]), compute_uv=False)
    return sigma[0] / sigma[-1] if sigma[-1] > 0 else np.inf


def inspect(binary, folder, file, out):
    command = [binary, str(folder)] + ([str(file)] if file else []) + ["--out", str(out)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(text.strip().splitlines()) <= 11, text
    with open(out / "layers.csv") as lines:
        return text, list(csv.DictReader(lines))


def compare(name, lines, wanted):
    """Layer by layer: lines of layers.csv against the kappas of each input."""
    series, x, value = list(lines[0])[1:4]
    found = {int(float(line[x])): float(line[value]) for line in lines if line[series] == "tokens"}
    worst = 0.0
    for layer, kappas in enumerate(wanted, 1):
        median = min(np.median(kappas), RESOLVED)
        difference = abs(found[layer] - median) / median
        assert difference < max(ROUNDING * median, 1e-4), (name, layer, found[layer], median)
        worst = max(worst, difference)
    print(f"{name}: {len(wanted)} layers, kappa {found[1]:.4g} in the first, largest difference {worst:.1e}")


def texts(binary, name, model, tokenizer, folder, encode, out):
    model.eval().save_pretrained(folder)
    with_hidden = lambda ids: model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    # The last hidden state enters no layer.
    hidden = [with_hidden(encode(text))[: model.config.num_hidden_layers] for text in TEXTS[:8]]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    text, lines = inspect(binary, folder, None, out)
    print(text)
    compare(name, lines, [[kappa(states[layer]) for states in hidden] for layer in range(len(hidden[0]))])


def images(binary, name, model, folder, side, out, entering):
    """`entering` gives for a batch of one the tokens that enter each layer with attention."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    pictures = folder.parent / f"{folder.name}-images"
    pictures.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(pictures / f"{i}.png")
    scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    scaled = (scaled - 0.5) / 0.5
    with torch.no_grad():
        tokens = [entering(model.eval(), image[None]) for image in scaled]
    _, lines = inspect(binary, folder, pictures, out)
    compare(name, lines, [[kappa(of_image[layer]) for of_image in tokens] for layer in range(len(tokens[0]))])


def of_timm(binary, name, root, types):
    model = timm.create_model(name, num_classes=3).eval()
    # Random weights of small deviation give attention that does nothing.
    folder = root / name
    folder.mkdir()
    size = model.pretrained_cfg["input_size"]
    model.pretrained_cfg.update(mean=[0.5] * 3, std=[0.5] * 3, crop_pct=1.0, interpolation="bicubic")
    save_for_hf(model, folder, safe_serialization=True)

    def entering(model, image):
        seen = []
        # What the norm in front of attention sees: DaViT adds a convolution before it.
        hooks = [m.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in model.modules()
                 if type(m).__name__ in types]
        model(image)
        for hook in hooks:
            hook.remove()
        return seen

    images(binary, name, model, folder, size[-1], root / f"{name}-out", entering)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inspect", default="target/release/inspect")
    parser.add_argument("minilm", nargs="?", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    binary = options.inspect
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        if options.minilm:
            tokenizer = transformers.AutoTokenizer.from_pretrained(options.minilm)
            model = transformers.AutoModel.from_pretrained(options.minilm)
            encode = lambda text: tokenizer(text, truncation=True, max_length=256)["input_ids"]
            texts(binary, "MiniLM", model, tokenizer, root / "minilm", encode, root / "minilm-out")

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet))
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
        config = transformers.GPT2Config(vocab_size=len(fast), n_positions=128, n_embd=96, n_layer=3, n_head=4,
                                         bos_token_id=0, eos_token_id=0)
        encode = lambda text: fast(text)["input_ids"][:128]
        texts(binary, "GPT-2", transformers.GPT2LMHeadModel(config), fast, root / "gpt2", encode, root / "gpt2-out")

        config = transformers.ViTConfig(image_size=48, patch_size=8, hidden_size=96, num_hidden_layers=3,
                                        num_attention_heads=4, intermediate_size=192)
        model = transformers.ViTForImageClassification(config).eval()
        folder = root / "vit"
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 48, "width": 48},
            "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
        states = lambda model, image: model(image, output_hidden_states=True).hidden_states[:3]
        images(binary, "ViT", model, folder, 48, root / "vit-out", states)

        of_timm(binary, "vit_tiny_patch16_224", root, {"Block"})
        of_timm(binary, "swin_tiny_patch4_window7_224", root, {"SwinTransformerBlock"})
        of_timm(binary, "xcit_small_12_p16_224", root, {"XCABlock", "ClassAttentionBlock"})
        of_timm(binary, "davit_tiny", root, {"SpatialBlock", "ChannelBlock"})


if __name__ == "__main__":
    main()
