#!/bin/bash
# Records the captures of this directory: real servers and real clients, each in a network namespace of its own.
#
#   record.sh --install          the Debian packages that it needs, installed with apt-get
#   record.sh [NAME...]          one capture per protocol (all of protocols/*.sh unless named), label = file name
#   record.sh mixed              everything at once, and labels.csv
#   record.sh --clean            removes what a killed recording left behind
#
# OUT=directory (default: here)  SESSIONS=12 per client and protocol  MIXED=70 per client  SEED=1
# Root on Debian 12; best in a machine or container of its own. Nothing leaves the namespaces.

set -u
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$HERE}
SESSIONS=${SESSIONS:-12}
MIXED=${MIXED:-70}
SEED=${SEED:-1}
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

# Each file of protocols/ adds itself here: the label, the tcpdump filter that holds its packets and no others, its
# packages, and two functions, NAME_serve SERVER and NAME_session CLIENT SERVER.
declare -A LABEL FILTER NEEDS
. "$HERE/lab.sh"
for file in "$HERE"/protocols/*.sh; do . "$file"; done

install_packages() {
    # Debian starts and enables daemons as it installs them; here they shall run in the namespaces only.
    local guard=/usr/sbin/policy-rc.d
    if [ ! -e $guard ]; then
        printf '#!/bin/sh\nexit 101\n' >$guard && chmod 755 $guard
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        iproute2 openssl procps python3 tcpdump ${NEEDS[*]}
}

# listen FILTER FILE: records at the switch, in the middle of every path.
listen() {
    : >"$WORK/log/tcpdump.log"
    ip netns exec "$PREFIX-switch" tcpdump -i br0 -s 96 -U -Z root -w "$2" "$1" 2>"$WORK/log/tcpdump.log" &
    RECORDER=$!
    until grep -q listening "$WORK/log/tcpdump.log"; do sleep 0.1; done
}

stop_listening() {
    sleep 1.5
    kill -INT "$RECORDER"
    wait "$RECORDER" 2>/dev/null
}

# clients COUNT NAME...: every client holds COUNT sessions, each of one of the protocols, all clients at once. What
# people do most of the day comes more often.
clients() {
    local count=$1 client n i name jobs=()
    shift
    [ $# = 1 ] || set -- "$@" dns http http http tls tls tls tls quic ssh smtp
    for n in "${!CLIENTS[@]}"; do
        client=${CLIENTS[n]}
        (
            RANDOM=$((SEED * 100 + n))
            for ((i = 1; i <= count; i++)); do
                name=$(one_of "$@")
                new_client "$client" "$i" "$name"
                sleep 0.2
                "${name}_session" "$client" "$(one_of "${SERVERS[@]}")" >>"$WORK/log/$client.log" 2>&1
                think 300 900
            done
        ) &
        jobs+=($!)
    done
    wait "${jobs[@]}"
}

# classes NAME...: what label.py wants to know.
classes() {
    local name
    for name in "$@"; do printf '%s\t%s\n' "${LABEL[$name]}" "${FILTER[$name]}"; done
}

# record FILE FILTER SESSIONS NAME...: the capture, and labels.csv beside it if there is more than one protocol.
record() {
    local file=$1 filter=$2 count=$3 found name server
    shift 3
    WORK=$(mktemp -d) && chmod 755 "$WORK"
    make_files
    make_certificates >"$WORK/log/openssl.log" 2>&1
    lab_up
    for server in "${SERVERS[@]}"; do
        for name in "$@"; do "${name}_serve" "$server"; done
    done
    sleep $((4 + $#))
    listen "$filter" "$WORK/out.pcap"
    clients "$count" "$@"
    stop_listening
    lab_down
    classes "$@" | "$HERE/label.py" "$WORK/out.pcap" >"$WORK/labels.csv"
    found=$(($(wc -l <"$WORK/labels.csv") - 1))
    echo "$(basename "$file"): $(tcpdump -nr "$WORK/out.pcap" 2>/dev/null | wc -l) packets, $found labelled 5-tuples"
    [ -z "${KEEP:-}" ] || echo "logs: $WORK/log"
    if [ "$found" -lt "$count" ]; then
        echo "fewer flows than sessions: a program did not start or failed (KEEP=1 keeps its log); $file is left as it was" >&2
        exit 1
    fi
    # -n: no name and no time of this machine in the file.
    gzip -9n <"$WORK/out.pcap" >"$file.part" && mv "$file.part" "$file"
    [ $# = 1 ] || { mv "$WORK/labels.csv" "$OUT/labels.csv.part" && mv "$OUT/labels.csv.part" "$OUT/labels.csv"; }
    [ -n "${KEEP:-}" ] || rm -rf "$WORK"
}

clean() {
    trap - EXIT INT TERM
    lab_down
    [ -n "${KEEP:-}" ] || rm -rf "${WORK:-}"
}

[ "$(id -u)" = 0 ] || { echo "record.sh needs root: it makes network namespaces" >&2; exit 1; }
WORK=
case ${1:-} in
--install) install_packages; exit ;;
--clean) clean; exit ;;
esac
for program in ip tcpdump openssl python3; do
    command -v $program >/dev/null || { echo "$program is not here; record.sh --install brings it and the rest" >&2; exit 1; }
done
trap clean EXIT
trap 'exit 130' INT TERM
mkdir -p "$OUT"

names=("$@")
mapfile -t protocols < <(printf '%s\n' "${!LABEL[@]}" | sort)
[ $# -gt 0 ] || names=("${protocols[@]}" mixed)
for name in "${names[@]}"; do
    if [ "$name" = mixed ]; then
        record "$OUT/mixed.pcap.gz" 'ip or ip6' "$MIXED" "${protocols[@]}"
    elif [ -n "${LABEL[$name]:-}" ]; then
        record "$OUT/${LABEL[$name]}.pcap.gz" "${FILTER[$name]}" "$SESSIONS" "$name"
    else
        echo "no protocol '$name'; there are: mixed ${protocols[*]}" >&2
        exit 2
    fi
done
