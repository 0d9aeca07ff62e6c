import pytest
from plotly import graph_objects as go

from minirec.reporting.page import difference, drawn, html_table, interval, number, page

HOSTILE = "</td></script><script>alert(1)</script>\"' & &lt;"


def test_cells_are_shown_as_they_are():
    html = html_table([HOSTILE], [[HOSTILE]], below=[HOSTILE])
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") == 3
    assert "&amp; &amp;lt;" in html


def test_markup_stands_where_it_is_asked_for_and_text_to_the_left():
    html = html_table(["a", "b"], [["<i>", "<i>x</i>"]], raw=["b"], texts=["b"])
    assert html == (
        '<div class="wide"><table><tr><th>a</th><th class="text">b</th></tr>'
        '<tr><td>&lt;i&gt;</td><td class="text"><i>x</i></td></tr></table></div>'
    )


def test_a_page_may_load_nothing():
    plain = page("T & <T>", ["<p>text</p>"])
    assert "<title>T &amp; &lt;T&gt;</title>" in plain
    assert "default-src 'none'" in plain
    assert "script-src 'none'" in plain
    assert "<script" not in plain


def test_plotly_stands_in_a_page_once_however_many_figures():
    figures = [drawn(go.Figure(go.Bar(y=[n])), f"figure-{n}") for n in (1, 2)]
    whole = page("T", figures, scripts=True)
    assert whole.count("plotly.js v") == 1
    assert whole.count("Plotly.newPlot(") == 2
    assert "<script src" not in whole
    assert "<link" not in whole
    # equal figures are equal text
    assert figures[0] == drawn(go.Figure(go.Bar(y=[1])), "figure-1")


def test_text_in_a_figure_does_not_end_its_script():
    html = drawn(go.Figure(go.Bar(y=[1]), {"title": {"text": HOSTILE}}), "one")
    assert html.count("</script>") == html.count("<script") == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, ""),
        (float("nan"), ""),
        (0, "0"),
        (0.12345, "0.123"),
        (123456, "123,456"),
        (5.92e13, "5.92e+13"),
    ],
)
def test_numbers(value, written):
    assert number(value) == written


def test_means_and_differences_stand_with_their_intervals():
    row = {"mean": 0.5, "low": 0.25, "high": 0.75}
    # broken over two lines before the bracket, if anywhere
    assert interval(row) == "0.5000 [0.2500,\u00a00.7500]"
    assert interval({"mean": 0.5, "low": float("nan")}) == "0.5000"
    row = {"difference": -1e-9, "low": -0.1, "high": 0.1, "p_holm": 0.0004}
    # what rounds to nothing has no minus
    assert difference(row | {"verdict": "open"}) == (
        '<span class="open">+0.0000</span> '
        "[-0.1000,\u00a0+0.1000], p\u00a0&lt;\u00a00.001"
    )
    assert difference(None) == ""
