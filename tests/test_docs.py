"""README and docs/: short, linked, for someone in particular, and with tables that are written from stored numbers."""

import json
import re
import sys
from pathlib import Path

import pytest
import tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = tables.pages()
DOCS = PAGES[1:]
TABLES = [(path, name) for path in PAGES for _, name, _ in tables.BLOCK.findall(path.read_text(encoding="utf-8"))]
AUDIENCE = re.compile(r"For (everyone|people|efficiency|interpretability|psycholinguists)\b")
DIGIT = re.compile(r"\d")


def anchors(text):
    """The targets that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_page_begins_with_whom_it_is_for_and_is_linked_from_the_readme(path):
    title, blank, first = path.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert AUDIENCE.match(first)
    assert f"](docs/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_are_there(path):
    for name, anchor in re.findall(r"\]\(([\w/.-]*)(?:#([\w-]+))?\)", path.read_text(encoding="utf-8")):
        there = path.parent / name if name else path
        assert there.exists(), name
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), (name, anchor)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_table_is_the_one_written_from_the_numbers(path):
    text = path.read_text(encoding="utf-8")
    assert tables.page(text) == text, "run make tables"
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == len(tables.BLOCK.findall(text))


@pytest.mark.parametrize(("path", "name"), TABLES, ids=lambda x: getattr(x, "name", x))
def test_a_digit_changed_by_hand_in_a_table_is_seen(path, name):
    text = path.read_text(encoding="utf-8")
    [found] = [block for block in tables.BLOCK.finditer(text) if block[2] == name]
    digits = [*DIGIT.finditer(text, found.end(1), found.start(3))]
    for digit in digits[:: max(1, len(digits) // 20)]:
        changed = f"{text[: digit.start()]}{(int(digit[0]) + 1) % 10}{text[digit.end() :]}"
        assert tables.page(changed) == text != changed


@pytest.mark.parametrize(("path", "name"), TABLES, ids=lambda x: getattr(x, "name", x))
def test_a_table_says_when_and_on_what_it_was_measured(path, name):
    [found] = [block for block in tables.BLOCK.finditer(path.read_text(encoding="utf-8")) if block[2] == name]
    assert re.search(r"\*Measured \d{4}-\d\d-\d\d on \d+ CPU cores: .+\.\*$", found[0], re.MULTILINE)


def test_the_sentences_on_map_kinds_give_the_numbers_of_the_tables():
    text = " ".join((ROOT / "docs" / "maps.md").read_text(encoding="utf-8").split())
    kinds = json.loads((tables.RESULTS / "kinds.json").read_bytes())

    def mean(name, model, kind, layer="mean"):
        return kinds[model][name][kind][layer]["mean"]

    lowered = [1 - mean("kl", m, "trained") / mean("kl", m, "least-squares") for m in ("GPT-2", "BERT", "stories260K")]
    assert f"lowers the mean KL of least squares by {100 * min(lowered):.0f} to {max(lowered):.0%}" in text
    three = [[mean("kl", "GPT-2", kind, layer) for kind in ("jacobian", "jacobian-affine", "least-squares")]
             for layer in ("3", "6", "9", "11")]  # fmt: skip
    closed = [(j - affine) / (j - ls) for j, affine, ls in three]
    assert f"The constant alone closes {100 * min(closed):.0f} to {max(closed):.0%} of the Jacobian's" in text
    below = [-100 * mean("precision@1 - least squares", "GPT-2", kind) for kind in ("jacobian", "jacobian-later")]
    assert "least squares is {:.1f} points above `jacobian` and {:.1f} above `jacobian-later`".format(*below) in text
    for name, better in (("precision@1", max), ("kl", min)):
        assert mean(name, "GPT-2", "jacobian") == better(mean(name, "GPT-2", kind) for kind in ("id", "jacobian"))
    assert mean("precision@1", "GPT-2", "jacobian-later") < mean("precision@1", "GPT-2", "id")
    assert mean("kl", "GPT-2", "jacobian-later") < mean("kl", "GPT-2", "id") / 2


def test_every_stored_result_is_shown():
    shown = {name for _, name in TABLES}
    assert {path.stem for path in tables.RESULTS.glob("*.json")} <= shown | {"embedded", "kinds"}
    assert {*tables.TABLES} <= shown


def test_the_command_writes_the_tables(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: rounding -->\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(tables, "pages", lambda: [page])
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    tables.main()
    assert page.read_text(encoding="utf-8") == (
        f"before\n<!-- table: rounding -->\n{tables.stored('rounding')}\n<!-- end -->\nafter\n"
    )


def test_the_numbers_of_the_embedded_models_are_collected_from_what_the_scripts_have_written(tmp_path):
    x = {"mean": 0.5, "low": 0.4, "high": 0.6}
    layers = [*range(13), "mean"]
    compared = [{"layer": layer, **dict.fromkeys(tables.KINDS, x)} for layer in layers]
    apart = [{"layer": layer, "id - ls": x, "jacobian - ls": x} for layer in layers]
    saved = {"mode": "mat", "saves": x, "net, sentence": x}
    summary = {f"lenses_{metric}": compared for metric in ("precision@1", "kl")}
    summary |= {f"lenses_{metric}_minus_least_squares": apart for metric in ("precision@1", "kl")}
    summary["layers_saved"] = [{"Precision@1": at, **saved} for at in (0.9, 0.95)]
    summary["halves"] = [{"layer": 0, "least-squares": 0.9}, {"layer": 1, "least-squares": 0.8}]
    summary["alternation"] = [{"blocks": 0}, {"blocks": 1}]
    for folder in tables.EMBEDDED.values():
        there = tmp_path / "experiment" / folder
        there.mkdir(parents=True)
        (there / "docstrings_summary.json").write_text(json.dumps({"tables": summary}), encoding="utf-8")
        (there / "docstrings_maps.json").write_text(json.dumps({"gain": {"0_1": 2.0, "8_12": 120_000.0}}))
    found = tables.collect(tmp_path)["BERT"]
    assert found["precision@1"]["ridge"]["mean"] == x
    assert [*found["kl - least squares"]] == ["id", "jacobian"]
    assert found["saved"] == {"mat": {"Precision@1": 0.95, **saved}}
    assert found["halves"] == {"least-squares": [0.8, 0.9]}
    assert found["alternation"] == [{"blocks": 0}]
    assert found["gain"] == [2, 1, "120,000", "`8_12`"]
