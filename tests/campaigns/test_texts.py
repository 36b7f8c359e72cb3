"""Hostile and huge texts: the token ids of transformers' own fast tokenizer, with and without cutting, in little memory."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import XLMRobertaTokenizerFast

from campaigns import campaign
from helpers.checkpoints import SHARED, needs
from jobonnx.bundle.manifest import Bundle
from jobonnx.data.titles import read_titles
from jobonnx.text.tokenizer import Tokenizer, TooLongError

REAL = SHARED / "jobbge-m3" / "tokenizer.json"
LIMITS = (3, 8, 16, 64, 512)
WORDS = [word for title in read_titles()[::7] for word in title.split()]
#: Characters that tokenizers stumble over, by kind.
ODD = (
    *(
        "\0",
        "\x01",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\xa0",
        "\xad",
        "\u200b",
        "\u200d",
        "\u2028",
        "\u202e",
        "\u3000",
        "\ufeff",
        "\ufffd",
    ),
    *(
        "▁",
        "▁▁",
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
        "<mask>",
        " <mask>",
        "<s",
        "a\u0301",
        "ﬃ",
        "Ａ",
        "①",
        "㍿",
        "ﷺ",
        "½",
        "Å",
        "\u0345",
        "ß",
    ),
    *(
        "각",
        "\u1100\u1161\u11a8",
        "\u1112",
        "\uac00\u11a8",
        "🇩🇪",
        "🇩",
        "👩🏽‍🚒",
        "\U0010ffff",
        "\U000e0001",
        "\ue000",
        "मौसम",
        "ก็",
        "क्ष",
    ),
    *(
        "\ufdfa",
        "\u0f73",
        "\u0f75",
        "\u2126",
        "\u212b",
        "\u1e9b\u0323",
        "\u3099",
        "が",
        "か\u3099",
        "\uff9e",
        "ｶﾞ",
        "\u0958",
        "\u2adc",
        "\u00b4",
    ),
    *(
        "\t",
        "\n",
        "\r\n",
        "  ",
        "   ",
        "\u2003",
        "\u00a0 ",
        "...",
        "…",
        "--",
        "ˈ",
        "ǆ",
        "İ",
        "ı",
        "ς",
        "\u0378",
        "\u30fb",
        "\uffa0",
        "\u115f",
    ),
)


def character(chances: random.Random) -> str:
    """Any character that UTF-8 holds."""
    while True:
        code = chances.choice(
            (chances.randrange(0x80), chances.randrange(0x3000), chances.randrange(0x10000), chances.randrange(0x110000))
        )
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def run_of(chances: random.Random) -> Callable[[], str]:
    """A way to make pieces of a text, so that texts are of one kind, or of several."""
    few = [chances.choice((character(chances), chances.choice(ODD), chances.choice(WORDS))) for _ in range(chances.randrange(1, 5))]
    return chances.choice(
        (
            lambda: character(chances),
            lambda: chances.choice(ODD),
            lambda: chances.choice(WORDS) + " ",
            lambda: chances.choice((chances.choice(WORDS), " ", chances.choice(ODD))),
            lambda: chances.choice(few),
            lambda: few[0],
            lambda: unicodedata.normalize(chances.choice(("NFD", "NFKD", "NFC")), chances.choice(WORDS) + chances.choice(ODD)),
            lambda: chances.choice("abcdefghijklmnopqrstuvwxyz"),
            lambda: chr(chances.randrange(0x4E00, 0x9FFF)),
            lambda: chances.choice(WORDS),
        )
    )


def text(chances: random.Random, most: int) -> str:
    """A text of up to so many characters, of up to three kinds one after another."""
    length = chances.choice((0, 1, 2, 10, 100, most // 30, most // 3, most))
    parts: list[str] = []
    for _ in range(chances.choice((1, 1, 2, 3))):
        make, size = run_of(chances), 0
        while size < length:
            parts.append(make() or " ")
            size += len(parts[-1])
    return "".join(parts)


class Peer:
    """What transformers makes of the same texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ours: dict[tuple[int, str], Tokenizer] = {}
        self.fast = XLMRobertaTokenizerFast(tokenizer_file=str(path))
        self.plain = tokenizers.Tokenizer.from_file(str(path))
        self.plain.no_truncation()
        self.plain.no_padding()

    def tokenizer(self, limit: int, truncation: str) -> Tokenizer:
        """Ours; kept, because the real one takes a second to load."""
        key = limit, truncation
        self.ours[key] = self.ours.get(key) or Tokenizer(self.path, limit, truncation)
        return self.ours[key]

    def ids(self, texts: list[str], limit: int, side: str) -> list[list[int]]:
        self.fast.truncation_side = side
        rows: list[list[int]] = self.fast(texts, truncation=True, max_length=limit)["input_ids"]
        return rows


def attack(peer: Peer, most: int, chances: random.Random) -> None:
    texts = [text(chances, most) for _ in range(chances.choice((1, 2, 5)))]
    limits = LIMITS if peer.path != REAL else (16, 512)  # each takes a copy of its 250,002 pieces
    limit, truncation = chances.choice(limits), chances.choice(("right", "right", "left", "error"))
    try:
        rows = peer.tokenizer(limit, truncation).encode(texts)
    except TooLongError:
        assert truncation == "error"
        assert any(len(peer.plain.encode(one).ids) > limit for one in texts)
        return
    side = "left" if truncation == "left" else "right"
    expected = peer.ids(texts, limit, side)
    if rows != expected:
        place = next(i for i, (a, b) in enumerate(zip(rows, expected, strict=True)) if a != b)
        shown = ascii(texts[place])
        raise AssertionError(f"other ids, limit {limit}, {truncation}, {len(texts[place]):,} characters: {shown[:1000]}")
    if truncation == "error":
        assert all(len(peer.plain.encode(one).ids) <= limit for one in texts)


@pytest.fixture(scope="module", params=["small", pytest.param("real", marks=needs("JobBGE-m3's tokenizer", REAL))])
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(Bundle.open().folder / "tokenizer.json" if request.param == "small" else REAL)


@pytest.fixture(scope="module")
def small() -> Peer:
    return Peer(Bundle.open().folder / "tokenizer.json")


pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore:The tokenizer class you load", "ignore:Token indices sequence length"),
]


def test_some_hostile_texts(small: Peer) -> None:
    campaign.run("hostile texts, small tokenizer", lambda chances: attack(small, 1_000, chances), trials=150)


@pytest.mark.campaign
@pytest.mark.parametrize(("kind", "most"), [("hostile", 1_000), ("long", 30_000), ("huge", 400_000)])
def test_texts(peer: Peer, kind: str, most: int) -> None:
    name = f"{kind} texts, {'real' if peer.path == REAL else 'small'} tokenizer"
    campaign.run(name, lambda chances: attack(peer, most, chances))


#: Encodes one huge text and prints the ids and by how many MiB the process grew.
MEMORY = """
import random, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from campaigns.test_texts import WORDS
from jobonnx.text.tokenizer import Tokenizer
chances = random.Random(sys.argv[1])
words = []
size = 0
while size < int(sys.argv[2]):
    words.append(chances.choice(WORDS))
    size += len(words[-1]) + 1
text = " ".join(words)
tokenizer = Tokenizer(Path(sys.argv[3]), 512)
tokenizer.encode(["Koch"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = tokenizer.encode([text])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(grown, rows == tokenizer.encode([text[:100_000]]))
"""


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="resource.ru_maxrss has the unit of Linux here")
def test_texts_of_megabytes_take_little_memory(peer: Peer) -> None:
    def trial(chances: random.Random) -> None:
        size = chances.choice((100_000, 1_000_000, 10_000_000))
        command = [sys.executable, "-c", MEMORY, str(chances.random()), str(size), str(peer.path), str(Path(__file__).parents[1])]
        done: Any = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        grown, same = done.stdout.split()
        assert same == "True", "other ids than those of its beginning"
        assert int(grown) < 200, f"{size:,} characters took {grown} MiB more"

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = f"texts of megabytes, {'real' if peer.path == REAL else 'small'} tokenizer"
    campaign.run(name, trial)
