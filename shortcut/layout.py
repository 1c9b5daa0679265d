"""Where every file of the pipeline lies, and which script makes it. Names are those of the original code."""

import glob
import re
from dataclasses import dataclass, replace
from pathlib import Path

from shortcut import Problem

MAKERS = (  # what a file's name looks like, and the script that makes it: for causal and for masked models
    (r".*-sentences\.pickle", "get_wikipedia_sentences.py", "get_wikipedia_sentences.py"),
    (r".*_tokenized_(train|val)\.pickle", "add_tokenization.py", "bert_add_reps.py"),
    (r".*_(train|val)\.pickle", "bert_add_reps.py", "bert_add_reps.py"),
    (r"\d+_\d+\.pickle", "add_linreg.py", "bert_add_linreg.py"),
    (r"p\d+_\d_\d\.pickle", "add_linreg_submodules.py", "add_linreg_submodules.py"),
    (r".*_r2_scores\.pickle", "add_plot_r2.py", "bert_add_plot_r2.py"),
    (r".*_results\.pickle", "add_results.py", "bert_add_results.py"),
)


MAPS_OF = "_maps_of_"  # in names, between the dataset that is judged on and the one that was fitted on
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Layout:
    """The files of one model and one dataset.

    Attributes:
        root: holds `experiment/` and `linreg/`.
        model: name of the model's folder, `<m>`.
        dataset: name of the dataset, `<d>`.
        matrices_from: name of the dataset that the matrices were fitted on, if that is another.
    """

    root: Path
    model: str
    dataset: str
    matrices_from: str = ""

    @property
    def masked(self) -> bool:
        """Whether it is a masked model's, whose folders end in `_mask`."""
        return self.model.endswith("_mask")

    @property
    def title(self) -> str:
        """What figures are headed with."""
        maps = f", maps of {self.matrices_from}" if self.matrices_from else ""
        return f"{self.model.removesuffix('_mask')} on {self.dataset}{maps}"

    @property
    def judged(self) -> str:
        """What results are named by: the dataset, and whose matrices were judged on it if not its own."""
        return f"{self.dataset}{MAPS_OF}{self.matrices_from}" if self.matrices_from else self.dataset

    @property
    def own(self) -> "Layout":
        """The same files where the dataset's own matrices are judged."""
        return replace(self, matrices_from="")

    @property
    def experiment(self) -> Path:
        """The folder of this model's data."""
        return self.root / "experiment" / self.model

    @property
    def sentences(self) -> Path:
        """The sentences, the same for all models."""
        return self.root / "experiment" / "sentences" / f"{self.dataset}_20K-sentences.pickle"

    def tokenized(self, split: str) -> Path:
        """Tokens and chosen positions of "train" or "val"."""
        return self.experiment / f"{self.dataset}_tokenized_{split}.pickle"

    def states(self, split: str) -> Path:
        """Masked sentences of "train" or "val" with the states at their [MASK], for masked models."""
        return self.experiment / f"{self.dataset}_{split}.pickle"

    @property
    def matrices(self) -> Path:
        """The folder of the fitted matrices."""
        return self.root / "linreg" / self.model / (self.matrices_from or self.dataset)

    def matrix(self, i: int, j: int) -> Path:
        """A_ij, from layer i to layer j."""
        return self.matrices / f"{i}_{j}.pickle"

    def part(self, i: int, a: int) -> Path:
        """The map of block i (0-based) from its state a - 1 to its state a."""
        return self.matrices / f"p{i}_{a - 1}_{a}.pickle"

    @property
    def r2_scores(self) -> Path:
        """The r2 of every pair."""
        return self.experiment / f"{self.judged}_r2_scores.pickle"

    @property
    def results(self) -> Path:
        """Predictions of every mode, layer and lambda."""
        return self.experiment / f"{self.judged}_results.pickle"

    def plot(self, name: str, ending: str = "pdf") -> Path:
        """A figure, by its name without ending."""
        return self.experiment / "plots" / self.judged / f"{name}.{ending}"

    def plots(self, *names: str) -> list[Path]:
        """The figures in all their forms: for the paper, to look at, and as numbers."""
        return [self.plot(name, ending) for name in names for ending in ("pdf", "png", "csv")]

    @property
    def summary(self) -> Path:
        """The numbers of the results, with their intervals."""
        return self.experiment / f"{self.judged}_summary.json"

    @property
    def report(self) -> Path:
        """The page that shows all figures and tables."""
        return self.experiment / f"{self.judged}_report.html"

    def maker(self, path: Path) -> str:
        """The script that makes a file of this layout.

        Raises:
            ValueError: no script does.
        """
        for pattern, causal, masked in MAKERS:
            if re.fullmatch(pattern, path.name):
                return masked if self.masked else causal
        raise ValueError(f"no script makes {path.name}")

    def relative(self, path: Path) -> str:
        """A file's path from the root, as it is shown and recorded."""
        return path.relative_to(self.root).as_posix()

    def describe(self, paths: list[Path]) -> str:
        """Files as one line shows them: one or two by name, more by their number."""
        if len(paths) <= 2:
            return ", ".join(map(self.relative, paths))
        return f"{len(paths)} files in {', '.join(sorted({self.relative(path.parent) for path in paths}))}"

    def require(self, path: Path) -> Path:
        """The path itself; raises Problem, naming the script that makes it, if it is not there."""
        if not self.root.is_dir():
            raise Problem(f"no folder {self.root}: give one that is there with --out, or leave that out")
        if not path.exists():
            run = f"run {self.maker(path)}{self.dataset_option(path)} first"
            raise Problem(f"{self.relative(path)} not found: {run}{self._others(path)}")
        return path

    def dataset_option(self, path: Path) -> str:
        """What must stand behind the name of a file's maker, if it is of the dataset that the matrices are from."""
        return f" --dataset {self.matrices_from}" if self.matrices_from and path.parent == self.matrices else ""

    def _others(self, path: Path) -> str:
        """Of which models and datasets such a file is there, for who mistook a name."""
        place = path.relative_to(self.root).parent.parts  # experiment/<m>, experiment/sentences, linreg/<m>/<d>
        folders = ["*" if part in (self.model, self.matrices.name) else part for part in place]
        ending = path.name.removeprefix(self.judged).removeprefix(self.dataset)
        name = path.name if ending == path.name else f"*{glob.escape(ending)}"
        found = sorted(other.relative_to(self.root) for other in self.root.glob("/".join([*folders, name])))
        names = [
            " on ".join([*(part for part, kind in zip(other.parts, folders, strict=False) if kind == "*"),
                         *([other.name.removesuffix(ending)] if name != path.name else [])])
            for other in found
        ]  # fmt: skip
        return f" (there for: {', '.join(names[:8])})" if names else ""


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


def results_folder(name: str, root: Path) -> str:
    """`<m>` of a model's name, its folder, or the name of a folder under experiment/: where its results go."""
    causal = model_folder(name, masked=False)
    masked = f"{causal}_mask"
    there = [folder for folder in (causal, masked) if (root / "experiment" / folder).is_dir()]
    if causal.endswith("_mask") or there == [causal]:
        return causal
    return masked if "bert" in causal or there == [masked] else causal
