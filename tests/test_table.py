"""One table, four writers: each number is formatted in one place."""

import csv
import io

from shortcut.intervals import Estimate
from shortcut.show import table
from shortcut.show.table import Column, Table

COLUMNS = [Column("layer"), Column("hits", ".1f", 100), Column("d", "+.2f", ends=True), Column("r2")]
ROWS = [
    [0, Estimate(0.5, 0.4, 0.6), Estimate(-1.0, -2.0, 0.5), None],
    ["mean", Estimate(1.0, None, None), None, -1e60],
]
TABLE = Table("name", "A title", COLUMNS, ROWS)


def test_cells_have_unit_digits_and_interval_of_their_column():
    """Half the width, or both ends; a constant has none; what is too large for its digits stays short."""
    assert table.cells(TABLE) == [["0", "50.0 ±10.0", "-1.00 [-2.00, 0.50]", "-"], ["mean", "100.0", "-", "-1e+60"]]


def test_text_is_aligned_cells():
    title, *lines = table.text([TABLE, TABLE]).splitlines()[1:5]
    assert title == "A title"
    assert len({*map(len, lines)}) == 1
    assert [line.split("  ")[-1].strip() for line in lines] == ["r2", "-", "-1e+60"]


def test_selected_columns_keep_their_order_and_rows():
    chosen = table.select(TABLE, "d", "layer")
    assert [column.name for column in chosen.columns] == ["layer", "d"]
    assert table.cells(chosen) == [["0", "-1.00 [-2.00, 0.50]"], ["mean", "-"]]


def test_csv_has_both_ends_of_an_interval_in_columns_of_their_own():
    header, *rows = csv.reader(io.StringIO(table.to_csv(TABLE)))
    assert header == ["layer", "hits", "hits_low", "hits_high", "d", "d_low", "d_high", "r2"]
    assert rows == [["0", "0.5", "0.4", "0.6", "-1", "-2", "0.5", ""], ["mean", "1", "", "", "", "", "", "-1e+60"]]


def test_json_has_fractions_by_the_names_of_the_columns():
    first, second = table.to_json(TABLE)
    assert first == {"layer": 0, "hits": dict(zip(("mean", "low", "high"), ROWS[0][1], strict=True)),
                     "d": {"mean": -1.0, "low": -2.0, "high": 0.5}, "r2": None}  # fmt: skip
    assert second["hits"] == {"mean": 1.0, "low": None, "high": None}
    assert second["r2"] == -1e60
