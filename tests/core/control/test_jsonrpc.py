"""JSON-RPC as jsonrpcs speaks it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.control.jsonrpc import Request, render, take_document
from sipdump_core.errors import RpcFault

UPTIME = """{
\t"jsonrpc":\t"2.0",
\t"result":\t{
\t\t"now":\t"Mon Nov 23 01:22:00 2026",
\t\t"uptime":\t7
\t},
\t"id":\t1
}"""


def request(**members: Any) -> Request:
    return Request.of(json.dumps({"jsonrpc": "2.0", "method": "m", **members}).encode())


def test_the_layout_is_that_of_jsonrpcs() -> None:
    values = [{"now": "Mon Nov 23 01:22:00 2026", "uptime": 7}]
    assert request(id=1).success(values, array=False).decode() == UPTIME
    assert render([1, "a", {"b": []}]) == '[1, "a", {\n\t\t"b":\t[]\n\t}]'
    assert render({"result": {}}, 0) == '{\n\t"result":\t{\n\t}\n}'


@pytest.mark.parametrize(
    ("given_id", "shown"),
    [
        ("abc", '"abc"'),
        ("é\n", '"é\\n"'),
        (12345678901234, "12345678901234"),
        (-1, "-1"),
        (1.5, "1.500000"),
        (True, "1"),
        (None, "0"),
        ([1], "0"),
        (10**400, str(10**400)),
    ],
    ids=str,
)
def test_ids_as_kamailio_gives_them_back(given_id: Any, shown: str) -> None:
    answer = request(id=given_id).success([1], array=False).decode()
    assert answer == f'{{\n\t"jsonrpc":\t"2.0",\n\t"result":\t1,\n\t"id":\t{shown}\n}}'


def test_without_an_id_the_answer_has_none() -> None:
    assert request().success([], array=True).decode() == '{\n\t"jsonrpc":\t"2.0",\n\t"result":\t[]\n}'


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", -32700),
        (b"garbage", -32700),
        (b"[" * 60_000, -32700),
        (b"9" * 60_000, -32700),
        (b'{"jsonrpc": "2.0", "method": "m", "id": NaN}', -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc": "2.0", "method": "m", "id": 1}]', -32600),
        (b"null", -32600),
        (b'{"jsonrpc": "1.0", "method": "m", "id": 1}', -32600),
        (b'{"method": "m", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": 7, "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "m", "params": 7, "id": 1}', -32602),
        (b'{"jsonrpc": "2.0", "method": "m", "params": null, "id": 1}', -32602),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_request_gets_an_error(data: bytes, code: int) -> None:
    found = Request.of(data)
    assert found.error is not None
    assert found.error.code == code
    answer = json.loads(found.failure(found.error))
    assert answer["error"]["code"] == code
    assert answer["id"] == (1 if b'"id": 1' in data and not data.startswith(b"[") else None)


def test_params() -> None:
    assert request(params=[1, "a"]).args == [1, "a"]
    assert request(params={"x": 1, "y": "a"}).args == [1, "a"]
    assert request().args == []


def test_unknown_method_has_jsonrpcs_text() -> None:
    answer = json.loads(request(id=1).failure(RpcFault(500, "command m not found")))
    assert answer["error"] == {"code": 500, "message": "Method Not Found"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/etc/x", ".x", "a.b", "a\\b", "a\0b", "a\nb", "x" * 101, 7, None])
def test_reply_names_that_lead_elsewhere(name: Any) -> None:
    assert not request(reply_name=name).reply_name_ok


def test_reply_name_of_kamctl() -> None:
    assert request(reply_name="kamailio_receiver_123").reply_name_ok


def test_bytes_that_are_no_utf8_come_back_as_they_were() -> None:
    found = Request.of(b'{"jsonrpc": "2.0", "method": "m", "id": "\xff\xe9"}')
    assert b'"\xff\xe9"' in found.success([1], array=False)
    assert Request.of(b'{"jsonrpc": "2.0", "method": "m", "id": "\\ud800"}').success([1], array=False)


def test_a_fifo_is_cut_into_documents() -> None:
    first = b'{"a": "}{\\"", "b": {"c": 1}}'
    stream = b"noise\n" + first + b"\\n\n" + b'{\n"d": 2\n}\n'
    buffer = bytearray()
    found = []
    for at in range(len(stream)):
        buffer += stream[at : at + 1]
        while (document := take_document(buffer)) is not None:
            found.append(document)
    assert found == [first, b'{\n"d": 2\n}']
    assert not buffer.strip()


@given(st.binary(max_size=500) | st.text('{}"\\ab', max_size=60).map(str.encode))
def test_any_fifo_bytes(data: bytes) -> None:
    buffer = bytearray(data)
    before = len(buffer) + 1
    while (document := take_document(buffer)) is not None:
        assert document.startswith(b"{")
        assert len(buffer) < before
        before = len(buffer)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    found = Request.of(data)
    assert found.error or json.loads(data)["method"] == found.method
    answer = json.loads(found.failure(RpcFault(1, "x")).decode("utf-8", "replace"))
    assert answer["error"] == {"code": 1, "message": "x"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries({"jsonrpc": JSON | st.just("2.0")}, optional=dict.fromkeys(("id", "method", "params"), JSON))
)
def test_any_json_gives_an_answer_that_is_json(members: dict[str, Any]) -> None:
    found = Request.of(json.dumps(members).encode())
    answer = found.failure(found.error) if found.error else found.success([{"a": found.method}], array=True)
    assert json.loads(answer.decode("utf-8", "replace"))["jsonrpc"] == "2.0"
