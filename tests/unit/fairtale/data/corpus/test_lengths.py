"""Words are counted in scripts with and without spaces."""

import pytest

from fairtale.data.corpus.lengths import count_words


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("We are going to Beijing tomorrow .", 7, 7),
        ("Завтра мы едем в Пекин .", 6, 6),
        ("그는 내일 서울에 간다고 말했다 .", 6, 6),
        ("", 0, 0),
        ("我们明天去北京看长城。", 5, 8),
        ("私たちは明日、古い友達と京都へ行きます。", 6, 12),
        ("พรุ่งนี้เราจะไปเที่ยวเชียงใหม่กับเพื่อนเก่า", 8, 14),
        ("ថ្ងៃស្អែកយើងនឹងទៅភ្នំពេញ", 4, 9),
        ("မနက်ဖြန်ငါတို့ရန်ကုန်ကိုသွားမယ်", 5, 11),
        ("ມື້ອື່ນພວກເຮົາຈະໄປວຽງຈັນ", 4, 9),
        ("我用 Python 写 code", 4, 5),
        ("山", 1, 1),
    ],
)
def test_the_estimate_is_near_the_number_of_words(text, low, high):
    assert low <= count_words(text) <= high


def test_only_scripts_without_spaces_count():
    assert all(count_words(8 * character) > 1 for character in "山あアກລកမ")
    assert all(count_words(8 * character) == 1 for character in "aя가1.،")
