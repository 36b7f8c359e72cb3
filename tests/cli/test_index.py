"""`jobonnx index`: titles and ids from arguments, files and stdin, into an index and out of it again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import jobonnx
from helpers.indexes import DIMENSION, vectors
from jobonnx.arrays import Floats
from jobonnx.cli import index as module
from jobonnx.cli.index import index
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

encoded: list[str] = []  # every title that was encoded


class StubEncoder:
    """Vectors made from the letters of a title; each bundle has a fingerprint of its own."""

    def __init__(self, bundle: str | None = None, variant: str | None = None, **options: Any) -> None:
        self.variant = variant or "int8"
        prompts = {"query": "query: ", "document": "document: ", "passage": "passage: "} if bundle == "prompted" else {}
        self.bundle = SimpleNamespace(model=SimpleNamespace(note="", source="stub", prompts=prompts, default_prompt_name=None))
        self.prompts = prompts
        self.graph = SimpleNamespace(degraded=False)
        self.fingerprint = f"print-{bundle}-{self.variant}"
        self.dimension = DIMENSION

    def encode(
        self, titles: list[str], *, prompt: str, normalize_embeddings: bool, show_progress_bar: bool | None = None
    ) -> Floats:
        assert normalize_embeddings
        encoded.extend(prompt + title for title in titles)
        return vectors(titles)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded.clear()
    monkeypatch.setattr(jobonnx, "Encoder", StubEncoder, raising=False)


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(index, list(map(str, arguments)), input=stdin)


def done(*arguments: object, stdin: str | bytes | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refusal(*arguments: object, stdin: str | bytes | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert isinstance(result.exception, JobonnxError), result.exception
    assert "\n" not in str(result.exception)
    return str(result.exception)


def ids(folder: Path) -> dict[str, tuple[str, ...]]:
    opened = Index.open(folder)
    return {title: opened.ids.get(title, ()) for title in opened}


@pytest.mark.usefixtures("stub")
def test_titles_come_from_arguments_a_file_or_stdin(tmp_path: Path) -> None:
    folder, lines = tmp_path / "index", tmp_path / "titles.txt"
    lines.write_bytes("\ufeffnurse\r\n\r\n護理師\r\nnurse\r\n".encode())
    assert "2 titles added, 2 in all" in done("create", folder, "cook", "Müller", "cook").stderr
    result = done("add", folder, "--file", lines)
    assert f"{lines}: 1 blank titles left out" in result.stderr
    assert "2 titles added, 4 in all" in result.stderr
    done("add", folder, stdin="clerk\nsmith\n")
    assert list(Index.open(folder)) == ["cook", "Müller", "nurse", "護理師", "clerk", "smith"]
    assert "2 titles removed, 4 left" in done("remove", folder, "cook", "smith", "unknown").stderr
    done("remove", folder, "--file", lines)
    assert list(Index.open(folder)) == ["Müller", "clerk"]


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(("suffix", "mark"), [(".tsv", "\t"), (".CSV", ",")])
def test_titles_and_ids_come_from_columns(tmp_path: Path, suffix: str, mark: str) -> None:
    folder, table = tmp_path / "index", tmp_path / f"titles{suffix}"
    rows = [["id", "Title", "id"], ["7", "cook", ""], ["8", f'"chef{mark} ""head"""', ""], ["9", "cook", ""], [], ["10", " ", ""]]
    table.write_text("\n".join(mark.join(row[:2]) for row in rows) + "\n")
    done("create", folder, "--file", table, "--column", "Title", "--id-column", "id")
    assert ids(folder) == {"cook": ("7", "9"), f'chef{mark} "head"': ("8",)}
    done("remove", folder, "7", "8", "--by-id")
    assert ids(folder) == {"cook": ("9",)}
    done("remove", folder, "--file", table, "--column", "id", "--by-id")
    assert ids(folder) == {}


@pytest.mark.usefixtures("stub")
def test_search_returns_titles_scores_and_ids(tmp_path: Path) -> None:
    folder, table = tmp_path / "index", tmp_path / "titles.csv"
    table.write_text("id,title\n7,cook\n9,cook\n護 1,nurse\n8,clerk\n")
    done("create", folder, "--file", table, "--column", "title", "--id-column", "id")
    done("add", folder, "smith")
    lines = done("search", folder, "cook", "smith", "--top-k", 2, "--json").stdout.splitlines()
    first, second = map(json.loads, lines)
    assert first["query"] == "cook"
    assert [len(found["matches"]) for found in (first, second)] == [2, 2]
    assert first["matches"][0] == {"title": "cook", "score": pytest.approx(1), "ids": ["7", "9"]}
    assert second["matches"][0] == {"title": "smith", "score": pytest.approx(1), "ids": []}
    shown = done("search", folder, "cook").stdout.splitlines()
    assert shown[:2] == ["cook", "  1.000  cook  7 9"]
    assert len(shown) == 5


@pytest.mark.usefixtures("stub")
def test_what_the_index_has_is_not_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 2)
    folder, table = tmp_path / "index", tmp_path / "titles.csv"
    done("create", folder, "a", "b", "c", "d", "e")
    assert encoded == ["a", "b", "c", "d", "e"]
    encoded.clear()
    done("add", folder, "f", "b", "a")
    assert encoded == ["f"]
    table.write_text("id,title\n1,a\n2,b\n3,g\n")
    encoded.clear()
    done("add", folder, "--file", table, "--column", "title", "--id-column", "id")
    assert encoded == ["a", "b", "g"]
    encoded.clear()
    done("add", folder, "--file", table, "--column", "title", "--id-column", "id")
    assert encoded == []
    assert ids(folder) == {"a": ("1",), "b": ("2",), "c": (), "d": (), "e": (), "f": (), "g": ("3",)}


@pytest.mark.usefixtures("stub")
def test_another_encoder_is_refused_with_the_fix(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    done("create", folder, "cook", "-m", "mine")
    for command in ("add", "search"):
        message = refusal(command, folder, "nurse")
        assert "made with the encoder print-mine-int8, and the small model in int8 is print-None-int8" in message
        assert "name the bundle and variant that made it with --model and --variant, or make a new index" in message
        assert "print-mine-fp32" in refusal(command, folder, "nurse", "-m", "mine", "--variant", "fp32")
    assert encoded == ["cook"]
    assert list(Index.open(folder)) == ["cook"]


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.txt", "cook\n", ["--column", "title"], "t.txt has one title per line and no columns"),
        ("t.txt", "\n \n", [], "t.txt holds no titles"),
        ("t.txt", b"cook\n\xff\n", [], "t.txt, line 2 is not UTF-8"),
        ("t.csv", "id,title\n7,cook\n", [], "t.csv has the columns id, title; name the one of the titles with --column"),
        ("t.csv", "id,title\n7,cook\n", ["--column", "Title"], "t.csv has no column 'Title'; its first line has id, title"),
        ("t.csv", "a,a\n7,cook\n", ["--column", "a"], "t.csv has more than one column 'a'"),
        ("t.csv", "", ["--column", "a"], "t.csv has no column 'a'; its first line has nothing"),
        ("t.csv", "id,title\n7,cook\n8\n", ["--column", "title"], "t.csv, line 3 has 1 fields and the first line 2"),
        ("t.csv", "id,title\n7,cook,x\n", ["--column", "title"], "t.csv, line 2 has 3 fields and the first line 2"),
        ("t.csv", "id,title\n,cook\n", ["--column", "title", "--id-column", "id"], "t.csv, line 2 has no id"),
        ("t.csv", 'id,title\n7,"cook\n', ["--column", "title"], "t.csv, line 2 is not valid CSV"),
        ("t.csv", 'id,title\n7,"cook"s\n', ["--column", "title"], "t.csv, line 2 is not valid CSV"),
        ("t.csv", f"id,title\n7,{'x' * 200_000}\n", ["--column", "title"], "t.csv, line 2 is not valid CSV"),
        ("t.csv", "id,title\n", ["--column", "title"], "t.csv holds no titles"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_the_work(
    tmp_path: Path, name: str, content: str | bytes, options: list[str], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refusal("create", tmp_path / "index", "--file", path, *options)
    assert not (tmp_path / "index").exists()
    assert encoded == []


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "index", "cook", "--file", "titles.txt"], "arguments or in a --file, not both"),
        (["create", "index", "cook", "--column", "title"], "name columns of a --file"),
        (["search", "index"], "Missing argument 'QUERY...'"),
        (["search", "index", "cook", "--top-k", "0"], "0 is not in the range"),
        (["search", "index", "cook", "--top-k", "nan"], "'nan' is not a valid integer"),
    ],
)
def test_misuse_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.usefixtures("stub")
def test_what_is_no_index_is_refused_before_the_encoder_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobonnx, "Encoder", None, raising=False)
    for command in ("add", "remove", "search"):
        assert "is not an index that can be read" in refusal(command, tmp_path / "nowhere", "cook")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("stub")
def test_create_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "already holds notes.txt" in refusal("create", tmp_path, "cook")


@pytest.mark.usefixtures("stub")
def test_a_closed_stdin_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sys", SimpleNamespace(stdin=None))
    assert "stdin is closed" in refusal("create", tmp_path / "index")


def test_the_small_model_finds_a_title_in_another_language(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    done("create", folder, "Koch", "Krankenschwester", "Softwareentwickler")
    (line,) = done("search", folder, "software developer", "--top-k", 1, "--json").stdout.splitlines()
    assert json.loads(line)["matches"][0]["title"] == "Softwareentwickler"


# Prompts


@pytest.mark.usefixtures("stub")
def test_titles_and_queries_have_the_models_prompts_of_their_kind(tmp_path: Path) -> None:
    done("create", tmp_path / "titles", "nurse", "-m", "prompted")
    done("add", tmp_path / "titles", "cook", "-m", "prompted")
    done("search", tmp_path / "titles", "cook", "-m", "prompted")
    assert encoded == ["document: nurse", "document: cook", "query: cook"]


@pytest.mark.usefixtures("stub")
def test_an_index_keeps_the_prompt_that_it_was_made_with_and_refuses_another(tmp_path: Path) -> None:
    folder = tmp_path / "titles"
    done("create", folder, "nurse", "-m", "prompted", "--document-prompt-name", "passage")
    with Index.open(folder) as opened:
        assert opened.prompt == "passage: "
    done("add", folder, "cook", "-m", "prompted")
    done("add", folder, "pilot", "-m", "prompted", "--document-prompt", "passage: ")
    done("search", folder, "cook", "-m", "prompted", "--query-prompt", "")
    assert encoded == ["passage: nurse", "passage: cook", "passage: pilot", "cook"]
    message = refusal("add", folder, "baker", "-m", "prompted", "--document-prompt-name", "document")
    assert "holds vectors of titles behind the prompt 'passage: ', not 'document: '" in message
    assert len(encoded) == 4


@pytest.mark.usefixtures("stub")
def test_an_unknown_prompt_is_refused(tmp_path: Path) -> None:
    result = run("create", tmp_path / "titles", "nurse", "-m", "prompted", "--document-prompt-name", "frage")
    assert isinstance(result.exception, ValueError)
    assert "prompt_name='frage' is unknown" in str(result.exception)
    assert not (tmp_path / "titles").exists()
