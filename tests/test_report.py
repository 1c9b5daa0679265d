"""What plot_results.py writes and says of made-up records: summary, CSV, tables, and which files it makes."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import read
from made_up import L, N, Page, make, make_records, r2_of, scores, show

from shortcut import results
from shortcut.approximation import MODES
from shortcut.files import result_formats
from shortcut.files.names import Names
from shortcut.show import maps, report, table

ROOT = Path(__file__).resolve().parent.parent


def test_summary_holds_the_numbers_of_the_records(drawn):
    summary = json.loads(drawn.summary.read_text())
    records = result_formats.load_results(drawn.results)
    full = records[L]["topk"].numpy()
    mat, identity = (
        {r["info"]["layer"]: r for r in records if r["info"]["mode"] == key and "layer" in r["info"]}
        for key in ("mat", "idln")
    )
    for layer in range(L + 1):
        point, apart = (
            {m: summary["tables"][m][layer][name] for m in (*results.PRECISIONS, "surprisal")}
            for name in ("mat", "mat - id")
        )
        assert {rows[layer]["layer"] for rows in (summary["tables"][m] for m in point)} == {layer}
        hits = [[row[0] in best for row, best in zip(r[layer]["topk"].numpy(), full[:, :5], strict=True)]
                for r in (mat, identity)]  # fmt: skip
        assert point["precision@5"]["mean"] == pytest.approx(np.mean(hits[0]), abs=1e-6)
        assert apart["precision@5"]["mean"] == pytest.approx(np.mean(hits[0]) - np.mean(hits[1]), abs=1e-6)
        assert point["surprisal"]["mean"] == pytest.approx(float(mat[layer]["surprisal"].mean()), abs=1e-5)
        known = {k: p for k, p in point.items() if k == "surprisal" or layer < L}
        assert all(p["low"] <= p["mean"] <= p["high"] for p in known.values())
        constant = [
            *(p for k, p in point.items() if k not in known),
            *([apart["surprisal"]] * (layer == L)),
        ]
        assert [(p["low"], p["high"]) for p in constant] == [(None, None)] * (4 if layer == L else 0)


def test_paper_is_quoted_for_the_models_it_names_alone(drawn):
    told = json.loads(drawn.summary.read_text())["paper"]
    assert [claim["here"] for claim in told if "pairs of layers" in claim["what"]] == ["10 of 10"]
    assert any("28-45%" in claim["paper"] for claim in told)
    r = results.summarize(make_records())
    assert report.claims("my-model", r, scores()) == []
    assert {claim["paper"] for claim in report.claims("gpt2", r, None)} == {"every layer"}
    saved = {m: [c for c in report.claims(m, r, None) if "early exit saves" in c["what"]]
             for m in ("gpt2-medium", "bert-large-uncased")}  # fmt: skip
    needed = {mode: L - r.early[mode].saved(0.95).mean for mode in ("mat", "id")}
    for of_model in saved.values():
        assert of_model[0]["here"].startswith(f"mat {L - needed['mat']:.1f} ({100 * (L - needed['mat']) / L:.1f}%)")


def test_csv_holds_the_curves_with_their_intervals(drawn):
    r = results.summarize(result_formats.load_results(drawn.results))
    rows = read(drawn.plot(f"ee_pre1_{L}", "csv"))
    assert [row["exit"] for row in rows] == ["fixed"] * 2 * (L + 1) + ["early"] * 6
    early = [row for row in rows if row["exit"] == "early" and row["mode"] == "mat"]
    assert [float(row["lambda"]) for row in early] == [0, 0.5, 1]
    for row, point in zip(early, r.early["mat"].estimates["precision@1"], strict=True):
        numbers = [float(row[name]) if row[name] else None for name in ("value", "value_low", "value_high")]
        assert numbers == (pytest.approx(point, abs=1e-5) if float(row["layers"]) < L else [1, None, None])
    assert {row["metric"] for row in read(drawn.plot(f"pre_{L}", "csv"))} == set(results.PRECISIONS)


def test_what_is_missing_alone_is_made(drawn, capsys):
    lost = [drawn.plot(f"surp_{L}", "png"), drawn.plot(f"pre_{L}", "csv"), drawn.report]
    before = {path: path.read_bytes() for path in lost}
    kept = drawn.plot(f"pre_{L}").stat().st_mtime_ns
    for path in lost:
        path.unlink()
    show(drawn)
    assert {path: path.read_bytes() for path in lost} == before
    assert drawn.plot(f"pre_{L}").stat().st_mtime_ns == kept
    assert "wrote 3 files in" in capsys.readouterr().out


def test_files_of_two_runs_are_the_same_and_undated(drawn, tmp_path):
    other = make(tmp_path)
    show(other)
    names = sorted(p.relative_to(drawn.root) for p in drawn.root.rglob("*_*") if p.is_file())
    assert len(names) == 3 * 7 + 4
    for name in names:
        assert (drawn.root / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert b"CreationDate" not in other.plot(f"pre_{L}").read_bytes()
    assert b"tEXt" not in other.plot(f"pre_{L}", "png").read_bytes()


def as_the_first_bert_code_wrote_them(records):
    """`id` by that name, jumps without `layers_processed`, early exits without `surprisal`."""
    for r in records:
        if r["info"]["mode"] in ("idln", "mat"):
            info = {**r["info"], "mode": {"idln": "id"}.get(r["info"]["mode"], "mat")}
            left_out = "layers_processed" if info["type"] == "jump" else "surprisal"
            yield {key: value for key, value in r.items() if key != left_out} | {"info": info}


def as_the_gpt2_code_wrote_them(records):
    """Numbers as scalars of numpy, and sub-modules replaced that are no mode of the paper."""
    for r in records:
        yield {**r, "layers_processed": np.float64(r["layers_processed"])}
    yield {**records[0], "info": {**records[0]["info"], "mode": ("blk_mat", {"what_to_mat": {2, 5}})}}


@pytest.mark.parametrize("written", [as_the_first_bert_code_wrote_them, as_the_gpt2_code_wrote_them])
def test_the_originals_results_reach_what_a_person_reads(written, tmp_path, capsys):
    """Table, CSV, summary and page: Precision@1 of id and mat, counted here from the records."""
    files = Names(tmp_path, "m_mask", "words")
    records = [*written(make_records())]
    files.results.parent.mkdir(parents=True)
    files.results.write_bytes(b"".join(map(pickle.dumps, records)))
    files.r2_scores.write_bytes(
        pickle.dumps({name: {p: np.float64(x) for p, x in of.items()} for name, of in scores().items()})
    )
    show(files)
    told = capsys.readouterr().out
    assert ("not shown" in told) == (written is as_the_gpt2_code_wrote_them)
    assert told.count("no manifest entry") == 2  # of the results, and of the scores
    table = told[told.index("Precision@1 at each layer") :].splitlines()
    at, names = (
        {row.split()[0]: [cell for cell in row.split() if cell[0] != "±"] for row in table[2 : 3 + L]},
        [name for name in MODES if name in table[1].split()],
    )
    full = next(r["topk"] for r in records if r["info"].get("layer") == L)
    summary, rows = json.loads(files.summary.read_text()), read(files.plot(f"pre_{L}", "csv"))
    for mode, keys in (("id", ("id", "idln")), ("mat", ("mat",))):
        for layer in range(L + 1):
            topk = next(r["topk"] for r in records if r["info"]["mode"] in keys and r["info"].get("layer") == layer)
            share = sum(ours == best for ours, best in zip(topk[:, 0].tolist(), full[:, 0].tolist(), strict=True)) / N
            row = [r for r in rows if (r["metric"], r["mode"], float(r["layers"])) == ("precision@1", mode, layer)]
            assert [float(r["value"]) for r in row] == [pytest.approx(share)]
            assert summary["tables"]["precision@1"][layer][mode]["mean"] == pytest.approx(share)
            assert at[str(layer)][1 + names.index(mode)] == f"{100 * share:.1f}"
        assert [row["lambda"] for row in summary["tables"][f"early_exit_{mode}"]] == [0, 0.5, 1]
        assert f"Early exit with {mode}" in files.report.read_text(encoding="utf-8")
    assert r2_of(summary, "id")[0, 4] == -0.5
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == (4 if "not shown" not in told else 8)


def test_scores_by_variance_stand_beside_those_of_the_paper(tmp_path, capsys):
    """One of -1e60 leaves tables that can be read; files without such scores are shown above."""
    r2 = scores() | {
        name: dict.fromkeys(scores()["score_mat"], 0.25) for name in ("score_mat_weighted", "score_id_weighted")
    }
    r2["score_id"][0, L] = -1e60
    files = make(tmp_path, r2=r2)
    show(files)
    summary, cells = json.loads(files.summary.read_text()), Page(files.report.read_text(encoding="utf-8")).cells
    assert (r2_of(summary, "id")[0, L], r2_of(summary, "id_weighted")[0, L]) == (-1e60, 0.25)
    assert cells.count("-1e+60") == 1
    assert cells.count("0.250") >= 2 * L
    first, second = map(table.cells, maps.r2_tables(r2))
    assert first[0] == ["0", "0.800", "0.500", "0.650", "-0.500", "-1e+60", "-2.5e+59"]
    assert second[0][4:] == ["0.250"] * 3
    csv_rows = maps.r2_heat_maps(r2, "t").data
    assert [column.name for column in csv_rows.columns] == [
        "source",
        "target",
        "mat",
        "id",
        "mat_weighted",
        "id_weighted",
    ]
    assert csv_rows.rows[L - 1] == [0, L, pytest.approx(0.5), -1e60, 0.25, 0.25]


def test_a_model_of_one_layer_is_shown_whole(tmp_path):
    r2 = {name: {(0, 1): 0.5} for name in result_formats.SCORES}
    files = make(tmp_path, records=make_records(1), r2=r2)
    show(files)
    summary = json.loads(files.summary.read_text())
    assert summary["layers"] == 1
    assert [row["layer"] for row in summary["tables"]["precision@1"]] == [0, 1, "mean"]
    assert summary["tables"]["precision@1"][1]["mat"]["mean"] == 1
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == 8
    assert table.cells(maps.r2_tables(r2)[0]) == [["0", *["0.500"] * 6]]


def test_the_terminal_shows_precision_of_id_and_mat_and_the_layers_saved(drawn, capsys):
    show(drawn, "--force")
    told = capsys.readouterr().out.split("\n\n")[1:]
    assert [part.splitlines()[1].split() for part in told] == [
        ["layer", "id", "mat"],
        ["Precision@1", "mode", "needs", "saves", "share"],
    ]


@pytest.mark.parametrize(
    ("output", "told"),
    [("head", ""), ("/dev/full", "cannot print (No space left on device): continuing without output\n")],
)
def test_when_nobody_reads_what_is_said_the_work_goes_on(drawn, tmp_path, output, told):
    shutil.copytree(drawn.root, tmp_path, dirs_exist_ok=True)
    there = Names(tmp_path, drawn.model, drawn.dataset)
    there.report.unlink()
    options = ["--out", tmp_path, "--model", drawn.model, "--dataset", "words"]
    reader, writer = os.pipe()
    os.close(reader)  # as head does when it has had enough
    to = writer if output == "head" else os.open(output, os.O_WRONLY)
    command = [sys.executable, ROOT / "plot_results.py", *options]
    done = subprocess.run(command, stdout=to, stderr=subprocess.PIPE, text=True, check=False)
    overview_told = subprocess.run(
        [sys.executable, ROOT / "config.py"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    for handle in {to, writer}:
        os.close(handle)
    assert (done.returncode, done.stderr) == (0, told)
    assert there.report.exists()
    assert (overview_told.returncode, overview_told.stderr) == (0, b"")
