"""What `w2s serve` says about where to listen, before anything starts."""

import os

import pytest

from serving.errors import ServingInputError
from sweeps.commands.serve import Door, door_of
from w2s.errors import UserError

KEY = "0123456789abcdef"


def test_other_addresses_than_loopback_need_a_key():
    for host in ("0.0.0.0", "::", "10.1.2.3"):
        with pytest.raises(UserError, match=rf"--host {host} lets other machines in.*api-key-env"):
            door_of(host, 8000, None)
    assert door_of("127.0.0.1", 8000, None) == Door("127.0.0.1", 8000)


def test_key_comes_from_the_environment_and_leaves_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", KEY)
    assert door_of("0.0.0.0", 8000, "MY_KEY") == Door("0.0.0.0", 8000, KEY, "MY_KEY")
    assert "MY_KEY" not in os.environ
    with pytest.raises(ServingInputError, match=r"MY_KEY is not set"):
        door_of("0.0.0.0", 8000, "MY_KEY")
