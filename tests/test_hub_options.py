"""The Hub's arguments of `SentenceTransformer` reach the Hub: cache folder, offline, token; and by the name of a saved model."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobonnx
from helpers.hub_server import CLOSED, Hub

pytestmark = pytest.mark.medium

SMALL = Path(jobonnx.__file__).parent / "data" / "small"
NAME = "somebody/small"
OPEN = """
import sys
from pathlib import Path
from jobonnx import Encoder
kept, offline = sys.argv[2], sys.argv[3] == "True"
with Encoder(model_name_or_path=sys.argv[1], cache_folder=kept, local_files_only=offline, token="hf_own") as encoder:
    print(Path(kept).resolve() in encoder.bundle.folder.resolve().parents, encoder.encode("nurse").shape)
"""
BY_NAME = """
import sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
print(model.encode("nurse").shape)
"""


def test_cache_folder_and_local_files_only(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, SMALL)
    kept = str(tmp_path / "kept")
    refused = hub.run(OPEN, NAME, kept, "True")
    assert "cannot be reached (or HF_HUB_OFFLINE or local_files_only is set)" in refused.stderr
    assert hub.downloads == []
    for offline, endpoint in ((False, None), (True, CLOSED)):
        done = hub.run(OPEN, NAME, kept, str(offline), endpoint=endpoint)
        assert done.stdout == "True (256,)\n", done.stderr


@pytest.mark.slow
def test_a_saved_model_on_the_hub_opens_by_its_name(hub: Hub, tmp_path: Path) -> None:
    from jobonnx.sentence_transformers import load

    load().save(str(tmp_path / "saved"))
    hub.push(NAME, tmp_path / "saved")
    done = hub.run(BY_NAME, NAME)
    assert done.stdout.endswith("(256,)\n"), done.stderr
