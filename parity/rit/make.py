"""Sentence encoders as the sentence-transformers package makes and runs them.

    python parity/rit/make.py

Each case is a folder as the package saves it, of a small random BERT, with `expected.json`: sentences and their
vectors. Needs torch, transformers and sentence-transformers 6.2.0.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, BertTokenizerFast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import fixtures  # noqa: E402

WORDS = "i should not kill time at work steal bread help my friend lie to a cat is it good wrong".split()
PIECES = ["##s", "##ing", "##ed", "##er", "?", ".", ",", "'"]
SENTENCES = [
    "I should kill time.",
    "I should kill time at work.",
    "Should I steal bread?",
    "I should not steal bread",
    "Helping my friend is good.",
    "It is wrong to lie",
    "cats",
    "A cat killed time, killed time, killed time, killed time at work.",
    "unknown words here",
    "",
]


def tokenizer():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]
    core = Tokenizer(WordPiece({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = BertNormalizer(lowercase=True)
    core.pre_tokenizer = BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=core)


def case(name, pooling, dense):
    fixtures.start()
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    words = tokenizer()
    host = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
        ),
        add_pooling_layer=False,
    )
    fixtures.randomise(host, 7)
    bare = folder.with_suffix(".host")
    host.save_pretrained(bare)
    words.save_pretrained(bare)
    first = models.Transformer(str(bare), max_seq_length=16)
    modules = [first, models.Pooling(16, pooling_mode=pooling)]
    if dense:
        layer = models.Dense(modules[1].get_sentence_embedding_dimension(), 12, activation_function=dense)
        noise = torch.Generator().manual_seed(8)
        for tensor in layer.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.4)
        modules.append(layer)
    modules.append(models.Normalize())
    encoder = SentenceTransformer(modules=modules, device="cpu")
    encoder.save(str(folder), create_model_card=False)
    shutil.rmtree(bare)
    vectors = encoder.encode(SENTENCES, batch_size=3)
    expected = {"sentences": SENTENCES, "vectors": [[round(float(x), 7) for x in row] for row in vectors]}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    for path in folder.rglob("*"):
        if path.name in ("README.md", "config_sentence_transformers.json"):
            path.unlink()


if __name__ == "__main__":
    case("mean_dense", "mean", torch.nn.Tanh())
    case("mean_linear", "mean", torch.nn.Identity())
    case("cls_max", ["cls", "max", "lasttoken"], None)
