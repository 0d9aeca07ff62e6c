import numpy as np
import pytest

from minirec.ranking.encoder import encode, load_encoder


@pytest.fixture(scope="module")
def encoder(encoder_model):
    return load_encoder(encoder_model)


def test_embeddings_have_unit_length_in_the_order_of_the_texts(encoder):
    texts = ["The Silent Harbour", "The Amber Garden", "The Silent Harbour"]
    embeddings = encode(encoder, texts)
    assert embeddings.dtype == np.float32
    # a sum of 16 squares in float32
    np.testing.assert_allclose(
        np.linalg.norm(embeddings, axis=1), 1, rtol=0, atol=16 * 2**-24
    )
    assert embeddings[0].tolist() == embeddings[2].tolist()
    assert embeddings[1].tolist() == encode(encoder, texts[1:2])[0].tolist()
    assert embeddings[0].tolist() != embeddings[1].tolist()


def test_equal_texts_are_encoded_once(encoder, monkeypatch):
    read = []
    inner = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda texts, **kw: read.extend(texts) or inner(texts, **kw)
    )
    assert len(encode(encoder, ["b", "a", "b", "b"])) == 4
    assert read == ["b", "a"]


def test_an_empty_text_has_an_embedding(encoder):
    embeddings = encode(encoder, ["", "The Amber Garden"])
    assert np.isfinite(embeddings).all()


def test_no_texts_no_rows(encoder):
    assert encode(encoder, []).shape == (0, 16)


def test_nothing_is_printed(encoder_model, capfd):
    encode(load_encoder(encoder_model), ["The Amber Garden"])
    assert capfd.readouterr() == ("", "")
