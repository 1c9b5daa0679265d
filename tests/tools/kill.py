"""Kill every stage, at random moments and at points of the writer, and see that nothing is lost: `make test-kill`.

Every kill is SIGKILL to a process that runs the real script on a tiny model. Afterwards no file may
stand half-written under its name; the stage, run again, must leave what was whole as it is, and in
the end every file must be, byte for byte, that of an undisturbed run (manifests but for times), with
nothing unfinished beside it. So must it be where a stage that makes everything anew, with --force, was
killed: run again, without it, it goes on.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import conftest
import matplotlib.backends.backend_agg
import matplotlib.backends.backend_pdf
import spacy
import transformers
from dying import watch_the_writer
from pipeline import ACTS_ON

import config
from shortcut.pipeline import partial as partial_results
from shortcut.pipeline import stages

STAGES = [stage.script.removesuffix(".py") for stage in (*stages.pipeline(masked=False), *stages.STAGES)]
STAGES = [*dict.fromkeys(STAGES)]  # plot_results.py once, after the stages of the causal model
SENTENCES = 150


log = os.devnull  # where a stage's own messages go


def in_a_process(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run `work` in a fork of this process, which has everything imported; its exit status, -9 if it was killed.

    This process computes nothing itself, so that there is no thread that a fork would miss.
    """
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def stage(
    script: str, folder: Path, kill_at: int | None = None, count: Path | None = None, force: bool = False
) -> Callable[[], None]:
    """What runs one script under `folder`.

    Args:
        script: its name.
        folder: holds source, models and everything written.
        kill_at: the number of the point in the writer at which the process kills itself.
        count: where to put how many such points there are.
        force: whether it makes anew what is there.
    """

    def work() -> None:
        config.SENTENCES, config.TRAIN, config.VAL, partial_results.SECONDS = SENTENCES, 80, 40, 0
        points = watch_the_writer(kill_at)
        model = folder / "models" / ("tiny-bert" if script.startswith("bert_") else "tiny-gpt2")
        options = ["--out", folder / "out", "--dataset", "words"]
        given = {"model": model, "batch-size": 100, "source": folder / "source"}
        options += [word for name in ACTS_ON[script].split() if name in given for word in (f"--{name}", given[name])]
        if force:
            options.append("--force")
        importlib.import_module(script).main([str(option) for option in options])
        if count:
            count.write_text(str(len(points)))

    return work


def contents(out: Path) -> dict[str, object]:
    """Every file below `out`, manifests without their times; locks left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.name == ".lock":
            continue
        name = path.relative_to(out).as_posix()
        found[name] = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(found[name])
            for entry in manifest["files"].values():
                entry.pop("made")
                entry.pop("seconds")
            found[name] = manifest
    return found


def outputs(out: Path) -> dict[str, tuple[int, bytes]]:
    """The files that have taken their names: when they were written, and what they hold."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "manifest.json"
        and ".unfinished" not in path.as_posix()
    }  # fmt: skip


def expect(right: bool, what: str) -> None:
    """Stop with one line if something is not as it must be."""
    if not right:
        sys.exit(f"kill: {what}\n{Path(log).read_text(encoding='utf-8')}")


def kill_and_finish(script: str, folder: Path, undisturbed: dict, kills: Iterator[Callable[[], int]], n: int,
                    force: bool = False) -> None:  # fmt: skip
    """Kill one stage n times, run it to its end, and compare.

    A kill that came after the stage was done does not count: then the stage begins anew.
    """
    out, fresh = folder / "out", folder / "fresh"
    out.mkdir(exist_ok=True)
    shutil.copytree(out, fresh)
    start = outputs(out)
    made, hits = {}, 0

    def look() -> None:
        """What has taken its name must be whole, and is written once."""
        there = outputs(out)
        for name, (written, data) in there.items():
            expect(data == undisturbed[name], f"{script} left {name} half-written")
            if name not in start or start[name][0] != written:
                expect(force or name not in start, f"{script} wrote {name} again, though it was whole")
                expect(force or made.setdefault(name, written) == written, f"{script} wrote {name} twice")
        lost = {*start, *made} - there.keys()  # with --force, what is to be made anew goes before anything is written
        expect(force or not lost, f"{script} lost {lost}")

    while hits < n:
        status = next(kills)()
        expect(status in (0, -signal.SIGKILL), f"{script} ends with {status} after a kill")
        if status:
            hits += 1
            look()
        else:
            shutil.rmtree(out)
            shutil.copytree(fresh, out)
            made.clear()
    shutil.rmtree(fresh)
    kept = outputs(out)
    expect(in_a_process(stage(script, folder)) == 0, f"{script} does not finish after a kill")
    look()
    expect(kept.items() <= outputs(out).items(), f"{script} wrote again what was whole")
    found = contents(out)
    expected = {name: data for name, data in undisturbed.items() if name in found}
    expect(found.keys() == expected.keys(), f"{script} left {sorted(found.keys() - expected.keys())}")
    for name, data in found.items():
        if not name.endswith("manifest.json") or script == STAGES[-1]:
            expect(data == expected[name], f"{script}: {name} is not that of an undisturbed run")


def kills_of(
    script: str, folder: Path, rng: random.Random, seconds: float, points: int, force: bool = False
) -> Iterator[Callable[[], int]]:
    """Runs of a stage that are killed, in turn at a point of the writer and at a random moment."""
    while True:
        yield partial(in_a_process, stage(script, folder, kill_at=rng.randint(1, points), force=force))
        yield partial(in_a_process, stage(script, folder, force=force), kill_after=rng.uniform(0, seconds))


def main() -> None:
    """Kill every stage as often as asked, half of the times at a random moment, half at a point of the writer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=6, help="of each stage")
    parser.add_argument("--forced", type=int, default=3, help="of each stage while it makes everything anew")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        global log
        folder, log = Path(name, "here"), str(Path(name, "log"))
        (folder / "source").mkdir(parents=True)

        def prepare() -> None:
            conftest.make_gpt2(folder / "models" / "tiny-gpt2")
            conftest.make_bert(folder / "models" / "tiny-bert")
            (folder / "source" / "words.txt").write_text("".join(conftest.make_sentences(SENTENCES)))

        # Imported here, where every fork finds them; transformers and spaCy would do so on first use.
        assert matplotlib.backends.backend_agg.FigureCanvasAgg
        assert matplotlib.backends.backend_pdf.FigureCanvasPdf
        assert spacy.blank("en")
        assert transformers.GPT2LMHeadModel
        assert transformers.BertForMaskedLM
        assert transformers.AutoTokenizer
        expect(in_a_process(prepare) == 0, "cannot make the models")
        seconds, points = {}, {}
        for script in STAGES:
            start = time.monotonic()
            count = Path(name, "count")
            expect(in_a_process(stage(script, folder, count=count)) == 0, f"{script} fails undisturbed")
            seconds[script], points[script] = time.monotonic() - start, int(count.read_text(encoding="utf-8"))
        undisturbed = contents(folder / "out")
        shutil.rmtree(folder / "out")
        for script in STAGES:
            for force, n in ((False, args.kills), (True, args.forced)):
                if n:
                    kills = kills_of(script, folder, rng, seconds[script], points[script], force)
                    kill_and_finish(script, folder, undisturbed, kills, n, force)
            killed = f"killed {args.kills} times, {args.forced} times with --force"
            print(f"{script}: {killed}, then finished: files identical", flush=True)
    total = (args.kills + args.forced) * len(STAGES)
    print(f"{total} kills over {len(STAGES)} stages: nothing lost, nothing doubled, nothing half-written")


if __name__ == "__main__":
    main()
