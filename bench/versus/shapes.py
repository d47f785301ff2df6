"""Makes the models and data that both sides read, once, outside the repository.

    python shapes.py NAME FOLDER

Weights are random with a fixed seed: speed does not depend on them, and both sides load the same file.
The tokenizer knows `w0`, `w1`, ... and joins them by spaces, so that a text spells its token ids.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers as hf  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

# No special tokens: nothing ends a generation early or is added to a prompt.
PLAIN = dict(bos_token_id=None, eos_token_id=None)


def llama_15m():
    """Six layers with tied embeddings, 15 M parameters."""
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=32_000, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        max_position_embeddings=1024, tie_word_embeddings=True, **PLAIN))


def gpt2_124m():
    """GPT-2 small; half a gigabyte in f32."""
    return hf.GPT2LMHeadModel(hf.GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **PLAIN))


def bert_base():
    """BERT base with a head of two classes."""
    return hf.BertForSequenceClassification(hf.BertConfig(
        num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


SHAPES = {"15m": llama_15m, "124m": gpt2_124m, "bert": bert_base}

ROWS = 256
LENGTHS = (128, 512)


def tokens(vocabulary, length):
    """Rows of token ids with frequencies as in text (Zipf's law), so that there is something to learn.

    Without 0, which pads in BERT: PyTorch gives the embedding of a padding token no gradient.
    """
    weights = 1.0 / torch.arange(1, vocabulary, dtype=torch.float64)
    generator = torch.Generator().manual_seed(length)
    return (1 + torch.multinomial(weights.expand(ROWS, -1), length, replacement=True, generator=generator)).tolist()


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tokenizer(folder, vocabulary):
    words = {f"w{token}": token for token in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')


def make(name, folder):
    torch.manual_seed(1)
    model = SHAPES[name]()
    model.save_pretrained(folder)
    vocabulary = model.config.vocab_size
    write_tokenizer(folder, vocabulary)
    for length in LENGTHS:
        rows = tokens(vocabulary, length)
        write_rows(folder / f"tokens-{length}.jsonl", [{"input_ids": row} for row in rows])
    texts = [" ".join(f"w{token}" for token in row) for row in tokens(vocabulary, LENGTHS[0])]
    labelled = [{"text": text, "label": str(number % 3 % 2)} for number, text in enumerate(texts)]
    write_rows(folder / "classes.jsonl", labelled)


if __name__ == "__main__":
    hf.utils.logging.disable_progress_bar()
    make(sys.argv[1], Path(sys.argv[2]))
