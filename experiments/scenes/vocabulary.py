"""Every word that the drawn scenes' texts can use, for a word-level vocabulary."""

_WORDS = """
' , . : ? 0 1 2 3 4 5 a above all ambiguous among an and another any appear are as at be been behind believe
below beside bigger black blue bottom brown can caption certain choose circle circles color colors common
compare compared contain contradiction correct could count counted cross crosses curtain cyan describe
description diamond diamonds do does drawing drawn entailment every exactly excluding exist exists false fewer
find five for found four from further give gray green half hangs has have here hidden hide higher highest how
huge image in incorrect is it item items its judge lack large least left leftmost lie lies list look lower
lowest many mark maybe me middle missing more most name neutral no none not number object objects of on one
only or orange other outnumber over part pick picture present purple rectangle rectangles red right rightmost
s same say says scene see seen shape shapes share short show shows side size small smaller some someone square
squares star stars statement teal tell than that the there these they thing things this three to top total
triangle triangles true two under unknown up verdict verify we what where which whole with without would
yellow yes you
"""


def all_words() -> tuple[str, ...]:
    """Every word and punctuation mark of pre-training texts, downstream texts and labels, sorted.

    Words are runs of letters and digits; each punctuation mark stands alone.
    """
    return tuple(sorted(_WORDS.split()))
