"""Rows from files, folders and names; everything that is wrong with them is said by file and row."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zerothorder.data import read_rows
from zerothorder.data.splits import by_count, carve, text_hash
from zerothorder.errors import UsageError

ROWS = [{"text": f"sentence {number}", "label": number % 2} for number in range(40)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def all_rows(source: Path) -> list[dict[str, Any]]:
    return [row for split in ("train", "dev", "test") for row in read_rows(source, split)]


def texts(rows: list[Any]) -> set[str]:
    return {row["text"] for row in rows}


def test_jsonl_csv_tsv_and_parquet_say_the_same(tmp_path: Path):
    plain = [{"text": f'a "quoted", text\nin {number} lines é', "label": str(number)} for number in range(12)]
    sources = [
        write_lines(tmp_path / "a.jsonl", plain),
        write_csv(tmp_path / "a.csv", plain),
        write_csv(tmp_path / "a.tsv", plain, "\t"),
        write_parquet(tmp_path / "a.parquet", plain),
    ]
    assert all(all_rows(source) == all_rows(sources[0]) for source in sources)
    assert texts(all_rows(sources[0])) == texts(plain)


def test_a_single_file_is_split_by_hash(tmp_path: Path):
    source = write_lines(tmp_path / "a.jsonl", ROWS)
    parts = {split: read_rows(source, split) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 32, "dev": 4, "test": 4}
    assert texts(all_rows(source)) == texts(ROWS)
    shuffled = write_lines(tmp_path / "b.jsonl", ROWS[::-1])
    assert all(texts(read_rows(shuffled, split)) == texts(rows) for split, rows in parts.items())


def test_rows_know_where_they_came_from(tmp_path: Path):
    source = write_lines(tmp_path / "train.jsonl", ROWS)
    row = next(row for row in read_rows(source, "train") if row["text"] == ROWS[20]["text"])
    assert row.where == f"{source} row 21"
    table = write_csv(tmp_path / "c.csv", [{"text": "line\nend"}, {"text": "second"}, {"text": "third"}])
    assert {row["text"]: row.where for row in all_rows(table)}["third"] == f"{table} row 4"


def test_a_folder_with_all_splits(tmp_path: Path):
    write_lines(tmp_path / "train.jsonl", ROWS[:20])
    write_csv(tmp_path / "validation.csv", ROWS[20:30])
    write_parquet(tmp_path / "test.parquet", ROWS[30:])
    (tmp_path / "README.md").write_text("not data")
    assert [row["text"] for row in read_rows(tmp_path, "train")] == [row["text"] for row in ROWS[:20]]
    assert texts(read_rows(tmp_path, "dev")) == texts(ROWS[20:30])
    assert texts(read_rows(tmp_path, "test")) == texts(ROWS[30:])


def test_a_missing_split_is_carved_out_of_training(tmp_path: Path):
    write_lines(tmp_path / "train.jsonl", ROWS[:30])
    write_lines(tmp_path / "test.jsonl", ROWS[30:])
    train, dev = read_rows(tmp_path, "train"), read_rows(tmp_path, "dev")
    assert (len(train), len(dev)) == (27, 3)
    assert texts([*train, *dev]) == texts(ROWS[:30])
    assert len(read_rows(tmp_path, "test")) == 10


def test_carving_keeps_equal_texts_together_and_feeds_every_split():
    twice = [{"text": f"t{number // 2}"} for number in range(60)]
    parts = carve(twice, ["dev", "test"])
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 48, "dev": 6, "test": 6}
    assert not texts(parts["train"]) & texts(parts["dev"])
    assert not texts(parts["dev"]) & texts(parts["test"])
    counts = [[len(carve(ROWS[:n], ["dev", "test"])[split]) for split in ("train", "dev", "test")] for n in range(5)]
    assert counts == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1]]


def test_splits_by_count_follow_the_hash():
    parts = by_count(ROWS, test=10, dev=5)
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 25, "dev": 5, "test": 10}
    assert [*parts["test"], *parts["dev"], *parts["train"]] == sorted(ROWS, key=text_hash)
    assert text_hash({"text": " abc\n"}) == text_hash({"text": "abc"})
    # sha256 of "abc", the standard's own example
    assert text_hash({"text": "abc"}).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_columns_are_mapped_and_all_others_kept(tmp_path: Path):
    rows = [{"review": f"r{number}", "stars": number, "text": "other"} for number in range(10)]
    source = write_lines(tmp_path / "a.jsonl", rows)
    row = read_rows(source, columns={"text": "review", "label": "stars"}, required=("text", "label"))[0]
    assert row["text"] == row["review"]
    assert row["label"] == row["stars"]
    swapped = read_rows(source, columns={"text": "review", "review": "text"})[0]
    assert swapped["review"] == "other"


def refused(source: Any, *says: str, **how: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read_rows(source, **how)
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_malformed_json_is_named_by_row(tmp_path: Path):
    source = tmp_path / "a.jsonl"
    lines = ['{"text": "fine"}', "{broken", "", "[1, 2]", "3", '{"text": "fine too"}', '{"text": ', "null"]
    source.write_text("\n".join(lines))
    refused(source, "a.jsonl: 5 of 7 rows", "row 2 (not JSON", "row 4 (not a JSON object", "row 5", "and 2 more")


def test_a_line_separator_inside_a_string_is_no_row_end(tmp_path: Path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one\u2028two"}\r\n{"text": "three"}\r\n', encoding="utf-8")
    assert texts(read_rows(source, "train") + read_rows(source, "dev")) == {"one\u2028two", "three"}


def test_malformed_csv_is_named_by_row(tmp_path: Path):
    source = tmp_path / "a.csv"
    source.write_text("text,label\nfine,1\ntoo,many,cells\nfew\nfine,0\n")
    refused(source, "a.csv: 2 of 4 rows", "row 3 (3 cells for 2 columns)", "row 4 (1 cells")
    source.write_text('text,label\nfine,1\n"never closed,0\n')
    refused(source, "1 of 2 rows", "row 3")
    source.write_text("text,text\n1,2\n")
    refused(source, "two columns named 'text'")
    source.write_text("text,\n1,2\n")
    refused(source, "a column without a name")


def test_a_very_long_cell_is_no_error(tmp_path: Path):
    source = write_csv(tmp_path / "a.csv", [{"text": "x" * 300_000, "label": 1}])
    limit = csv.field_size_limit()
    assert len(read_rows(source)[0]["text"]) == 300_000
    assert csv.field_size_limit() == limit


def test_files_that_cannot_be_read(tmp_path: Path):
    refused(tmp_path / "none.jsonl", "none.jsonl does not exist")
    refused(tmp_path / "none" / "at" / "all", "does not exist")
    (tmp_path / "a.xlsx").write_text("")
    refused(tmp_path / "a.xlsx", "not a data file", ".parquet")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    refused(tmp_path / "a.jsonl", "not UTF-8", "0xe9 in line 2", "save the file as UTF-8")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    refused(tmp_path / "a.parquet", "not a readable Parquet file")
    refused(write_lines(tmp_path / "a.jsonl", ROWS), "no split 'tran'", "did you mean 'train'", split="tran")


def test_nothing_in_it(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    refused(tmp_path / "a.jsonl", "holds no rows")
    (tmp_path / "a.csv").write_text("text,label\n")
    refused(tmp_path / "a.csv", "holds no rows")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds no data: put train.jsonl")
    write_lines(empty / "test.jsonl", ROWS)
    refused(empty, "no rows for 'train'", split="train")
    write_lines(empty / "test.csv", ROWS)
    refused(empty, "2 files for test (test.csv, test.jsonl)")
    one = write_lines(tmp_path / "one.jsonl", ROWS[:1])
    refused(one, "too few different texts for a dev split", split="dev")


def test_columns_that_are_not_there(tmp_path: Path):
    source = write_lines(tmp_path / "a.jsonl", [{"sentence": "s", "lable": 1}])
    refused(source, "no column 'label'", "sentence, lable", "did you mean 'lable'", required=["label"])
    refused(source, "no column 'text'", "--text-column", required=["text"])
    refused(source, "no column 'sentense'", "named for 'text'", "'sentence'", columns={"text": "sentense"})


def test_a_row_without_a_value_is_named(tmp_path: Path):
    rows = [{"text": "a", "label": 1}, {"text": "b"}, {"text": "c", "label": None}, {"text": " ", "label": 0}]
    source = write_lines(tmp_path / "a.jsonl", [*rows, {"text": "e", "label": float("nan")}])
    refused(
        source,
        "4 of 5 rows",
        "row 2 (nothing in column 'label')",
        "row 3",
        "row 4",
        required=["text", "label"],
    )
    refused(source, "column 'gold'", columns={"label": "gold"})
    assert len(read_rows(source)) == 3  # what nobody asked for may be empty


def test_a_data_set_name(monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[Any] = []
    made = {
        "train": datasets.Dataset.from_list(ROWS[:20]),
        "validation": datasets.Dataset.from_list(ROWS[20:]),
    }

    def load(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load)
    dev = read_rows("glue:sst2", "dev")
    assert asked == [("glue", "sst2")]
    assert [row["text"] for row in dev] == [row["text"] for row in ROWS[20:]]
    assert dev[3].where == "glue:sst2[validation] row 4"
    assert (len(read_rows("glue:sst2", "train")), len(read_rows("glue:sst2", "test"))) == (18, 2)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"unsupervised": made["train"]})
    refused("some/name", "no train, dev or test split: it has unsupervised")


def test_a_data_set_name_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    refused("rotten-tomatos", "cannot load the data set", "did you mean 'rotten-tomatoes'?")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> Any:
        raise ImportError(name=name)

    monkeypatch.setattr("zerothorder.data.quiet.importlib", SimpleNamespace(import_module=missing))
    refused("some/name", "needs the package 'datasets'", "pip install datasets")


@pytest.mark.e2e
def test_rotten_tomatoes():
    parts = {
        split: read_rows("rotten-tomatoes", split, required=["text", "label"]) for split in ("train", "dev", "test")
    }
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 7030, "dev": 500, "test": 1000}
    assert sum(row["label"] for rows in parts.values() for row in rows) == 4265
    assert len({row["text"] for rows in parts.values() for row in rows}) == 8530
