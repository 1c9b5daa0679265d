"""The scripts against the hub as it answers: sentences of a set, a model, and no network."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hub
import pyarrow
import pyarrow.parquet
import pytest
from conftest import LAYERS, make_sentences

from shortcut.files import formats
from shortcut.files.names import Names

ROOT = Path(__file__).resolve().parent.parent
SHARDS, GROUPS, ROWS = 4, 6, 30
SIZES = {"SENTENCES": 150, "TRAIN": 80, "VAL": 40}
GET = "get_wikipedia_sentences.py"
NOWHERE = "http://127.0.0.1:9"
RUN = """
import runpy, shlex, sys, time
time.sleep = lambda _: None  # the hub's client waits for half a minute in all
code = 0
for command in sys.argv[1:]:
    sys.argv = shlex.split(command)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as problem:
        print(problem, file=sys.stderr)
        code = 1
sys.exit(code)
"""


@pytest.fixture(scope="module")
def wikipedia(tmp_path_factory):
    """A set of the layout of wikimedia/wikipedia: several configurations, shards and row groups."""
    root = tmp_path_factory.mktemp("wikipedia")
    configs = "".join(
        f"- config_name: 20231101.{language}\n  data_files:\n  - split: train\n    path: 20231101.{language}/train-*\n"
        for language in ("ab", "en")
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for language in ("ab", "en"):
        (root / f"20231101.{language}").mkdir()
        for shard in range(SHARDS):
            rows = [
                f"{sentence.strip()} Article {row} of shard {shard}.\n\nNot this one."
                for row, sentence in enumerate(make_sentences(GROUPS * ROWS, seed=shard))
            ]
            pyarrow.parquet.write_table(
                pyarrow.table({"title": [os.urandom(500).hex() for _ in rows], "text": rows}),
                root / f"20231101.{language}" / f"train-{shard:05d}-of-{SHARDS:05d}.parquet",
                row_group_size=ROWS,
            )
    return root


@pytest.fixture(scope="module")
def played(wikipedia, gpt2_folder):
    with hub.serving({"datasets/wikimedia/wikipedia": wikipedia, "tiny/gpt2": Path(gpt2_folder)}) as playing:
        yield playing


class Project:
    """A copy of the project with small sizes, run in processes of its own as a person would."""

    def __init__(self, folder, cache):
        self.folder = folder
        self.cache = cache
        self.files = Names(folder, "gpt2", "wikipedia")
        for script in ROOT.glob("*.py"):
            shutil.copy(script, folder)
        for package in ("shortcut", "models"):
            (folder / package).symlink_to(ROOT / package)
        changes = {**SIZES, "READ_BYTES": 1}
        with open(folder / "config.py", "a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in changes.items())

    def start(self, commands, url, **variables):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *commands], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**environment, "HF_ENDPOINT": url, "HF_HOME": str(self.cache), **variables},
        )  # fmt: skip

    def run(self, commands, url, **variables):
        process = self.start(commands, url, **variables)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, [line for line in errors.splitlines() if line.strip()]


def make_run():
    """The scripts that `make run MODEL=tiny/gpt2 FAMILY=gpt2` runs, with their options."""
    told = subprocess.run(
        ["make", "-n", "run", "MODEL=tiny/gpt2", "FAMILY=gpt2"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"^\.venv/bin/python (\w+_\w+\.py.*)$", told, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def made(played, tmp_path_factory):
    """`make run MODEL=tiny/gpt2`, undisturbed: the project, the ranges asked of the hub, what was said."""
    project = Project(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("cache"))
    played.requests.clear()
    code, output, errors = project.run(make_run(), played.url)
    assert code == 0, errors
    return project, played.ranges(), output


def test_make_run_with_a_model_of_the_hub_runs_all_seven_scripts(made):
    project, _, output = made
    assert len(make_run()) == 7
    assert output.count("wrote ") == 7
    assert b"/FontFile2" in project.files.plot(f"ee_pre1_{LAYERS}").read_bytes()  # text that journals take


def test_sentences_are_of_every_shard_alike_and_of_as_many_articles(made):
    project, _, _ = made
    sentences = formats.load_sentences(project.files.sentences)
    assert len(set(sentences)) == len(sentences) == SIZES["SENTENCES"]
    shards = Counter(re.search(r"of shard (\d)\.$", sentence)[1] for sentence in sentences)
    assert len(shards) == SHARDS
    assert max(shards.values()) - min(shards.values()) <= 2


def test_footers_and_the_texts_of_two_groups_a_shard_are_all_that_is_fetched(made, wikipedia):
    _, ranges, output = made
    assert "reading 8 of 24 row groups from 4 files" in output
    footers, groups = split_ranges(ranges, wikipedia)
    assert sorted(Counter(path for path, *_ in footers).values()) == [1] * SHARDS
    assert sorted(Counter(path for path, *_ in groups).values()) == [2] * SHARDS
    texts = sum(
        pyarrow.parquet.ParquetFile(path).metadata.row_group(k).column(1).total_compressed_size
        for path in (wikipedia / "20231101.en").iterdir() for k in range(GROUPS)
    )  # fmt: skip
    assert sum(last + 1 - first for _, first, last in groups) == pytest.approx(texts / 3, rel=0.1)


def split_ranges(ranges, wikipedia):
    """Ranges that reach the end of their file, and the others."""
    sizes = {path.name: path.stat().st_size for path in (wikipedia / "20231101.en").iterdir()}
    ends = [last + 1 == sizes[path.split("/")[-1]] for path, _, last in ranges]
    return [r for r, end in zip(ranges, ends, strict=True) if end], [
        r for r, end in zip(ranges, ends, strict=True) if not end
    ]


def test_the_revision_is_on_record(made):
    path = made[0].files.sentences
    assert json.loads((path.parent / "manifest.json").read_text())["files"][path.name]["revision"] == hub.COMMIT


def test_a_failing_hub_is_asked_again_and_if_it_fails_on_is_one_line(made, played, tmp_path):
    project = Project(tmp_path, made[0].cache)
    played.requests.clear()
    played.failing = range(SHARDS + 3, 10**6)
    code, _, errors = project.run([GET], played.url)
    assert code == 1
    assert sum("Retrying" in line for line in errors) == 5
    assert re.fullmatch(rf"{GET}: cannot read hf://.*Error: .*: if the network failed, try again", errors[-1])
    assert not [*tmp_path.glob("experiment/sentences/*.pickle")]
    played.requests.clear()
    played.failing = range(2)
    code, _, errors = project.run([GET], played.url)
    played.failing = range(0)
    assert code == 0, errors
    assert len(played.ranges()) == 2 + SHARDS + 8
    assert project.files.sentences.read_bytes() == made[0].files.sentences.read_bytes()


def test_names_that_the_hub_does_not_know_are_one_line(played, tmp_path):
    project = Project(tmp_path, tmp_path / "cache")
    with open(tmp_path / "config.py", "a", encoding="utf-8") as file:
        file.write("HUB_DATASET = 'no/set'\n")
    code, _, errors = project.run([GET, "add_linreg.py --model no/model"], played.url)
    assert code == 1
    assert len(errors) == 2
    assert f"{GET}: cannot reach no/set 20231101.en on the Hugging Face hub (FileNotFoundError" in errors[0]
    assert (
        "add_linreg.py: cannot load 'no/model' (expected a name on the Hugging Face hub, or a whole folder with"
        in errors[1]
    )


def test_without_a_network_a_problem_is_one_line_at_once(tmp_path):
    """A client that asked again would say so, line after line."""
    project = Project(tmp_path, tmp_path / "cache")
    scripts = (GET, "bert_add_linreg.py")
    refused = project.start([f"{script} --out a" for script in scripts], NOWHERE)
    offline = project.start([f"{script} --out b" for script in scripts], NOWHERE, HF_HUB_OFFLINE="1")
    for process, why in (
        (refused, ("Connection refused", "hub cannot be reached")),
        (offline, ("HF_HUB_OFFLINE",) * 2),
    ):
        sentences, model = process.communicate(timeout=100)[1].strip().splitlines()
        assert process.returncode == 1
        assert re.fullmatch(
            rf"{GET}: cannot reach wikimedia/wikipedia .*{why[0]}.* --source PATH .* --source docstrings .*",
            sentences,
        )
        assert re.fullmatch(
            rf"bert_add_linreg.py: cannot load 'bert-base-uncased': .*{why[1]}.*: .* --model FOLDER, .*-docstrings",
            model,
        )


def test_what_was_downloaded_before_needs_no_network(made, tmp_path):
    project, _, _ = made
    started = []
    for out, variables in ((tmp_path / "a", {}), (tmp_path / "b", {"HF_HUB_OFFLINE": "1"})):
        shutil.copytree(project.folder / "experiment", out / "experiment")
        commands = [f"{command} --out {out}" for command in make_run()[:3]]
        started.append((out, project.start(commands, NOWHERE, **variables)))
    for out, process in started:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert output.count("already made, skipped") == 2
        assert "Retrying" not in errors
        matrix = project.files.matrix(0, LAYERS)
        assert (out / matrix.relative_to(project.folder)).read_bytes() == matrix.read_bytes()
