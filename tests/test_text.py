"""Real text: what Python ships, and the Hub loader on local files of the same formats."""

import json

import pytest

from llmkit.data.text import hub_text, python_docs, python_source


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


def test_without_the_hub_it_says_what_to_do(monkeypatch, offline):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(offline, "load_dataset", unreachable)
    with pytest.raises(ConnectionError, match="'some/data' could not be loaded.*toyland.stories or pass data_files="):
        hub_text("some/data")
