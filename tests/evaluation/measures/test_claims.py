"""What evidence says of a statement: every rule, with a statement that it must not touch; and the
shipped references, none of which may hold an error against itself.
"""

import importlib.util
import json
import sys

import pytest
from helpers.vignettes import QUESTION, REFERENCE

from medexp.config.shipped import find_conf_dir
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import (
    CONTRADICTED,
    FABRICATED,
    NOT_IN_EVIDENCE,
    SUPPORTED,
    ClaimCounts,
    check_claims,
    check_statement,
    count_claims,
    recall_statement,
)
from medexp.evaluation.measures.statements import Statement, split_statements

CASES = [
    json.loads(line)
    for line in (find_conf_dir().parent / "medexp/data/clinical_cases.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


@pytest.fixture(scope="module")
def known(lexicon):
    return gather_evidence([QUESTION, REFERENCE], lexicon)


@pytest.fixture
def verdict(lexicon):
    def of(statement, *evidence, needed=0.6):
        one = Statement(statement, 0, len(statement))
        return check_statement(one, gather_evidence(evidence, lexicon), needed).verdict

    return of


def test_a_reference_supports_itself(known):
    checked = check_claims(REFERENCE, known)
    assert {each.verdict for each in checked} == {SUPPORTED}
    assert count_claims(checked).balance == 1


@pytest.mark.parametrize(
    ("question", "verdict"),
    [
        ("A man of 72 has fever; he is not confused.", SUPPORTED),
        ("A man of 72 has fever and is confused.", CONTRADICTED),
    ],
)
def test_a_denied_warning_is_held_against_what_the_question_says(lexicon, question, verdict):
    reference = "## Red Flags\n- New confusion: call an ambulance"
    (checked,) = check_claims(
        "## Red Flags\n- No confusion", gather_evidence([question, reference], lexicon)
    )
    assert checked.verdict == verdict


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Antibiotics, eye drops, antihistamines", CONTRADICTED),
        ("No antibiotics, no eye drops, no antihistamines", NOT_IN_EVIDENCE),
    ],
)
def test_a_drug_that_is_denied_is_given_in_no_other_one_s_place(verdict, statement, expected):
    evidence = "Antibiotics will not shorten it, and steroid drops for the eye are unsafe"
    assert verdict(statement, evidence) == expected


def test_every_shipped_reference_supports_itself_and_dismisses_nothing(lexicon):
    for case in CASES:
        evidence = gather_evidence([case["Question"], case["Response"]], lexicon)
        counts = count_claims(check_claims(case["Response"], evidence))
        assert counts.balance == 1, case["Question"]


@pytest.mark.parametrize(
    ("statement", "evidence", "expected"),
    [
        ("He has pneumonia of the left lung.", "Pneumonia of the left lung.", SUPPORTED),
        # in other words: synonyms and wider names of the lexicon, frame words
        ("The patient was diagnosed with a heart attack.", "Myocardial infarction.", SUPPORTED),
        ("Pain is present.", "There is chest pain.", SUPPORTED),
        ("Give penicillamine for gout.", "Give allopurinol for gout.", NOT_IN_EVIDENCE),
        # polarity
        ("There is no chest pain.", "There is chest pain on walking.", CONTRADICTED),
        ("There is chest pain.", "There is no chest pain.", CONTRADICTED),
        ("There is no chest pain.", "There was no chest pain at night.", SUPPORTED),
        ("Do not give aspirin 300 mg.", "Give aspirin 300 mg.", CONTRADICTED),
        ("There is no chest pain.", "Is there chest pain?", SUPPORTED),
        (
            "No aspirin: bleeding, ulcers, asthma.",
            "Aspirin: bleeding, ulcers, asthma.",
            CONTRADICTED,
        ),
        ("No cough, chest pain on walking.", "There is chest pain on walking.", SUPPORTED),
        ("Hold apixaban before surgery.", "Apixaban before surgery.", SUPPORTED),
        # opposites
        ("Weakness of the left arm.", "Weakness of the right arm.", CONTRADICTED),
        ("Weakness of both arms.", "Weakness of the right arm.", SUPPORTED),
        ("Blood pressure fell with bleeding.", "Blood pressure rose with bleeding.", SUPPORTED),
        # numbers
        ("Give aspirin 75 mg daily.", "Give aspirin 300 mg daily.", CONTRADICTED),
        ("Give aspirin 300 mg daily.", "Give aspirin 0.3 g daily.", SUPPORTED),
        ("Fever for 9 days.", "Fever for 3 days.", CONTRADICTED),
        (
            "Potassium 3.5 mEq/L, magnesium 1.4 mg/dL.",
            "Dextrose with potassium; sodium 137 mEq/L, magnesium 1.4 mg/dL.",
            NOT_IN_EVIDENCE,
        ),
        # a drug in another's place
        (
            "Start long term warfarin for the clot.",
            "Start long term apixaban for the clot.",
            CONTRADICTED,
        ),
        # parts
        ("Chest pain at rest; no fever.", "Chest pain at rest. Fever of 39.", CONTRADICTED),
        # fabricated
        ("Give zolvastatin.", "Give simvastatin.", FABRICATED),
        ("Paracetamol 5 g at once.", "He has pain.", FABRICATED),
        ("Paracetamol 5 g at once.", "He took paracetamol 5 g.", SUPPORTED),
        ("It works (Smith et al.).", "It works.", FABRICATED),
        # dismissal
        ("Rest at home.", "Admit her at once.", CONTRADICTED),
        ("Rest at home.", "A blue bicycle.", NOT_IN_EVIDENCE),
        # of what has a name only where the evidence acts on that
        ("No antibiotic is needed.", "Amoxicillin 500 mg three times daily.", CONTRADICTED),
        ("No antibiotics are needed.", "Start oseltamivir 75 mg at once.", NOT_IN_EVIDENCE),
        ("No antibiotic is needed.", "Oseltamivir; no antibiotic at present.", NOT_IN_EVIDENCE),
        ("No antibiotic is needed.", "Antibiotics bring little gain.", NOT_IN_EVIDENCE),
        ("No scan is needed.", "CT of the head within an hour.", CONTRADICTED),
        ("No surgery is needed.", "Give aspirin 300 mg at once.", NOT_IN_EVIDENCE),
        ("Rest at home.", "Rest at home, and return if breathless.", SUPPORTED),
        # nothing to check
        ("Yes.", "Admit her.", NOT_IN_EVIDENCE),
    ],
)  # fmt: skip
def test_a_statement_is_judged_by_its_evidence(statement, evidence, expected, verdict):
    assert verdict(statement, evidence) == expected


def test_errors_are_found_in_faulty_hand_made_answers_and_hardly_in_clean_ones(lexicon):
    """64 answers to shipped cases, half without an error: what is called wrong is an alarm."""
    folder = find_conf_dir().parent / "benchmarks/answers"
    spec = importlib.util.spec_from_file_location("validate", folder / "validate.py")
    validate = importlib.util.module_from_spec(spec)
    sys.modules["validate"] = validate
    spec.loader.exec_module(validate)
    flagged, elsewhere = {True: 0, False: 0}, 0
    for marked in validate.read():
        known = gather_evidence([marked.question, marked.reference], lexicon)
        wrong = [each.statement for each in check_claims(marked.answer, known) if each.is_error]
        flagged[bool(marked.errors)] += bool(wrong)
        if marked.errors:
            elsewhere += sum(
                not any(one.start < end and start < one.end for _, start, end in marked.errors)
                for one in wrong
            )
    assert elsewhere <= 1
    assert flagged[False] <= 2
    assert flagged[True] >= 16


@pytest.mark.parametrize(
    "evidence",
    [
        "Antibiotics bring little gain and can cause diarrhoea",
        "Skip the leftover antibiotic drops from other children",
        "Antibiotics are best avoided",
    ],
)
def test_a_denial_of_what_the_evidence_discourages_is_no_contradiction(evidence, verdict):
    assert verdict("No antibiotics", evidence) != CONTRADICTED
    assert verdict("No antibiotics", "Give antibiotics for five days") == CONTRADICTED


def test_more_may_be_needed_than_most_words(verdict):
    statement, evidence = "Sudden chest pain radiating sideways.", "Sudden chest pain radiating."
    assert verdict(statement, evidence) == SUPPORTED
    assert verdict(statement, evidence, needed=1.0) == NOT_IN_EVIDENCE


def test_a_warning_of_what_is_not_there_yet_is_no_contradiction(lexicon):
    known = gather_evidence(["She has no vomiting at night. Admit her."], lexicon)
    for heading, expected in (
        ("Symptoms", CONTRADICTED), ("Red Flags", SUPPORTED), ("Precautions", SUPPORTED)
    ):  # fmt: skip
        (one,) = check_claims(f"## {heading}\n- Vomiting at night", known)
        assert one.verdict == expected


def test_places_are_those_in_the_whole_answer():
    text = "Think.</think>## Causes\n- First thing. Second\n\n1. Third; with a part"
    statements = split_statements(text)
    assert [each.text for each in statements] == ["First thing.", "Second", "Third; with a part"]
    assert all(text[each.start : each.end] == each.text for each in statements)
    assert {each.section for each in statements} == {"causes"}


@pytest.mark.parametrize("times", [2, 5])
def test_repeating_text_changes_no_count(times, lexicon):
    known = gather_evidence([QUESTION, REFERENCE], lexicon)
    answer = "## Symptoms\n- No sore throat\n- Fever\n- Gout\nRest at home."
    once = count_claims(check_claims(answer, known))
    assert count_claims(check_claims("\n".join([answer] * times), known)) == once
    assert once == ClaimCounts(1, 2, 0, 1, True)


def test_wrong_statements_weigh_against_supported_ones():
    assert ClaimCounts(3, 1, 0, 0).balance == 0.5
    assert ClaimCounts(0, 1, 1, 2).balance == -0.5
    assert ClaimCounts(0, 0, 0, 4).balance == 0
    assert ClaimCounts(0, 0, 0, 0).balance == 0
    assert ClaimCounts(0, 2, 0, 0, True).balance == -2


@pytest.mark.parametrize(
    ("statement", "answer", "expected"),
    [
        ("Give intramuscular adrenaline", "Adrenaline into the muscle, intramuscular.", True),
        ("Call an ambulance | Dial 999", "First dial 999.", True),
        ("Give aspirin", "Do not give aspirin.", False),
        ("Never give aspirin", "Give aspirin.", False),
        ("Never give aspirin", "Aspirin must not be given.", True),
        ("Give aspirin", "Give clopidogrel.", False),
        ("Give aspirin", "Should we give aspirin?", False),
        ("", "Anything.", False),
    ],
)
def test_a_statement_is_recalled_in_one_of_its_wordings_and_its_polarity(
    statement, answer, expected, lexicon
):
    assert recall_statement(statement, gather_evidence([answer], lexicon)) is expected
