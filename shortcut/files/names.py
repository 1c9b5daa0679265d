"""Where every file of the pipeline lies. Names are those of the original code."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

MAPS_OF = "_maps_of_"  # in names, between the dataset that is judged on and the one that was fitted on
PROJECT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Names:
    """The files of one model and one dataset."""

    root: Path  # holds experiment/ and linreg/
    model: str  # name of the model's folder, <m>: the last part of its name or path, with _mask for a masked model
    dataset: str  # <d>
    matrices_from: str = ""  # the dataset that the matrices were fitted on, if that is another
    kind: str = ""  # of the maps, a row of `linear.KINDS`, if they are another than the paper's
    masked: bool = False  # whether it is a masked model's
    parts: Mapping[tuple[int, int], tuple[str, int]] | None = None  # as `submodules` has them; None: not known yet

    def __post_init__(self):
        kind = self.kind and f"@{self.kind}"
        judged = f"{self.dataset}{MAPS_OF}{self.matrices_from}" if self.matrices_from else self.dataset
        judged += kind
        experiment, of_all = self.root / "experiment" / self.model, self.root / "experiment" / "sentences"
        self.__dict__.update(
            experiment=experiment,  # the model's data
            matrices=self.root / "linreg" / self.model / f"{self.matrices_from or self.dataset}{kind}",
            judged=judged,  # what results are named by: the dataset, whose matrices were judged on it, their kind
            sentences=of_all / f"{self.dataset}_20K-sentences.pickle",
            r2_scores=experiment / f"{judged}_r2_scores.pickle",
            quality=experiment / f"{judged}_maps.json",  # how good the maps are
            results=experiment / f"{judged}_results.pickle",  # predictions of every mode, layer and lambda
            predictions=experiment / f"{judged}_predictions.pickle",  # gaps, metrics of lenses, schedules
            summary=experiment / f"{judged}_summary.json",  # their numbers, with intervals
            report=experiment / f"{judged}_report.html",  # the page that shows all figures and tables
        )

    @property
    def title(self) -> str:
        """What figures are headed with."""
        maps = f", maps of {self.matrices_from}" if self.matrices_from else ""
        return f"{self.model_name} on {self.dataset}{maps}{self.kind and f', {self.kind} maps'}"

    @property
    def model_name(self) -> str:
        """The last part of the model's name or path."""
        return self.model.removesuffix("_mask") if self.masked else self.model

    @property
    def own(self) -> "Names":
        """The same files where the dataset's own matrices are judged."""
        return replace(self, matrices_from="")

    def others(self, name: str) -> list["Names"]:
        """The files of all other kinds of maps than the paper's, of which the file of that name is there."""
        there = sorted(self.experiment.glob(f"{replace(self, kind='').judged}@*_{name}.pickle"))
        return [replace(self, kind=self.kind_of(path)) for path in there]

    @property
    def own_kind(self) -> "Names":
        """The same files of the paper's kind of maps."""
        return replace(self, kind="")

    def tokenized(self, split: str) -> Path:
        """Tokens and chosen positions of "train" or "val"."""
        return self.experiment / f"{self.dataset}_tokenized_{split}.pickle"

    def states(self, split: str) -> Path:
        """Masked sentences of "train" or "val" with the states at their [MASK], for masked models."""
        return self.experiment / f"{self.dataset}_{split}.pickle"

    def matrix(self, i: int, j: int) -> Path:
        """A_ij, from layer i to layer j."""
        return self.matrices / f"{i}_{j}.pickle"

    @property
    def submodules(self) -> Path:
        """Which sub-modules the blocks have, found in the model itself: of each map its kind and input state."""
        return self.matrices / "submodules.json"

    def part(self, i: int, a: int) -> Path:
        """The map that makes state a of block i (0-based)."""
        return self.matrices / f"p{i}_{a - 1}_{a}.pickle"

    def plot(self, name: str, ending: str = "pdf") -> Path:
        """A figure, by its name without ending."""
        return self.experiment / "plots" / self.judged / f"{name}.{ending}"

    def plots(self, *names: str) -> list[Path]:
        """The figures in all their forms: for the paper, to look at, and as numbers."""
        return [self.plot(name, ending) for name in names for ending in ("pdf", "png", "csv")]

    def partial(self, script: str) -> Path:
        """The folder of a script's partial results."""
        return self.experiment / f"{self.judged}_{script.removesuffix('.py')}.unfinished"

    def is_foreign(self, path: Path) -> bool:
        """Whether it is a matrix of another dataset."""
        return bool(self.matrices_from) and path.parent == self.matrices

    def kind_of(self, path: Path) -> str:
        """The kind of maps that a file of this dataset is of, by its name or its folder's; "" for the paper's."""
        of = (self.dataset, self.matrices_from or self.dataset)
        name = next((name for name in (path.name, path.parent.name) if "@" in name and name.startswith(of)), "")
        return name.partition("@")[2].split("_")[0]

    def options(self, path: Path) -> str:
        """What must stand behind the name of a file's maker: "", but for matrices of another dataset, or kind."""
        dataset = f" --dataset {self.matrices_from}" if self.is_foreign(path) else ""
        return dataset + (f" --map {kind}" if (kind := self.kind_of(path)) else "")

    def fitted_by(self, path: Path) -> str:
        """The command that makes a matrix."""
        if self.kind == "tuned":
            return "python -m shortcut import"
        return f"{'bert_' * self.masked}add_linreg.py{self.options(path)}"

    def relative(self, path: Path) -> str:
        """A file's path from the root, as it is shown and recorded."""
        return path.relative_to(self.root).as_posix()

    def describe(self, paths: list[Path]) -> str:
        """Files as one line shows them: one or two by name, more by their number."""
        if len(paths) <= 2:
            return ", ".join(map(self.relative, paths))
        return f"{len(paths)} files in {', '.join(sorted({self.relative(path.parent) for path in paths}))}"


def find_model(name: str) -> str:
    """A folder's path, if it is not one from here but one in the project, or of an embedded model; else the name."""
    if not Path(name).is_dir():
        for folder in (PROJECT / name, PROJECT / "models" / name):
            if (folder / "config.json").is_file():
                return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    return name


def model_folder(name: str, *, masked: bool) -> str:
    """`<m>`: the last part of a model's name or path, with `_mask` for masked models."""
    return Path(name).resolve().name + ("_mask" if masked else "")
