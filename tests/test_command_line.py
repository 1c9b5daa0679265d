"""What is said at the terminal: help, problems, notices, Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_gpt2, make_sentences
from pipeline import ACTS_ON, SCRIPTS, files, problem, run

import config
from shortcut import Problem
from shortcut.files import formats, store
from shortcut.files.names import Names

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("small")


PYTHON = ".venv/bin/python"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_read_and_written(script, capsys):
    with pytest.raises(SystemExit) as done:
        run(script, "--help")
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "Reads " in text
    assert "Writes " in text
    for option in ("--dataset", "--out", "--force"):
        assert option in text


def test_problems_are_one_line(tmp_path, gpt2_folder, bert_folder, capsys):
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    sentences, on = f"{PYTHON} get_wikipedia_sentences.py", f"--model {gpt2_folder} --dataset words"
    assert (
        f"words_20K-sentences.pickle not found: run {sentences} --dataset words --source PATH --out {tmp_path} first"
        in problem(capsys, "add_tokenization", *here)
    )
    tokenize = f"{PYTHON} add_tokenization.py {on} --out {tmp_path}"
    for script in ("add_linreg", "add_linreg_submodules"):
        assert f"tokenized_train.pickle not found: run {tokenize} first" in problem(capsys, script, *here)
    for script in ("add_plot_r2", "add_results"):
        assert f"tokenized_val.pickle not found: run {tokenize} first" in problem(capsys, script, *here)
    judge = f"{PYTHON} add_results.py {on} --map least-squares --out {tmp_path}"
    assert f"results.pickle not found: run {judge} first" in problem(capsys, "plot_results", *here)
    assert "is no causal language model of transformers: use the bert_ scripts" in problem(
        capsys, "add_linreg", "--out", tmp_path, "--model", bert_folder
    )
    assert "no device" in problem(capsys, "add_linreg", *here, "--device", "no-such")
    assert "too few sentences" in problem_with_few(capsys, tmp_path, gpt2_folder)
    assert not [name for name in files(tmp_path) if "sentences/" not in name and not name.endswith(".lock")]


def problem_with_few(capsys, out, model):
    path = out / "few.txt"
    path.write_text("".join(make_sentences(10)))
    run("get_wikipedia_sentences", "--out", out, "--dataset", "few", "--source", path)
    path.unlink()
    return problem(capsys, "add_tokenization", "--out", out, "--model", model, "--dataset", "few")


def test_too_few_sentences_that_hold_a_token_are_told_of(tmp_path, gpt2_folder, capsys):
    files_ = Names(tmp_path, "tiny-gpt2", "words")
    with store.replacing(files_.sentences) as file:
        store.dump(file, *make_sentences(119), "\n")
    message = problem(capsys, "add_tokenization", "--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    assert "too few sentences: got 119" in message
    assert not files_.split("train").exists()


def test_layer_count_that_disagrees_with_the_configuration(tmp_path, gpt2_folder, capsys, monkeypatch):
    from shortcut.loading import checkpoint

    monkeypatch.setattr(config, "LAYERS", {"gpt2": 12})
    dimensions = checkpoint.dimensions
    monkeypatch.setattr(checkpoint, "dimensions", lambda name, **options: dimensions(gpt2_folder, **options))
    message = problem(capsys, "add_linreg", "--out", tmp_path, "--model", "gpt2")
    assert "has 3 layers, config.py says 12: correct LAYERS in config.py" in message


@pytest.mark.parametrize("script", ACTS_ON)
def test_a_script_offers_the_options_that_it_acts_on_and_no_others(script, capsys):
    with pytest.raises(SystemExit):
        run(script, "--help")
    offered = re.findall(r"^  --([a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(offered) == sorted([*ACTS_ON[script].split(), "dataset", "out", "force"])


def test_from_the_shell_a_problem_is_one_line_and_exit_code_1_and_usage_2(tmp_path, gpt2_folder):
    def shell(*options):
        return subprocess.run(
            [sys.executable, ROOT / "add_linreg.py", *options], capture_output=True, text=True, check=False
        )

    failed = shell("--out", tmp_path, "--model", gpt2_folder)
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        "add_linreg.py: experiment/tiny-gpt2/wikipedia_tokenized_train.pickle not found: run "
        f"{PYTHON} add_tokenization.py --model {gpt2_folder} --dataset wikipedia --out {tmp_path} first"
    ]
    assert shell("--batch-size", "0").returncode == 2


def test_truncation_is_a_notice(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("".join(make_sentences(150)))
    here = ("--out", tmp_path, "--dataset", "words")
    run("get_wikipedia_sentences", *here, "--source", tmp_path / "words.txt")
    run("add_tokenization", *here, "--model", make_gpt2(tmp_path / "short", n_positions=6))
    assert "sentences are longer than 6 tokens: truncated" in capsys.readouterr().out


def test_a_source_of_other_sentences_needs_a_name_of_its_own(tmp_path, capsys):
    message = problem(capsys, "get_wikipedia_sentences", "--out", tmp_path, "--source", "words.txt")
    assert "needs a dataset name, since wikipedia has another source: add --dataset NAME" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["--help", "--no-such"])
def test_options_are_answered_before_torch_is_imported(wrong):
    code = (
        "import runpy, sys\nsys.modules['torch'] = sys.modules['numpy'] = None  # importing one fails\n"
        f"for script in {[*ACTS_ON]}:\n sys.argv = [script, {wrong!r}]\n"
        " try: runpy.run_path(f'{script}.py', run_name='__main__')\n"
        " except SystemExit as done: print('exit', done.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count(f"exit {0 if wrong == '--help' else 2}\n") == len(ACTS_ON)
    assert (done.stdout + done.stderr).count("usage: ") == len(ACTS_ON)


def test_the_first_line_says_what_a_script_does_in_this_run(tmp_path, gpt2_folder, capsys):
    (tmp_path / "words.txt").write_text("".join(make_sentences(150)))
    here, first = ("--out", tmp_path, "--dataset", "words"), lambda: capsys.readouterr().out.splitlines()[0]
    run("get_wikipedia_sentences", *here, "--source", tmp_path / "words.txt")
    assert first() == f"get_wikipedia_sentences.py: draw up to 150 sentences from {tmp_path / 'words.txt'}"
    run("add_tokenization", *here, "--model", gpt2_folder)
    assert first() == "add_tokenization.py: tokenize 80 + 40 sentences, choose 1 token(s) each"
    run("add_linreg", *here, "--model", gpt2_folder, "--map", "affine")
    assert first() == "add_linreg.py: fit affine maps from layer to layer"


def test_tuned_maps_alone_are_a_problem_and_beside_other_kinds_skipped(tmp_path, gpt2_folder, capsys):
    on = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    into = f"-m shortcut import LENS --from tuned-lens --model {gpt2_folder} --dataset words --out {tmp_path}"
    why = f"tuned maps are not fitted here: run {PYTHON} {into}"
    assert problem(capsys, "add_linreg", *on, "--map", "tuned") == why
    with pytest.raises(Problem, match="tokenized_train.pickle not found"):
        run("add_linreg", *on, "--map", "tuned", "ridge")
    assert f"add_linreg.py: {why}\n" in capsys.readouterr().out


def test_what_the_terminal_cannot_print_is_replaced(tmp_path, gpt2_folder):
    """± and the letters of a file's name, said or in a problem's line; the file itself is read as UTF-8."""
    source = tmp_path / "größe东.txt"
    source.write_text("".join(f"{line.strip()} ± 东\n" for line in make_sentences(150)), encoding="utf-8")
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def call(*words):
        done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = call("get_wikipedia_sentences.py", "--out", tmp_path, "--dataset", "words", "--source", source)
    assert code == 0
    assert b".txt, dataset words" in said
    assert all(
        sentence.endswith(" ± 东\n") for sentence in formats.load_sentences(Names(tmp_path, "m", "words").sentences)
    )
    code, said = call("get_wikipedia_sentences.py", "--out", tmp_path, "--dataset", "no", "--source", f"{source}东")
    assert (code, b"Traceback" in said, said.count(b"no source")) == (1, False, 1)


def test_a_missing_input_is_told_of_before_a_model_is_fetched(tmp_path, gpt2_folder, capsys, monkeypatch):
    monkeypatch.setattr("shortcut.loading.checkpoint.fingerprint", lambda *_: pytest.fail("asked for the weights"))
    message = problem(capsys, "add_linreg", "--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    assert f"words_tokenized_train.pickle not found: run {PYTHON} add_tokenization.py" in message


@pytest.mark.parametrize(
    "how",
    [
        "raise KeyboardInterrupt",
        # a library that loads another when it is needed
        "try:\n  raise KeyboardInterrupt\n except BaseException as e:\n  raise ModuleNotFoundError('no x') from e",
    ],
)
def test_ctrl_c_is_one_line_while_a_script_works(tmp_path, how):
    (tmp_path / "x.py").write_text(
        f"import signal, sys, time\nfrom shortcut.pipeline import terminal\ndef main():\n {how}\nterminal.shell(main)\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "x.py"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    message = "\nx.py: interrupted; finished files are kept: run it again\n"
    assert (done.returncode, done.stderr) == (130, message)


def hear_ctrl_c():
    """As in the foreground of a terminal: what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
