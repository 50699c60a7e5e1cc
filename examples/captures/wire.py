#!/usr/bin/env python3
"""Cables between network namespaces, with delay, jitter, loss and a rate, made of TAP devices.

Every link joins the `eth0` of one host's namespace to a port of the switch's. Frames wait in user space for as long
as the link's profile says and never overtake each other, as on a real line. `tc netem` would do the same, but many
kernels are built without it, and its jitter reorders packets.

    wire.py --switch NAMESPACE --seed N NAMESPACE=PROFILE ...      (root; prints `ready`, ends on SIGTERM)
"""

import argparse
import collections
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

# round trip ms, its standard deviation ms, loss per direction, Mbit/s
PROFILES = {
    "lan": (1.0, 0.1, 0.0, 1000.0),
    "wan": (25.0, 5.0, 0.005, 100.0),
    "mobile": (60.0, 20.0, 0.01, 20.0),
    "near": (0.4, 0.05, 0.0, 1000.0),
    "far": (18.0, 1.0, 0.001, 1000.0),
}
QUEUE = 1000  # frames that a direction holds before it drops more, a router's buffer
TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000


def open_tap(namespace, name):
    """A new TAP device `name` inside `namespace`; it lives as long as the descriptor returned."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(there)
        os.close(home)
    return tap


class Direction:
    """One way along a link: when a frame that enters now will leave, if at all."""

    def __init__(self, out, profile, seed):
        round_trip, jitter, self.loss, mbit = profile
        self.out = out
        self.delay = round_trip / 2e3
        self.jitter = jitter / 2e3
        self.seconds_per_byte = 8 / (mbit * 1e6)
        self.random = random.Random(seed)
        self.line_free = 0.0
        self.last_exit = 0.0
        self.waiting = collections.deque()

    def enter(self, frame, now):
        """The time at which `frame` leaves, or None where it is lost."""
        if self.random.random() < self.loss or len(self.waiting) >= QUEUE:
            return None
        self.line_free = max(self.line_free, now) + len(frame) * self.seconds_per_byte
        wait = max(self.random.gauss(self.delay, self.jitter), self.delay / 4)
        self.last_exit = max(self.last_exit, self.line_free + wait)
        self.waiting.append(frame)
        return self.last_exit

    def leave(self):
        try:
            os.write(self.out, self.waiting.popleft())
        except OSError:
            pass  # the far interface is down: the frame is lost, as on a pulled cable


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--switch", required=True)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("links", nargs="+", metavar="NAMESPACE=PROFILE")
    options = arguments.parse_args()

    directions = {}
    for i, link in enumerate(options.links):
        namespace, profile = link.split("=")
        host, port = open_tap(namespace, "eth0"), open_tap(options.switch, f"port{i}")
        directions[host] = Direction(port, PROFILES[profile], f"{options.seed} {link} up")
        directions[port] = Direction(host, PROFILES[profile], f"{options.seed} {link} down")
    print("ready", flush=True)

    exits = []  # (time, order, direction): heap order is time order, ties in order of arrival
    order = 0
    while True:
        wait = max(exits[0][0] - time.monotonic(), 0) if exits else None
        for tap in select.select(list(directions), [], [], wait)[0]:
            try:
                frame = os.read(tap, 65536)
            except OSError:
                continue
            leaves = directions[tap].enter(frame, time.monotonic())
            if leaves is not None:
                order += 1
                heapq.heappush(exits, (leaves, order, directions[tap]))
        now = time.monotonic()
        while exits and exits[0][0] <= now:
            heapq.heappop(exits)[2].leave()


if __name__ == "__main__":
    sys.exit(main())
