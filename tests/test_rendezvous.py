"""Processes find each other at process 0's port; whatever stands in the way is named by all who can see it."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from alexnet_jax.cluster.launcher import ProcessGroup
from alexnet_jax.cluster.rendezvous import Met, meet
from alexnet_jax.errors import EXIT_LOST_PROCESS, EXIT_USER_ERROR, LostProcessError, UserError


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def begin(port: int) -> Iterator[Callable[..., Future[Met]]]:
    """Starts `meet` for process `number` of `count`, in a thread."""
    with ThreadPoolExecutor(8) as threads:

        def of(number: int, count: int = 2, timeout: int = 30, launcher: str = "flags", host: str = "localhost"):
            return threads.submit(meet, ProcessGroup(f"{host}:{port}", count, number, launcher, timeout))

        yield of


def connected(port: int) -> socket.socket:
    """A connection to process 0, as soon as it listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("localhost", port), timeout=30)
        time.sleep(0.01)


def card(number: int, count: int) -> bytes:
    """What a process says of itself."""
    return json.dumps({"process_id": number, "num_processes": count, "host": "old", "pid": 7}).encode() + b"\n"


def refused(process: Future[Met], sentence: str) -> None:
    """The process ended with this sentence and the status of a mistake."""
    with pytest.raises(UserError, match=sentence) as error:
        process.result()
    assert error.value.exit_status == EXIT_USER_ERROR


def late(process: Future[Met], sentence: str) -> None:
    """The process gave up, with this sentence and the status of those that may try again."""
    with pytest.raises(LostProcessError, match=sentence) as error:
        process.result()
    assert error.value.exit_status == EXIT_LOST_PROCESS


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_meet_in_any_order_and_leave_the_port_to_jax(begin, port: int, order: tuple[int, ...]) -> None:
    begun = {number: begin(number, 3) for number in order}
    met = [begun[number].result() for number in (0, 1, 2)]
    assert all(each.names == met[0].names for each in met)
    assert [name.split(" (")[0] for name in met[0].names] == ["process 0", "process 1", "process 2"]
    assert sorted(member.name for member in met[0].members) == met[0].names[1:]
    for number in (1, 2):
        (to_0,) = met[number].members
        to_0.connection.sendall(f"from {number}".encode())
        (member,) = (each for each in met[0].members if each.name == met[number].names[number])
        assert member.connection.recv(100) == f"from {number}".encode()
    socket.create_server(("", port)).close()


def test_strangers_do_no_harm(begin, port: int) -> None:
    first = begin(0)
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"7\n", b"{}\n", b'{"process_id": 1}\n'):
        with connected(port) as stranger:
            stranger.sendall(words)
    stranger = connected(port)
    stranger.sendall(card(9, 2))
    assert begin(1).result().names == first.result().names
    assert len(first.result().members) == 1


def test_a_process_that_ended_may_come_again(begin, port: int) -> None:
    first = begin(0, 3)
    with connected(port) as ended:
        ended.sendall(card(1, 3))
        assert json.loads(ended.makefile().readline()) == {"missing": [2]}
    third, second = begin(2, 3), begin(1, 3)
    assert first.result().names == second.result().names == third.result().names
    assert "old" not in first.result().names[1]


def test_a_launcher_may_start_a_process_again_whose_machine_is_gone(begin, port: int) -> None:
    """Its connection stays open: nobody said that it ended."""
    first = begin(0, 3, launcher="Kubernetes")
    with connected(port) as gone, connected(port) as again:
        for process in (gone, again):
            process.sendall(card(1, 3))
            assert json.loads(process.makefile().readline()) == {"missing": [2]}
        assert begin(2, 3, launcher="Kubernetes").result().names == first.result().names


def test_a_number_given_twice_is_named_by_all(begin) -> None:
    for each in [begin(0, 3), begin(1, 3), begin(1, 3)]:
        refused(each, r"--process_id=1 was given twice: to process 1 \(pid .*\) and process 1 \(pid .*\); give each")


def test_another_number_of_processes_is_named_by_all(begin) -> None:
    for each in [begin(0, 2), begin(2, 3)]:
        refused(each, r"--num_processes is 2 in process 0 \(pid .*\) and 3 in process 2 \(pid .*\); use the same")


def test_those_that_do_not_come_are_named_by_all(begin) -> None:
    first, second = begin(0, 4, timeout=1), begin(1, 4)
    for process in (first, second):
        late(process, r"process 0 of 4 \(on \S+\) waited for 1 s, but processes 2, 3 did not join; see their output")


def test_a_process_whose_time_is_up_before_that_of_process_0_names_them_too(begin) -> None:
    first, second = begin(0, 3, timeout=3), begin(1, 3, timeout=1)
    late(second, r"process 1 of 3 \(on \S+\) waited for 1 s, but process 2 did not join")
    late(first, r"process 0 of 3 \(on \S+\) waited for 3 s, but process 2 did not join")


def test_an_address_that_leads_nowhere_is_named(begin) -> None:
    late(begin(1, timeout=1), r"nothing listens at --coordinator_address=localhost:\d+; check the address, and that")
    late(begin(1, timeout=1, host="no.invalid"), r"the host of --coordinator_address=no.invalid:\d+ is unknown here")
    late(begin(0, timeout=1, host="no.invalid"), r"process 1 did not join; .* check .* \(its host is unknown here")
    late(begin(0, timeout=1, host="192.0.2.1"), r"process 1 did not join; .* check .* \(its host seems to be another m")


@pytest.mark.parametrize("words", [b"220 mail\r\n", b"7\n", b"{}\n", b"", None], ids=str)
def test_another_program_at_the_address_is_named(begin, port: int, words: bytes) -> None:
    """One that says the same to all, or (None) repeats what it hears."""
    with socket.create_server(("", port)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        heard = connection.recv(1000)
                        connection.sendall(heard if words is None else words)
                        connection.recv(1)  # it hangs up

        threading.Thread(target=serve, daemon=True).start()
        late(begin(1, timeout=1), r"what listens at --coordinator_address=localhost:\d+ is another program, or a group")
        server.shutdown(socket.SHUT_RDWR)


def test_a_port_that_is_taken_is_named(begin, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a server of gRPC, which shares its port with others of the same user."""
    for shared in (False, True):
        with socket.create_server(("", port), reuse_port=shared):
            refused(
                begin(0), rf"Process 0 can't listen at port {port} on \S+: another program, or another process 0, us"
            )
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "192.0.2.1:1234")
    refused(begin(0), r"Process 0 can't listen at port 1234 on \S+: Cannot assign requested address")
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "127.0.0.1")
    refused(begin(0), r"JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1 must be HOST:PORT")
