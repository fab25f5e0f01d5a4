import math

import pytest

from factory.backends.embedder import MODEL_ID, embedder_folder

needs_encoder = pytest.mark.skipif(embedder_folder() is None, reason="the encoder is not installed")
URL = "/v1/embeddings"


def _product(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_without_an_encoder_the_route_is_not_offered(http, monkeypatch):
    monkeypatch.setattr("factory.api.routes.embedder_folder", lambda: None)
    answer = http.post(URL, json={"model": "gate", "input": "x"})

    assert answer.status_code == 501
    assert answer.json()["error"]["code"] == "not_offered"
    assert MODEL_ID not in http.get("/v1/models").text


@needs_encoder
def test_vectors_have_unit_length_and_near_texts_lie_near(client):
    texts = ["The gate is locked.", "The door is closed.", "Bananas are yellow."]
    answer = client.embeddings.create(model=MODEL_ID, input=texts)  # this client asks for base64
    numbers = client.embeddings.create(model=MODEL_ID, input=texts[0], encoding_format="float")
    gate, door, banana = (row.embedding for row in answer.data)

    assert [row.index for row in answer.data] == [0, 1, 2]
    assert math.hypot(*gate) == pytest.approx(1, abs=1e-5)
    assert numbers.data[0].embedding == pytest.approx(gate, abs=1e-5)
    assert _product(gate, door) > _product(gate, banana) + 0.2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 12


@needs_encoder
@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"model": "gate"}, 404),
        ({"input": []}, 400),
        ({"input": ["x"] * 513}, 400),
        ({"input": [[1, 2]]}, 400),
        ({"encoding_format": "int8"}, 400),
    ],
)
def test_what_cannot_be_embedded_is_refused(http, more, status):
    assert http.post(URL, json={"model": MODEL_ID, "input": "x"} | more).status_code == status
