"""Writes fixture.json: what `transformers.BertTokenizer` makes of texts and pairs with a small vocab.txt.

Texts that are tricky for it, with and without lower-casing, and pairs cut to many lengths.

    python make_fixture.py     # needs transformers
"""

import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from transformers import BertTokenizer

WORDS = (
    "the a dog cat ran sat on mat was is it he she un ##able ##ed ##ing ##s ##er run jump walk play "
    "not no don cafe naive strasse ##ss The Dog Caf\u00e9 UN"
).split()
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("ABCDEF0123456789.,;:!?'\"-()[]$#\u00e9\u00df\u6771\u4eac")
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = list(dict.fromkeys(SPECIAL + LETTERS + ["##" + c for c in LETTERS if c.isalnum()] + WORDS))
TEXTS = [
    "", " ", "The dog ran.", "  the   cat\tsat\non the mat \r\n", "unplayable jumping runner's walks",
    "Caf\u00e9 CAF\u00c9 cafe\u0301 na\u00efve Stra\u00dfe STRASSE", "don't, he said: 'no!'", "a-b (c) [d] $1,234.50 #5",
    "[CLS] the [SEP] dog [MASK] [unused0]", "\u6771\u4eac\u30bf\u30ef\u30fc the\u6771dog", "\u0000the\u200bdog\ufffd\u00a0cat\u3000mat",
    "\U0001f642 \u00bd \u2167 \ufb01 \u0130stanbul", "x" * 100 + " " + "y" * 101, "unaffable quick",
    "dog...dog --- ''", "\u00ab\u00e9\u00bb \u2014 \u2018q\u2019", "A\u030angstr\u00f6m \u1e9e",
]
FIRST = "the dog ran on the mat and the cat sat"
PAIRS = [(FIRST, None), (FIRST, "it was he"), ("no", FIRST), (FIRST, FIRST), (FIRST, ""), ("", FIRST), ("a b c", "d e f g"),
         (FIRST + " " + FIRST, FIRST)]
LENGTHS = [3, 5, 6, 7, 8, 9, 10, 12, 15, 16, 23, 64]


def main():
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
        for lower in [True, False]:
            config = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            bert = BertTokenizer.from_pretrained(folder, split_special_tokens=True)
            assert bert.get_vocab() == {token: i for i, token in enumerate(VOCAB)}
            ids = [bert.encode(text, add_special_tokens=False) for text in TEXTS]
            cases.append({"lower": lower, "texts": TEXTS, "ids": ids})
        bert = BertTokenizer(vocab=str(folder / "vocab.txt"))
    pairs = []
    for text, second in PAIRS:
        for longest in LENGTHS:
            if longest < (3 if second is None else 5):
                continue
            # As a list: alone, a pair with an empty second text would count as a single text.
            batch = [[text], None if second is None else [second]]
            encoded = bert(*batch, truncation=True, max_length=longest)
            [ids], [types] = encoded["input_ids"], encoded["token_type_ids"]
            truncated = len(ids) < len(bert(*batch)["input_ids"][0])
            pairs.append({
                "text": text, "second": second, "longest": longest, "ids": ids, "types": types,
                "truncated": truncated,
            })
    fixture = {
        "versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "vocab": VOCAB,
        "cases": cases,
        "pairs": pairs,
    }
    path = Path(__file__).with_name("fixture.json")
    path.write_text(json.dumps(fixture, ensure_ascii=True, separators=(",", ":")) + "\n")
    path.chmod(0o644)


main()
