"""What the scripts have made, in Python: `shortcut.Lens`."""

from functools import cache, partial
from pathlib import Path

import torch

from shortcut import Problem, representations, sentence_grid, tokens
from shortcut.files import formats
from shortcut.files.names import PROJECT, Names
from shortcut.linear import KINDS, LEAST_SQUARES, Map
from shortcut.loading import checkpoint, model_kind, pretrained
from shortcut.models import Model
from shortcut.pipeline.manifest import Provenance
from shortcut.sentence_grid import Grid


class Lens:
    """A model with the maps that were fitted for it: h_j is about A_ij h_i.

    >>> lens = shortcut.Lens.load("models/gpt2-docstrings", "docstrings")
    >>> h = lens.states("Return the sum of array elements")      # [L + 1, T, d]
    >>> logits = lens.read_out(lens.transport(h[3], 3, 12))      # [T, v], as if layers 3 to 11 had run
    """

    def __init__(self, model: Model, tokenizer, files: Names):
        self.model, self.tokenizer, self.files = model, tokenizer, files
        self.map_kind = files.map_kind
        self._fingerprints = cache(partial(checkpoint.fingerprints, model.name))  # reading the weights can take seconds
        self._provenance = Provenance(files, lambda script, path: self._fingerprints())
        self._maps: dict[tuple[int, int], Map] = {}

    @classmethod
    def load(
        cls, model: str, dataset: str = "wikipedia", map_kind: str = LEAST_SQUARES, *,
        out: str | Path = PROJECT, device: str = "cpu",
    ) -> "Lens":  # fmt: skip
        """A model, by its name or folder, with the maps of a kind that were fitted on a dataset.

        `out` holds linreg/, as the scripts' option.

        Raises Problem: no such model or kind; a model that is no folder and not downloaded.
        """
        if map_kind not in KINDS:
            raise Problem(f"no kind of maps is called {map_kind}: expected {', '.join(KINDS)}")
        found, files = model_kind.files_of(model, dataset, Path(out), map_kind)
        loaded = pretrained.load(found, masked=files.masked, device=device)
        return cls(loaded, pretrained.load_tokenizer(found, masked=files.masked), files)

    def map(self, source: int, target: int) -> Map:
        """The map from layer `source` to layer `target`, float32.

        Raises Problem: it was not fitted, or for another model (the command to run is named), or its kind has none.
        """
        key = source, target
        if key not in self._maps:
            path, L = self.files.matrix(*key), self.model.n_layers
            if KINDS[self.map_kind].last_only and target < L:
                only = f"{self.map_kind} maps lead into the last layer only"
                raise Problem(f"{only}: take {L} as target, or {LEAST_SQUARES} maps")
            if not path.exists():
                raise Problem(f"{self.files.relative(path)} not found: run {self.files.fitted_by(path)} first")
            self._provenance.check([path], lambda _: None)
            self._maps[key] = formats.load_map(self.files, *key, self.model.d).to(self.model.device)
        return self._maps[key]

    def transport(self, h: torch.Tensor, source: int, target: int | None = None) -> torch.Tensor:
        """What states h [..., d] of layer `source` are expected to be at layer `target`, by default the last.

        Raises Problem as `map`. Raises ValueError: the target lies before the source.
        """
        target = self.model.n_layers if target is None else target
        if not 0 <= source <= target <= self.model.n_layers:
            raise ValueError(
                f"from layer {source} to {target}, expected 0 <= source <= target <= {self.model.n_layers}"
            )
        return h if source == target else self.map(source, target).to(h)(h)

    @torch.no_grad()
    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] of states [..., d], read as the model reads h_L."""
        return self.model.read_out(h.to(self.model.device))

    def states(self, text: str) -> torch.Tensor:
        """h_0 ... h_L at every token of a text, float32 [L + 1, T, d]; its T decides about "longrope" embeddings.

        Raises Problem: more tokens than the model or its tokenizer takes, or none.
        """
        longest = tokens.longest(self.model.context, self.tokenizer)
        ids = torch.tensor(self.tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
        if not 0 < len(ids) <= longest:
            raise Problem(f"the text has {len(ids)} tokens, expected 1 to {longest}")
        tokens.check([ids], self.model.vocabulary)
        return torch.stack([h.to(self.model.device) for h in representations.whole(self.model, ids)])

    def predict(self, text: str) -> Grid:
        """What every layer would predict in a text, as it stands ("id") and with its map (see `lens.look`).

        After each token, or of a masked model at its one [MASK]. Raises Problem as that, or if a map is missing.
        """
        maps = [self.map(l, self.model.n_layers) for l in range(self.model.n_layers)]
        return sentence_grid.look(
            self.model, self.tokenizer, text, {"mat" if self.map_kind == LEAST_SQUARES else self.map_kind: maps}
        )
