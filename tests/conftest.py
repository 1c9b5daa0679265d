"""Tiny random models of every family, saved as ordinary folders, and sentences for them. No network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import csv
import io
import json
import random
import shutil

import drawing
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

import config
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.linear import Map
from shortcut.loading import pretrained
from shortcut.show import canvas
from shortcut.tokens import Tokenized

LAYERS, D, CONTEXT = 3, 16, 48
NAN = float("nan")
WORDS = (
    "the a model layer state token reads writes maps jumps early late linear final hidden sentence of to and".split()
)

SLOW = """readme hub comparison all_stages processes kill cases scripts bert_scripts interface embedded stale
    other_corpus few_sentences imported_lenses new_kind report figures page make install trained fuzz exchange
    encoder""".split()

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pytest_configure(config):
    """Files run in the order of collection, not those with most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Slow files first, so that no worker ends with one of them alone."""
    order = {f"test_{name}": k for k, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def make_sentences(n, seed=0):
    """n distinct sentences of 3 to 20 words, newline at the end."""
    rng = random.Random(seed)
    return [" ".join([*rng.choices(WORDS, k=rng.randint(2, 19)), f"n{k}.\n"]) for k in range(n)]


def make_tokenized(n, vocabulary, seed=0, longest=20):
    """n sentences of random tokens with random positions."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=g).tolist()
    sentences = [torch.randint(5, vocabulary, (length,), generator=g) for length in lengths]
    positions = torch.tensor([int(torch.randint(length, (1,), generator=g)) for length in lengths])
    return Tokenized(sentences, positions)


def matrix(k):
    """A matrix near the identity."""
    return torch.eye(D) + 0.3 * torch.randn(D, D, generator=torch.Generator().manual_seed(k))


def states(n, d, seed=0):
    """Normal states [n, d] in float64."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_map(A, source=0, target=1):
    """A matrix [d, d], or [d, d + 1] with an intercept, as a map."""
    return Map(A, "affine" if A.shape[1] > len(A) else "least-squares", source, target)


def as_maps(matrices):
    """Matrices by (i, j) as maps from layer i to layer j."""
    return {pair: as_map(A, *pair) for pair, A in matrices.items()}


def maps():
    """Random maps from each layer into the last."""
    g = torch.Generator().manual_seed(0)
    return [as_map(torch.randn(D, D, generator=g), l, LAYERS) for l in range(LAYERS)]


def write(path, *values):
    """Store values as our files are written."""
    with store.replacing(path) as file:
        store.dump(file, *values)
    return path


def read(path):
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode())))


def make_gpt2(folder, **changes):
    """A random GPT-2 with weights large enough that layers differ."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(make_sentences(200), vocab_size=320, special_tokens=["<|endoftext|>"])
    end = "<|endoftext|>"
    transformers.GPT2TokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token=end, eos_token=end, unk_token=end
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **{
            "vocab_size": 320, "n_positions": CONTEXT, "n_embd": D, "n_layer": LAYERS, "n_head": 4,
            "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, **changes,
        }
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def make_bert(folder, **changes):
    """A random BERT likewise."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(make_sentences(200), vocab_size=320)
    transformers.BertTokenizerFast(tokenizer_object=tokenizer._tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **{
            "vocab_size": 320, "max_position_embeddings": CONTEXT, "hidden_size": D, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "intermediate_size": 4 * D, "initializer_range": 0.3, **changes,
        }
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


def changed(folder, tmp_path, weights=lambda w: w, **settings):
    """A copy of a model's folder with other weights and settings."""
    copy = shutil.copytree(folder, tmp_path / "changed", dirs_exist_ok=True)
    tensors = weights(safetensors.torch.load_file(copy / "model.safetensors"))
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, **settings}), encoding="utf-8")
    return str(copy)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def gpt2(gpt2_folder):
    return pretrained.load(gpt2_folder, masked=False)


@pytest.fixture(scope="session")
def bert(bert_folder):
    return pretrained.load(bert_folder, masked=True)


@pytest.fixture(params=["gpt2", "bert"])
def model(request):
    """Each family in turn: what a test claims with this holds for all of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tokenizer(gpt2_folder):
    return pretrained.load_tokenizer(gpt2_folder, masked=False)


@pytest.fixture(scope="session")
def tokenized():
    return make_tokenized(40, 320)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Made-up records, with all that plot_results.py makes of them. A test that changes it puts it back."""
    import made_up

    files = made_up.make(tmp_path_factory.mktemp("drawn"))
    made_up.show(files)
    return files


@pytest.fixture
def small(monkeypatch):
    """Sizes of a run that take seconds, in config.py."""
    from pipeline import OF_KINDS, SIZES

    for name, value in {**SIZES, **OF_KINDS}.items():
        monkeypatch.setattr(config, name, value)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "words.txt"
    path.write_text("".join(make_sentences(150)))
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory, gpt2_folder, source):
    """All that the seven scripts make of a tiny GPT-2. A test that changes it puts it back."""
    from pipeline import run_all, small_sizes

    out = tmp_path_factory.mktemp("out")
    with small_sizes():
        run_all(out, gpt2_folder, source)
    return Names(out, "tiny-gpt2", "words")


@pytest.fixture
def figures_as_users_have_them(drawn, made, monkeypatch):
    """Figures are laid out, and their text is in fonts that journals take; `drawn` and `made` are without before."""
    monkeypatch.setattr(canvas.Plot, "render", drawing.AS_USERS_HAVE_IT)
    monkeypatch.setitem(canvas.STYLE, "pdf.fonttype", drawing.TYPE)


@pytest.fixture
def fitted(tmp_path, gpt2_folder):
    """A folder of maps, of two kinds."""
    for kind in ("least-squares", "ridge"):
        names = Names(tmp_path, "tiny-gpt2", "words", map_kind=kind)
        for i in range(LAYERS):
            for j in range(i + 1, LAYERS + 1):
                with store.replacing(names.matrix(i, j)) as file:
                    store.dump(file, matrix(10 * i + j + 100 * (kind == "ridge")))
    return ("--model", gpt2_folder, "--dataset", "words", "--out", tmp_path)
