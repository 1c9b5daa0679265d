"""Train the embedded models: `python models/train.py gpt2` and `python models/train.py bert`.

Reads   the docstrings of the installed packages, without the held-out quarter (models/docstrings.py)
Writes  models/<family>-docstrings/: config.json, tokenizer.json, model.safetensors (half precision)

There is one model of each family, small enough to be in the repository and large enough that its layers do useful work.
All numbers of the recipe are in this file. Training takes about half an hour on two CPU cores. The last lines
printed are the held-out loss and accuracy that models/README.md quotes.
"""

import argparse
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from models import docstrings
from shortcut.corpus.sentences import splitter

PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib", "pandas", "torch")
LAYERS = 12
CONTEXT = 256  # tokens; the longest sentence has about 200
HELD_OUT_SENTENCES = 4_000  # for the loss and accuracy printed at the end
SEED = 0
MASKED = 0.25  # share of the tokens; BERT's 0.15 would give less signal per step, and a run has few steps
IGNORED = -100  # label of a token that is not predicted


@dataclass(frozen=True)
class Recipe:
    d: int  # width
    heads: int
    vocabulary: int
    epochs: int
    batch: int  # tokens per step, with padding
    rate: float  # peak learning rate; linear warm-up, then cosine to a tenth
    warmup: int  # steps
    muon: float  # peak learning rate of Muon, which trains the blocks' matrices


RECIPES = {
    "gpt2": Recipe(d=128, heads=4, vocabulary=4096, epochs=6, batch=4096, rate=2e-3, warmup=100, muon=0.02),
    # With AdamW alone, post-norm blocks predict only the unigram distribution for a long time; Muon avoids that.
    "bert": Recipe(d=128, heads=4, vocabulary=4096, epochs=4, batch=4096, rate=1e-3, warmup=200, muon=0.01),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="folder to write; default: models/<family>-docstrings")
    parser.add_argument("--epochs", type=int, help="epochs; default: the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    recipe = RECIPES[args.family]
    folder = args.out or HERE / f"{args.family}-docstrings"

    sentences = docstrings.sentences(docstrings.source_files(PACKAGES), splitter())
    train = [s for s in sentences if not docstrings.is_held_out(s)]
    held_out = random.Random(SEED).sample([s for s in sentences if docstrings.is_held_out(s)], HELD_OUT_SENTENCES)
    print(f"{len(train)} sentences to train on, {len(sentences) - len(train)} held out", flush=True)

    tokenizer = TOKENIZERS[args.family](train, recipe.vocabulary)
    torch.manual_seed(SEED)
    model = MODELS[args.family](recipe, tokenizer).to(args.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size} tokens", flush=True)

    objective = OBJECTIVES[args.family]
    ids = tokenizer(train)["input_ids"]
    fit(model, tokenizer, ids, objective, recipe, args.epochs or recipe.epochs)
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    report(model.float(), tokenizer, tokenizer(held_out)["input_ids"], ids, objective)
    print(f"wrote {folder}")


def gpt2_tokenizer(sentences: list[str], size: int) -> GPT2TokenizerFast:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(sentences, vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    return GPT2TokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end, unk_token=end, model_max_length=CONTEXT
    )


def bert_tokenizer(sentences: list[str], size: int) -> BertTokenizerFast:
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(sentences, vocab_size=size, show_progress=False)
    return BertTokenizerFast(tokenizer_object=wordpiece._tokenizer, model_max_length=CONTEXT)


def gpt2_model(recipe: Recipe, tokenizer: GPT2TokenizerFast) -> GPT2LMHeadModel:
    end = tokenizer.eos_token_id
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=recipe.d, n_layer=LAYERS, n_head=recipe.heads,
            activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=end, eos_token_id=end,
        )
    )  # fmt: skip


def bert_model(recipe: Recipe, tokenizer: BertTokenizerFast) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=recipe.d, num_hidden_layers=LAYERS, type_vocab_size=2,
            num_attention_heads=recipe.heads, intermediate_size=4 * recipe.d, max_position_embeddings=CONTEXT,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def next_token(tokenizer, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels for language modelling: the next token at each position, then the end-of-text token."""
    labels = F.pad(ids[:, 1:], (0, 1), value=tokenizer.eos_token_id)
    return ids, labels.masked_fill(mask == 0, IGNORED)


def masked_token(tokenizer, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels for masked language modelling: 25% of the tokens, 80% as [MASK], 10% as a random token."""
    draw = torch.rand(ids.shape)
    chosen = (draw < MASKED) & (mask == 1)
    inputs = ids.masked_fill(chosen & (draw < 0.8 * MASKED), tokenizer.mask_token_id)
    scrambled = chosen & (draw >= 0.9 * MASKED)
    inputs = torch.where(scrambled, torch.randint(len(tokenizer), ids.shape), inputs)
    return inputs, ids.masked_fill(~chosen, IGNORED)


def batches(ids: list[list[int]], pad: int, budget: int, rng: random.Random):
    """Yield batches of sentences with similar length, padded to at most `budget` tokens, in random order."""
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), rng.random()))
    groups, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or len(ids[order[end]]) * (end + 1 - start) > budget:
            groups.append(order[start:end])
            start = end
    rng.shuffle(groups)
    for group in groups:
        rows = [torch.tensor(ids[i]) for i in group]
        yield (
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad),
            torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True),
        )


def loss_of(model, tokenizer, ids, mask, objective) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean loss, logits and labels for the predicted tokens of a batch."""
    device = next(model.parameters()).device
    inputs, labels = (t.to(device) for t in objective(tokenizer, ids, mask))
    logits = model(input_ids=inputs, attention_mask=mask.to(device)).logits
    wanted = labels != IGNORED
    return F.cross_entropy(logits[wanted], labels[wanted]), logits[wanted], labels[wanted]


def fit(model, tokenizer, ids, objective, recipe: Recipe, epochs: int) -> None:
    rng = random.Random(SEED)
    pad = tokenizer.pad_token_id or 0
    total = epochs * sum(1 for _ in batches(ids, pad, recipe.batch, random.Random(SEED)))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and (".h." in n or ".layer." in n)]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = [
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, lr=recipe.muon, weight_decay=0.01),
    ]

    def schedule(step: int) -> float:
        cosine = 0.55 + 0.45 * math.cos(math.pi * step / total)
        return min(1.0, (step + 1) / recipe.warmup) * cosine

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    started, seen, recent, step = time.time(), 0, [], 0
    for epoch in range(epochs):
        for padded, mask in batches(ids, pad, recipe.batch, rng):
            loss, _, _ = loss_of(model, tokenizer, padded, mask, objective)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            seen += padded.numel()
            recent = [*recent[-49:], loss.item()]
            step += 1
            if step % 50 == 0:
                speed = seen / (time.time() - started)
                mean = sum(recent) / len(recent)
                print(f"epoch {epoch} step {step}/{total} loss {mean:.3f} {speed:.0f} tokens/s", flush=True)


@torch.no_grad()
def report(model, tokenizer, held_out, train, objective) -> None:
    """Print held-out loss (model, unigram distribution) and held-out accuracy (model, most frequent token)."""
    counts = torch.ones(len(tokenizer))  # add-one, so that no token has probability zero
    torch.manual_seed(SEED)
    for padded, mask in batches(train, tokenizer.pad_token_id or 0, 8192, random.Random(SEED)):
        labels = objective(tokenizer, padded, mask)[1]
        counts += torch.bincount(labels[labels != IGNORED], minlength=len(counts))
    unigram = (counts / counts.sum()).log()
    torch.manual_seed(SEED)
    loss = baseline = hits = frequent = n = 0.0
    for padded, mask in batches(held_out, tokenizer.pad_token_id or 0, 8192, random.Random(SEED)):
        mean, logits, labels = loss_of(model, tokenizer, padded, mask, objective)
        labels = labels.cpu()
        loss += mean.item() * len(labels)
        baseline -= unigram[labels].sum().item()
        hits += (logits.argmax(-1).cpu() == labels).sum().item()
        frequent += (labels == unigram.argmax()).sum().item()
        n += len(labels)
    print(f"held out: loss {loss / n:.3f} nats per token, unigram {baseline / n:.3f}, gain {(baseline - loss) / n:.3f}")
    print(f"held out: accuracy {hits / n:.3f}, most frequent token {frequent / n:.3f}, {hits / frequent:.1f} times")


TOKENIZERS = {"gpt2": gpt2_tokenizer, "bert": bert_tokenizer}
MODELS = {"gpt2": gpt2_model, "bert": bert_model}
OBJECTIVES = {"gpt2": next_token, "bert": masked_token}

if __name__ == "__main__":
    main()
