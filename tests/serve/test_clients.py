"""The clients that people have, against a real process; LangChain's and LlamaIndex's in an environment of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from helpers.checkpoints import ROOT
from helpers.service import Running, running
from jobonnx import Encoder
from jobonnx.arrays import Floats

pytestmark = pytest.mark.medium
TITLES = ["nurse", "Krankenschwester", "软件工程师", "nurse"]
LATER = ROOT / "tests" / "serve" / "later_clients.py"


def are_equal(found: object, expected: Floats) -> bool:
    return bool((np.sum(np.asarray(found, np.float32) * expected, axis=-1) >= 0.99999).all())


def test_openais_client(service: Running, small: Encoder) -> None:
    expected = small.encode(TITLES)
    with openai.OpenAI(base_url=service.url + "/v1", api_key="none") as client:
        default = client.embeddings.create(model="jobonnx-small", input=TITLES)  # it asks for base64 and decodes that
        assert are_equal([item.embedding for item in default.data], expected)
        numbers = client.embeddings.create(model="jobonnx-small", input=TITLES, encoding_format="float")
        assert [item.embedding for item in numbers.data] == [item.embedding for item in default.data] or np.array_equal(
            np.array([item.embedding for item in numbers.data], np.float32),
            np.array([item.embedding for item in default.data], np.float32),
        )
        short = client.embeddings.create(model="jobonnx-small", input="nurse", dimensions=64)
        assert len(short.data[0].embedding) == 64
        assert default.usage.total_tokens == sum(map(len, small.tokenize(TITLES)))
        assert [model.id for model in client.models.list()] == ["jobonnx-small"]
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.embeddings.create(model="text-embedding-3-small", input="nurse")
        with pytest.raises(openai.UnprocessableEntityError, match="token ids"):
            client.embeddings.create(model="jobonnx-small", input=[1, 2, 3])


def test_openais_asynchronous_client(service: Running, small: Encoder) -> None:
    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="none") as client:
            replies = await asyncio.gather(*(client.embeddings.create(model="jobonnx-small", input=title) for title in TITLES))
            return [reply.data[0].embedding for reply in replies]

    assert are_equal(asyncio.run(ask()), small.encode(TITLES))


def test_openais_client_understands_a_wrong_key() -> None:
    with running(env={"JOBONNX_API_KEY": "right"}) as service:
        with openai.OpenAI(base_url=service.url + "/v1", api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model="jobonnx-small", input="nurse")
        with openai.OpenAI(base_url=service.url + "/v1", api_key="right") as client:
            assert client.embeddings.create(model="jobonnx-small", input="nurse").data


def test_the_hubs_client_as_with_text_embeddings_inference(service: Running, small: Encoder) -> None:
    client = InferenceClient(service.url)
    assert are_equal(client.feature_extraction("nurse"), small.encode(["nurse"]))
    assert are_equal(client.feature_extraction("nurse", normalize=True, truncate=True), small.encode(["nurse"]))
    scores = client.sentence_similarity("nurse", other_sentences=["Krankenschwester", "cook"])
    assert np.allclose(scores, small.similarity(small.encode("nurse"), small.encode(["Krankenschwester", "cook"]))[0], atol=1e-4)


@pytest.mark.network
def test_langchains_and_llamaindexs_clients(service: Running, small: Encoder, tmp_path: Path) -> None:
    """Their packages clash with the exporter's, so they get an environment; JOBONNX_CLIENTS_PYTHON names one that is there."""
    python = os.environ.get("JOBONNX_CLIENTS_PYTHON")
    if python is None:
        venv.create(tmp_path / "venv", with_pip=True)
        python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        packages = ["langchain-openai", "llama-index-embeddings-openai-like", "numpy"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    np.save(tmp_path / "expected.npy", small.encode(TITLES))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(LATER), service.url, str(tmp_path / "expected.npy"), *TITLES], capture_output=True, encoding="utf-8", env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["langchain", "langchain, default", "llamaindex"]
