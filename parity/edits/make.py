"""Makes `parity/edits/measure.json`: what the measurement of edits must agree with.

    python parity/edits/make.py        # needs torch, transformers, scikit-learn, nltk

Losses of targets behind prompts come from the house model in PyTorch, words from NLTK, term weights, F1 and Matthews
correlation from scikit-learn.
"""

import json
import random
from pathlib import Path

import torch
from nltk.tokenize import TreebankWordTokenizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
HOUSE = HERE.parent.parent / "assets" / "house"

SENTENCES = [
    "The cat sat on the mat.",
    "\"They'll save and invest more,\" she said.",
    "I can't believe it; you won't either!",
    "It's 3,36 euros (roughly $3.88) at 12:30.",
    "Hello, world",
    "Gimme that, I wanna go; you gotta see it, lemme try.",
    "We cannot do it. Cannot!",
    "'Tis said that 'twas fine.",
    "Dr. Smith's dog -- the old one -- barked...",
    "He asked, \"Who's there?\"",
    "The Joneses' house [number 7] {blue} <big>",
    "A 50% discount @ the shop & more #1",
    "e.g. this, i.e. that: done",
    "''Quoted'' text and ``more``",
    "No punctuation at all",
    "...",
    "",
    "a",
    "They've said we'd go, I'm sure she'll come, you're late.",
    "Rock 'n' roll, more'n enough",
    "End with a quote \"like this.\"",
    "End in brackets (like this.)",
    "Prices: 1,000, 2,000,and 3:4.",
    "semi;colon;less",
    "dash--dash -- dash",
    "What?! Really?!",
    "don't DON'T I'LL we'RE",
    "the boys' toys ",
    "x's and y'S and z'd",
    "St. Louis, Mo.",
    "comma at the end,",
    "colon at the end:",
    "\ttabs\tand\nlines\nhere.",
    "gonna GONNA gotta D'ye know",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9, d\u00e9j\u00e0 vu.",
    "\u201cCurly\u201d quotes \u2018too\u2019 \u2013 and dashes",
    "100.5 is 1.5 more than 99.",
    "U.S.A. and U.K.",
    "He said: \"yes\" and then (\"no\").",
    "({[<nested>]})",
    "'single quoted'",
    "it's the dog's' bone",
    "a.b.c.",
    "A sentence. Another sentence. The last.",
    "Mary-Jane's well-known sister-in-law",
    "http://example.org/a?b=c&d=e",
    "wanna",
    "wanna go, wanna stay",
    "Trailing spaces   ",
    "Tom, Dick, and Harry: \"we're $5 short--can't pay!\"",
]
TEXTS = [
    "Petra Sutton was born in Kyoto and lives in Oslo.",
    "The mason Petra works in Athens; the mason's house is old.",
    "Kyoto is a city in Japan, and Osaka is a city in Japan too.",
    "A baker_2 bakes bread. Bread is baked by bakers!",
    "\u00c9milie caf\u00e9 STRASSE Stra\u00dfe na\u00efve 12 3",
    "x y z",
]
PAIRS = [
    ("Petra Sutton was born in Oslo and Osaka", "Kyoto is in Japan, where masons live"),
    ("the baker_2 lives in a city", "bread and the city of Kyoto"),
    ("\u00e9milie stra\u00dfe", "12 caf\u00e9 na\u00efve"),
    ("unseen words only", "Kyoto"),
]


def losses():
    """Twenty targets behind prompts: mean loss, log-probabilities, likeliest tokens."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HOUSE / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(HOUSE, dtype=torch.float32).eval()
    prompts = ["Ada Marlow was born in", "The employer of Bruno Abbott is", "Kyoto lies in", "Clara works as a"]
    targets = ["Oslo", " Redfield Motors", "Japan ", "librarian", "zebra crossing"]
    found = []
    for prompt in prompts:
        for target in targets:
            joined = tokenizer(prompt + " " + target.strip())["input_ids"]
            own = tokenizer(" " + target.strip(), add_special_tokens=False)["input_ids"]
            assert joined[-len(own) :] == own
            with torch.no_grad():
                logits = model(torch.tensor([joined])).logits[0]
            log_probs = torch.log_softmax(logits, -1)[len(joined) - len(own) - 1 : -1]
            chosen = log_probs.gather(1, torch.tensor(own)[:, None])[:, 0]
            found.append({
                "prompt": prompt,
                "target": target,
                "ids": joined,
                "prefix": len(joined) - len(own),
                "loss": -chosen.mean().item(),
                "log_probs": chosen.tolist(),
                "best": log_probs.argmax(-1).tolist(),
            })
    return found


def words():
    split = TreebankWordTokenizer()
    return [{"text": text, "words": split.tokenize(text)} for text in SENTENCES]


def cosines():
    vectors = TfidfVectorizer().fit(TEXTS)
    both = lambda pair: vectors.transform(pair)
    value = lambda pair: (both(pair)[0] @ both(pair)[1].T).toarray()[0, 0]
    return {"texts": TEXTS, "pairs": [{"one": a, "other": b, "cosine": value((a, b))} for a, b in PAIRS]}


def tasks():
    draw = random.Random(4)
    found = []
    for classes in (2, 2, 4):
        labels = [draw.randrange(classes) for _ in range(60)]
        predictions = [label if draw.random() < 0.6 else draw.randrange(-1, classes) for label in labels]
        found.append({
            "labels": labels,
            "predictions": predictions,
            "weighted_f1": f1_score(labels, predictions, average="weighted", zero_division=0),
            "matthews": matthews_corrcoef(labels, predictions),
        })
    return found


def main():
    torch.set_num_threads(1)
    found = {"losses": losses(), "words": words(), "cosines": cosines(), "tasks": tasks()}
    (HERE / "measure.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
