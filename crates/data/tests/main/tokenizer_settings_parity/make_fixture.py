"""Writes fixture.json: folders of tokenizers whose files add to or contradict each other, and the ids that
`transformers.AutoTokenizer` gives for texts and pairs with them.

    python make_fixture.py     # needs transformers 5
"""

import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from transformers import AutoTokenizer, BertTokenizer

WORDS = ["the", "cat", "The", "CAT", "cafe", "caf\u00e9", "was", "old", "river", "house", "##house", "##s", "\u6771"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("TCA.,\u00e9")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = list(dict.fromkeys(SPECIAL + WORDS + LETTERS + ["##" + letter for letter in LETTERS]))
OTHER = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", *VOCAB[5:]]
TEXTS = ["the cat was old.", "The CAT, caf\u00e9 cats", "the riverhouse was old", "[SEP] \u6771the <cls>", "cafe\u0301 riverhouses"]
BERT = {"model_type": "bert"}


def tokenizer_json(lower, strip=None):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
        bert = BertTokenizer(vocab=str(Path(folder) / "vocab.txt"), do_lower_case=lower, strip_accents=strip)
        bert.save_pretrained(folder)
        return json.loads((Path(folder) / "tokenizer.json").read_text())


def added(content, special=False):
    return {"content": content, "lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, "special": special}


LINES = "\n".join(VOCAB) + "\n"
NAMES = {f"{key}_token": f"<{key}>" for key in ["pad", "unk", "cls", "sep", "mask"]}
BYTES = {chr(c): i for i, c in enumerate([*range(33, 127), 0x120])}
GPT2 = {**BYTES, "th": 95, "the": 96, "\u0120c": 97, "[EOS]": 98}
MERGES = "#version: 0.2\nt h\nth e\n\u0120 c\n"


def marked_json():
    file = tokenizer_json(True)
    for i, name in enumerate(["[E1]", "[/E1]"]):
        file["added_tokens"].append({"id": len(VOCAB) + i, **added(name, True)})
    return file


def bpe_json(space):
    merges = [tuple(line.split()) for line in MERGES.splitlines()[1:]]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=GPT2, merges=merges))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=space)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["[EOS]"])
    return json.loads(bpe.to_str())


FOLDERS = {
    "vocab.txt alone": {"vocab.txt": LINES},
    "vocab.txt with an empty last line": {"vocab.txt": LINES + "\n"},
    "vocab.txt with a line twice": {"vocab.txt": LINES + "cat\n"},
    "vocab.txt and added_tokens.json": {"vocab.txt": LINES, "added_tokens.json": {"riverhouse": len(VOCAB)}},
    "vocab.txt and added_tokens_decoder": {
        "vocab.txt": LINES,
        "tokenizer_config.json": {"added_tokens_decoder": {str(len(VOCAB)): added("riverhouse")}},
    },
    "cased vocab.txt": {"vocab.txt": LINES, "tokenizer_config.json": {"do_lower_case": False}},
    "cased vocab.txt without accents": {
        "vocab.txt": LINES, "tokenizer_config.json": {"do_lower_case": False, "strip_accents": True},
    },
    "other names": {
        "vocab.txt": "\n".join(OTHER) + "\n", "special_tokens_map.json": NAMES,
    },
    "other names, with properties": {
        "vocab.txt": "\n".join(OTHER) + "\n",
        "tokenizer_config.json": {key: {"__type": "AddedToken", **added(name, True)} for key, name in NAMES.items()},
    },
    "tokenizer.json says cased, its settings not": {
        "tokenizer.json": tokenizer_json(False),
        "tokenizer_config.json": {"do_lower_case": True, "tokenizer_class": "BertTokenizer"},
    },
    "tokenizer.json says uncased, its settings not": {
        "tokenizer.json": tokenizer_json(True), "tokenizer_config.json": {"do_lower_case": False},
    },
    "tokenizer.json says cased, its settings nothing": {
        "tokenizer.json": tokenizer_json(False), "tokenizer_config.json": {"model_max_length": 512},
    },
    "accents in tokenizer.json, none in its settings": {
        "tokenizer.json": tokenizer_json(True, False),
        "tokenizer_config.json": {"strip_accents": True, "tokenizer_class": "BertTokenizerFast"},
    },
    "a class that takes tokenizer.json as it is": {
        "tokenizer.json": tokenizer_json(False),
        "tokenizer_config.json": {"do_lower_case": True, "tokenizer_class": "PreTrainedTokenizerFast",
                                  **{f"{key}_token": f"[{key.upper()}]" for key in ["pad", "unk", "cls", "sep", "mask"]}},
    },
    "tokenizer.json and added_tokens.json": {
        "tokenizer.json": tokenizer_json(True), "added_tokens.json": {"riverhouse": len(VOCAB)},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"},
    },
    "settings that build a normalizer anew": {
        "tokenizer.json": tokenizer_json(True) | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}]}},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"},
    },
    "texts that lose their start": {
        "vocab.txt": LINES, "tokenizer_config.json": {"truncation_side": "left"},
    },
    "an added token that the vocabulary has": {
        "vocab.txt": LINES + "riverhouse\n", "added_tokens.json": {"riverhouse": len(VOCAB), "catold": len(VOCAB) + 1},
    },
    "an added token without properties": {
        "vocab.txt": LINES,
        "tokenizer_config.json": {"added_tokens_decoder": {str(len(VOCAB)): {"content": "riverhouse", "special": False}}},
    },
    "lines with blanks at their end": {"vocab.txt": LINES.replace("cat\n", "cat \n", 1)},
    "a start of a text": {
        "tokenizer.json": marked_json(), "tokenizer_config.json": {"bos_token": "[E1]", "eos_token": "[/E1]"},
    },
    "markers in a text": {
        "vocab.txt": LINES,
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(len(VOCAB) + i): added(name, True) for i, name in enumerate(["[E1]", "[/E1]"])},
            "additional_special_tokens": ["[E1]", "[/E1]"],
        },
    },
    "markers in the text of a tokenizer.json": {
        "tokenizer.json": marked_json(), "tokenizer_config.json": {"additional_special_tokens": ["[E1]", "[/E1]"]},
    },
    "a GPT-2 with a blank before a text": {
        "vocab.json": GPT2, "merges.txt": MERGES, "config.json": {"model_type": "gpt2"},
        "tokenizer_config.json": {"add_prefix_space": True, "eos_token": "[EOS]", "bos_token": "[EOS]", "unk_token": "[EOS]"},
    },
    "a GPT-2 whose tokenizer.json says so, and its settings not": {
        "tokenizer.json": bpe_json(True), "config.json": {"model_type": "gpt2"},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "[EOS]", "bos_token": "[EOS]", "unk_token": "[EOS]"},
    },
    "a GPT-2 with another end": {
        "vocab.json": GPT2, "merges.txt": MERGES, "config.json": {"model_type": "gpt2"},
        "special_tokens_map.json": {"eos_token": "[EOS]", "bos_token": "[EOS]", "unk_token": "[EOS]"},
    },
    "a GPT-2 with an added token": {
        "vocab.json": GPT2, "merges.txt": MERGES, "config.json": {"model_type": "gpt2"},
        "added_tokens.json": {"river": 99},
        "special_tokens_map.json": {"eos_token": "[EOS]", "bos_token": "[EOS]", "unk_token": "[EOS]"},
    },
}


def main():
    cases = []
    for name, files in FOLDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            files = {"config.json": BERT, **files}
            for file, content in files.items():
                text = content if isinstance(content, str) else json.dumps(content)
                (Path(folder) / file).write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            # Read as tokens, for all that the names of [SEP] and others are text here.
            marker = "The [E1]cat[/E1] was [E1] old"
            marker = tokenizer(marker, add_special_tokens=False)["input_ids"] if "markers" in name else None
            is_bert = files["config.json"] == BERT
            texts = TEXTS if is_bert else ["thethe cats", "ther[EOS]river"]
            split = {"split_special_tokens": True, "add_special_tokens": False}
            ids = [tokenizer(text, **split)["input_ids"] for text in texts]
            pair = tokenizer(texts[0], texts[1], split_special_tokens=True)["input_ids"] if is_bert else None
            cut = {"truncation": True, "max_length": 9, "split_special_tokens": True}
            cut = [tokenizer(*pair, **cut)["input_ids"] for pair in [texts[:1], texts[:2]]] if is_bert else None
            marked = None if is_bert else [tokenizer(text)["input_ids"] for text in texts]
            files = {file: content if isinstance(content, str) else json.dumps(content) for file, content in files.items()}
            cases.append({"name": name, "files": files, "texts": texts, "ids": ids, "pair": pair, "cut": cut, "marked": marked, "marker": marker})
            print(name, ids, pair)
    versions = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}
    path = Path(__file__).with_name("fixture.json")
    path.write_text(json.dumps({"versions": versions, "cases": cases}, ensure_ascii=True, separators=(",", ":")) + "\n")
    path.chmod(0o644)


main()
