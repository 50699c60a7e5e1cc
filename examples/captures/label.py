#!/usr/bin/env python3
"""The true labels of a capture, by construction: every class is a tcpdump filter that only its own servers match.

    label.py CAPTURE.pcap < CLASSES > labels.csv        CLASSES: lines of label, tab, filter

One row for each 5-tuple, client (sender of the first packet) first, in order of appearance; ICMP has the ports 0.
Flows that no filter claims (FTP data, for one) have no row; a flow that two filters claim is an error.
"""

import csv
import ipaddress
import struct
import subprocess
import sys

WITH_PORTS = {6, 17}
IPV6_EXTENSIONS = {0, 43, 60}


def keys(pcap):
    """(source, destination, source port, destination port, protocol) -> its first packet's time, of an Ethernet pcap
    in this machine's byte order, as tcpdump writes it."""
    first = {}
    at = 24
    while at < len(pcap):
        seconds, fraction, captured, _ = struct.unpack_from("=4I", pcap, at)
        frame, at = pcap[at + 16 : at + 16 + captured], at + 16 + captured
        key = key_of(frame[14:])
        if key is not None:
            first.setdefault(key, (seconds, fraction))
    return first


def key_of(ip):
    """The key of one packet; None for a fragment without ports."""
    if ip[0] >> 4 == 4:
        protocol, header = ip[9], (ip[0] & 15) * 4
        source, destination = ipaddress.ip_address(ip[12:16]), ipaddress.ip_address(ip[16:20])
        later_fragment = struct.unpack_from("!H", ip, 6)[0] & 0x1FFF != 0
    else:
        protocol, header = ip[6], 40
        source, destination = ipaddress.ip_address(ip[8:24]), ipaddress.ip_address(ip[24:40])
        later_fragment = protocol == 44 and struct.unpack_from("!H", ip, 42)[0] >> 3 != 0
        if protocol == 44:
            protocol, header = ip[40], 48
        while protocol in IPV6_EXTENSIONS:
            protocol, header = ip[header], header + 8 * (ip[header + 1] + 1)
    if later_fragment and protocol in WITH_PORTS:
        return None
    ports = struct.unpack_from("!2H", ip, header) if protocol in WITH_PORTS else (0, 0)
    return str(source), str(destination), *ports, protocol


def main():
    with open(sys.argv[1], "rb") as file:
        capture = file.read()
    flows = {}  # key -> (first time, label)
    for line in sys.stdin:
        label, condition = line.rstrip("\n").split("\t")
        matching = subprocess.run(
            ["tcpdump", "-nr", "-", "-w", "-", condition], input=capture, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout
        for key, time in keys(matching).items():
            source, destination, source_port, destination_port, protocol = key
            back = (destination, source, destination_port, source_port, protocol)
            known = key if key in flows else back
            if known in flows:
                if flows[known][1] != label:
                    sys.exit(f"{known} is both {flows[known][1]} and {label}")
                if flows[known][0] <= time:
                    continue
                del flows[known]
            flows[key] = (time, label)

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["client_ip", "server_ip", "client_port", "server_port", "protocol", "label"])
    for key, (_, label) in sorted(flows.items(), key=lambda flow: flow[1][0]):
        table.writerow([*key, label])


if __name__ == "__main__":
    main()
