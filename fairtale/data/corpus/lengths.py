"""Count the words of a text, also in scripts that put no spaces between words."""

import re

# Characters per word of scripts without spaces: Chinese has about 1.6 (newstest2019 with jieba),
# Japanese kana about 2.5, and the scripts of South-East Asia about 4 with their vowel signs.
_CHARACTERS_PER_WORD = (
    ("\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3100-\u312f", 1.6),  # Han
    ("\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f", 2.5),  # kana
    ("\u0e01-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff", 4.0),
    ("\u0f00-\u0fff\u1950-\u19df\u1a20-\u1aaf", 4.0),  # Tibetan, Tai
)
_SCRIPTS = [(re.compile(f"[{characters}]"), rate) for characters, rate in _CHARACTERS_PER_WORD]
_UNSPACED = re.compile(f"[{''.join(characters for characters, _ in _CHARACTERS_PER_WORD)}]")

# Languages written in them; Moses's tokenizer tears their words apart and does not join them again.
UNSPACED_LANGUAGES = frozenset("zh cmn yue wuu ja jpn th tha lo lao km khm my mya bo dz".split())


def count_words(text: str) -> int:
    """Return the number of words: those between spaces, and of other scripts an estimate.

    A run of Chinese, Japanese, Thai, Lao, Khmer, Burmese or Tibetan counts by its characters, at
    least one word; Korean and everything else has spaces. The script of each character decides,
    so a text may mix scripts, and no language needs to be known.

    Args:
        text: a text, or tokens separated by spaces.
    """
    if text.isascii() or not _UNSPACED.search(text):
        return len(text.split())
    estimate = 0.0
    for script, rate in _SCRIPTS:
        text, count = script.subn(" ", text)
        estimate += count / rate
    # What is left between characters of these scripts, such as a comma, is no word.
    spaced = sum(any(map(str.isalnum, word)) for word in text.split())
    return max(1, round(estimate) + spaced)
