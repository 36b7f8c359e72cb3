"""The parts of a run: batches without false negatives, and the state that a resumed run goes on from."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from jobonnx_train.trainer import PAD, TitleCollator, as_dataset, last_state


def test_pairs_of_one_occupation_never_share_a_batch() -> None:
    pairs = [(f"a{index}", f"b{index}", f"group {index % 10}") for index in range(100)]
    sampler = NoDuplicatesBatchSampler(as_dataset(pairs), batch_size=8, drop_last=True, generator=torch.Generator(), seed=1)
    batches = list(sampler)
    assert batches
    assert all(len({index % 10 for index in batch}) == len(batch) for batch in batches)


def test_newest_complete_state_is_the_last_one(tmp_path: Path) -> None:
    for step, text in ((9, "{}"), (10, "{}"), (11, '{"epoch": '), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_state(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert last_state(tmp_path / "absent") is None


def test_a_batch_is_padded_cut_and_knows_its_titles() -> None:
    collate = TitleCollator(lambda text: [0, *map(ord, text), 2], {"ab": 7}, longest=4, rewritten=0.0, seed=1)
    batch = collate([{"anchor": "ab", "positive": "c"}, {"anchor": "abcdef", "positive": "d"}])
    assert batch["anchor_input_ids"].shape == (2, 4)
    assert batch["anchor_text_id"].tolist() == [7, 0]  # 0: the guide knows nothing of it
    assert batch["positive_attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1]]
    padded = collate([{"anchor": "ab", "positive": "c"}, {"anchor": "a", "positive": "d"}])
    assert padded["anchor_input_ids"][1].tolist()[-1] == PAD
    assert padded["anchor_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_titles_are_rewritten_in_the_language_of_their_set() -> None:
    seen: list[str] = []

    def keep(text: str) -> list[int]:
        seen.append(text)
        return [0, 2]

    collate = TitleCollator(keep, {"Koch": 5}, longest=4, rewritten=1.0, seed=1)
    rows = [{"anchor": "Koch", "positive": "Köchin", "dataset_name": "full_de"}] * 200
    batch = collate(rows)
    assert batch["dataset_name"] == "full_de"
    assert batch["anchor_text_id"].tolist() == [5] * 200  # the guide knows the title, whatever was made of it
    assert sum("m/w/d" in text for text in seen) > 5
    assert not any("H/F" in text for text in seen)
    assert "Koechin" in " ".join(seen)
    seen.clear()
    TitleCollator(keep, {}, longest=4, rewritten=0.0, seed=1)(rows)
    assert set(seen) == {"Koch", "Köchin"}
