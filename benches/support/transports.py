"""Ways for two processes to send each other 64 bytes; run as a program this is the other process.

Each way is a context that takes a directory and whether this is the other process, and gives ``send(bytes)`` and
``receive() -> bytes``, which waits. The other process is there first.
"""

import contextlib
import ctypes
import multiprocessing.connection
import socket
import struct
import subprocess
import sys
import time
from array import array

SIZE = 64
END = bytes(SIZE)


def ready(there):
    if there:
        print("ready", flush=True)


@contextlib.contextmanager
def bus(place, there):
    import ntmem

    to, back = ("here", "there") if there else ("there", "here")
    with ntmem.open(f"{place}/store") as memory, memory.subscribe(f"to/{back}") as messages:
        ready(there)
        yield lambda data: memory.publish(f"to/{to}", data), lambda: messages.recv().payload


@contextlib.contextmanager
def pipe(place, there):
    """What `multiprocessing.Pipe` is made of: a connection over a socket."""
    with contextlib.ExitStack() as stack:
        if there:
            listener = stack.enter_context(multiprocessing.connection.Listener(f"{place}/pipe"))
            ready(there)
            end = stack.enter_context(listener.accept())
        else:
            end = stack.enter_context(multiprocessing.connection.Client(f"{place}/pipe"))
        yield end.send_bytes, end.recv_bytes


@contextlib.contextmanager
def seqpacket(place, there):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as own:
        if there:
            own.bind(f"{place}/socket")
            own.listen()
            ready(there)
            end, _ = own.accept()
        else:
            own.connect(f"{place}/socket")
            end = own
        with end:
            yield end.send, lambda: end.recv(SIZE)


@contextlib.contextmanager
def zmq_ipc(place, there):
    import zmq

    to, back = ("here", "there") if there else ("there", "here")
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher, context.socket(zmq.SUB) as subscriber:
        publisher.bind(f"ipc://{place}/to-{to}")
        subscriber.connect(f"ipc://{place}/to-{back}")
        subscriber.subscribe(b"")
        ready(there)
        time.sleep(0.5)  # until both have found each other
        yield publisher.send, subscriber.recv


class Block(ctypes.Structure):
    _fields_ = (("data", ctypes.c_ubyte * SIZE),)


@contextlib.contextmanager
def iceoryx(place, there):
    """It is polled: its waiting is a service of its own. It keeps two messages for a receiver."""
    import iceoryx2 as iox2

    iox2.set_log_level(iox2.LogLevel.Fatal)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)

    def service(end):
        name = iox2.ServiceName.new(f"bench{place}/{end}")
        return node.service_builder(name).publish_subscribe(Block).open_or_create()

    to, back = ("here", "there") if there else ("there", "here")
    publisher = service(to).publisher_builder().create()
    subscriber = service(back).subscriber_builder().create()

    def send(data):
        publisher.loan_uninit().write_payload(Block.from_buffer_copy(data)).send()

    def receive():
        while (sample := subscriber.receive()) is None:
            pass
        return bytes(sample.payload().contents.data)

    ready(there)
    yield send, receive


WAYS = {
    "ntmem": bus,
    "Pipe": pipe,
    "SEQPACKET": seqpacket,
    "pyzmq ipc PUB/SUB": zmq_ipc,
    "iceoryx2, polled": iceoryx,
}


def stamped():
    return struct.pack("<q", time.monotonic_ns()).ljust(SIZE, b"\1")


def listen(way, place):
    """Receive until the end; print how long each message was on its way, in ns, as bytes."""
    taken = array("q")
    with WAYS[way](place, True) as (_, receive):
        while (data := receive()) != END:
            taken.append(time.monotonic_ns() - struct.unpack_from("<q", data)[0])
    sys.stdout.buffer.write(taken.tobytes())


def echo(way, place):
    """Send back what comes."""
    with WAYS[way](place, True) as (send, receive):
        while (data := receive()) != END:
            send(data)


def drain(place):
    """Receive all that is published until the end; print how many came, and how many were missed."""
    import ntmem

    with ntmem.open(f"{place}/store") as memory, memory.subscribe("bulk") as messages:
        ready(True)
        got = torn = 0
        while True:
            for message in messages.recv_many(1000):
                if message.payload == END:
                    print(got, messages.lagged, torn)
                    return
                got += 1
                torn += message.payload[:20] != message.payload[20:40]


@contextlib.contextmanager
def child(*what):
    """Start a process that listens, echoes or drains, ready to receive."""
    with subprocess.Popen([sys.executable, __file__, *map(str, what)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    {"listen": listen, "echo": echo, "drain": drain}[sys.argv[1]](*sys.argv[2:])
