import ibis
import pandera.errors
import pytest

from minirec.schemas import Samples

TYPES = {
    "sample_id": "int64",
    "user_id": "string",
    "position": "int64",
    "timestamp": "float64",
    "target_item_id": "string",
    "split": "string",
    "history_item_id": "array<string>",
}


def samples(**types):
    return ibis.duckdb.connect().create_table("samples", schema={**TYPES, **types})


def test_samples_of_the_right_types_pass():
    Samples.validate(samples(), lazy=True)


@pytest.mark.parametrize(
    ("column", "type_"),
    [("sample_id", "string"), ("history_item_id", "array<int64>")],
)
def test_a_column_of_another_type_is_refused(column, type_):
    with pytest.raises(pandera.errors.SchemaErrors, match=column):
        Samples.validate(samples(**{column: type_}), lazy=True)
