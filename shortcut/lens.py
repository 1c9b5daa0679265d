"""Python interface to the maps that the scripts have fitted: `shortcut.Lens`."""

from collections.abc import Mapping
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

    `states` and `predict` return a list for a list of texts. Raises Problem: a map is missing or for another model, a
    text has too many tokens or none, or as `sentence_grid.look`; ValueError: a target is before its source.
    """

    def __init__(self, model, tokenizer, maps: str | Path | Names | Mapping[tuple[int, int], torch.Tensor]):
        """Use a transformers model in memory, which is left as it is; raises Problem if it fails a check of `load`.

        maps: a folder such as linreg/gpt2/wikipedia, or A_ij [d, d], or [d, d + 1] with an intercept, by (i, j), all
        for this model and tokenizer. Fingerprints are compared only with `Names`, as in `load`.
        """
        self.model = model if isinstance(model, Model) else pretrained.share(model)
        self.tokenizer, self.map_kind, self.files, self._maps = tokenizer, "given", None, {}
        if isinstance(maps, Mapping):
            given = {pair: torch.as_tensor(A).to(self.model.device, torch.float32) for pair, A in maps.items()}
            self._maps = {pair: Map(A, self.map_kind, *pair) for pair, A in given.items()}
        elif isinstance(maps, Names):
            self.map_kind, self.files = maps.map_kind, maps
            self._provenance = Provenance.of_model(maps, self.model.name)
        else:
            folder, options = Path(maps).resolve(), {"masked": self.model.masked, "given": self.model.name}
            dataset, _, named = folder.name.partition("@")
            self.map_kind = _known(named or LEAST_SQUARES)
            self.files = Names(folder.parents[2], folder.parent.name, dataset, map_kind=self.map_kind, **options)
            self._provenance = Provenance(self.files)

    def __repr__(self):
        maps = f"maps of {self.files.dataset}" if self.files else f"{len(self._maps)} maps"
        return f"Lens({self.model.name}, {maps}, map kind {self.map_kind}, layers 0 to {self.model.n_layers})"

    @classmethod
    def load(
        cls, model: str, dataset: str = "wikipedia", map_kind: str = LEAST_SQUARES, *,
        out: str | Path = PROJECT, device: str = "cpu",
    ) -> "Lens":  # fmt: skip
        """Load a model by name or folder, and maps fitted for it; `out` holds linreg/. Raises Problem if not found."""
        files = checkpoint.files_of(model, dataset, Path(out), _known(map_kind))
        if not any(files.matrices.glob("[0-9]*_*.pickle")):
            path = files.matrix(0, checkpoint.dimensions(files.given, masked=files.masked)[0])
            raise files.not_found(path, files.fitted_by(path))
        loaded = pretrained.load(files.given, masked=files.masked, device=device)
        return cls(loaded, pretrained.load_tokenizer(files.given, masked=files.masked), files)

    def map(self, source: int, target: int) -> Map:
        """The map between two layers, float32. Raises Problem if there is none, or it is for another model."""
        if (key := (source, target)) not in self._maps:
            if not self.files:
                raise Problem(f"no map from layer {source} to {target} is among the maps given")
            path, L = self.files.matrix(*key), self.model.n_layers
            if KINDS[self.map_kind].last_only and target < L:
                raise Problem(f"{self.map_kind} maps lead only to layer {L}: take {L}, or {LEAST_SQUARES} maps")
            if not path.exists():
                raise self.files.not_found(path, self.files.fitted_by(path))
            self._provenance.check([path], lambda _: None)
            self._maps[key] = formats.load_map(self.files, *key, self.model.d).to(self.model.device)
        return self._maps[key]

    def transport(self, h: torch.Tensor, source: int, target: int | None = None) -> torch.Tensor:
        """Estimate the states at layer `target` (by default the last) from the states h [..., d] at layer `source`."""
        L = self.model.n_layers
        target = L if target is None else target
        if not 0 <= source <= target <= L:
            raise ValueError(f"from layer {source} to {target}, expected 0 <= source <= target <= {L}")
        return h if source == target else self.map(source, target).to(h)(h)

    @torch.no_grad()
    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] from states [..., d], read out as the model reads out h_L."""
        return self.model.read_out(h.to(self.model.device))

    def states(self, text: str | list[str]) -> torch.Tensor | list[torch.Tensor]:
        """h_0 ... h_L at every token of a text, float32 [L + 1, T, d]; "longrope" embeddings depend on T."""
        if not isinstance(text, str):
            return [self.states(one) for one in text]
        longest = min(self.model.context, self.tokenizer.model_max_length)
        ids = torch.tensor(self.tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
        if not 0 < len(ids) <= longest:
            raise Problem(f"the text has {len(ids)} tokens, expected 1 to {longest}")
        tokens.check([ids], self.model.vocabulary)
        return torch.stack([h.to(self.model.device) for h in representations.whole(self.model, ids)])

    def predict(self, text: str | list[str]) -> Grid | list[Grid]:
        """Predictions in a text from every layer, without a map ("id") and with its map (see `sentence_grid.look`).
        A causal model predicts the token after each token, a masked model the token at the one [MASK].
        """
        if not isinstance(text, str):
            return [self.predict(one) for one in text]
        mode = "mat" if self.map_kind == LEAST_SQUARES else self.map_kind
        maps = [self.map(l, self.model.n_layers) for l in range(self.model.n_layers)]
        return sentence_grid.look(self.model, self.tokenizer, text, {mode: maps})


def _known(map_kind: str) -> str:
    if map_kind not in KINDS:
        raise Problem(f"no map kind is called {map_kind}: expected {', '.join(KINDS)}")
    return map_kind
