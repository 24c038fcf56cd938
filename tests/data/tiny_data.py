"""A tiny byte-level tokenizer, two of SentencePiece's kind, and data files in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE
from kivnun.models.new import train_tokenizer
from kivnun.models.types import Tokenizer
from kivnun.recipe.schema import DataSection

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SENTENCES = (
    "The answer is joy. Tone: joy\nTone: anger\n",
    "Which feeling does the sentence show? I am glad that you came.",
    "user assistant system question answer feeling",
    "שלום לכולם, מה שלומכם היום? אני שמח מאוד.",
    "איזה רגש מביע המשפט? כעס, שמחה, עצב.",
)

WORDS = (
    "sun",
    "rain",
    "wind",
    "snow",
    "fog",
    "hail",
    "ice",
    "dew",
    "storm",
    "frost",
    "mist",
    "heat",
    "שמש",
    "גשם",
    "רוח",
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    made = train_tokenizer(SENTENCES * 3, 420)
    made.chat_template = DEFAULT_CHAT_TEMPLATE
    return made


@pytest.fixture(scope="session")
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer)


def train_sentencepiece(*, by_normalizer: bool) -> Tokenizer:
    """A tokenizer that puts a space before every text, as Llama 2's does: by its normalizer (legacy) or Metaspace."""
    made = FastTokenizer(BPE(unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    if by_normalizer:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(parts)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    special = [AddedToken(text, special=True, normalized=False) for text in (UNKNOWN, BEGIN, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    words = [word for sentence in SENTENCES for word in sentence.replace("\n", " ").split(" ")]
    made.train_from_iterator(words * 3, trainer)
    return Tokenizer(tokenizer_object=made, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END)


@pytest.fixture(scope="session", params=[False, True], ids=["metaspace", "normalizer"])
def spacing_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_sentencepiece(by_normalizer=request.param)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that error messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(train: object = "train.jsonl", **values: object) -> DataSection:
    """A data section that is valid, with some fields changed."""
    return DataSection.model_validate({"train": train, **values})


def refusal(act: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        act()
    assert caught.value.hint
    return caught.value
