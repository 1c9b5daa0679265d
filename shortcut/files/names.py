"""Paths of all files of the pipeline, named as in the original code."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from shortcut import LEAST_SQUARES, Problem

MODEL_FILES = ("weights", "tokenizer")  # settings that must be equal in all files read together
PROJECT = Path(__file__).resolve().parent.parent.parent  # where maps are looked for by default
if not (PROJECT / "config.py").is_file():  # installed without the scripts
    PROJECT = Path()
SENTENCES = "_20K-sentences.pickle"  # end of the name of a sentence file
SOURCES = {"wikipedia": "hub", "docstrings": "docstrings"}  # --source of a dataset; a file or folder for others


@dataclass(frozen=True)
class Names:
    """The files for one model, dataset and map kind."""

    root: Path  # holds experiment/ and linreg/
    model: str  # name of the model's folder, <m>: the last part of its name or path, with _mask for a masked model
    dataset: str  # <d>
    matrices_from: str = ""  # dataset that the matrices were fitted on, if another one
    map_kind: str = LEAST_SQUARES  # row of `linear.KINDS`; names of files and folders omit "least-squares"
    masked: bool = False  # True for a masked model
    parts: Mapping[tuple[int, int], tuple[str, int]] | None = None  # content of `submodules`; None: not known yet
    given: str = ""  # name or folder of the model, as given by the user

    def __post_init__(self):
        suffix = f"@{self.map_kind}" if self.map_kind != LEAST_SQUARES else ""
        fitted_on = self.matrices_from or self.dataset
        judged = (f"{self.dataset}_maps_of_{fitted_on}" if self.matrices_from else self.dataset) + suffix
        maps = (f", maps of {fitted_on}" if self.matrices_from else "") + (f", {self.map_kind} maps" if suffix else "")
        experiment = self.root / "experiment" / self.model
        matrices = self.root / "linreg" / self.model / f"{fitted_on}{suffix}"
        model_name = self.model.removesuffix("_mask") if self.masked else self.model
        self.__dict__.update(
            experiment=experiment,  # the model's data
            matrices=matrices,  # the fitted maps
            submodules=matrices / "submodules.json",  # sub-modules: for each map, part kind and input state
            judged=judged,  # begins the names of results: evaluation dataset, dataset of the maps, map kind
            model_name=model_name,  # last part of the model's name or path
            hub_name=model_name if Path(self.given).is_dir() else self.given,  # name on the hub, or of a folder
            title=f"{model_name} on {self.dataset}{maps}",  # of the figures
            sentences=self.root / "experiment" / "sentences" / f"{self.dataset}{SENTENCES}",
            r2_scores=experiment / f"{judged}_r2_scores.pickle",
            quality=experiment / f"{judged}_maps.json",  # quality of the maps
            results=experiment / f"{judged}_results.pickle",  # predictions of every mode, layer and lambda
            predictions=experiment / f"{judged}_predictions.pickle",  # gaps, lens metrics, alternation schedules
            summary=experiment / f"{judged}_summary.json",  # numbers of the report, with confidence intervals
            report=experiment / f"{judged}_report.html",  # page with all figures and tables
        )

    @classmethod
    def of(cls, given: str, dataset: str, out: Path, *, masked: bool, map_kind: str = LEAST_SQUARES) -> "Names":
        """The files for a model given by name or folder."""
        folder = Path(given).resolve().name + "_mask" * masked
        return cls(out.resolve(), folder, dataset, masked=masked, given=given, map_kind=map_kind)

    @property
    def own(self) -> "Names":
        """The same files, for matrices fitted on the dataset itself."""
        return replace(self, matrices_from="")

    @property
    def others(self) -> list["Names"]:
        """The files for each map kind, except least-squares, that has predictions."""
        judged = replace(self, map_kind=LEAST_SQUARES).judged
        there = sorted(self.experiment.glob(f"{judged}@*_predictions.pickle"))
        return [replace(self, map_kind=self.map_kind_of(path)) for path in there]

    def split(self, name: str) -> Path:
        """Tokens and chosen positions of "train" or "val"; for a masked model with the hidden states at [MASK]."""
        return self.experiment / f"{self.dataset}{'' if self.masked else '_tokenized'}_{name}.pickle"

    def matrix(self, i: int, j: int) -> Path:
        """A_ij, from layer i to layer j."""
        return self.matrices / f"{i}_{j}.pickle"

    def part(self, i: int, a: int) -> Path:
        """The map that makes state a of block i (0-based)."""
        return self.matrices / f"p{i}_{a - 1}_{a}.pickle"

    def plot(self, name: str, ending: str = "pdf") -> Path:
        """File of a figure."""
        return self.experiment / "plots" / self.judged / f"{name}.{ending}"

    def plots(self, *names: str) -> list[Path]:
        """Files of figures, as PDF, PNG and CSV."""
        return [self.plot(name, ending) for name in names for ending in ("pdf", "png", "csv")]

    def partial(self, script: str) -> Path:
        """Folder for a script's partial results."""
        return self.experiment / f"{self.judged}_{script.removesuffix('.py')}.unfinished"

    def is_foreign(self, path: Path) -> bool:
        """True if the file is a matrix that was fitted on another dataset."""
        return bool(self.matrices_from) and path.parent == self.matrices

    def map_kind_of(self, path: Path) -> str:
        """Map kind of a file for this dataset, read from the name of the file or its folder."""
        datasets = (self.dataset, self.matrices_from or self.dataset)
        name = next((name for name in (path.name, path.parent.name) if "@" in name and name.startswith(datasets)), "")
        return name.partition("@")[2].split("_")[0] or LEAST_SQUARES

    def command(self, script: str, path: Path, *more: str) -> str:
        """Whole command line that makes a file with a script, to be pasted into a shell."""
        dataset = self._dataset_of(path)
        options = ["--model", self.given or self.model_name, "--dataset", dataset]
        if script == "get_wikipedia_sentences.py":
            options = ["--dataset", dataset, "--source", SOURCES.get(dataset, "PATH")]
        elif script.endswith("add_linreg.py") and self.map_kind == "tuned":
            script = "-m shortcut import LENS --from tuned-lens"
        elif script.endswith(("add_linreg.py", "_r2.py", "_results.py")):
            options += ["--map", self.map_kind_of(path)]
        if self.matrices_from and path.name.startswith(self.judged):
            options += ["--matrices-from", self.matrices_from]
        out = ["--out", str(self.root)] if self.root != PROJECT else []
        return shlex.join([".venv/bin/python", *script.split(), *options, *out, *more])

    def fitted_by(self, path: Path) -> str:
        """Command that makes a map, or the list of sub-modules."""
        jump = path.name[0].isdigit()
        return self.command(f"{'bert_' * self.masked}add_linreg.py" if jump else "add_linreg_submodules.py", path)

    def not_found(self, path: Path, command: str) -> Problem:
        """Error for a missing file; it names the datasets with sentences if the file's dataset is not among them."""
        there = sorted(file.name.removesuffix(SENTENCES) for file in self.sentences.parent.glob(f"*{SENTENCES}"))
        others = f"; datasets here: {', '.join(there)}" if there and self._dataset_of(path) not in there else ""
        return Problem(f"{self.relative(path)} not found: run {command} first{others}")

    def _dataset_of(self, path: Path) -> str:
        return self.matrices_from if self.is_foreign(path) else self.dataset

    def relative(self, path: Path) -> str:
        """Path of a file relative to the root."""
        return path.relative_to(self.root).as_posix()

    def describe(self, paths: list[Path]) -> str:
        """Text for a list of files: the names of one or two files, or the number of files and their folders."""
        if len(paths) <= 2:
            return ", ".join(map(self.relative, paths))
        return f"{len(paths)} files in {', '.join(sorted({self.relative(path.parent) for path in paths}))}"


def find_model(name: str) -> str:
    """Path of the project's folder or embedded model with this name; the name itself if there is none."""
    if not Path(name).is_dir():
        for folder in (PROJECT / name, PROJECT / "models" / name):
            if (folder / "config.json").is_file():
                return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    return name


def similar_model(name: str, known: Iterable[str] = ()) -> str:
    """Text that suggests a known name or the folder of a model that is spelled similarly, if there is one."""
    embedded = [folder.parent.name for folder in (PROJECT / "models").glob("*/config.json")]
    beside = [str(folder.parent) for folder in Path(name).parent.glob("*/config.json")]
    close = get_close_matches(name, [*known, *beside, *embedded], n=1)
    return f"; did you mean {close[0]}?" if close else ""
