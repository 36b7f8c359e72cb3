"""LangChain's and LlamaIndex's clients, in their own environment: URL, file of the expected vectors, titles."""
# mypy: ignore-errors
# ruff: noqa: T201, E402, PT017

import sys

import numpy as np

url, expected, titles = sys.argv[1] + "/v1", np.load(sys.argv[2]), sys.argv[3:]


def check(found):
    cosines = np.sum(np.array(found, np.float32) * expected, axis=1)
    assert (cosines >= 0.99999).all(), cosines


from langchain_openai import OpenAIEmbeddings

right = OpenAIEmbeddings(base_url=url, api_key="none", model="jobonnx-small", check_embedding_ctx_length=False)
check(right.embed_documents(titles))
check([right.embed_query(title) for title in titles])
print("langchain")

try:  # its default sends ids of OpenAI's tokenizer; without a way to that tokenizer's file it fails before
    OpenAIEmbeddings(base_url=url, api_key="none", model="jobonnx-small").embed_documents(titles)
except Exception as error:
    refused = "check_embedding_ctx_length=False" in str(error)
    assert refused or "tiktoken" in repr(error.__traceback__) or "openaipublic" in str(error), error
    print("langchain, default")

from llama_index.embeddings.openai_like import OpenAILikeEmbedding

client = OpenAILikeEmbedding(model_name="jobonnx-small", api_base=url, api_key="none")
check(client.get_text_embedding_batch(titles))
check([client.get_query_embedding(title) for title in titles])
print("llamaindex")
