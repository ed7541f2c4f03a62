"""What a server may be asked for, and what its errors say; without vLLM."""

import dataclasses
import json
import logging
from types import SimpleNamespace

import pytest
import transformers
from tokensieve import ArgumentError, Profile, SelectConfig
from tokensieve.vllm import plugin, policy

PROFILE = {"tokensieve_profile": 1, "fingerprint": {"num_layers": 4}, "sparse_layers": [1, 3],
           "min_tokens": 600, "select": {"budget": "keep_ratio", "fill": "local"}}


def server(additional, speculative=None):
    """The configuration of a server with a llama of four layers."""
    model = SimpleNamespace(hf_config=transformers.LlamaConfig(num_hidden_layers=4))
    return SimpleNamespace(additional_config=additional, model_config=model,
                           speculative_config=speculative)


def profile_of(asked=None):
    return policy.of_server(server({} if asked is None else {"tokensieve": asked, "others": 1}))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("TOKENSIEVE_PROFILE", raising=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE))
    return str(path)


def test_nobody_asked():
    assert profile_of() is None
    assert policy.of_server(server(object())) is None  # an object of another plug-in


def test_a_model_that_drafts_is_left_alone():
    config = server({"tokensieve": {}})
    assert policy.of_server(config) is not None
    for other, expected in ((config.model_config, True), (object(), False)):
        config.speculative_config = SimpleNamespace(draft_model_config=other)
        assert (policy.of_server(config) is None) == expected


def test_the_environment_names_a_profile(file, monkeypatch):
    monkeypatch.setenv("TOKENSIEVE_PROFILE", file)
    assert profile_of() == Profile.load(file) == policy.named_by_environment()
    monkeypatch.setenv("TOKENSIEVE_PROFILE", "")
    assert profile_of() is None


def test_an_object_without_anything_is_the_default():
    profile = profile_of({})
    assert profile.sparse_layers == (2, 3) and profile.select.fill == "local"


@pytest.mark.parametrize("given", [PROFILE, "file"])
def test_a_profile_and_changes_of_it(given, file):
    given = file if given == "file" else given
    profile = profile_of({"profile": given, "layers": [3, 2], "min_tokens": 500,
                          "select": {"keep_ratio": 0.5}})
    assert profile == dataclasses.replace(
        Profile.load(file), sparse_layers=(2, 3), min_tokens=500,
        select=SelectConfig(budget="keep_ratio", fill="local", keep_ratio=0.5))


def test_changes_of_the_named_profile(file, monkeypatch):
    monkeypatch.setenv("TOKENSIEVE_PROFILE", file)
    assert profile_of({"select": {"enabled": False}}).select.enabled is False
    assert profile_of({"profile": dict(PROFILE, min_tokens=7)}).min_tokens == 7


@pytest.mark.parametrize("asked, text", [
    ("smollm2", "'smollm2' is no object; allowed: an object with any of profile, layers"),
    ({"profiles": "smollm2"}, "unknown setting 'profiles'; allowed: profile, layers, min_tokens"),
    ({"profile": "nowhere"}, "no profile 'nowhere': neither a file nor one of the shipped"),
    ({"profile": 3}, "profile is 3; allowed: the name of a shipped one, a JSON file, or"),
    ({"profile": {"tokensieve_profile": 1}}, "profile.*fingerprint is missing"),
    ({"profile": dict(PROFILE, fingerprint={"num_layers": 5})}, "num_layers"),
    ({"layers": [4]}, r"layers is \[4\]; allowed: a list of integers from 1 to 3"),
    ({"layers": [0]}, r"layers is \[0\]; allowed: a list of integers from 1 to 3"),
    ({"layers": "1-3"}, "layers is '1-3'; allowed: a list"),
    ({"min_tokens": "many"}, "min_tokens is 'many'; allowed: an integer from 1"),
    ({"min_tokens": True}, "min_tokens is True; allowed: an integer from 1"),
    ({"select": ["tau"]}, r"select is \['tau'\]; allowed: an object with settings of"),
    ({"select": {"layers": [1]}}, "allowed: an object with settings of"),
    ({"select": {"kept": 0.5}}, "unknown setting 'kept'; allowed: layers, min_tokens, "),
    ({"select": {"keep_ratio": 2}}, "keep_ratio is 2"),
    ({"select": {"keep_ratio": "half"}}, "keep_ratio"),
    ({"select": {"fill": []}}, "fill"),
])
def test_wrong_settings(asked, text):
    with pytest.raises(ArgumentError, match=f"^--additional-config: tokensieve: .*{text}"):
        profile_of(asked)


@pytest.mark.parametrize("text, message", [
    (None, "no profile '.*': neither a file nor one of the shipped"), ("{", "JSON"),
    (json.dumps(dict(PROFILE, fingerprint={"num_layers": 30})), "num_layers")])
def test_wrong_profiles_of_the_environment(text, message, tmp_path, monkeypatch):
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("TOKENSIEVE_PROFILE", str(path))
    with pytest.raises(ArgumentError, match=f"^TOKENSIEVE_PROFILE: .*{message}"):
        profile_of()


@pytest.mark.parametrize("fill, warned", [("local", False), ("zero", True)])
def test_the_log_at_the_start(fill, warned, caplog, monkeypatch):
    """What will run sparse, once; zeros are a hazard where prompts are read in chunks."""
    policy.say.cache_clear()
    caplog.set_level("INFO", "vllm.tokensieve")
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)  # to pytest as well
    profile = profile_of({"select": {"fill": fill}})
    for _ in range(3):
        policy.say(profile, 2048)
    info = caplog.records[0].getMessage()
    assert "prompts of 4096 tokens and more are read sparsely in 2 of 4 layers" in info
    assert [record.levelname for record in caplog.records] == ["INFO"] + ["WARNING"] * warned
    assert not warned or "chunks of prompts above 2048 tokens" in caplog.text


@pytest.mark.parametrize("version", ["0.26.0", "0.30.1.dev2", "0.32.0", "0.32.4+cpu"])
def test_versions_that_are_taken(version):
    assert plugin._version_problem(version) == ""


@pytest.mark.parametrize("version", ["0.25.1", "0.33.0", "1.0.0", "dev", "", "0"])
def test_versions_that_are_not(version):
    assert plugin._version_problem(version).startswith(
        f"this is vLLM {version}; allowed: 0.26 to 0.32. Install one of these")
