"""Real text: what Python ships, and the Hub loader on local files of the same formats."""

import json

import pytest

from llmkit.data.text import hub_rows, hub_text, python_docs, python_source


def test_python_docs():
    text = python_docs()
    assert len(text) > 300_000 and text == python_docs()
    assert 'The "if" statement' in text or 'The "if" statement' in text


def test_python_source():
    text = python_source(50_000)
    assert 49_000 < len(text.encode("utf-8")) <= 50_000
    assert "def " in text and "import " in text
    with pytest.raises(ValueError, match="at least 1"):
        python_source(0)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_local_files_of_the_hubs_formats(tmp_path, offline):
    rows = [{"text": "good film", "label": 1}, {"text": "né →", "label": 0}]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert hub_text("json", data_files=str(lines)) == ["good film", "né →"]
    assert hub_text("json", data_files=str(lines), limit=1) == ["good film"]
    table = tmp_path / "rows.parquet"
    offline.Dataset.from_list(rows).to_parquet(table)
    assert hub_text("parquet", data_files=str(table)) == ["good film", "né →"]
    with pytest.raises(ValueError, match="no field 'review'; it has text, label"):
        hub_text("json", data_files=str(lines), field="review")


def test_a_data_set_that_is_a_program_is_read_from_the_files_that_the_hub_made_of_it(monkeypatch, offline):
    asked = []

    def load_dataset(name, config, split, revision=None, **options):
        asked.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found wnut_17.py")
        return offline.Dataset.from_dict({"tokens": [["Ann", "left"]], "ner_tags": [[9, 0]]})

    monkeypatch.setattr(offline, "load_dataset", load_dataset)
    assert hub_rows("leondz/wnut_17", ["tokens", "ner_tags"]) == [(["Ann", "left"], [9, 0])]
    assert asked == [None, "refs/convert/parquet"]
    with pytest.raises(RuntimeError, match="another"):
        monkeypatch.setattr(offline, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("another")))
        hub_rows("leondz/wnut_17", ["tokens"])


def test_without_the_hub_it_says_what_to_do(monkeypatch, offline):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(offline, "load_dataset", unreachable)
    with pytest.raises(ConnectionError, match="'some/data' could not be loaded.*toyland or pass data_files="):
        hub_text("some/data")


def test_rows_of_the_formats_that_lessons_use(tmp_path, offline):
    """Local files with the columns of rotten tomatoes, WNUT-17 and OPUS books."""
    rows = {
        "reviews": [{"text": "a fine film", "label": 1}, {"text": "dull .", "label": 0}],
        "entities": [{"id": "0", "tokens": ["Tom", "sings"], "ner_tags": [1, 0]}],
        "books": [{"id": "0", "translation": {"en": "A cat.", "fr": "Un chat."}}],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def load(name, fields, **options):
        return hub_rows("json", fields, data_files=str(tmp_path / f"{name}.jsonl"), **options)

    assert load("reviews", ["text", "label"]) == [("a fine film", 1), ("dull .", 0)]
    assert load("reviews", ["label"], limit=1) == [(1,)]
    assert load("entities", ["tokens", "ner_tags"]) == [(["Tom", "sings"], [1, 0])]
    assert load("books", ["translation.fr", "translation.en"]) == [("Un chat.", "A cat.")]
    with pytest.raises(ValueError, match="no field 'stars'; it has text, label"):
        load("reviews", ["stars"])
    with pytest.raises(ValueError, match="no entry 'de'; it has en, fr"):
        load("books", ["translation.de"])
    with pytest.raises(ValueError, match="no entry 'x'; it holds str"):
        load("reviews", ["text.x"])
