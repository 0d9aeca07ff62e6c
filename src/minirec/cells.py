"""What a cell of a source holds: nothing, or text in one form, on every engine."""

import ibis
import ibis.expr.types as ir

# Spelt out, as `str.isspace` has it, since engines differ in what `\s` stands for and
# what they strip; by number, since they differ in how a literal holds such characters.
WHITESPACE = "".join(
    f"\\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace()
)

# Tags of HTML that part words, and all. A "<" before anything but a name is no tag.
PARTING_TAG = r"(?i)</?(br|p|div|ul|ol|li|table|tr|td|h[1-6])\b[^<>]*>"
TAG = "</?[A-Za-z][^<>]*>"

# Entities that stand for white space.
SPACE = r"&(nbsp|ensp|emsp|thinsp|#0*(9|10|13|32|160)|#[xX]0*([9aAdD]|20|[aA]0));"


def is_void(column: ir.Column) -> ir.BooleanColumn:
    """Say which values are null, or as good as null: blank, not finite."""
    if column.type().is_floating():
        return column.isnull() | column.isnan() | column.isinf()
    if column.type().is_string():
        # White space sorts before "!". Engines are slow to search, and a branch of a
        # case is computed for its own rows alone.
        blank = ibis.cases(
            (column < "!", ~column.re_search(f"[^{WHITESPACE}]")), else_=False
        )
        return column.isnull() | blank
    return column.isnull()


def plain_text(column: ir.Value) -> ir.StringValue:
    """Return text as one line without tags of HTML; null where it holds nothing.

    Entities other than spaces stay: `html.unescape` knows them all, engines none.
    """
    text = column.cast("string")
    for pattern, replacement in (
        (PARTING_TAG, " "),
        (TAG, ""),
        (f"({SPACE}|[{WHITESPACE}])+", " "),
        ("^ | $", ""),
    ):
        text = text.re_replace(pattern, replacement)
    return text.nullif("")
