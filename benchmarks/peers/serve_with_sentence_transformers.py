"""What many teams write first: FastAPI, and sentence-transformers' encode in a thread: CHECKPOINT --port PORT are its arguments."""

# mypy: ignore-errors

from __future__ import annotations

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()


class Request(BaseModel):
    input: str | list[str]
    encoding_format: str = "float"


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, Any]:  # no `async`: FastAPI runs it in a thread
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = model.encode(texts)
    packed = [
        base64.b64encode(v.astype("<f4").tobytes()).decode() if request.encoding_format == "base64" else v.tolist() for v in vectors
    ]
    return {"object": "list", "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(packed)]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", access_log=False)
