import json

from factory.weights.gates import Gates


def test_limits_belong_to_what_passes():
    gates = Gates()
    gates.at_most("a", "x.gguf", 0.5, 0.5)
    gates.at_least("b", "x.gguf", 0.5, 0.5)
    gates.at_most("a", "y.gguf", 0.51, 0.5)
    gates.at_least("b", "y.gguf", 1, 0.5)

    assert [gate.passed for gate in gates.gates] == [True, True, False, True]
    assert gates.files() == {"x.gguf": True, "y.gguf": False}
    assert gates.rows()[0] == {"name": "a", "subject": "x.gguf", "value": 0.5, "limit": 0.5, "passed": True}


def test_a_file_is_no_better_than_what_it_rests_on():
    gates = Gates(rests_on={"merged": "adapter", "f16": "merged", "q8": "f16"})
    for subject in ("adapter", "merged", "f16", "q8", "other"):
        gates.at_most("a", subject, int(subject == "merged"), 0.5)

    assert gates.files() == {"adapter": True, "merged": False, "f16": False, "q8": False, "other": True}
    assert [gate.subject for gate in gates.gates if not gate.passed] == ["merged"]


def test_what_cannot_be_measured_fails_and_stays_json():
    gates = Gates()
    gates.at_most("a", "x", float("nan"), 1)
    gates.at_least("a", "x", float("inf"), 1)
    gates.at_least("a", "x", float("nan"), 1)

    assert not any(gate.passed for gate in gates.gates)
    assert json.loads(json.dumps(gates.rows(), allow_nan=False))[0]["value"] == 1e9
