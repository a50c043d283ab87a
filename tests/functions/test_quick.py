"""Options of XLA that are not there are left out."""

import pytest

from ntkgen.functions import _quick


@pytest.mark.parametrize(("options", "known"), [(_quick.OPTIONS, True), ({"xla_no_such_option": True}, False)])
def test_an_option_that_xla_dropped_is_left_out(options, known, monkeypatch):
    monkeypatch.setattr(_quick, "OPTIONS", options)
    _quick.known.cache_clear()
    assert _quick.quick_jit(lambda x: 2 * x)(3.0) == 6.0
    assert _quick.known() is known
    _quick.known.cache_clear()
