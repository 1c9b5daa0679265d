"""Python interface to the maps that the scripts have fitted: `shortcut.Lens`."""

from functools import cache
from pathlib import Path

import torch

from shortcut import Problem, representations, sentence_grid, tokens
from shortcut.files import formats
from shortcut.files.names import PROJECT, Names
from shortcut.linear import KINDS, LEAST_SQUARES, Map
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model
from shortcut.pipeline.manifest import Provenance
from shortcut.sentence_grid import Grid


class Lens:
    """A model with the maps fitted for it: h_j is approximately A_ij h_i.

    >>> lens = shortcut.Lens.load("models/gpt2-docstrings", "docstrings")
    >>> h = lens.states("Return the sum of array elements")      # [L + 1, T, d]
    >>> logits = lens.read_out(lens.transport(h[3], 3, 12))      # [T, v], as if blocks 3 to 11 had run
    """

    def __init__(self, model: Model, tokenizer, files: Names):
        self.model, self.tokenizer, self.files = model, tokenizer, files
        self.map_kind = files.map_kind
        fingerprints = cache(lambda: checkpoint.fingerprints(model.name))  # reading the weights can take seconds
        self._provenance = Provenance(files, lambda *_: fingerprints())
        self._maps: dict[tuple[int, int], Map] = {}

    @classmethod
    def load(
        cls, model: str, dataset: str = "wikipedia", map_kind: str = LEAST_SQUARES, *,
        out: str | Path = PROJECT, device: str = "cpu",
    ) -> "Lens":  # fmt: skip
        """Load a model, by name or folder, with maps fitted on one dataset; `out` is the folder that holds linreg/.

        Raises Problem: there is no such map kind or model, or the model is neither a folder nor downloaded.
        """
        if map_kind not in KINDS:
            raise Problem(f"no map kind is called {map_kind}: expected {', '.join(KINDS)}")
        found, files = checkpoint.files_of(model, dataset, Path(out), map_kind)
        loaded = pretrained.load(found, masked=files.masked, device=device)
        return cls(loaded, pretrained.load_tokenizer(found, masked=files.masked), files)

    def map(self, source: int, target: int) -> Map:
        """The map from layer `source` to layer `target`, float32.

        Raises Problem: the map was not fitted, or was fitted for another model (the message has the command to run), or
            its map kind has no maps to this target.
        """
        if (key := (source, target)) not in self._maps:
            path, L = self.files.matrix(*key), self.model.n_layers
            if KINDS[self.map_kind].last_only and target < L:
                only = f"{self.map_kind} maps have the last layer as their only target"
                raise Problem(f"{only}: take {L} as target, or {LEAST_SQUARES} maps")
            if not path.exists():
                raise self.files.not_found(path, self.files.fitted_by(path))
            self._provenance.check([path], lambda _: None)
            self._maps[key] = formats.load_map(self.files, *key, self.model.d).to(self.model.device)
        return self._maps[key]

    def transport(self, h: torch.Tensor, source: int, target: int | None = None) -> torch.Tensor:
        """Estimate the states at layer `target` (by default the last) from the states h [..., d] at layer `source`.

        Raises Problem as `map` does. Raises ValueError: the target is before the source.
        """
        L = self.model.n_layers
        target = L if target is None else target
        if not 0 <= source <= target <= L:
            raise ValueError(f"from layer {source} to {target}, expected 0 <= source <= target <= {L}")
        return h if source == target else self.map(source, target).to(h)(h)

    @torch.no_grad()
    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] from states [..., d], read out as the model reads out h_L."""
        return self.model.read_out(h.to(self.model.device))

    def states(self, text: str) -> torch.Tensor:
        """h_0 ... h_L at every token of a text, float32 [L + 1, T, d]; "longrope" embeddings depend on T.

        Raises Problem: the text has no token, or more than the model or its tokenizer allows.
        """
        longest = min(self.model.context, self.tokenizer.model_max_length)
        ids = torch.tensor(self.tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
        if not 0 < len(ids) <= longest:
            raise Problem(f"the text has {len(ids)} tokens, expected 1 to {longest}")
        tokens.check([ids], self.model.vocabulary)
        return torch.stack([h.to(self.model.device) for h in representations.whole(self.model, ids)])

    def predict(self, text: str) -> Grid:
        """Predictions in a text from every layer, without a map ("id") and with its map (see `sentence_grid.look`).

        A causal model predicts the token after each token, a masked model the token at the one [MASK].

        Raises Problem as `sentence_grid.look` does, or if a map is missing.
        """
        mode = "mat" if self.map_kind == LEAST_SQUARES else self.map_kind
        maps = [self.map(l, self.model.n_layers) for l in range(self.model.n_layers)]
        return sentence_grid.look(self.model, self.tokenizer, text, {mode: maps})
