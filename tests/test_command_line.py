"""What is said at the terminal: help, problems, settings, names, Ctrl-C."""

import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import make_gpt2, make_sentences
from pipeline import ACTS_ON, SCRIPTS, SIZES, files, problem, run

import config
from shortcut import Problem
from shortcut.files import formats, names, store
from shortcut.files.names import Names
from shortcut.loading import checkpoint
from shortcut.pipeline import options, stages, status

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ".venv/bin/python"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(config, name, value)


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
    assert not files_.tokenized("train").exists()


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TAU", None, "config.py has no TAU: restore the line, or correct its name"),
        ("GPT2", None, "config.py has no GPT2: restore the line, or correct its name"),
        ("MAP", "ridge", "MAP in config.py is 'ridge', expected a value of type tuple"),
        ("MAP", (), "MAP in config.py is empty, expected map kinds, such as ('least-squares',)"),
        (
            "DATASET",
            "a/b",
            "DATASET in config.py: expected a name that can be part of file names, without @, got 'a/b'",
        ),
        ("TRAIN", "9000", "TRAIN in config.py is '9000', expected a value of type int"),
        ("LAST_ONLY", 1, "LAST_ONLY in config.py is 1, expected a value of type bool"),
        ("VAL", 0, "VAL in config.py is 0, expected at least 2"),
        ("VAL", 1, "VAL in config.py is 1, expected at least 2"),
        ("TRAIN", 0, "TRAIN in config.py is 0, expected at least 1"),
        ("SENTENCES", 0, "SENTENCES in config.py is 0, expected at least 1"),
        ("SPLITS", {"d": (5, 1)}, "SPLITS in config.py has (5, 1) for d, expected at least 1 and 2 sentences"),
        ("SPLITS", {"d": 9000}, "SPLITS in config.py has 9000 for d, expected at least 1 and 2 sentences"),
        ("SPLITS", {"d": (10,)}, "SPLITS in config.py has (10,) for d, expected at least 1 and 2 sentences"),
        ("LAMBDAS", {"id": (0.5,), "mat": 3}, "LAMBDAS in config.py has 3 for mat, expected a tuple of numbers"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(tmp_path, capsys, monkeypatch, name, value, message):
    monkeypatch.delattr(config, name) if value is None else monkeypatch.setattr(config, name, value)
    assert problem(capsys, "add_linreg", "--out", tmp_path) == message
    monkeypatch.setattr(sys, "argv", ["config.py"])
    with pytest.raises(SystemExit, match=re.escape(f"config.py: {message}")):
        status.main(config)


def broken(name, line):
    """The text of config.py with another line for this setting."""
    text, n = re.subn(rf"^{name}: (.*?) =", line, (ROOT / "config.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert n == 1
    return text


@pytest.mark.parametrize("name", sorted(config.__annotations__))
def test_a_line_of_config_that_is_renamed_or_not_annotated_is_one_line(name):
    for line, message in (
        (rf"{name}_: \1 =", f"config.py has no {name}: restore the line, or correct its name"),
        (f"{name} =", f"{name} in config.py has no type annotation: restore the line"),
    ):
        changed = types.ModuleType("config")
        changed.__file__ = str(ROOT / "config.py")
        exec(broken(name, line), vars(changed))
        with pytest.raises(Problem, match=f"^{re.escape(message)}$"):
            options.check(changed)


@pytest.mark.parametrize("script", ["config.py", "add_linreg.py"])
def test_a_mistake_in_config_is_one_line_from_every_script(tmp_path, script):
    for name in ("shortcut", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "add_linreg.py", tmp_path)
    (tmp_path / "config.py").write_text(broken("GPT2", r"GTP2: \1 ="), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    message = f"{script}: config.py has no GPT2: restore the line, or correct its name\n"
    assert (done.returncode, done.stderr) == (1, message)


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


def test_a_mistaken_dataset_is_answered_with_those_that_are_there(tmp_path, gpt2_folder, capsys):
    for dataset in ("news", "words"):
        with store.replacing(Names(tmp_path, "m", dataset).sentences) as file:
            store.dump(file, "A sentence.\n")
    on = ("--out", tmp_path, "--model", gpt2_folder, "--dataset")
    assert problem(capsys, "add_linreg", *on, "wrods").endswith(" first; datasets here: news, words")
    assert problem(capsys, "add_linreg", *on, "words").endswith(f" --dataset words --out {tmp_path} first")


def test_tuned_maps_alone_are_a_problem_and_beside_other_kinds_skipped(tmp_path, gpt2_folder, capsys):
    on = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    into = f"-m shortcut import LENS --from tuned-lens --model {gpt2_folder} --dataset words --out {tmp_path}"
    why = f"tuned maps are not fitted here: run {PYTHON} {into}"
    assert problem(capsys, "add_linreg", *on, "--map", "tuned") == why
    with pytest.raises(Problem, match="tokenized_train.pickle not found"):
        run("add_linreg", *on, "--map", "tuned", "ridge")
    assert f"add_linreg.py: {why}\n" in capsys.readouterr().out


def test_commands_for_missing_files_can_be_pasted(tmp_path):
    """With a folder's path that a shell would take apart, another dataset's maps, and sub-modules."""
    files = Names(tmp_path, "m", "news", matrices_from="words", map_kind="ridge", given="my models/m")
    on = f"{PYTHON} add_linreg.py --model 'my models/m' --dataset words --map ridge --out {tmp_path}"
    assert files.fitted_by(files.matrix(0, 1)) == on
    assert files.command("add_results.py", files.results, "--force") == (
        f"{PYTHON} add_results.py --model 'my models/m' --dataset news --map ridge --matrices-from words "
        f"--out {tmp_path} --force"
    )
    for path in (files.submodules, files.part(0, 1)):
        assert files.fitted_by(path).startswith(f"{PYTHON} add_linreg_submodules.py --model 'my models/m' --dataset w")
    assert Names(names.PROJECT, "m", "words").command("add_tokenization.py", tmp_path / "x") == (
        f"{PYTHON} add_tokenization.py --model m --dataset words"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminal_cannot_print_is_replaced(tmp_path, gpt2_folder, encoding):
    """± and the letters of a file's name, said or in a problem's line; the file itself is read as UTF-8."""
    source = tmp_path / "größe东.txt"
    source.write_text("".join(f"{line.strip()} ± 东\n" for line in make_sentences(150)), encoding="utf-8")
    env = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

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


def test_every_setting_is_checked():
    assert {*config.__annotations__} == {name for name in vars(config) if name.isupper()}


def test_an_embedded_model_goes_by_its_bare_name_and_from_any_folder(tmp_path, monkeypatch):
    embedded = ROOT / "models" / "gpt2-docstrings"
    monkeypatch.chdir(tmp_path)
    assert names.find_model("gpt2-docstrings") == names.find_model("models/gpt2-docstrings") == str(embedded)
    assert names.find_model("gpt2") == "gpt2"
    monkeypatch.chdir(ROOT)
    assert names.find_model("gpt2-docstrings") == "models/gpt2-docstrings"


def test_a_missing_input_is_told_of_before_a_model_is_fetched(tmp_path, gpt2_folder, capsys, monkeypatch):
    monkeypatch.setattr("shortcut.loading.checkpoint.fingerprint", lambda *_: pytest.fail("asked for the weights"))
    message = problem(capsys, "add_linreg", "--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    assert f"words_tokenized_train.pickle not found: run {PYTHON} add_tokenization.py" in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gtp2", "gpt2"), ("bert-docstring", None), ("gpt2-docstring", "gpt2-docstrings"),
        ("models/gpt2-docstring", "models/gpt2-docstrings"),
    ],
)  # fmt: skip
def test_a_mistaken_name_of_a_model_is_answered_with_a_similar_one(tmp_path, capsys, monkeypatch, name, meant):
    """One that config.py knows, that is embedded or that is a folder beside it."""
    monkeypatch.chdir(ROOT)
    on = ("--out", tmp_path, "--model", name, "--dataset", "words")
    assert problem(capsys, "add_linreg", *on).endswith(f"; did you mean {meant or 'bert-docstrings'}?")
    with pytest.raises(Problem, match=rf"; did you mean {meant or 'bert-docstrings'}\?$"):
        checkpoint.files_of(name, "words", tmp_path) if name != "gtp2" else stages.n_layers(config, name, masked=False)


def test_a_mistaken_name_of_a_model_is_answered_with_the_known_ones(tmp_path, capsys):
    message = problem(capsys, "add_linreg", "--out", tmp_path, "--model", "unlike", "--dataset", "words")
    assert "known names: gpt2, gpt2-medium, gpt2-large, gpt2-xl, EleutherAI/pythia-160m" in message
    assert "bert" not in message.split("known names")[1]


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
    message = "\nx.py: interrupted; finished files are kept: run the script again to resume\n"
    assert (done.returncode, done.stderr) == (130, message)


def hear_ctrl_c():
    """As in the foreground of a terminal: what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
