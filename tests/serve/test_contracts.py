"""What every reply promises, against a real process with the small model."""

from __future__ import annotations

import base64
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import jobonnx
from helpers.service import CLIENT, Running, refused, running
from jobonnx import Encoder
from jobonnx.arrays import Floats, unit
from jobonnx.data.titles import read_titles
from jobonnx.search.index import Index
from jobonnx.serve.settings import MOST_BODY_BYTES, MOST_CHARACTERS, MOST_TEXTS

pytestmark = pytest.mark.medium
TITLES = ["nurse", "Krankenschwester", "软件工程师", "nurse", "", "enfermera de quirófano", "Nurse", "\ttab\n", "koch " * 100]
TITLES += ["\U0001f469‍🍳"]


def embeddings(service: Running, inputs: Any, **more: Any) -> dict[str, Any]:
    reply = service.post("/v1/embeddings", {"input": inputs, **more})
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


def vectors_of(content: dict[str, Any]) -> Floats:
    assert [item["index"] for item in content["data"]] == list(range(len(content["data"])))
    return np.array(
        [
            np.frombuffer(base64.b64decode(item["embedding"]), "<f4") if isinstance(item["embedding"], str) else item["embedding"]
            for item in content["data"]
        ],
        dtype=np.float32,
    )


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a reply, which always has OpenAI's shape."""
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    assert reply.headers["x-request-id"]
    return error


def test_every_vector_is_the_encoders(service: Running, small: Encoder) -> None:
    vectors = vectors_of(embeddings(service, TITLES))
    expected = small.encode(TITLES)
    assert (np.sum(vectors * expected, axis=1) >= 0.99999).all()


def test_every_vector_of_fp32_is_the_encoders_within_a_hundred_thousandth(bundle: Path) -> None:
    with running("-m", str(bundle), "--variant", "fp32") as other:
        vectors = vectors_of(embeddings(other, TITLES))
    assert abs(vectors - Encoder(bundle, variant="fp32").encode(TITLES)).max() < 1e-5


def test_a_batch_equals_singles_and_keeps_the_order(service: Running) -> None:
    together = vectors_of(embeddings(service, TITLES))
    for place, title in enumerate(TITLES):
        alone = vectors_of(embeddings(service, title))
        assert float(alone[0] @ together[place]) >= 0.99999


def test_concurrent_requests_get_their_own_vectors(service: Running, small: Encoder) -> None:
    titles = [title for title in read_titles() if len(title) > 12][:300]
    expected = small.encode(titles)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda title: vectors_of(embeddings(service, title))[0], titles))
    assert (np.sum(np.array(found) * expected, axis=1) >= 0.99999).all()


def test_base64_equals_float_bit_for_bit(service: Running) -> None:
    numbers = vectors_of(embeddings(service, TITLES, encoding_format="float"))
    packed = vectors_of(embeddings(service, TITLES, encoding_format="base64"))
    assert numbers.tobytes() == packed.tobytes()


@pytest.mark.parametrize("dimensions", [1, 64, 255, 256])
def test_dimensions_bring_vectors_to_unit_length_again(service: Running, small: Encoder, dimensions: int) -> None:
    vectors = vectors_of(embeddings(service, TITLES, dimensions=dimensions))
    assert vectors.shape == (len(TITLES), dimensions)
    assert abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert np.abs(vectors - unit(small.encode(TITLES)[:, :dimensions])).max() < 2e-3


def test_usage_counts_tokens_as_the_tokenizer_does(service: Running, small: Encoder) -> None:
    expected = sum(map(len, small.tokenize(TITLES)))
    for _ in range(2):  # computed, and from the cache
        assert embeddings(service, TITLES)["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


def test_a_large_request_comes_whole_and_in_order(service: Running, small: Encoder) -> None:
    titles = read_titles()[: MOST_TEXTS // 10]
    content = embeddings(service, titles, encoding_format="base64")
    assert (np.sum(vectors_of(content) * small.encode(titles), axis=1) >= 0.99999).all()


def test_the_shape_of_openais_reply(service: Running) -> None:
    content = embeddings(service, "nurse", model="jobonnx-small", user="somebody", encoding_format=None)
    assert content["object"] == "list"
    assert content["model"] == "jobonnx-small"
    assert content["data"][0]["object"] == "embedding"
    models = CLIENT.get(service.url + "/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["jobonnx-small"]


def test_another_model_is_not_answered_by_this_one(service: Running) -> None:
    reply = service.post("/v1/embeddings", {"input": "nurse", "model": "text-embedding-ada-002"})
    assert "this service has 'jobonnx-small'" in error_of(reply, 404)["message"]


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_embed_is_as_text_embeddings_inference(service: Running, small: Encoder, path: str) -> None:
    reply = service.post(path, {"inputs": TITLES, "truncate": True, "normalize": True, "truncation_direction": "Right"})
    assert (np.sum(np.array(reply.json(), np.float32) * small.encode(TITLES), axis=1) >= 0.99999).all()
    one = service.post(path, {"inputs": "nurse"}).json()
    assert np.array(one).shape == (1, 256)


def test_a_text_that_must_not_be_cut_is_refused(service: Running) -> None:
    text = "koch " * 400
    assert service.post("/embed", {"inputs": text}).status_code == 200
    assert "the limit is 128" in error_of(service.post("/embed", {"inputs": ["ok", text], "truncate": False}), 413)["message"]
    assert service.post("/embed", {"inputs": "koch " * 20, "truncate": False}).status_code == 200


def test_texts_are_not_cut_on_another_side_than_the_encoders(service: Running) -> None:
    reply = service.post("/embed", {"inputs": "nurse", "truncation_direction": "Left"})
    assert "leave truncation_direction out" in error_of(reply, 422)["message"]


def test_prompts_are_the_models(service: Running) -> None:
    assert service.post("/embed", {"inputs": "nurse", "prompt_name": "query"}).status_code == 200
    reply = service.post("/embed", {"inputs": "nurse", "prompt_name": "other"})
    assert "this model has ['document', 'query']" in error_of(reply, 422)["message"]


def test_match_puts_the_models_prompts_before_queries_and_titles(tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(Path(jobonnx.__file__).parent / "data" / "small", folder)
    config = folder / "config_sentence_transformers.json"
    prompts = {"query": "query: ", "document": "passage: "}
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"prompts": prompts}), encoding="utf-8")
    titles = ["nurse", "cook", "Krankenschwester"]
    with Encoder(folder) as encoder:
        query, corpus = encoder.encode_query("head nurse"), encoder.encode_document(titles)
        assert not np.allclose(query, encoder.encode("head nurse"), atol=0.01)
        with Index.create(tmp_path / "index", encoder.fingerprint, encoder.dimension, prompts["document"]) as index:
            index.add(titles, corpus, fingerprint=encoder.fingerprint, prompt=prompts["document"])
    with running("-m", str(folder), "--index", str(tmp_path / "index")) as other:
        (result,) = other.post("/match", {"titles": "head nurse", "top_k": 3}).json()["results"]
    found = {match["title"]: match["score"] for match in result["matches"]}
    assert found == pytest.approx(dict(zip(titles, corpus @ query, strict=True)), abs=1e-4)


def test_similarity_gives_cosines(service: Running, small: Encoder) -> None:
    sentences = ["Krankenschwester", "cook", "nurse"]
    scores = service.post("/similarity", {"inputs": {"source_sentence": "nurse", "sentences": sentences}}).json()
    assert np.allclose(scores, small.similarity(small.encode("nurse"), small.encode(sentences))[0], atol=1e-4)
    error_of(service.post("/similarity", {"inputs": {"source_sentence": "nurse", "sentences": []}}), 422)


def test_tokens_are_the_tokenizers_and_stand_where_they_say(service: Running, small: Encoder) -> None:
    text = "Krankenschwester auf der Intensivstation"
    (tokens,) = service.post("/tokenize", {"inputs": text}).json()
    assert [token["id"] for token in tokens] == small.tokenize([text])[0]
    assert tokens[0]["special"]
    # The mark of a word's beginning, where it is a token of its own, stands at the first letter, which the next token has too.
    words = [token for token in tokens if not token["special"] and token["text"] != "▁"]
    shown = "".join(text[token["start"] : token["stop"]] for token in words)
    assert shown.replace(" ", "") == text.replace(" ", "")
    (plain,) = service.post("/tokenize", {"inputs": text, "add_special_tokens": False}).json()
    assert [token["id"] for token in plain] == small.tokenize([text])[0][1:-1]


def test_info_says_what_runs(service: Running, small: Encoder) -> None:
    info = CLIENT.get(service.url + "/info").json()
    assert info["model_id"] == "jobonnx-small"
    assert info["fingerprint"] == small.fingerprint
    assert info["max_input_length"] == small.max_seq_length
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}


@pytest.mark.parametrize("inputs", [[1, 2, 3], [[1, 2, 3]], [[0, 5, 2], [0, 6, 2]], ["nurse", [1, 2]], ["nurse", 3], [[]]])
@pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "input"), ("/embed", "inputs")])
def test_token_ids_are_refused_with_the_fix(service: Running, path: str, field: str, inputs: Any) -> None:
    error = error_of(service.post(path, {field: inputs}), 422)
    assert "check_embedding_ctx_length=False" in error["message"]
    assert "--accept-token-ids" in error["message"]
    assert error["code"] == "token_ids"
    assert error["param"] == field


def test_token_ids_are_taken_where_the_operator_says_so(small: Encoder) -> None:
    with running("--accept-token-ids") as other:
        rows = small.tokenize(["nurse", "cook"])
        vectors = vectors_of(embeddings(other, rows))
        assert (np.sum(vectors * small.encode(["nurse", "cook"]), axis=1) >= 0.99999).all()
        assert vectors_of(embeddings(other, rows[0])).shape == (1, 256)
        wrongs: list[Any] = [[[0, 32_000, 2]], [[-1]], [[0] * 129], [[]], [["nurse"]], [[10**30]]]
        for wrong in wrongs:
            error_of(other.post("/v1/embeddings", {"input": wrong}), 422)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"input": "nurse"', 400),
        (b"\xff\xfe", 400),
        (b'{"input": "\\ud800"}', 400),
        (b'{"input": ' + b"[" * 100_000, 422),
        (b'{"input": "nurse"} trailing', 400),
        (b"null", 422),
        (b'"nurse"', 422),
        (b"{}", 422),
        (b'{"input": null}', 422),
        (b'{"input": 3}', 422),
        (b'{"input": []}', 422),
        (b'{"input": [null]}', 422),
        (b'{"input": {"a": 1}}', 422),
        (b'{"input": [1.5]}', 422),
        (b'{"input": "nurse", "encoding_format": "hex"}', 422),
        (b'{"input": "nurse", "dimensions": 0}', 422),
        (b'{"input": "nurse", "dimensions": 257}', 422),
        (b'{"input": "nurse", "dimensions": 1e99}', 422),
        (b'{"input": "nurse", "model": 5}', 422),
    ],
)
def test_a_wrong_body_is_the_clients_error(service: Running, content: bytes, status: int) -> None:
    error_of(CLIENT.post(service.url + "/v1/embeddings", content=content, timeout=30), status)


def test_lists_texts_and_bodies_are_limited(service: Running) -> None:
    assert "send fewer" in error_of(service.post("/v1/embeddings", {"input": ["a"] * (MOST_TEXTS + 1)}), 422)["message"]
    assert "shorten it" in error_of(service.post("/v1/embeddings", {"input": "a" * (MOST_CHARACTERS + 1)}), 422)["message"]
    assert service.post("/v1/embeddings", {"input": "a" * MOST_CHARACTERS}).status_code == 200
    large = b'{"input": "' + b"a" * MOST_BODY_BYTES + b'"}'
    assert "send fewer" in error_of(CLIENT.post(service.url + "/v1/embeddings", content=large, timeout=30), 413)["message"]

    def parts() -> Any:
        for first in range(0, len(large), 65536):
            yield large[first : first + 65536]

    try:
        reply = CLIENT.post(service.url + "/v1/embeddings", content=parts(), timeout=30)  # chunked: no length is told
    except httpx.WriteError:
        return  # it was answered and closed before everything was sent
    error_of(reply, 413)


def test_unknown_paths_and_methods_are_errors_of_the_same_shape(service: Running) -> None:
    error_of(CLIENT.get(service.url + "/nothing"), 404)
    reply = CLIENT.get(service.url + "/embed")
    error_of(reply, 405)
    assert reply.headers["allow"] == "POST"


def test_times_and_the_request_are_named_in_headers(service: Running) -> None:
    reply = service.post("/v1/embeddings", {"input": "Pilot in Ausbildung"}, headers={"X-Request-ID": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    stages = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert set(stages) == {"tokenize", "queue", "compute", "total"}
    assert sum(float(stages[name]) for name in ("tokenize", "queue", "compute")) <= float(stages["total"])
    spoilt = service.post("/v1/embeddings", {"input": "nurse"}, headers={"X-Request-ID": "a" * 200})
    assert len(spoilt.headers["x-request-id"]) == 16


def test_the_log_has_requests_and_never_titles() -> None:
    with running() as other:
        other.post("/v1/embeddings", {"input": ["Geheimrat", "Geheimagent"]}, headers={"X-Request-ID": "abc-2"})
        other.post("/v1/embeddings", {"input": ["Geheimrat", 5]})
        other.post("/match", {"titles": "Geheimnisträger"})
        other.until(lambda: len(other.logged("request")) == 3)
        line = next(line for line in other.logged("request") if line["request"] == "abc-2")
        assert (line["route"], line["status"], line["titles"]) == ("/v1/embeddings", 200, 2)
        assert line["tokens"] > 4
        assert other.other == []
        assert "Geheim" not in str(other.lines)


def test_metrics_count_what_happened() -> None:
    with running() as other:
        other.post("/v1/embeddings", {"input": ["a brand new title", "another one"]})
        other.post("/v1/embeddings", {"input": ["a brand new title"]})
        other.post("/v1/embeddings", {"input": 5})
        assert other.metric('jobonnx_requests_total{route="/v1/embeddings",status="200"}') == 2
        assert other.metric('jobonnx_requests_total{route="/v1/embeddings",status="422"}') == 1
        assert other.metric("jobonnx_cache_hits_total") == 1
        assert other.metric("jobonnx_titles_total") == 3
        real = other.metric('jobonnx_tokens_total{kind="real"}')  # the built-in titles are computed meanwhile, so it is asked first
        assert other.metric('jobonnx_tokens_total{kind="padded"}') >= real > 0
        for name in ("tokenize", "queue", "compute"):
            assert other.metric(f"jobonnx_{name}_seconds_count") == 1, name
        assert other.metric('jobonnx_request_seconds_count{route="/v1/embeddings"}') == 3
        assert other.metric("jobonnx_ready") == 1
        CLIENT.get(other.url + "/never/seen/before")
        assert "never" not in CLIENT.get(other.url + "/metrics").text, "a client must not be able to make series"


def test_an_api_key_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    for options, env in ((("--api-key-file", str(tmp_path / "key")), {}), ((), {"JOBONNX_API_KEY": "s3cret"})):
        with running(*options, env=env) as other:
            assert other.status("/health") == other.status("/ready") == other.status("/") == 200
            for given in (None, "Bearer wrong", "s3cret", "Bearer s3cret1", "Bearer"):
                headers = {} if given is None else {"Authorization": given}
                for path in ("/v1/models", "/metrics", "/info"):
                    reply = CLIENT.get(other.url + path, headers=headers)
                    error_of(reply, 401)
                    assert reply.headers["www-authenticate"] == "Bearer"
                error_of(other.post("/v1/embeddings", {"input": "nurse"}, headers=headers), 401)
            right = {"Authorization": "Bearer s3cret"}
            assert other.post("/v1/embeddings", {"input": "nurse"}, headers=right).status_code == 200
            assert "s3cret" not in str(other.lines)


def test_a_key_file_without_a_key_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    assert "holds no key" in refused("--api-key-file", str(tmp_path / "key"))
    assert "cannot be read" in refused("--api-key-file", str(tmp_path / "missing"))
    assert "JOBONNX_API_KEY is empty" in refused(env={"JOBONNX_API_KEY": ""})


def test_other_origins_may_call_only_where_the_operator_says_so(service: Running) -> None:
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in service.post("/v1/embeddings", {"input": "nurse"}, headers=origin).headers
    with running("--cors-origin", "https://app.example") as other:
        reply = other.post("/v1/embeddings", {"input": "nurse"}, headers=origin)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        asked = CLIENT.options(other.url + "/match", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 204
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        strange = other.post("/v1/embeddings", {"input": "nurse"}, headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in strange.headers


def _is_ready(client: httpx.Client) -> bool:
    return client.get("/ready").status_code == 200


def test_a_unix_socket_is_for_this_user_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):  # the second time with what a killed service left behind
        with running("--uds", str(path)) as other:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://jobonnx", timeout=30) as client:
                other.until(partial(_is_ready, client))
                assert client.post("/v1/embeddings", json={"input": "nurse"}).status_code == 200
            assert path.stat().st_mode & 0o777 == 0o660
            assert "cannot be listened on" in refused("--uds", str(path))
            other.process.kill()
            other.process.wait()
    with running("--uds", str(path)) as other:
        assert other.stop() == 0
    assert not path.exists()


def test_every_option_can_be_set_in_the_environment() -> None:
    env = {"JOBONNX_PORT": "0", "JOBONNX_MAX_QUEUE_TOKENS": "5000", "JOBONNX_ACCEPT_TOKEN_IDS": "1", "JOBONNX_THREADS": "1"}
    with running(env=env) as other:
        info = CLIENT.get(other.url + "/info").json()
        assert (info["max_queue_tokens"], info["threads"]) == (5000, 1)
        assert other.post("/v1/embeddings", {"input": [[0, 5, 2]]}).status_code == 200
    assert "JOBONNX_DEADLINE_MS" in refused(env={"JOBONNX_DEADLINE_MS": "soon"})


@pytest.mark.parametrize(("asked", "threads"), [("", 3), ("2", 2)])
def test_a_fast_engine_is_opened_again_with_fewer_threads_unless_they_were_asked_for(asked: str, threads: int) -> None:
    prelude = "from jobonnx.serve import profile; profile.leave_a_core = lambda encoder: 3"
    with running("--shared-cores", prelude=prelude, env={"JOBONNX_THREADS": asked}) as other:
        assert CLIENT.get(other.url + "/info").json()["threads"] == threads
        assert other.post("/v1/embeddings", {"input": "nurse"}).status_code == 200


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(service: Running) -> None:
    port = service.url.rsplit(":", 1)[1]
    assert "cannot be listened on (Address already in use); name another address" in refused("--port", port)


def test_it_listens_on_this_machine_alone_unless_told(service: Running) -> None:
    assert service.url.startswith("http://127.0.0.1:")


def make_index(path: Path, titles: list[str], encoder: Encoder, fingerprint: str | None = None) -> None:
    ids = [f"id{number}" for number in range(len(titles))]
    with Index.create(path, fingerprint or encoder.fingerprint, encoder.dimension) as index:
        index.add(titles, encoder.encode(titles), fingerprint=fingerprint or encoder.fingerprint, ids=ids)


def test_match_ranks_the_titles_of_an_index(tmp_path: Path, small: Encoder) -> None:
    titles = ["Krankenschwester", "cook", "nurse", "Pilot"]
    make_index(tmp_path / "i", titles, small)
    with running("--index", str(tmp_path / "i")) as other:
        content = other.post("/match", {"titles": ["nurse", "chef"], "top_k": 2}).json()
        first, second = content["results"]
        assert [match["title"] for match in first["matches"]] == ["nurse", "Krankenschwester"]
        assert first["matches"][0]["ids"] == ["id2"]
        assert math.isclose(first["matches"][0]["score"], 1, abs_tol=1e-5)
        assert second["query"] == "chef"
        assert content["corpus_titles"] == 4
        assert len(other.post("/match", {"titles": "nurse", "top_k": 100}).json()["results"][0]["matches"]) == 4
        error_of(other.post("/match", {"titles": "nurse", "top_k": 101}), 422)
        error_of(other.post("/match", {"titles": []}), 422)
        error_of(other.post("/match", {"titles": ["nurse"] * 257}), 422)


def test_an_index_of_another_encoder_stops_the_start(tmp_path: Path, small: Encoder) -> None:
    make_index(tmp_path / "i", ["nurse"], small, "another")
    said = refused("--index", str(tmp_path / "i"), "--port", "0")
    assert "was made with the encoder another and this service runs" in said
    assert "is not an index" in refused("--index", str(tmp_path / "none"), "--port", "0")


def test_a_replaced_index_is_opened_again_and_a_broken_one_is_not(tmp_path: Path, small: Encoder) -> None:
    make_index(tmp_path / "a", ["nurse"], small)
    make_index(tmp_path / "b", ["cook", "chef"], small)
    make_index(tmp_path / "c", ["pilot"], small, "another")
    link = tmp_path / "i"
    link.symlink_to("a")

    def switch(name: str) -> None:
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").rename(link)

    with running("--index", str(link)) as other:
        switch("b")
        other.until(lambda: other.metric('jobonnx_index_reopened_total{outcome="opened"}') == 1)
        assert other.post("/match", {"titles": "nurse"}).json()["corpus_titles"] == 2
        with Index.open(tmp_path / "b") as index:
            index.add(["pilot"], small.encode(["pilot"]), fingerprint=small.fingerprint)
        other.until(lambda: other.post("/match", {"titles": "nurse"}).json()["corpus_titles"] == 3)
        switch("c")
        other.until(lambda: other.metric('jobonnx_index_reopened_total{outcome="failed"}') == 1)
        assert other.post("/match", {"titles": "pilot"}).json()["corpus_titles"] == 3
        assert other.status("/ready") == 200


def test_match_over_the_built_in_titles_says_how_far_it_is_and_then_answers(small: Encoder) -> None:
    with running() as other:
        first = other.post("/match", {"titles": "Volksvertreter"})
        if first.status_code == 503:
            assert "being encoded" in error_of(first, 503)["message"]
            assert first.headers["retry-after"]
        other.until(lambda: other.post("/match", {"titles": "Volksvertreter"}).status_code == 200, 300)
        (result,) = other.post("/match", {"titles": "Volksvertreter", "top_k": 3}).json()["results"]
        titles = [match["title"] for match in result["matches"]]
        assert titles == ["Volksvertreter", "member of state parliament", "member of parliament"]


def test_the_page_and_the_list_of_routes_are_there(service: Running) -> None:
    for path in ("/", "/docs"):
        page = CLIENT.get(service.url + path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text
    paths = CLIENT.get(service.url + "/openapi.json").json()["paths"]
    tei = {"/embed", "/", "/similarity", "/tokenize", "/info", "/health", "/metrics"}
    assert {*tei, "/v1/embeddings", "/v1/models", "/match", "/ready"} <= set(paths)


def test_head_is_as_get_without_the_body(service: Running) -> None:
    reply = CLIENT.head(service.url + "/health")
    assert reply.status_code == 200
    assert reply.content == b""
