"""gRPC by its own authors, as server and as client, without generated code: messages are plain bytes.

    grpc_peer.py serve ADDRESS [CERT KEY]      serves peer.Peer and grpc.health.v1.Health until it is ended, over TLS with files
    grpc_peer.py ask ADDRESS                   calls every kind of method; exits 0 when each answered as it should
    grpc_peer.py fails ADDRESS METHOD CODE     calls one that must fail so, UNAVAILABLE for example; prints the words
"""

import queue
import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("x-heard", "yes"),))
    # The deadline that the caller set; None where it did not arrive.
    context.set_trailing_metadata((("x-last", "word"), ("x-left", str(context.time_remaining()))))
    return b"echo " + request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: " + request.decode())


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def both(requests, context):
    for request in requests:
        yield request.upper()


def check(request, context):
    # HealthCheckRequest { service = 1 }; HealthCheckResponse { status = 1: SERVING }.
    if request not in (b"", b"\x0a\x09peer.Peer"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return b"\x08\x01"


def serve(address, cert=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("peer.Peer", {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Both": grpc.stream_stream_rpc_method_handler(both),
        }),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
            "Check": grpc.unary_unary_rpc_method_handler(check),
        }),
    ))
    if cert is None:
        port = server.add_insecure_port(address)
    else:
        with open(cert, "rb") as chain, open(key, "rb") as private:
            pair = (private.read(), chain.read())
        port = server.add_secure_port(address, grpc.ssl_server_credentials((pair,)))
    if port == 0:
        sys.exit("cannot listen on " + address)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def ask(address):
    with grpc.insecure_channel(address) as channel:
        answer, call = channel.unary_unary("/peer.Peer/Unary").with_call(b"hello", timeout=10)
        assert answer == b"echo hello", answer
        assert ("x-heard", "yes") in [tuple(pair) for pair in call.initial_metadata()]
        last = dict(tuple(pair) for pair in call.trailing_metadata())
        assert last["x-last"] == "word", last
        assert 0 < float(last["x-left"]) <= 10, last
        try:
            channel.unary_unary("/peer.Peer/Fail")(b"shop", timeout=10)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "not today: shop", error
        numbers = list(channel.unary_stream("/peer.Peer/Count")(b"1000", timeout=10))
        assert numbers == [str(number).encode() for number in range(1000)]
        large = [b"x" * 100_000, b"y", b"z" * 1_000_000]
        heard = list(channel.stream_stream("/peer.Peer/Both")(iter(large), timeout=10))
        assert heard == [message.upper() for message in large]
        # One word at a time: each is sent when the answer to the one before has come.
        words = queue.SimpleQueue()
        answers = channel.stream_stream("/peer.Peer/Both")(iter(words.get, None), timeout=10)
        for word in (b"one", b"two", b"three"):
            words.put(word)
            assert next(answers) == word.upper()
        words.put(None)
        assert list(answers) == []
        try:
            channel.unary_unary("/peer.Peer/Nothing")(b"", timeout=10)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("every kind of call passed")


def fails(address, method, code):
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=20)
            sys.exit(f"{method} did not fail")
        except grpc.RpcError as error:
            if error.code().name != code:
                sys.exit(f"{method} fails with {error.code()}: {error.details()}")
            print(error.details())


if __name__ == "__main__":
    {"serve": serve, "ask": ask, "fails": fails}[sys.argv[1]](*sys.argv[2:])
