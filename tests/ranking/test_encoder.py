import numpy as np
import pytest

from minirec.costs import counting
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


def test_tokens_and_products_are_counted(encoder, policy_model, tmp_path):
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoTokenizer, BertConfig, BertModel

    texts = ["The Amber Garden", "Up"]
    tokenizer = AutoTokenizer.from_pretrained(**policy_model)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    ).save_pretrained(tmp_path)
    tokenizer.chat_template = None  # else it would read texts as messages
    tokenizer.save_pretrained(tmp_path)
    transformer = load_encoder({"pretrained_model_name_or_path": str(tmp_path)})
    with counting() as costs, FlopCounterMode(display=False) as torchs:
        encode(transformer, texts)
    padded = 2 * 3
    assert costs.tokens_read == 3 + 2
    # torch leaves out attention on a processor; the pooler reads the first token alone
    attention, pooler = 2 * 4 * 16 * padded * 3, 2 * 16**2 * (padded - 2)
    assert costs.flops == torchs.get_total_flops() + attention + pooler
    with counting() as costs:  # a look-up multiplies nothing
        encode(encoder, texts)
    assert costs.tokens_read > 0
    assert costs.flops == 0
