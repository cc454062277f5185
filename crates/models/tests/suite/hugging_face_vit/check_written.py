"""Loads in transformers what the test `vit_folders_for_transformers` writes, compares logits and records them in
written.safetensors.

    pip install torch transformers safetensors && python check_written.py
"""

import os
import pathlib
import subprocess
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

here = pathlib.Path(__file__).parent
labels = ["ant", "bee", "cat", "dog", "eel"]
recorded = {}
with tempfile.TemporaryDirectory() as root:
    subprocess.run(
        ["cargo", "test", "-p", "conditioned-models", "--test", "suite", "vit_folders_for_transformers"],
        check=True, cwd=here, env=os.environ | {"WRITTEN": root},
    )  # fmt: skip
    for folder in sorted(pathlib.Path(root).iterdir()):
        model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert [model.config.id2label[i] for i in range(5)] == labels, model.config.id2label
        expected = load_file(folder / "expected.safetensors")
        with torch.no_grad():
            recorded[folder.name] = model.eval()(expected["images"]).logits.contiguous()
        ours = expected["logits"]
        error = (recorded[folder.name] - ours).abs().max() / ours.abs().max()
        print(f"{folder.name} ({type(model).__name__}): largest difference / largest logit = {error.item():.1e}")
        assert error < 1e-4
assert len(recorded) == 5, list(recorded)
path = here / "written.safetensors"
save_file(recorded, path, metadata={"transformers": transformers.__version__})
path.chmod(0o644)
