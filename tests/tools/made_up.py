"""Records, r2 scores and a page as the tests of what is shown have them: made up, drawn by the real script."""

from html.parser import HTMLParser

import torch

import plot_results
from shortcut.approximation import MODES
from shortcut.files import store
from shortcut.files.names import Names

L, N = 4, 50
VOID = {"meta", "link", "img"}


def make_records(n_layers=L):
    """Every mode at every layer, better with each; early exits of id and mat."""
    g = torch.Generator().manual_seed(0)
    full = torch.randint(0, 1000, (N, 10), generator=g)

    def record(info, layers, share):
        topk = full.clone()
        topk[:, 0] = torch.where(torch.rand(N, generator=g) < share, full[:, 0], 2000)
        return {"info": info, "layers_processed": layers, "topk": topk, "surprisal": torch.rand(N, generator=g) * 9}

    fixed = [
        record({"type": "jump", "mode": mode.key, "layer": l}, float(l), (k + 2) / 8 if l < n_layers else 1)
        for k, mode in enumerate(MODES.values())
        for l in range(n_layers + 1)
    ]
    early = [
        record(
            {"type": "early_exit", "mode": MODES[mode].key, "lambda": lam}, 1 + (n_layers - 1) * lam, 0.2 + 0.8 * lam
        )
        for mode in ("id", "mat")
        for lam in (0.0, 0.5, 1.0)
    ]
    return [*fixed, *early]


def scores(only_last=False):
    pairs = [(i, j) for i in range(L) for j in range(i + 1, L + 1) if j == L or not only_last]
    return {"score_mat": {p: 0.9 - 0.1 * (p[1] - p[0]) for p in pairs}, "score_id": dict.fromkeys(pairs, -0.5)}


def make(root, model="gpt2-xl", records=None, r2=None):
    files = Names(root, model, "words")
    with store.replacing(files.results) as file:
        store.dump(file, *(records or make_records()))
    with store.replacing(files.r2_scores) as file:
        store.dump(file, r2 or scores())
    return files


def show(files, *options):
    plot_results.main(["--out", str(files.root), "--model", files.model, "--dataset", "words", *options])


class Page(HTMLParser):
    """A page taken apart; fails where an element is not closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.images, self.links, self.ids, self.data, self.cells = [], [], [], [], "", []
        self.captions = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "figcaption":
            self.captions.append("")
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        elif self.open and self.open[-1] == "figcaption":
            self.captions[-1] += data


def r2_of(summary, mode):
    """By (source, target), what the summary has of r2."""
    return {(row["source"], row["target"]): row[mode] for row in summary["tables"]["r2"]}


def quality(**found):
    """Numbers of three maps of a model of width 2; composition_loss as given."""
    layers = range(3)
    jumps = [(i, j) for i in layers for j in range(i + 1, 4)]
    return {"composition_loss": {}, "gain": dict.fromkeys(jumps, 0.0), "split_half_r2": dict.fromkeys(layers, 0.9),
            "effective_rank": dict.fromkeys(layers, 1.5), "spectrum": {l: [2.0, 1.0] for l in layers},
            "r2_by_rank": {}} | found  # fmt: skip
