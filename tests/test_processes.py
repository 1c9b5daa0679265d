"""Several processes under torchrun give the files that one gives."""

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_sentences

import config
from shortcut.files import store
from shortcut.files.names import Names

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("add_tokenization", "add_linreg", "add_plot_r2", "add_linreg_submodules", "add_results",
           "add_linreg --map affine ridge", "add_results --map affine ridge",
           "bert_add_reps", "bert_add_linreg", "bert_add_results")  # fmt: skip
DRIVER = """
import importlib, sys
import torch
torch.set_num_threads(1)
import config
from shortcut.pipeline.script import shell
config.TRAIN, config.VAL = 80, 40
out, gpt2, bert, *scripts = sys.argv[1:]
def main():
    for line in scripts:
        script, *more = line.split()
        model = bert if script.startswith("bert_") else gpt2
        importlib.import_module(script).main(["--out", out, "--model", model, "--dataset", "words", *more])
shell(main)
"""


def launch(out, models, scripts, processes):
    """Run the scripts in one go, under torchrun."""
    driver = out / "driver.py"
    driver.write_text(DRIVER)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, driver, out, *models, *scripts],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outs(tmp_path_factory, gpt2_folder, bert_folder):
    """What one process wrote and said, here, and what two did."""
    models, found, said = (gpt2_folder, bert_folder), [], io.StringIO()
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f"of{processes}")
        with store.replacing(Names(out, "any", "words").sentences) as file:
            store.dump(file, *make_sentences(150))
        found.append(out)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(config, "TRAIN", 80)
        patch.setattr(config, "VAL", 40)
        for line in SCRIPTS:
            script, *more = line.split()
            options = ["--out", str(found[0]), "--model", models[script.startswith("bert_")], "--dataset", "words"]
            importlib.import_module(script).main([*options, *more])
    done = launch(found[1], models, SCRIPTS, 2)
    assert done.returncode == 0, done.stderr
    return [(found[0], said.getvalue()), (found[1], done.stdout)]


def test_files_do_not_depend_on_the_number_of_processes(outs):
    one, two = ({p.relative_to(out): p for p in out.rglob("*.pickle")} for out, _ in outs)
    assert one.keys() == two.keys()
    assert len(one) > 30
    for name, path in one.items():
        assert path.read_bytes() == two[name].read_bytes(), name
    assert not [*outs[1][0].rglob("*.unfinished")]


def test_what_is_lost_is_made_again_by_two_processes(outs, gpt2_folder, bert_folder):
    """Where only a figure is to do, the leader alone draws it, and its entry is whole."""
    there = Names(outs[1][0], "tiny-gpt2", "words")
    lost = [there.plot("r2_scores_3", "png"), there.matrix(1, 2)]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    done = launch(there.root, (gpt2_folder, bert_folder), 2 * ("add_linreg", "add_plot_r2"), 2)
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(expected) for expected in ("wrote", "already made, skipped")] == [2, 2]
    assert [path.read_bytes() for path in lost] == before


def test_one_process_speaks_for_all(outs):
    said = [sorted(line.split(" in ")[0] for line in told.splitlines() if "wrote" in line) for _, told in outs]
    assert said[0] == said[1]
    assert len(said[0]) == len(SCRIPTS) + 2  # a line for each map kind


def test_when_the_leader_stops_the_others_stop_without_a_traceback(tmp_path, gpt2_folder, bert_folder):
    done = launch(tmp_path, (gpt2_folder, bert_folder), ("add_linreg",), 2)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("driver.py: ")]
    assert any(
        "words_tokenized_train.pickle not found: run .venv/bin/python add_tokenization.py" in line for line in ours
    )
    assert "add_linreg.py" not in "".join(line for line in done.stderr.splitlines() if line.startswith("  File"))
