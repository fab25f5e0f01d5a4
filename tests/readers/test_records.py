import json


def test_flat_records_are_a_table_and_objects_headings(read_one):
    value = {
        "suppliers": [{"name": "Ada", "days": 30}, {"name": "Bo", "tags": ["x", "y"]}],
        "owner": "Cy",
        "ok": True,
    }
    document = read_one("list.json", json.dumps(value))
    assert [(item.kind, item.text) for item in document.elements[:3]] == [
        ("field", "owner: Cy"),
        ("field", "ok: true"),
        ("heading", "suppliers"),
    ]
    assert document.elements[3].cells == (("name", "days", "tags"), ("Ada", "30", ""), ("Bo", "", "x, y"))
    assert document.elements[3].heading_path == ("suppliers",)


def test_nested_records_are_named_by_their_name(read_one):
    value = [{"name": "MC-7", "supply": {"volts": 24}}, {"supply": {"volts": 5}}]
    document = read_one("parts.json", json.dumps(value))
    assert [item.heading_path for item in document.elements if item.text.startswith("volts")] == [
        ("MC-7", "supply"),
        ("2", "supply"),
    ]


def test_lines_of_records_are_a_table(read_one):
    assert read_one("a.jsonl", '{"a": 1}\n\n{"a": 2, "b": null}\n').elements[0].cells == (
        ("a", "b"),
        ("1", ""),
        ("2", ""),
    )


def test_damage_and_depth_are_corrupt(refusal):
    assert refusal("a.json", "{") == "corrupt"
    assert refusal("a.jsonl", '{"a": 1}\nnope\n') == "corrupt"
    assert refusal("a.json", "[" * 100_000) == "corrupt"
    assert refusal("a.json", '{"a":' * 100 + "1" + "}" * 100) == "corrupt"
    assert refusal("a.json", "{}") == "no_text"
