"""A NAT-discovery peer, written from the protocol alone: protobuf 3 over UDP, without a protobuf library.

    natt_peer.py serve DIALECT CLUSTER CABLE PRIVATE-IP [COMPARED-IP]
        answers as a gateway of that release would; COMPARED-IP is what it compares destinations with
    natt_peer.py ask DIALECT CLUSTER CABLE TO-CLUSTER TO-CABLE FROM TO [SAID-FROM]
    natt_peer.py hostile TO                                sends what must not hurt

DIALECT is 0.19 (an endpoint is called by its cable name) or 0.21 (with -v4 or -v6 behind it). Addresses are bare; the port is
4490 on both sides. `serve` prints a line for each request, `ask` one JSON object.
"""

import json
import socket
import sys

PORT = 4490
RESPONSES = ["OK", "NAT_DETECTED", "UNKNOWN_DST_CLUSTER", "UNKNOWN_DST_ENDPOINT", "MALFORMED"]


def varint(number):
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def field(number, value):
    """A field: whole numbers and truth values as varints, text and messages with their length."""
    if isinstance(value, (int, bool)):
        return varint(number << 3) + varint(int(value)) if value else b""
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number, at


def fields(data):
    found, at = {}, 0
    while at < len(data):
        key, at = read_varint(data, at)
        if key & 7 == 0:
            found[key >> 3], at = read_varint(data, at)
        elif key & 7 == 2:
            length, at = read_varint(data, at)
            found[key >> 3], at = data[at : at + length], at + length
        else:
            raise ValueError("a wire type that the protocol does not use")
    return found


def pair(data):
    one = fields(data)
    return one.get(1, b"").decode(), one.get(2, 0)


def endpoint(cluster, name):
    return field(1, cluster) + field(2, name)


def address(ip, port):
    return field(1, ip) + field(2, port)


def called(dialect, cable, ip):
    return cable if dialect == "0.19" else cable + ("-v6" if ":" in ip else "-v4")


def bound(ip):
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((ip, PORT))
    return sock


def serve(dialect, cluster, cable, private, compared=None):
    sock = bound(private)
    print("ready", flush=True)
    while True:
        data, source = sock.recvfrom(2048)
        message = fields(data)
        if 2 not in message:
            continue
        request = fields(message[2])
        own = called(dialect, cable, private)
        said, to = pair(request[4]), pair(request[5])
        to_cluster, to_endpoint = (fields(request[3]).get(n, b"").decode() for n in (1, 2))
        flags = [bool(said[0]) and said[0] != source[0], said[1] != source[1], to[0] != (compared or private)]
        if to_cluster != cluster:
            verdict = 2
        elif to_endpoint != own:
            verdict = 3
        else:
            verdict = 1 if any(flags) else 0
        response = field(1, request.get(1, 0)) + field(2, verdict)
        response += field(3, endpoint(cluster, own)) + field(4, request[2])
        response += b"".join(field(5 + n, flag) for n, flag in enumerate(flags))
        response += field(8, address(*source[:2]))
        sock.sendto(field(3, response), source)
        print(RESPONSES[verdict], to_endpoint, said[0], said[1], flush=True)


def ask(dialect, cluster, cable, to_cluster, to_cable, source, to, said=None):
    sock = bound(source)
    sock.settimeout(5)
    number = 0xFEDCBA9876543210
    request = field(1, number)
    request += field(2, endpoint(cluster, called(dialect, cable, source)))
    request += field(3, endpoint(to_cluster, called(dialect, to_cable, source)))
    request += field(4, address(said or source, PORT)) + field(5, address(to, PORT))
    for _ in range(5):
        sock.sendto(field(1, 1) + field(2, request), (to, PORT))
        try:
            while True:
                data, came_from = sock.recvfrom(2048)
                message = fields(data)
                if 3 in message and fields(message[3]).get(1) == number:
                    break
        except socket.timeout:
            continue
        response = fields(message[3])
        sender, receiver = fields(response[3]), fields(response[4])
        print(
            json.dumps(
                {
                    "from": came_from[0],
                    "port": came_from[1],
                    "response": RESPONSES[response.get(2, 0)],
                    "sender": [sender[1].decode(), sender[2].decode()],
                    "receiver": [receiver[1].decode(), receiver[2].decode()],
                    "src_ip": response.get(5, 0),
                    "src_port": response.get(6, 0),
                    "dst_ip": response.get(7, 0),
                    "received_src": list(pair(response.get(8, b""))),
                }
            )
        )
        return
    sys.exit("no answer")


def hostile(to):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    datagrams = [
        b"",
        field(3, field(1, 7)),  # a response without sender: Submariner's gateway ends
        field(3, b""),
        field(2, b""),
        field(2, field(1, 7) + field(2, endpoint("x" * 1000, "y"))),
        field(2, field(4, address("no address", -1 & 0xFFFFFFFFFFFFFFFF))),
        b"\xff" * 2048,
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x12\x02\x12",
        b"\0",
        field(1, 1),
        bytes(65507),
    ]
    # More than are answered in the time that a busy machine takes to send them.
    for _ in range(200):
        for datagram in datagrams:
            sock.sendto(datagram, (to, PORT))


if __name__ == "__main__":
    {"serve": serve, "ask": ask, "hostile": hostile}[sys.argv[1]](*sys.argv[2:])
