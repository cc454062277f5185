"""Loads in transformers what the test `bert_folders_for_transformers` writes, compares logits and records
them in written.safetensors.

    pip install torch transformers safetensors && python check_written.py
"""

import os
import pathlib
import subprocess
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

here = pathlib.Path(__file__).parent
expected = load_file(here / "fixture" / "expected.safetensors")
inputs = {
    "input_ids": expected["ids"].long(), "token_type_ids": expected["types"].long(),
    "attention_mask": expected["mask"].long(),
}  # fmt: skip
recorded = {}
with tempfile.TemporaryDirectory() as root:
    subprocess.run(
        ["cargo", "test", "-p", "conditioned-models", "--test", "suite", "bert_folders_for_transformers"],
        check=True, cwd=here, env=os.environ | {"WRITTEN": root},
    )  # fmt: skip
    for folder in sorted(pathlib.Path(root).iterdir()):
        masked = folder.name.startswith("masked")
        auto = AutoModelForMaskedLM if masked else AutoModelForSequenceClassification
        model, info = auto.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            logits = model.eval()(**inputs).logits
        recorded[folder.name] = (logits[:, :4] if masked else logits).contiguous()
        ours = load_file(folder / "expected.safetensors")["logits"]
        error = (recorded[folder.name] - ours).abs().max() / ours.abs().max()
        print(f"{folder.name}: largest difference / largest logit = {error.item():.1e}")
        assert error < 1e-4
path = here / "written.safetensors"
save_file(recorded, path, metadata={"transformers": transformers.__version__})
path.chmod(0o644)
