"""Writes fixture.json: what the Python package `tokenizers` trains on a small text and encodes.

A byte-level BPE (the corpus is chosen so that no two merges spell one token), strings that are
tricky for it, and their ids by `tokenizers` and by `transformers.GPT2Tokenizer` from vocab.json and
merges.txt, which must agree. Vocabulary and merges stand in the file, so the test trains them too.

    python make_fixture.py     # needs tokenizers and transformers
"""

import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
VOCAB_SIZE = 400
CORPUS = [
    "Once upon a time, there was a small dog. The dog's name was Spot, and he'd run all day.",
    "It's raining; they're running home. They've lost 12 of their 1234 shoes!  Don't worry.",
    "The café was naïve: œuvre, Straße, 東京, and a smile 🙂. The small dog ran and ran.\n\n\tThe end.",
    "She sells sea shells by the sea shore. The shells she sells are surely sea shells, he said.",
]
TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t x", " leading", "trailing ", "a  b   c    d",
    "The small dog's name wasn't SPOT'S", "it's they're I'VE we'll he'd I'm", "'s 't ''s'",
    "1234567890 12,345.67 1st 2²", "e\u0301 é ﬁ ½ Ⅷ", "東京タワー 서울 Москва العربية",
    "🙂👩\u200d👩\u200d👧🏽 🇩🇪", "\u00a0nbsp\u2003em\u3000wide \u200b zero", "\u0000\u0001\u007f\ufeff",
    "a\r\nb\rc", END, f"x{END}y {END}", "<|endoftex", "!!!???...---___", "x" * 40, "snake_case camelCase",
    "\U0010ffff\ufffd", "Once upon a time\nthere was\n\n  a dog. ",
]


def main():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    spelled = ["".join(merge) for merge in model["merges"]]
    assert len(set(spelled)) == len(spelled), "two merges spell one token: choose another corpus"

    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = tokenizer.model.save(folder)
        gpt2 = transformers.GPT2Tokenizer.from_pretrained(folder, split_special_tokens=True)
    tokenizer.encode_special_tokens = True
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert gpt2.encode(text, add_special_tokens=False, split_special_tokens=True) == ids, text
        cases.append({"text": text, "ids": ids})
    fixture = {
        "versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "corpus": CORPUS,
        "vocab": model["vocab"],
        "merges": model["merges"],
        "cases": cases,
    }
    path = Path(__file__).with_name("fixture.json")
    path.write_text(json.dumps(fixture, ensure_ascii=True, separators=(",", ":")) + "\n")
    path.chmod(0o644)


main()
