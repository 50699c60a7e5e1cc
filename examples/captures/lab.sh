# The lab: two server hosts and three clients, each a network namespace, cabled to one switch.
#
#   lan, wan, mobile ── wire.py (delay, jitter, loss) ── switch (bridge; the recorder sits here) ── near, far
#
# No namespace has a way out. A client is somebody new in every session: new MAC and addresses. Sourced by record.sh.

PREFIX=tgpt-lab
CLIENTS=(lan wan mobile)
SERVERS=(near far)

v4() { case $1 in near) echo 10.77.0.11 ;; far) echo 10.77.0.12 ;; esac; }
v6() { case $1 in near) echo 2001:db8:77::11 ;; far) echo 2001:db8:77::12 ;; esac; }

# enter HOST COMMAND...: becomes the command, in the host's namespace, under the host's name (some programs say it).
enter() {
    local host=$1; shift
    exec ip netns exec "$PREFIX-$host" unshare --uts sh -c 'hostname "$0.example" && exec "$@"' "$host" "$@"
}

# on HOST COMMAND...: runs the command on the host. A client that hangs is ended after 20 s.
on() { local host=$1; shift; (enter "$host" timeout -k 1 20 "$@"); }

# daemon HOST COMMAND...: runs a server until the lab goes down, with a /run and a /var/log of its own so that two
# of a kind do not find each other's sockets, and the machine's records stay as they are.
daemon() {
    local host=$1; shift
    enter "$host" sh -c 'mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /run/samba /run/slapd \
        /run/vsftpd/empty /run/avahi-daemon /run/dbus /run/minidlna /var/log/samba && exec "$@"' sh "$@" \
        >>"$WORK/log/$(basename "$1")-$host.log" 2>&1 </dev/null &
}

# Random draws of the session scripts. RANDOM is seeded per client by record.sh.
one_of() { shift $((RANDOM % $#)); echo "$1"; }
chance() { ((RANDOM % 100 < $1)); }                                      # chance PERCENT
between() { echo $(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1))); }  # between LOW HIGH
think() { local ms; ms=$(between "$1" "$2"); sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"; }  # milliseconds
family() { if chance 75; then echo 4; else echo 6; fi; }
address() { if chance 75; then v4 "$1"; else v6 "$1"; fi; }              # address SERVER
name() { echo "ip$(family).$1.example"; }                                # name SERVER: of one family's address

# blob: the path of a file of random size, each doubling equally likely; some compress well, some do not.
SIZES=(150 700 1400 3000 6000 12000 25000 50000 100000)
blob() { echo "$WORK/files/$(one_of "${SIZES[@]}").$(one_of txt bin)"; }

make_files() {
    mkdir -p "$WORK"/{files,log}
    local size
    for size in "${SIZES[@]}"; do
        head -c "$size" /dev/urandom >"$WORK/files/$size.bin"
        head -c $((size / 3)) /dev/urandom | od -An -tu1 | head -c "$size" >"$WORK/files/$size.txt"
    done
    chmod -R a+rX "$WORK"
}

# A certificate authority, an intermediate and two server certificates, so that handshakes have real sizes.
make_certificates() {
    local c=$WORK/cert kind
    mkdir -p "$c"
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/O=Lab/CN=Lab Root" -keyout "$c/root.key" -out "$c/root.pem"
    openssl req -newkey rsa:2048 -nodes -subj "/O=Lab/CN=Lab Intermediate" -keyout "$c/mid.key" -out "$c/mid.csr"
    openssl x509 -req -in "$c/mid.csr" -CA "$c/root.pem" -CAkey "$c/root.key" -days 30 -out "$c/mid.pem" \
        -extfile <(echo basicConstraints=critical,CA:true)
    for kind in rsa ec; do
        if [ $kind = rsa ]; then set -- rsa:2048; else set -- ec -pkeyopt ec_paramgen_curve:P-256; fi
        openssl req -newkey "$@" -nodes -subj "/O=Lab/CN=www.example" -keyout "$c/$kind.key" -out "$c/$kind.csr"
        openssl x509 -req -in "$c/$kind.csr" -CA "$c/mid.pem" -CAkey "$c/mid.key" -days 30 -out "$c/$kind.leaf" \
            -extfile <(echo subjectAltName=DNS:near.example,DNS:far.example,DNS:*.near.example,DNS:*.far.example)
        cat "$c/$kind.leaf" "$c/mid.pem" >"$c/$kind.pem"
    done
    chmod -R a+rX "$c"
}

lab_up() {
    local host
    if [ -e "/run/netns/$PREFIX-switch" ]; then
        echo "the namespaces $PREFIX-* exist: another recording runs, or one was killed (record.sh --clean removes it)" >&2
        exit 1
    fi
    for host in switch "${CLIENTS[@]}" "${SERVERS[@]}"; do
        ip netns add "$PREFIX-$host"
        ip -n "$PREFIX-$host" link set lo up
    done
    ip netns exec "$PREFIX-switch" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip -n "$PREFIX-switch" link add br0 type bridge mcast_snooping 0
    ip -n "$PREFIX-switch" link set br0 up

    local links=()
    for host in "${CLIENTS[@]}" "${SERVERS[@]}"; do
        links+=("$PREFIX-$host=$host")
        # What `ip netns exec` lays over /etc for this host.
        mkdir -p "/etc/netns/$PREFIX-$host"
        echo "nameserver $(v4 near)" >"/etc/netns/$PREFIX-$host/resolv.conf"
        {
            echo "127.0.0.1 localhost $host"
            for s in "${SERVERS[@]}"; do
                echo "$(v4 "$s") $s.example www.$s.example ip4.$s.example"
                echo "$(v6 "$s") $s.example www.$s.example ip6.$s.example"
            done
        } >"/etc/netns/$PREFIX-$host/hosts"
        # Clients stay below the ports that servers hand out (FTP data, RPC endpoints): ports tell classes apart.
        ip netns exec "$PREFIX-$host" sysctl -qw net.ipv4.ip_local_port_range="32768 48000"
    done
    coproc WIRE { exec nice -n -10 "$HERE/wire.py" --switch "$PREFIX-switch" --seed "$SEED" "${links[@]}"; }
    read -r _ <&"${WIRE[0]}"
    local i
    for i in "${!links[@]}"; do ip -n "$PREFIX-switch" link set "port$i" master br0 up; done
    for host in "${SERVERS[@]}"; do
        plug "$host" "02:00:00:77:00:$(v4 "$host" | cut -d. -f4)" "$(v4 "$host")" "$(v6 "$host")" eui64
    done
}

# plug HOST MAC IPV4 IPV6 MODE: the host's interface comes up with these addresses, and with a link-local one if MODE
# is eui64, without if it is none.
plug() {
    local ns=$PREFIX-$1
    ip -n "$ns" link set eth0 down
    ip -n "$ns" addr flush dev eth0
    ip -n "$ns" link set eth0 addrgenmode "$5"
    ip -n "$ns" link set eth0 address "$2" up
    ip -n "$ns" addr add "$3/16" brd + dev eth0
    ip -n "$ns" addr add "$4/64" dev eth0 nodad
    ip -n "$ns" route replace 224.0.0.0/4 dev eth0
}

# new_client CLIENT N PROTOCOL: the client becomes its Nth person (1..250). Only those who are here for ICMPv6 get a
# link-local address: it brings a dozen packets of discovery, which would be most of the flows of the mixed capture.
new_client() {
    local c mode=none
    [ "$3" != icmpv6 ] || mode=eui64
    case $1 in lan) c=1 ;; wan) c=2 ;; mobile) c=3 ;; esac
    plug "$1" "$(printf 02:00:00:77:%02x:%02x "$c" "$2")" "10.77.$c.$2" "$(printf 2001:db8:77::%x:%x "$c" "$2")" "$mode"
}

lab_down() {
    local ns
    for ns in $(ip netns list | awk -v p="$PREFIX-" 'index($1, p) == 1 {print $1}'); do
        ip netns pids "$ns" | xargs -r kill 2>/dev/null
    done
    sleep 1
    for ns in $(ip netns list | awk -v p="$PREFIX-" 'index($1, p) == 1 {print $1}'); do
        ip netns pids "$ns" | xargs -r kill -9 2>/dev/null
        ip netns del "$ns"
        rm -rf "/etc/netns/${ns:?}"
    done
    rmdir /etc/netns 2>/dev/null
    [ -z "${WIRE_PID:-}" ] || kill "$WIRE_PID" 2>/dev/null
    wait 2>/dev/null
    return 0
}
