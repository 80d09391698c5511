"""The measurements on other authors' texts: on records of their schemas, with fields missing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "answers"


def load_script(name):
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def external():
    return load_script("external")


TRUE = "Blood loss may be alike in both groups."
HALLUCINATED = "Blood loss is significantly reduced due to coagulation pathways."
PAIR = {
    "question": "Does it bleed less?",
    "knowledge": "['Blood loss was 20 mL in both groups.'\n \"It wasn't more.\"]",
    "true": TRUE,
    "hallucinated": HALLUCINATED,
}
EYE = "A man of 40 has a sore red eye with sticky discharge since Monday evening."
FAULTY = {
    "is_faulty": True,
    "error_type": "pharmacotherapy",
    "text": f"{EYE} Atropine is given.",
    "error_sentence": "Atropine is given.",
    "corrected_text": f"{EYE} Erythromycin is given.",
}
CORRECT = {
    "is_faulty": False,
    "text": f"{EYE} He received erythromycin.",
}


def test_a_hallucinated_answer_ranks_above_the_true_one(external):
    found = external.measure_medhallu([PAIR, {**PAIR, "knowledge": ["Other."]}, {"true": "x"}, {}])
    assert found["rules"] == found["rules"] | {"auc": 1, "pair_accuracy": 1}
    assert found["best"]["verifier"] == "rules"
    assert (found["records"], found["left_out"]) == (2, 2)
    turned = {**PAIR, "true": HALLUCINATED, "hallucinated": TRUE}
    assert external.measure_medhallu([turned])["rules"]["auc"] == 0


def test_a_verifier_is_ranked_beside_and_with_the_rules(external):
    class Backwards:
        name = "backwards"

        def support(self, items):
            return [float(HALLUCINATED in item.answer) for item in items]

    found = external.measure_medhallu([PAIR], [Backwards()])
    assert found["verifiers"]["backwards"]["auc"] == 0
    assert found["rules"]["auc"] == 1
    assert found["best"] == {"auc": 0.5, "pair_accuracy": 0.5, "verifier": "rules + backwards"}
    assert found["mean_ranks"]["rules + backwards"]["auc"] == 0.5


def test_a_wrong_sentence_is_caught_and_a_twin_in_other_words_is_not(external):
    found = external.measure_medec([FAULTY, CORRECT, {"is_faulty": True}, {}])
    assert found["rules"]["recall"] == 1
    assert found["rules"]["false_alarms"] == 0
    assert found["rules"]["recall_by_kind"] == {"pharmacotherapy": 1}
    assert found["records"]["of_them_with_a_twin"] == 1
    wrong = {**CORRECT, "text": f"{EYE} Atropine is given."}
    assert external.measure_medec([FAULTY, wrong])["rules"]["false_alarms"] == 1
    right = {**FAULTY, "error_sentence": "Erythromycin is given."}
    assert external.measure_medec([right])["rules"]["recall"] == 0
    assert external.measure_medec([])["rules"]["recall"] is None


def test_without_a_twin_the_other_sentences_of_a_faulty_text_must_not_be_flagged(external):
    without_text = {key: value for key, value in FAULTY.items() if key != "corrected_text"}
    record = {**without_text, "corrected_sentence": "Erythromycin is given."}
    found = external.measure_medec([record, {"is_faulty": False, "text": "Another story."}])
    assert found["rules"]["recall"] == 1
    assert found["rules"]["false_alarms"] == 0
    assert found["false_alarms_are_taken_on"] == "other sentences"
    assert found["records"]["of_them_with_a_twin"] == 0
    assert external.measure_medec([FAULTY, CORRECT])["false_alarms_are_taken_on"] == "twins"


def _judged(*choices):
    experts = {
        f"medical_expert_{number}": f"1) Alignment: Tie\n4) Reasoning: {choice}\n6) Omission: Tie"
        for number, choice in enumerate(choices, 1)
    }
    return {
        "gpt4 (Option A)": (
            "It is gout because uric acid crystals form in joints. See a doctor if it lasts."
        ),
        "medical expert (Option B)": "It is gout.",
        **experts,
    }


def test_experts_are_compared_with_each_other_and_with_the_rules(external):
    record = _judged("Option A", "Option A", "Option B")
    found = external.measure_medlfqa({"human": [record, {}]})["preference"]
    assert found["pairs"] == found["left_out"] == 1
    assert found["experts_with_each_other"]["without_ties"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["rules_with_experts"]["without_ties"] == pytest.approx(2 / 3, abs=1e-3)
    tied = external.measure_medlfqa({"human": [_judged("Tie", "Tie")]})["preference"]
    assert tied["experts_with_each_other"] == {"all": 1, "without_ties": None, "compared": 0}


def test_an_omission_counts_against_the_one_that_has_it(external):
    record = _judged("Tie") | {"medical_expert_1": "6) Omission of information: Option A"}
    found = external.measure_medlfqa({"human": [record]})["preference"]
    assert found["controls"]["always_option_a"]["without_ties"] == 0


def test_statements_are_looked_for_in_their_own_answer_and_in_another(external):
    records = [
        {"Free_form_answer": "Gout hurts the toe.", "Must_have": ["Gout hurts the toe"]},
        {"Free_form_answer": "Rest.", "Must_have": ["Sleep well"], "Nice_to_have": None},
        {"Question": "?"},
    ]
    found = external.measure_medlfqa({"kqa": records})["coverage"]["kqa"]
    assert found["Must_have"] == {"own_answer": 0.5, "other_answer": 0}
    assert found["Nice_to_have"] == {"own_answer": None, "other_answer": None}


def test_area_under_curve_counts_ties_half(external):
    assert external.area_under_curve([2, 3], [1]) == 1
    assert external.area_under_curve([1, 2], [1, 2]) == 0.5
    assert external.area_under_curve([1], [2, 1]) == 0.25


def test_the_command_prints_json_and_a_table(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(PAIR) + "\nno json\n[]\n")
    command = [sys.executable, str(FOLDER / "external.py"), "--medhallu", str(file)]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["medhallu"]["best"]["auc"] == 1
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "medhallu\n  records" in table


def test_five_kinds_of_answers_come_in_order(lexicon):
    acceptance = load_script("acceptance")
    cases = acceptance.read_cases()
    found = acceptance.measure_order(cases[:12], lexicon)
    grades = [found[f"mean grade, {kind}"] for kind in acceptance.KINDS]
    assert grades == sorted(grades, reverse=True)
    assert found["auc gold+sibling vs rest"] >= 0.95
    assert found["repeating changes no grade"]


def test_examples_are_half_right_and_each_wrong_one_differs():
    pytest.importorskip("medexp.evaluation.measures.corruptions")
    script = load_script("train_verifier")
    cases = script.read_training_cases(32)
    held_out = {case["condition"] for case in script.read_training_cases(0)} - {
        case["condition"] for case in cases
    }
    assert len(held_out) >= 12
    examples = script.make_examples(cases[:10], 0)
    assert examples == script.make_examples(cases[:10], 0)
    answers = [each["Response"] for each in examples]
    assert answers.count("Yes") == answers.count("No") > 20
    questions = [each["Question"] for each in examples]
    assert len(set(questions)) > 0.9 * len(questions)
    assert {each["kind"] for each in examples} > {"supported", "unsupported", "polarity"}
