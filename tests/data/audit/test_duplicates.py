import random

import pytest

from medexp.data.audit.duplicates import (
    NEAR,
    find_near_copies,
    find_near_duplicates,
    jaccard_similarity,
)

VIGNETTE = (
    "A 58-year-old bus driver walks into the emergency department grey and sweating after fifty"
    " minutes of heavy central chest pressure spreading to his jaw. He smokes twenty cigarettes"
    " daily. Pulse 52, BP 104/66. What should the team do next?"
)
ANOTHER_PATIENT = (
    "A 71-year-old retired joiner comes to the surgery pale and breathless after two hours of dull"
    " chest tightness in his left arm. He has never smoked. Pulse 96, BP 150/88. What should the"
    " doctor do next?"
)


def with_words_changed(text: str, count: int, seed: int) -> str:
    words, chance = text.split(), random.Random(seed)
    for place in chance.sample(range(len(words)), count):
        words[place] = f"other{place}"
    return " ".join(words)


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text.replace(",", ";"), lambda text: text.replace(" ", "\n")]
)
def test_letters_marks_and_spaces_make_no_difference(change):
    (pair,) = find_near_duplicates([VIGNETTE, change(VIGNETTE)])
    assert (pair.case, pair.of, pair.similarity) == (1, 0, 1)


def test_a_few_exchanged_words_are_seen_whichever_they_are():
    changed = [with_words_changed(VIGNETTE, 3, seed) for seed in range(50)]
    near = [find_near_duplicates([VIGNETTE, each]) for each in changed]
    assert all(len(pairs) == 1 and NEAR <= pairs[0].similarity < 1 for pairs in near)


def test_another_patient_with_the_same_complaint_is_no_duplicate():
    assert find_near_duplicates([VIGNETTE, ANOTHER_PATIENT]) == []


def test_half_of_the_words_changed_is_no_duplicate():
    assert find_near_duplicates([VIGNETTE, with_words_changed(VIGNETTE, 20, 0)]) == []


def test_every_repeat_names_a_text_that_repeats_none():
    texts = [VIGNETTE, ANOTHER_PATIENT, VIGNETTE + "!", ANOTHER_PATIENT.upper(), VIGNETTE.lower()]
    assert [(pair.case, pair.of) for pair in find_near_duplicates(texts)] == [
        (2, 0),
        (3, 1),
        (4, 0),
    ]


@pytest.mark.parametrize("texts", [[], [""], ["fever"], ["fever", "cough"]])
def test_short_texts_are_compared_whole(texts):
    assert find_near_duplicates(texts) == []
    assert len(find_near_duplicates([*texts, *texts])) == len(texts)


def test_chinese_is_compared_by_character():
    text = "一名四十五岁男性患者因胸痛就诊，心电图显示下壁导联抬高，最可能的诊断是什么？"
    assert len(find_near_duplicates([text, text.replace("四十五", "四十六")])) == 1
    assert (
        find_near_duplicates([text, "患儿三岁，发热两天，伴有皮疹和眼红，应首先考虑哪种疾病？"])
        == []
    )


def test_many_copies_of_one_text_take_no_time():
    pairs = find_near_duplicates([VIGNETTE] * 3000)
    assert len(pairs) == 2999
    assert {pair.of for pair in pairs} == {0}


def test_similarity_is_jaccard():
    assert jaccard_similarity(frozenset("abc"), frozenset("bcd")) == 0.5
    assert jaccard_similarity(frozenset(), frozenset()) == 1


def test_what_repeats_an_earlier_text_is_still_seen_to_repeat_another_one():
    held_out = with_words_changed(VIGNETTE, 2, 1)
    train = [VIGNETTE, with_words_changed(VIGNETTE, 1, 2), ANOTHER_PATIENT]
    assert [(pair.case, pair.of) for pair in find_near_duplicates(train)] == [(1, 0)]
    assert [
        (pair.case, pair.of) for pair in find_near_copies(train, [ANOTHER_PATIENT[::-1], held_out])
    ] == [
        (0, 1),
        (1, 1),
    ]
