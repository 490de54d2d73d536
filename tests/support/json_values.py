"""Any JSON that Python can hold, storable or not."""

import hypothesis.strategies as st

from domain.json import JsonObject

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, 2**64, -(2**63) - 1, 2**64 - 1]),
    st.floats(),
    st.text(st.characters(), max_size=10),
    st.sampled_from(["\0", "\ud800", "a\udfffb", "😀", "\u2028", "\n", '"', "\\u0000"]),
)
any_json = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
any_json_object: st.SearchStrategy[JsonObject] = st.dictionaries(st.text(max_size=5), any_json, max_size=3)
