"""A push against a small Ollama on loopback: what is sent, what is not, and every way it can be let down."""

import json
import re
import socket
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import cli, store
from factory.bundle.manifest import Sampling, read_manifest
from factory.bundle.modelfile import check_model_name, suggest_model_name
from factory.bundle.ollama import check_host, model_files, push
from factory.errors import BackendError, ExportError, UsageError
from tests.bundle.ollama_stub import start_stub, write_bundle
from tests.chat.test_turns import CHATML

SAMPLING = Sampling(num_ctx=2048, num_predict=99, temperature=0.25, stop=("<|im_start|>", "<|im_end|>"))
SYSTEM = 'Answer for "Tolvane".\nBe brief — always'


@pytest.fixture
def stub():
    server, stop = start_stub()
    yield server
    stop()


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", CHATML, system=SYSTEM, sampling=SAMPLING)


def steps(bundle, stub, name="acme/hr:q4", **options):
    return list(push(bundle, name, host=stub.url, **options))


def digest(bundle, file="model-Q8_0.gguf"):
    return f"sha256:{store.hash_file(bundle / file)}"


def test_a_push_sends_the_file_and_makes_the_model(bundle, stub):
    taken = steps(bundle, stub)
    assert [step.status for step in taken if step.status != "sending"] == [
        "checking model-Q8_0.gguf",
        "parsing GGUF",
        "writing manifest",
        "success",
    ]
    size = (bundle / "model-Q8_0.gguf").stat().st_size
    assert (taken[-4].done, taken[-4].total) == (size, size)
    assert stub.seen == [
        ("HEAD", f"/api/blobs/{digest(bundle)}"),
        ("POST", f"/api/blobs/{digest(bundle)}"),
        ("POST", "/api/create"),
    ]
    assert stub.blobs == {digest(bundle): (bundle / "model-Q8_0.gguf").read_bytes()}
    request = stub.models["acme/hr:q4"]
    assert request["files"] == {"model-Q8_0.gguf": digest(bundle)}
    assert request["parameters"] == {
        "stop": ["<|im_start|>", "<|im_end|>"],
        "num_ctx": 2048,
        "num_predict": 99,
        "temperature": 0.25,
        "repeat_penalty": 1,
    }


def test_the_model_is_told_what_the_modelfile_says(bundle, stub):
    steps(bundle, stub)
    request, text = stub.models["acme/hr:q4"], (bundle / "Modelfile").read_text()
    quoted = dict(re.findall(r'^(TEMPLATE|SYSTEM|LICENSE) """(.*?)"""$', text, re.DOTALL | re.MULTILINE))
    assert quoted == {
        "TEMPLATE": request["template"],
        "SYSTEM": request["system"],
        "LICENSE": request["license"],
    }
    said = [
        (key, json.loads(value)) for key, value in re.findall(r"^PARAMETER (\S+) (.*)$", text, re.MULTILINE)
    ]
    sent = request["parameters"]
    assert said == [("stop", stop) for stop in sent.pop("stop")] + list(sent.items())


def test_a_file_that_ollama_has_is_not_sent_again(bundle, stub):
    steps(bundle, stub)
    taken = steps(bundle, stub, "acme/hr:again")
    assert [request for request in stub.seen if request[0] == "POST" and "blobs" in request[1]] == [
        ("POST", f"/api/blobs/{digest(bundle)}")
    ]
    assert "Ollama has the file already" in [step.status for step in taken]
    assert set(stub.models) == {"acme/hr:q4", "acme/hr:again"}


def test_another_file_of_the_bundle_can_be_named_but_no_adapter_and_no_path(bundle, stub):
    steps(bundle, stub, file="model-Q4_K_M.gguf")
    assert set(stub.blobs) == {digest(bundle, "model-Q4_K_M.gguf")}
    for file in ("adapter.gguf", "../bundle/model-Q8_0.gguf", "Modelfile", "gone.gguf"):
        with pytest.raises(
            UsageError, match=r"holds no model file .*: name one of model-Q8_0.gguf, model-Q4_K_M"
        ):
            push(bundle, "hr", file=file, host=stub.url)


def test_a_file_listed_outside_the_bundle_is_no_model_file(bundle):
    contents = read_manifest(bundle)
    listed = tuple(file.model_copy(update={"path": f"../{file.path}"}) for file in contents.files)
    assert model_files(contents.model_copy(update={"files": listed})) == ()


def test_a_changed_or_missing_file_is_refused_before_anything_is_sent(bundle, stub):
    path = bundle / "model-Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(
        ExportError, match=r"model-Q8_0.gguf is not the file that was exported: its SHA-256 is"
    ):
        steps(bundle, stub)
    path.unlink()
    with pytest.raises(ExportError, match="its SHA-256 is missing"):
        steps(bundle, stub)
    assert stub.seen == []


def test_a_file_that_changes_on_the_way_fails_the_servers_digest_check(bundle, stub):
    path = bundle / "model-Q8_0.gguf"
    changed = path.read_bytes()[:-1] + b"!"
    stub.before_head = lambda: path.write_bytes(changed)
    with pytest.raises(BackendError, match=r"answered 400 to POST /api/blobs/sha256:.*digest mismatch"):
        steps(bundle, stub)
    assert (stub.blobs, stub.models) == ({}, {})


def test_bytes_that_were_not_checked_never_become_a_model(bundle, stub):
    path = bundle / "model-Q8_0.gguf"
    whole = path.read_bytes()
    stub.before_head = lambda: path.write_bytes(b"GGUF")
    with pytest.raises(ExportError, match="became shorter while it was sent"):
        steps(bundle, stub)
    assert stub.blobs == {}
    path.write_bytes(whole)
    stub.before_head = lambda: path.write_bytes(whole + b"more")
    steps(bundle, stub)
    assert stub.blobs == {f"sha256:{store.hash_bytes(whole)}": whole}


def test_an_error_inside_the_stream_is_an_error(bundle, stub):
    stub.rows = (
        {"status": "parsing GGUF"},
        {"error": "no space left\x1b[2J", "status": 500},
        {"status": "success"},
    )
    with pytest.raises(BackendError, match="did not make the model: 'no space left") as caught:
        steps(bundle, stub)
    assert "\x1b" not in str(caught.value)


def test_a_stream_that_ends_without_success_is_an_error(bundle, stub):
    stub.rows = ({"status": "parsing GGUF"}, {"status": "writing manifest"})
    with pytest.raises(BackendError, match="stopped before the model was made, at 'writing manifest'"):
        steps(bundle, stub)
    stub.rows = ({"status": "success"}, {"status": "writing manifest"})
    with pytest.raises(BackendError, match="stopped before the model was made"):
        steps(bundle, stub)


def test_a_stream_that_is_cut_off_is_an_error_even_after_a_status(bundle, stub):
    stub.rows, stub.cut = ({"status": "writing manifest"},), True
    with pytest.raises(BackendError, match=r"The connection to Ollama at http://127.0.0.1:\d+ broke"):
        steps(bundle, stub)


@pytest.mark.parametrize("row", ["<html>", "[]", "null", "3"])
def test_what_is_no_stream_of_ollama_is_an_error(bundle, stub, row):
    stub.rows = (row,)
    with pytest.raises(BackendError, match="is another program there"):
        steps(bundle, stub)


def test_a_create_that_is_refused_outright_says_why(bundle, stub):
    stub.head_status = 200  # as if the blob were there
    with pytest.raises(BackendError, match=r"answered 400 to POST /api/create: .blob not found"):
        steps(bundle, stub)


@pytest.mark.parametrize("status", [307, 401, 500])
def test_redirects_and_refusals_are_errors_and_nothing_follows(bundle, stub, status):
    stub.head_status = status
    with pytest.raises(BackendError, match=f"answered {status} to HEAD"):
        steps(bundle, stub)
    assert len(stub.seen) == 1


def test_statuses_cannot_steer_a_terminal(bundle, stub):
    stub.rows = ({"status": "a\x1b[2Jb\n" + "c" * 999}, {"status": "success"})
    status = steps(bundle, stub)[-2].status
    assert status.startswith("a[2Jbc")
    assert len(status) == 200


def test_ollama_that_does_not_run_is_one_line(bundle, closed_port):
    with pytest.raises(BackendError, match=r"does not answer at .*: start it with `ollama serve`"):
        list(push(bundle, "hr", host=f"http://127.0.0.1:{closed_port}"))


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_proxies_of_the_environment_are_not_used(bundle, stub, closed_port, monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert steps(bundle, stub)[-1].status == "success"


def test_a_client_that_is_given_is_used_and_left_open(bundle, stub):
    with httpx.Client(timeout=5, trust_env=False) as client:
        assert steps(bundle, stub, client=client)[-1].status == "success"
        assert not client.is_closed


def test_closing_the_iterator_stops_the_upload(tmp_path, stub):
    bundle = write_bundle(tmp_path / "large", CHATML, size_bytes=16 << 20)
    stub.gate.clear()
    running = push(bundle, "hr", host=stub.url)
    totals = {next(running).total for _ in range(3)}
    assert max(totals) == (bundle / "model-Q8_0.gguf").stat().st_size
    stub.gate.set()
    running.close()
    assert stub.blobs == {}
    assert ("POST", "/api/create") not in stub.seen


@pytest.mark.parametrize(
    "host",
    ["http://ollama.example", "http://0.0.0.0:11434", "http://192.168.1.4:11434", "http://localhost.example"],
)
def test_another_machine_is_refused_without_the_flag(bundle, host):
    with pytest.raises(UsageError, match=r"is not this machine, .* with --allow-remote"):
        push(bundle, "hr", host=host)
    assert check_host(f"{host}/", allow_remote=True) == host


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1:11434", "ftp://127.0.0.1", "file:///etc/passwd", "http://", "http://me:pass@127.0.0.1",
     "http://127.0.0.1\\@other.example", "http://127.0.0.1?x", "http://127.0.0.1#x", "http://127.0.0.1:99999",
     "http://127.0.0.1:x", "http://127.0.0.1/\n"],
)  # fmt: skip
def test_what_is_no_http_address_is_refused_even_with_the_flag(host):
    with pytest.raises(UsageError, match="is not an"):
        check_host(host, allow_remote=True)


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:11434", "http://127.9.9.9", "https://[::1]:7", "http://LOCALHOST:1"]
)
def test_this_machine_needs_no_flag(host):
    assert check_host(host) == host.lower()


@pytest.mark.parametrize("name", ["hr", "acme/hr", "acme/hr:q4", "HR_2.0:Q4_K_M", "_x"])
def test_names_that_ollama_takes(name):
    check_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-x", ".x", "a..b", "../x", "a/../b", "a/b/c", "host.example/a/b", "a.b/c", "a:", "a:b:c", "a b", "a\n", "é",
     "a" * 81, "a\\b", "$(x)", "http://a/b"],
)  # fmt: skip
def test_names_that_ollama_does_not_take_are_refused_before_anything_is_sent(bundle, stub, name):
    with pytest.raises(UsageError, match="is not a model name for Ollama"):
        push(bundle, name, host=stub.url)
    assert stub.seen == []


@given(st.text(alphabet="ab.:/_-~\\ \n", max_size=12))
def test_an_accepted_name_has_one_plain_part_in_each_place(name):
    try:
        check_model_name(name)
    except UsageError:
        return
    parts = re.split("[/:]", name)
    assert 1 <= len(parts) <= 3
    assert all(re.fullmatch(r"[ab_][ab._-]*", part) for part in parts)
    assert ".." not in name


def test_the_default_file_gets_the_bundles_name_and_others_their_type(bundle):
    contents = read_manifest(bundle)
    assert suggest_model_name(contents) == suggest_model_name(contents, "model-Q8_0.gguf") == "tolvane"
    assert suggest_model_name(contents, "model-Q4_K_M.gguf") == "tolvane:q4_k_m"


@pytest.fixture
def factory(monkeypatch, capfd):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["factory", "push-ollama", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capfd.readouterr()

    return run


def test_the_command_pushes_and_says_how_to_run_it(factory, bundle, stub):
    code, out, err = factory(bundle, "--host", stub.url)
    assert (code, out) == (0, "ollama run tolvane\n")
    assert err.split("\n")[0] == "  checking model-Q8_0.gguf"
    assert err.endswith("  success\n")
    code, out, _ = factory(bundle, "--host", stub.url, "--file", "model-Q4_K_M.gguf")
    assert (code, out) == (0, "ollama run tolvane:q4_k_m\n")
    code, out, _ = factory(bundle, "--host", stub.url, "--name", "acme/hr:q4")
    assert (code, out) == (0, "ollama run acme/hr:q4\n")
    assert set(stub.models) == {"tolvane", "tolvane:q4_k_m", "acme/hr:q4"}


def test_the_command_fails_with_one_line_and_its_exit_code(factory, bundle, stub, closed_port):
    for arguments, code, message in (
        (["--host", f"http://127.0.0.1:{closed_port}"], 1, "error: Ollama does not answer at"),
        (["--host", "http://ollama.example"], 2, "error: 'http://ollama.example' is not this machine"),
        (["--host", stub.url, "--name", "../x"], 2, "error: '../x' is not a model name"),
        (["--host", stub.url, "--file", "gone.gguf"], 2, "error: "),
    ):
        done, out, err = factory(bundle, *arguments)
        assert (done, out) == (code, ""), arguments
        assert err.splitlines()[-1].startswith(message)
        assert "Traceback" not in err
    stub.rows = ({"error": "no space left"},)
    code, out, err = factory(bundle, "--host", stub.url)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: Ollama did not make the model: 'no space left'")
